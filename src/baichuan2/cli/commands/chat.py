"""`baichuan2 chat`: talk with a Chat model in the terminal, through a pipe, or once with --prompt."""

import time
from typing import TYPE_CHECKING

from baichuan2.cli.conversation import Conversation, Session
from baichuan2.cli.garbage import without_collection
from baichuan2.cli.keyboard import open_reader, read_prompt
from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import ReplyPrinter, accept_any_text, notice
from baichuan2.cli.text import Words, words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import ChatSettings, LoadSettings, OutputSettings, RunSettings, SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

BAR_DELAY = 1.5  # seconds of quantising after which its bar appears
SETTINGS = (LoadSettings, SamplingSettings, ChatSettings, RunSettings, OutputSettings)


def run(
    load: LoadSettings, sampling: SamplingSettings, chat: ChatSettings, once: RunSettings, output: OutputSettings
) -> int:
    """Loads the model and holds the dialogue, or answers the one prompt; the exit code."""
    accept_any_text()
    words = words_for(once.language)
    message = read_prompt(once.prompt)  # before the minutes of loading, so that a mistake costs none
    session = _open_session(load_with_notice(load, words), chat.system, sampling)
    speed_format = words.speed if once.show_speed else None
    printer = ReplyPrinter("reply", is_live=chat.stream, is_json=output.json, speed_format=speed_format)
    if message is not None:
        printer.print_reply(session.send(message))
        return 0
    reader = open_reader(words)
    if reader.is_terminal:
        is_demo = load.model is None and load.adapter is None
        notice(f"{words.demo_note}\n{words.welcome}" if is_demo else words.welcome)
    return Conversation(session, reader, printer, words).run()


def load_with_notice(load: LoadSettings, words: Words, *, takes_several: bool = False) -> "ReadyModel":
    """The loaded model; standard error tells what is being loaded and how long it took.

    `takes_several`: adapters with names are served beside it.
    """
    if load.named_adapters and not takes_several:
        raise SettingsError(f"--adapter must be one folder here, got {load.adapter!r}: names and several are for serve")
    name = load.model if load.adapter is None else " + ".join(filter(None, (load.model, load.adapter)))
    notice(words.loading_demo if name is None else words.loading.format(model=name))
    started = time.perf_counter()
    with without_collection():
        from baichuan2.checkpoints.load import load_for_replies

        if load.quantize == "none":
            loaded = load_for_replies(load.model, load)
    if load.quantize != "none":  # minutes, with weights in between that must not stay
        with progress_bar(words.quantizing, delay=BAR_DELAY) as show:
            loaded = load_for_replies(load.model, load, watch=show)
    notice(words.ready.format(seconds=time.perf_counter() - started))
    return loaded


def _open_session(loaded: "ReadyModel", system: str | None, sampling: SamplingSettings) -> Session:
    from baichuan2.chat.session import ChatSession

    return ChatSession(loaded, system=system, sampling=sampling)
