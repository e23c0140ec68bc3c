"""How Streamlit is set up for the page: colours and fonts, nothing fetched from elsewhere, nothing told to anybody.

One table for all ways to start it: `baichuan2 web` hands it over in memory, and `scripts/update_docs.py` writes it to
the configuration files that `streamlit run` reads. Standard library only.
"""

import json
from typing import Any

from baichuan2.settings import WebSettings

__all__ = ["OPTIONS", "config_file", "options_for", "space_config_file"]

# what Chinese is set in where the first font lacks it: named, as else a browser may take the Japanese shapes
FONTS = (
    "'Source Sans', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans SC', 'Source Han Sans SC', "
    "'WenQuanYi Micro Hei', sans-serif"
)
CODE_FONTS = "'Source Code', 'PingFang SC', 'Microsoft YaHei', 'Noto Sans Mono CJK SC', monospace"

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")

OPTIONS: dict[str, Any] = {
    "browser.gatherUsageStats": False,
    "logger.level": "warning",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": False,
    "client.toolbarMode": "minimal",
    "server.address": "localhost",
    "server.allowedHosts": list(LOCAL_HOSTS),  # no name that somebody else points at this machine (DNS rebinding)
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1,
    "server.runOnSave": False,
    "theme.font": FONTS,
    "theme.codeFont": CODE_FONTS,
    "theme.baseRadius": "0.75rem",
    "theme.headingFontSizes": ["1.6rem", "1.4rem", "1.2rem", "1.1rem", "1rem", "1rem"],
    "theme.showSidebarBorder": True,
    "theme.light.primaryColor": "#1f6feb",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f3f6fb",
    "theme.light.textColor": "#1c2733",
    "theme.light.borderColor": "#dbe3ee",
    "theme.light.sidebar.backgroundColor": "#f7f9fc",
    "theme.light.sidebar.secondaryBackgroundColor": "#ffffff",
    "theme.dark.primaryColor": "#58a6ff",
    "theme.dark.backgroundColor": "#0f1620",
    "theme.dark.secondaryBackgroundColor": "#1a2431",
    "theme.dark.textColor": "#e4ebf3",
    "theme.dark.borderColor": "#2c3a4c",
    "theme.dark.sidebar.backgroundColor": "#131c28",
    "theme.dark.sidebar.secondaryBackgroundColor": "#0f1620",
}


def options_for(settings: WebSettings) -> dict[str, Any]:
    """The options for one start of the page."""
    options = OPTIONS | {
        "server.address": settings.host,
        "server.port": settings.port,
        "server.headless": True,  # whether the browser opens is decided here
        "logger.hideWelcomeMessage": True,
    }
    if settings.host not in LOCAL_HOSTS:
        options["server.allowedHosts"] = []  # any; not left out, as then a file in the present folder would decide
    if settings.theme != "auto":
        options["theme.base"] = settings.theme
    return options


def config_file() -> str:
    """The table in the form of `.streamlit/config.toml`, for `streamlit run web_demo.py`."""
    return _as_file(OPTIONS)


def space_config_file() -> str:
    """The same where others run the page for us, and decide the address."""
    here_alone = ("server.address", "server.allowedHosts")
    return _as_file({name: value for name, value in OPTIONS.items() if name not in here_alone})


def _as_file(options: dict[str, Any]) -> str:
    sections: dict[str, list[str]] = {}
    for name, value in options.items():
        section, _, option = name.rpartition(".")
        sections.setdefault(section, []).append(f"{option} = {json.dumps(value, ensure_ascii=False)}")
    header = "# Written by scripts/update_docs.py from src/baichuan2/web/options.py; edit that."
    return "\n\n".join([header, *("\n".join([f"[{section}]", *lines]) for section, lines in sections.items())]) + "\n"
