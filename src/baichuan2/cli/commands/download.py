"""`baichuan2 download`: a model from a hub to this disk, whole and checked."""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from baichuan2.cli.commands.plan import size_text
from baichuan2.cli.progress import bytes_bar
from baichuan2.cli.releases_text import ReleaseWords, release_words_for
from baichuan2.cli.screen import accept_any_text, notice, print_json
from baichuan2.settings import DownloadSettings, OutputSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.download import Downloaded, Stage

SETTINGS = (DownloadSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 download 7B-Chat                          into the hub's cache; --model 7B-Chat then finds it
  baichuan2 download 13B-Chat-v2 models/13b-v2        into a folder
  baichuan2 download 7B@00220B                        an intermediate checkpoint
  baichuan2 download 7B-Chat --mirror https://hf-mirror.com
  baichuan2 download 7B-Chat --from modelscope        with the extra: pip install 'baichuan2[modelscope]'
  baichuan2 download 7B-Chat --verify                 reads all files again and compares them, offline"""
HUGGING_FACE = "https://huggingface.co"
HUBS = {"huggingface": "Hugging Face", "modelscope": "ModelScope"}


def run(settings: DownloadSettings, output: OutputSettings) -> int:
    """Downloads or checks; the path on standard output, everything else on standard error; the exit code."""
    accept_any_text()
    words = release_words_for(settings.language)
    from baichuan2.checkpoints.download import download, wanted_model

    wanted = wanted_model(settings)
    at = f"@{wanted.revision}" if wanted.revision else ""
    is_local = settings.verify or settings.offline
    line = words.checking if is_local else words.asking
    notice(line.format(repo=wanted.repo, at=at, hub=_address(settings)))
    try:
        with _bars(words) as show:
            result = download(settings, show)
    except KeyboardInterrupt:
        notice(words.interrupted)
        raise
    _tell(result, words)
    if output.json:
        print_json(result.as_dict())
    else:
        print(result.path)
    return 0


def _address(settings: DownloadSettings) -> str:
    """Who is asked: the name of the hub, or the address that answers in its place."""
    from huggingface_hub import constants

    if settings.mirror is None and settings.from_ == "huggingface" and constants.ENDPOINT != HUGGING_FACE:
        return str(constants.ENDPOINT)
    return settings.mirror or HUBS[settings.from_]


@contextlib.contextmanager
def _bars(words: ReleaseWords) -> Iterator[Callable[["Stage", int, int], None]]:
    """A bar for each stage; nothing where standard error is no terminal."""
    titles = {"fetch": words.fetch_bar, "check": words.check_bar}
    with contextlib.ExitStack() as stack:
        bars: dict[str, Callable[[int, int], None]] = {}

        def show(stage: "Stage", done: int, total: int) -> None:
            if stage not in bars:
                stack.close()  # the bar of the stage before goes away
                bars[stage] = stack.enter_context(bytes_bar(titles[stage]))
            bars[stage](done, total)

        yield show


def _tell(result: "Downloaded", words: ReleaseWords) -> None:
    notice(words.done.format(path=result.path, count=len(result.files), size=size_text(result.num_bytes)))
    if result.num_bytes_fetched:
        notice(words.fetched.format(size=size_text(result.num_bytes_fetched)))
    counts = Counter(by for file in result.files for by in file.by)
    if counts:
        notice(words.checked.format(counts=", ".join(f"{by} {count}" for by, count in counts.items())))
    if result.unproven:
        notice(words.unproven.format(names=", ".join(result.unproven)))
