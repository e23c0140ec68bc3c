"""`baichuan2 bench`: how fast a model runs here, how much memory it takes, and how fast it loads."""

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from baichuan2.cli.progress import progress_bar
from baichuan2.cli.screen import accept_any_text, notice, print_json, printable
from baichuan2.cli.text import Words, words_for
from baichuan2.settings import BenchmarkSettings, OutputSettings

if TYPE_CHECKING:
    from baichuan2.bench.workload import Stage

SETTINGS = (BenchmarkSettings, OutputSettings)
EXAMPLES = """\
  baichuan2 bench path/to/model                             as it is stored, beside a LLaMA of its size
  baichuan2 bench path/to/model --precisions stored,int8,int4
  baichuan2 bench --shape 7b                                no model at hand: random weights in 16, 8 and 4 bits
  baichuan2 bench --shape 13b --precisions int4 --llama none
  baichuan2 bench --shape 7b --layers 4                     a part of it, for a small machine
  baichuan2 bench --shape 13b --prompt-tokens 512 --new-tokens 2048 --device auto"""


def run(settings: BenchmarkSettings, output: OutputSettings) -> int:
    """Measures, prints the tables and writes them; the exit code, 1 where a precision could not be measured."""
    accept_any_text()
    words = words_for(settings.language)
    from baichuan2.bench.speed import run_benchmark
    from baichuan2.bench.speed_tables import markdown, write_benchmark
    from baichuan2.convert.quantize import quantize_checkpoint

    with _clean_end():
        benchmark = run_benchmark(settings, quantize_checkpoint, _stage(words))
    written = write_benchmark(benchmark, Path(settings.output_dir).expanduser())
    if output.json:
        print_json(benchmark.to_dict())
    else:
        print(printable(markdown(benchmark)), end="")
    notice(words.bench_written.format(files=", ".join(map(str, written))))
    return 0 if benchmark.is_whole else 1


def _stage(words: Words) -> "Stage":
    """What tells each step in a line, with a bar where there is a terminal."""

    @contextlib.contextmanager
    def show(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
        line = {"write": words.bench_write, "copy": words.bench_copy, "turns": words.bench_turns}[kind]
        notice(line.format(name=name))
        with progress_bar(name or kind) as bar:
            yield bar

    return show


@contextlib.contextmanager
def _clean_end() -> Iterator[None]:
    """SIGTERM leaves as Ctrl-C does: processes are ended, and gigabytes of random weights removed."""

    def leave(number: int, frame: object) -> NoReturn:
        del frame
        sys.exit(128 + number)

    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, leave) if is_main else None
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
