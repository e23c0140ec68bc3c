"""`python -m recipes.demo`: the demo model from its data to the shipped folders, in one command.

Seven stages: corpus, tokenizer, pack, base, chat, export, score. A stage whose inputs did not change since it finished
is skipped; base and chat go on from their last checkpoint after any interruption. `install` copies the two folders into
the package and only runs when asked for, after a score that meets every target.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Big blocks are kept by the allocator instead of going back to the system after each step: 6 % faster, measured.
# The C library reads these when the process starts, hence the restart.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
STAGES = ("corpus", "tokenizer", "pack", "base", "chat", "export", "score", "install")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--stages", default=",".join(STAGES[:-1]), help="comma-separated, of: " + " ".join(STAGES))
    parser.add_argument("--position", choices=("rope", "alibi"), default="rope", help="7B-style or 13B-style positions")
    parser.add_argument("--out", type=Path, default=Path("build/demo"), help="where everything is written")
    parser.add_argument(
        "--only", metavar="TEXT", help="a quick try: Base learns only the documents that hold this text"
    )
    parser.add_argument("--steps-base", type=int, default=6500, metavar="N", help="training steps of Base")
    parser.add_argument("--steps-chat", type=int, default=6000, metavar="N", help="training steps of Chat")
    parser.add_argument("--minutes-base", type=float, metavar="M", help="instead of --steps-base: time for Base")
    parser.add_argument("--minutes-chat", type=float, metavar="M", help="instead of --steps-chat: time for Chat")
    parser.add_argument("--rate-base", type=float, default=2e-3, metavar="R", help="highest learning rate of Base")
    parser.add_argument("--rate-chat", type=float, default=1e-3, metavar="R", help="highest learning rate of Chat")
    parser.add_argument(
        "--noise-chat", type=float, default=0.15, metavar="P", help="share of filling words swapped in Chat"
    )
    parser.add_argument("--tokens-per-step", type=int, default=2048, metavar="N", help="places in one update")
    parser.add_argument(
        "--checkpoints", type=int, default=0, metavar="N", help="model folders to keep on the way of Base and of Chat"
    )
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="processor threads")
    parser.add_argument("--eager", action="store_true", help="do not compile the model")
    parser.add_argument("--show", type=int, default=1, metavar="N", help="mistakes to print for each scored task")
    options = parser.parse_args(arguments)
    if options.checkpoints < 0:
        parser.error(f"--checkpoints must be at least 0, got {options.checkpoints}")
    options.stages = options.stages.split(",")
    unknown = sorted(set(options.stages) - set(STAGES))
    if unknown:
        parser.error(f"unknown stage {', '.join(unknown)}; there are: {', '.join(STAGES)}")
    return options


def restart_with_allocator_settings(threads: int) -> None:
    """Starts this process anew with the environment that makes training fast, unless it has it already."""
    wanted = {**ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
    missing = {name: value for name, value in wanted.items() if name not in os.environ}
    if missing and sys.platform == "linux":
        os.environ.update(missing)
        os.execv(sys.executable, [sys.executable, "-m", "recipes.demo", *sys.argv[1:]])


def main() -> int:
    """Runs the chosen stages in order; 0, or 1 when the score misses a target."""
    options = parse_arguments()
    restart_with_allocator_settings(options.threads)
    from recipes.demo.stages import run_stages

    return run_stages(options)


if __name__ == "__main__":
    sys.exit(main())
