"""Serves the page on a port with a model that always says what a file holds: python -m tests.web.scripted_server ...

As a program it starts the server; the same file is then run by Streamlit as the page's script.
"""

import argparse
import json
import sys
from pathlib import Path

from baichuan2.settings import LoadSettings, WebSettings
from baichuan2.web import page
from baichuan2.web.launch import PageSettings
from baichuan2.web.options import options_for
from baichuan2.web.parting import part_from_browsers_in_time
from tests.web.scripted import ScriptedModel

ARGUMENTS = argparse.ArgumentParser()
ARGUMENTS.add_argument("--port", type=int, required=True)
ARGUMENTS.add_argument("--reply", type=Path, required=True, help="JSON: the text, and seconds before each piece of it")


def serve(arguments: list[str]) -> None:
    """Serves until the process is ended."""
    from streamlit.web import bootstrap

    options = options_for(WebSettings(port=ARGUMENTS.parse_args(arguments).port, host="127.0.0.1"))
    part_from_browsers_in_time()
    bootstrap.load_config_options(flag_options=options)
    bootstrap.run(__file__, False, arguments, options)


def show() -> None:
    """Draws the page; all users share one model, as they do with a real one."""
    given = ARGUMENTS.parse_args()
    if not hasattr(page, "scripted_model"):
        page.scripted_model = ScriptedModel("")
    model = page.scripted_model
    reply = json.loads(given.reply.read_text(encoding="utf-8"))
    model.replies, model.pause = [reply["text"]], reply["pause"]
    page.shared_model = lambda *settings: model
    page.show_page(PageSettings(load=LoadSettings(model="folder")))


if __name__ == "__main__":
    from streamlit import runtime

    if runtime.exists():
        show()
    else:
        serve(sys.argv[1:])
