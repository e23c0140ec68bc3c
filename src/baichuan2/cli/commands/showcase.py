"""`baichuan2 showcase`: example conversations of many kinds, asked of a model while you watch."""

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from baichuan2.cli.commands.chat import load_with_notice
from baichuan2.cli.screen import accept_any_text, notice
from baichuan2.cli.showcase_screen import Showcase, ShowcaseScreen, markdown, print_examples
from baichuan2.cli.showcase_text import ShowcaseWords, showcase_words_for
from baichuan2.cli.text import words_for
from baichuan2.errors import BaichuanError, SettingsError
from baichuan2.settings import LoadSettings, OutputSettings, ShowcaseSettings

if TYPE_CHECKING:
    from baichuan2.chat.showcase import Example
    from baichuan2.checkpoints.load import ReadyModel

SETTINGS = (ShowcaseSettings, LoadSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 showcase                                       the embedded demo model, on what it was taught
  baichuan2 showcase -m demo-base                          a Base model goes on with texts
  baichuan2 showcase -m baichuan-inc/Baichuan2-7B-Chat     the questions for the official models
  baichuan2 showcase -m path/to/model --kind coding,maths --markdown page.md
  baichuan2 showcase -m path/to/model --quantize int4      the same questions in 4 bits
  baichuan2 showcase --list                                what is asked"""


def run(settings: ShowcaseSettings, load: LoadSettings, output: OutputSettings) -> int:
    """Asks example after example and shows the replies while they are written; the exit code."""
    accept_any_text()
    words = showcase_words_for(settings.language)
    if settings.list:
        _list(settings, words, output)
        return 0
    page = _new_file(settings.markdown)
    from baichuan2.chat.showcase import choose_examples, style_and_questions

    style, questions = style_and_questions(settings, load)
    examples = choose_examples(settings, questions, style)
    loaded = load_with_notice(load, words_for(settings.language))
    from baichuan2.engine.sampling import resolve

    sampling = resolve(settings.sampling, loaded.generation_config)
    showcase = Showcase(loaded.name, _numbers(loaded, load), style, questions, sampling, len(examples))
    if settings.sample and not sampling.do_sample:
        notice(words.still_greedy)
    screen = ShowcaseScreen(words, is_json=output.json)
    try:
        _show(loaded, settings, examples, showcase, screen)
    except (KeyboardInterrupt, BaichuanError):
        notice(words.stopped.format(shown=showcase.num_complete, total=showcase.num_examples))
        raise
    finally:
        if page is not None and showcase.answers:
            _write(page, markdown(showcase, words))
            notice(words.written.format(path=page))
    screen.summary(showcase)
    return 0


def _show(
    loaded: "ReadyModel",
    settings: ShowcaseSettings,
    examples: "tuple[Example, ...]",
    showcase: Showcase,
    screen: ShowcaseScreen,
) -> None:
    """Asks all of `examples`; `showcase` holds every answer from the moment it is complete."""
    from baichuan2.chat.showcase import Answer, play

    for number, example in enumerate(examples, start=1):
        screen.start(number, len(examples), example)
        answers: list[Answer] = []
        showcase.shown.append((example, answers))
        try:
            for answer in play(loaded, example, settings.sampling, partial(screen.turn, example)):
                answers.append(answer)
                screen.mark(answer)
        finally:
            if not answers:
                showcase.shown.pop()
        screen.end(example, answers)


def _list(settings: ShowcaseSettings, words: ShowcaseWords, output: OutputSettings) -> None:
    from baichuan2.chat.showcase import read_examples

    groups = {}
    for questions in ("official", "demo") if settings.questions == "auto" else (settings.questions,):
        for style in ("chat", "base") if settings.style == "auto" else (settings.style,):
            examples = read_examples(questions, style)
            chosen = [example for example in examples if not settings.kinds or example.kind in settings.kinds]
            if chosen:
                groups[questions, style] = chosen
    if not groups:
        raise SettingsError(f"--kind {settings.kind}: no such questions (see baichuan2 showcase --list)")
    print_examples(groups, words, is_json=output.json)


def _numbers(loaded: "ReadyModel", load: LoadSettings) -> str:
    """In which numbers the model computes, in how many bits its weights are, and where it is."""
    stored = getattr(loaded.model.config, "quantization_config", None) or {}
    fields = stored if isinstance(stored, dict) else stored.to_dict()
    bits = load.quantize if load.quantize != "none" else fields.get("format") or fields.get("bnb_4bit_quant_type")
    if bits is None and fields:
        bits = "int8" if fields.get("load_in_8bit") else "int4"
    parts = [str(loaded.model.dtype).removeprefix("torch."), bits, str(loaded.model.device)]
    return ", ".join(str(part) for part in parts if part)


def _new_file(name: str | None) -> Path | None:
    """The file for the page, looked at before minutes of loading.

    Raises SettingsError: it is there already, or cannot be written where it shall be.
    """
    if name is None:
        return None
    try:
        path = Path(name).expanduser()
        if path.exists() or path.is_symlink():
            raise SettingsError(f"--markdown {name}: it exists already, and nothing is overwritten: give another name")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            raise SettingsError(f"--markdown {name}: {path.parent} is no folder that can be written to")
        path.parent.joinpath(f".{path.name}.partial").exists()  # a name that is too long fails here
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(f"--markdown: {name!r} cannot be a file: {error}") from error
    return path


def _write(path: Path, text: str) -> None:
    """Writes beside the file and renames, so that there is never half a page."""
    beside = path.parent / f".{path.name}.partial"
    try:
        beside.write_text(text, encoding="utf-8", errors="replace")
        beside.rename(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise SettingsError(f"--markdown: {path} cannot be written: {error.strerror or error}") from error
