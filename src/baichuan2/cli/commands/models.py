"""`baichuan2 models`: every official release, what fits this machine, and what is here already."""

import sys
from typing import TYPE_CHECKING, Any, TextIO

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.releases_text import ReleaseWords, release_words_for
from baichuan2.cli.screen import accept_any_text, print_json, printable
from baichuan2.cli.text import Words, words_for
from baichuan2.errors import SettingsError
from baichuan2.settings import ModelsSettings, OutputSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.release_state import ReleaseState

SETTINGS = (ModelsSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 models                       every release, and how it fits into this machine
  baichuan2 models --gpu 24GB            into an accelerator that is not here
  baichuan2 models 7B-Chat               one release: files, digests, terms, command lines
  baichuan2 models 7B@00220B --json"""
WIDTH = 100  # of the table where standard output is no terminal


def run(settings: ModelsSettings, output: OutputSettings) -> int:
    """Prints the table, one release in full, or with --json all facts for programs; the exit code."""
    accept_any_text()
    words, general = release_words_for(settings.language), words_for(settings.language)
    from baichuan2.checkpoints.releases import RELEASES, find_release

    chosen = RELEASES
    if settings.name is not None:
        release = find_release(settings.name)
        if release is None:
            raise SettingsError(f"there is no release {settings.name!r}: baichuan2 models lists them all")
        chosen = (release,)
    from baichuan2.checkpoints.memory import given_places
    from baichuan2.checkpoints.release_state import release_states

    states = release_states(chosen, given_places(gpu=settings.gpu, memory=settings.memory))
    if output.json:
        facts = [state.as_dict() for state in states]
        print_json(facts if settings.name is None else facts[0])
    elif settings.name is None:
        print_table(states, sys.stdout, words, general)
    else:
        print_release(states[0], sys.stdout, words, general)
    return 0


def print_table(states: "list[ReleaseState]", file: TextIO, words: ReleaseWords, general: Words) -> None:
    """Prints a row for each release, those of a generation together."""
    from rich.box import SIMPLE
    from rich.table import Table
    from rich.text import Text

    console = _console(file)
    places = list(states[0].fits)
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column(words.name, no_wrap=True)
    for title in (words.files, words.parameters, words.tokens_short):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column(words.here, no_wrap=True)
    for place in places:
        table.add_column(words.fits_title.format(place=place), no_wrap=True)
    titles = {"2": words.title_2, "1": words.title_1, "demo": words.title_demo}
    generation = None
    common: dict[str, tuple[int, int]] = {}  # what all releases of a generation have
    for state in states:
        if state.release.generation != generation:
            generation = state.release.generation
            table.add_row(Text(titles[generation], style="bold"))
            common[titles[generation]] = (state.vocabulary, state.context)
        tokens = state.release.tokens
        table.add_row(
            f"  {state.release.name}",
            _size_text(state),
            _count_text(state.parameters),
            "-" if tokens is None else f"{tokens}B",
            _here_text(state, words),
            *(_fits_text(state, place, words, general) for place in places),
        )
    console.print(table)
    for title, (vocabulary, context) in common.items():
        console.print(Text(words.common.format(title=title, vocabulary=f"{vocabulary:,}", context=context)))
    console.print(Text(words.note.format(places=", ".join(places))))


def print_release(state: "ReleaseState", file: TextIO, words: ReleaseWords, general: Words) -> None:
    """Prints everything about one release."""
    from rich.table import Table
    from rich.text import Text

    console = _console(file)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in _facts(state, words, general):
        table.add_row(name, Text(printable(value)))
    console.print(table)
    for title, lines in ((words.files, _file_lines(state, words)), (words.commands, command_lines(state))):
        if lines:
            console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)


def _facts(state: "ReleaseState", words: ReleaseWords, general: Words) -> list[tuple[str, str]]:
    release = state.release
    rows = [(words.name, release.name), (words.spellings, ", ".join(release.spellings[1:]))]
    if release.repo is not None:
        rows += [
            (words.hub, f"https://huggingface.co/{release.repo}"),
            (words.revision, release.revision or "main"),
            (words.modelscope, release.modelscope or words.unknown),
        ]
    rows += [
        (words.parameters, f"{state.parameters:,}"),
        (words.vocabulary, f"{state.vocabulary:,}"),
        (words.context, words.context_value.format(count=state.context)),
        (words.tokens, "-" if release.tokens is None else words.tokens_value.format(count=release.tokens)),
        (words.stored, f"{release.stored}, {_size_text(state)}"),
        (words.here, _here_text(state, words) + ("" if state.path is None else f": {state.path}")),
    ]
    for place, fits in state.fits.items():
        verdicts = (f"{precision} {getattr(general, f'plan_{verdict}')}" for precision, verdict in fits.items())
        rows.append((words.fits_title.format(place=place), ", ".join(verdicts)))
    rows.append((words.licence, getattr(words, f"licence_{release.licence.replace('-', '_')}")))
    return [(name, value) for name, value in rows if value]


def _file_lines(state: "ReleaseState", words: ReleaseWords) -> list[str]:
    release = state.release
    if release.repo is None:
        return []
    lines = []
    for item in release.files:
        lines += [f"{item.name}  {size_text(item.size)}", f"  {words.digest} {item.sha256 or words.unknown}"]
    if not release.files:
        lines.append(words.files_unknown)
    return [*lines, "tokenizer.model", f"  {words.digest} {release.tokenizer_sha256 or words.unknown}"]


def _size_text(state: "ReleaseState") -> str:
    """Bytes of the weights; with a mark where they follow from the number of parameters only."""
    if state.size is not None:
        return size_text(state.size)
    return f"~{size_text(2 * state.parameters)}" if state.parameters else "-"


def _here_text(state: "ReleaseState", words: ReleaseWords) -> str:
    return {"yes": words.yes, "part": words.part, "no": words.no, "embedded": words.embedded}[state.here]


def command_lines(state: "ReleaseState") -> list[str]:
    """What one would type to use a release, by its short name."""
    release = state.release
    name, folder = release.name, release.name.replace("@", "-")
    lines = [f"baichuan2 download {name}"] if release.repo is not None else []
    if release.kind == "chat":
        lines.append(f"baichuan2 chat --model {name}")
    else:
        lines.append(f"baichuan2 generate --model {name}")
    if release.stored == "bfloat16":
        lines.append(f"baichuan2 quantize {name} {folder}-int4 --format int4")
        lines.append(f"baichuan2 finetune -m {name} -d DATA.json --output-dir {folder}-lora --method lora")
    if release.generation == "2" and release.stored == "bfloat16":
        lines.append(f"baichuan2 plan {name}")
    return lines


def _fits_text(state: "ReleaseState", place: str, words: ReleaseWords, general: Words) -> str:
    fits = state.fits.get(place)
    if not fits:
        return words.fits_none
    return "/".join(str(getattr(general, f"plan_{verdict}")) for verdict in fits.values())


def _count_text(count: int) -> str:
    if count >= 10**9:
        return f"{count / 1e9:.1f}B"
    return f"{count / 1e6:.1f}M" if count else "-"


def _console(file: TextIO) -> Any:
    from rich.console import Console

    return Console(file=file, width=None if file.isatty() else WIDTH, highlight=False, emoji=False)
