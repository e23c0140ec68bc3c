"""Starts the page: one process, one model, a server of Streamlit's on one port.

What the page needs to know is handed over in memory, as Streamlit runs `script.py` in this very process.
"""

import errno
import socket
import threading
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from baichuan2.errors import SettingsError
from baichuan2.optional import require
from baichuan2.settings import ChatSettings, LoadSettings, SamplingSettings, WebSettings
from baichuan2.web.options import options_for

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = [
    "PageSettings",
    "ask_nobody_for_our_address",
    "check_address",
    "page_settings",
    "run_page",
    "set_page_settings",
    "url_of",
]

SCRIPT = Path(__file__).with_name("script.py")


@dataclass(frozen=True, kw_only=True)
class PageSettings:
    """All that the page is started with; without `ready` the page loads the model when its first user comes."""

    load: LoadSettings = field(default_factory=LoadSettings)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    chat: ChatSettings = field(default_factory=ChatSettings)
    web: WebSettings = field(default_factory=WebSettings)
    ready: "ReadyModel | None" = None


_settings = PageSettings()


def page_settings() -> PageSettings:
    """What `set_page_settings` was given last, else the defaults."""
    return _settings


def set_page_settings(settings: PageSettings) -> None:
    """Decides what `script.py` shows from now on."""
    global _settings  # noqa: PLW0603  # the script is run by Streamlit, which passes nothing on
    _settings = settings


def check_address(web: WebSettings) -> None:
    """Raises SettingsError if nothing can listen on the address; better known before a model is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(web.host, web.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"--port {web.port} is taken by another program on {web.host}: pick another one"
            ) from error
        raise SettingsError(f"cannot listen on {web.host}, port {web.port}: {error.strerror or error}") from error


def run_page(settings: PageSettings) -> None:
    """Shows the page until the process is interrupted.

    Raises MissingExtraError without Streamlit.
    """
    bootstrap: Any = require("streamlit.web.bootstrap", extra="web")
    from baichuan2.web.parting import part_from_browsers_in_time

    options = options_for(settings.web)
    set_page_settings(settings)
    ask_nobody_for_our_address()
    part_from_browsers_in_time()
    bootstrap.load_config_options(flag_options=options)
    if settings.web.open_browser:
        timer = threading.Timer(1.0, webbrowser.open, [url_of(settings.web)])
        timer.daemon = True
        timer.start()
    bootstrap.run(str(SCRIPT), False, [], options)


def ask_nobody_for_our_address() -> None:
    """Keeps Streamlit from asking a server of others which address this machine has.

    It would do so when a page from elsewhere tries to connect, to see whether that page has this address. From now on
    none has.
    """
    net_util: Any = require("streamlit.net_util", extra="web")
    net_util.get_external_ip = net_util.get_internal_ip


def url_of(web: WebSettings) -> str:
    """Where a browser on this machine finds the page."""
    host = "localhost" if web.host in ("0.0.0.0", "::", "") else web.host
    return f"http://{f'[{host}]' if ':' in host else host}:{web.port}"
