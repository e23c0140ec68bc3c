"""The `baichuan2` command: finds the subcommand, makes its settings, runs it and turns failures into one line.

Only the chosen command's module is imported, and it imports torch only when it runs; so `--help` is instant.
A command module has `SETTINGS`, the settings classes that it takes, and `run(*settings) -> exit code`; it may have
`EXAMPLES`, lines for the end of its help. One whose flags are partly the framework's has `run_arguments(parser,
arguments)` in place of `run`, and reads them itself; only its help comes from here.
"""

import argparse
import importlib
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from baichuan2 import __version__
from baichuan2.cli.flags import FlagParser, add_flags, flags_of, read_settings
from baichuan2.cli.screen import one_line
from baichuan2.errors import BaichuanError, MemoryShortageError, SettingsError

EXIT_FAILURE = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE
DEBUG_VARIABLE = "BAICHUAN2_DEBUG"


class Command(NamedTuple):
    """Where a subcommand lives, and its help in one line."""

    module: str
    help: str


COMMANDS = {
    "chat": Command("baichuan2.cli.commands.chat", "talk with a Chat model in the terminal"),
    "generate": Command("baichuan2.cli.commands.generate", "continue a text with a Base model"),
    "web": Command("baichuan2.cli.commands.web", "talk with a Chat model in the browser"),
    "serve": Command("baichuan2.cli.commands.serve", "answer OpenAI's clients over HTTP"),
    "finetune": Command(
        "baichuan2.cli.commands.finetune", "teach a model: all weights or adapters, from your own data"
    ),
    "merge": Command("baichuan2.cli.commands.merge", "put an adapter into the weights: a model as any other"),
    "evaluate": Command("baichuan2.cli.commands.evaluate", "score a model on benchmarks, by the official recipes"),
    "bench": Command("baichuan2.cli.commands.bench", "measure speed, memory and time to load, beside a LLaMA"),
    "quantize": Command("baichuan2.cli.commands.quantize", "write a model in 8 or 4 bits"),
    "convert": Command("baichuan2.cli.commands.convert", "turn a model into other layouts, or others into this one"),
    "showcase": Command("baichuan2.cli.commands.showcase", "watch a model answer example questions of many kinds"),
    "compare": Command("baichuan2.cli.commands.compare", "tell two models apart, or two forms of one, and say why"),
    "models": Command("baichuan2.cli.commands.models", "list the official releases, and what fits this machine"),
    "download": Command("baichuan2.cli.commands.download", "fetch a model from a hub, whole and checked"),
    "plan": Command("baichuan2.cli.commands.plan", "show which precision and context fit into memory"),
    "info": Command("baichuan2.cli.commands.info", "show versions, devices, extras and embedded models"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code: 0, 1 failure, 2 the user's mistake, 130 interrupted, 141 reader gone."""
    open_missing_streams()
    format_before, warnings.formatwarning = warnings.formatwarning, format_warning
    try:
        code = run(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()  # here, where a closed pipe is still ours to handle
        return code
    except BrokenPipeError:
        # the interpreter flushes standard output once more at exit: give it somewhere to go
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        return report(error)
    finally:
        warnings.formatwarning = format_before


def open_missing_streams() -> None:
    """Puts the null device where the caller closed a standard stream, which Python then holds as None.

    Without it reading fails, and what is printed on a closed standard error lands on standard output.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # in this order each takes the lowest free descriptor, its own, so that no later file becomes a stream
            stream = Path(os.devnull).open(mode, encoding="utf-8", errors="replace")  # noqa: SIM115  # open to the end
            setattr(sys, name, stream)


def run(arguments: Sequence[str]) -> int:
    """Runs the command that `arguments` name and passes its exit code on; failures are raised."""
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name == "--version":
        print(f"baichuan2 {__version__}")
        return 0
    if name not in COMMANDS:
        raise SettingsError(f"unknown command {name!r}: use one of {', '.join(COMMANDS)} (see baichuan2 --help)")
    command = importlib.import_module(COMMANDS[name].module)
    parser = command_parser(name, command.SETTINGS, getattr(command, "EXAMPLES", None))
    is_help = bool({"-h", "--help"} & set(arguments[1:]))
    if hasattr(command, "run_arguments") and not is_help:
        return int(command.run_arguments(parser, list(arguments[1:])))
    try:
        namespace = parser.parse_args(["--help"] if is_help else list(arguments[1:]))
    except SystemExit:  # argparse leaves this way after --help only: mistakes are SettingsError
        return 0
    return int(command.run(*(read_settings(settings_class, namespace) for settings_class in command.SETTINGS)))


def command_parser(name: str, settings_classes: Sequence[type], examples: str | None = None) -> FlagParser:
    """The parser of one command: a flag for each field of its settings classes; `examples` end its help."""
    prog = f"baichuan2 {name}"
    flags = [flag for settings_class in settings_classes for flag in flags_of(settings_class)]
    values = "".join(f"[{flag.spelling}] " for flag in flags if flag.is_positional)
    parser = FlagParser(
        prog=prog,
        usage=f"{prog} {values}[FLAGS]",
        description=COMMANDS[name].help,
        epilog=None if examples is None else f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for settings_class in settings_classes:
        add_flags(parser, settings_class)
    return parser


def overview() -> str:
    """The text of `baichuan2 --help`."""
    commands = "\n".join(f"  {name:<10}  {command.help}" for name, command in COMMANDS.items())
    return (
        f"usage: baichuan2 COMMAND [FLAGS]\n\nBaichuan 2 on today's libraries, version {__version__}.\n\n"
        f"commands:\n{commands}\n\n"
        f"  baichuan2 COMMAND --help  shows the flags of a command\n"
        f"  baichuan2 --version       shows the version\n"
        f"  {DEBUG_VARIABLE}=1         shows the traceback when something fails"
    )


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """One line for the terminal; with the debug variable also which line of which file warns."""
    del line  # the source code, which Python shows on a second line
    place = f" ({category.__name__} at {filename}:{lineno})" if os.environ.get(DEBUG_VARIABLE) else ""
    return f"warning: {one_line(str(message))}{place}\n"


def report(error: Exception) -> int:
    """Prints `error` as one line on standard error; gives the exit code."""
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
    if isinstance(error, BaichuanError):
        message, code = str(error), EXIT_USER_ERROR
    elif isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "baichuan2":
        message, code = f"{error}: run  pip install -r requirements.txt", EXIT_USER_ERROR
    else:
        message = f"{type(error).__name__}: {error} (run with {DEBUG_VARIABLE}=1 for the traceback)"
        code = EXIT_FAILURE
    print(f"error: {one_line(message)}", file=sys.stderr)
    if isinstance(error, MemoryShortageError) and error.plan is not None:
        from baichuan2.cli.commands.plan import print_plan

        print_plan(error.plan, sys.stderr)
    return code
