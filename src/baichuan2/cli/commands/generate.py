"""`baichuan2 generate`: continue a text with a Base model."""

import dataclasses
import sys

from baichuan2.cli.commands.chat import load_with_notice
from baichuan2.cli.keyboard import read_prompt
from baichuan2.cli.screen import ReplyPrinter, accept_any_text
from baichuan2.cli.text import words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import LoadSettings, OutputSettings, RunSettings, SamplingSettings

SETTINGS = (LoadSettings, SamplingSettings, RunSettings, OutputSettings)
DEFAULT_MODEL = "demo-base"  # the default of LoadSettings is the Chat model, which answers and does not continue


def run(load: LoadSettings, sampling: SamplingSettings, once: RunSettings, output: OutputSettings) -> int:
    """Prints what the model writes after the prompt, the prompt itself left out; the exit code."""
    accept_any_text()
    words = words_for(once.language)
    if once.prompt is None and sys.stdin.isatty():
        raise SettingsError("--prompt is missing: give the text to continue, or - to read it from standard input")
    text = read_prompt("-" if once.prompt is None else once.prompt)
    assert text is not None
    default = DEFAULT_MODEL if load.adapter is None else None  # an adapter knows its base
    loaded = load_with_notice(dataclasses.replace(load, model=load.model or default), words)
    from baichuan2.chat.reply import stream_completion

    speed_format = words.speed if once.show_speed else None
    printer = ReplyPrinter("completion", is_live=True, is_json=output.json, speed_format=speed_format)
    printer.print_reply(stream_completion(loaded, text, sampling))
    return 0
