"""`baichuan2 web`: the chat page in the browser; `show` is the same under `streamlit run web_demo.py`."""

import ipaddress
import sys
from collections.abc import Sequence

from baichuan2.cli.commands.chat import load_with_notice
from baichuan2.cli.flags import read_settings
from baichuan2.cli.screen import notice
from baichuan2.cli.text import CHINESE, words_for
from baichuan2.errors import BaichuanError
from baichuan2.settings import ChatSettings, LoadSettings, SamplingSettings, WebSettings

SETTINGS = (LoadSettings, SamplingSettings, ChatSettings, WebSettings)


def run(load: LoadSettings, sampling: SamplingSettings, chat: ChatSettings, web: WebSettings) -> int:
    """Loads the model and shows the page until the process is interrupted; the exit code."""
    from baichuan2.optional import require
    from baichuan2.web import text
    from baichuan2.web.launch import PageSettings, check_address, run_page, url_of

    require("streamlit", extra="web")  # before the minutes of loading, so that a mistake costs none
    check_address(web)
    words = words_for(web.language)
    ready = load_with_notice(load, words)
    page_words = text.words_for("zh" if words is CHINESE else "en")
    if not is_local(web.host):
        notice(page_words.open_to_all.format(host=web.host))
    notice(page_words.address.format(url=url_of(web)))
    run_page(PageSettings(load=load, sampling=sampling, chat=chat, web=web, ready=ready))
    return 0


def show(arguments: Sequence[str]) -> None:
    """Draws the page if Streamlit runs this, with the flags after `--`; else does what `baichuan2 web` does."""
    from baichuan2.cli.main import command_parser, main

    if "streamlit" not in sys.modules or not sys.modules["streamlit"].runtime.exists():
        sys.exit(main(["web", *arguments]))
    from baichuan2.web.launch import PageSettings
    from baichuan2.web.page import show_page, show_problem

    try:
        namespace = command_parser("web", SETTINGS).parse_args(list(arguments))
        settings = PageSettings(
            load=read_settings(LoadSettings, namespace),
            sampling=read_settings(SamplingSettings, namespace),
            chat=read_settings(ChatSettings, namespace),
            web=read_settings(WebSettings, namespace),
        )
    except BaichuanError as error:
        show_problem(error)
        return
    show_page(settings)


def is_local(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
