import os
import re
import subprocess
import sys
import types

import pytest

from baichuan2 import __version__
from baichuan2.cli import main as main_module
from baichuan2.cli.main import COMMANDS, Command, main
from baichuan2.errors import CheckpointError
from baichuan2.settings import OutputSettings


@pytest.fixture
def command(monkeypatch):
    """Puts a command named `probe` into the table; what it is told to do decides what `run` does."""
    module = types.ModuleType("probe_command")
    module.SETTINGS = (OutputSettings,)
    monkeypatch.setitem(sys.modules, "probe_command", module)
    monkeypatch.setitem(COMMANDS, "probe", Command("probe_command", "a probe"))
    monkeypatch.delenv("BAICHUAN2_DEBUG", raising=False)

    def set_run(run):
        module.run = run

    return set_run


def raising(error: BaseException):
    def run(*settings):
        raise error

    return run


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments, capsys):
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name} " in out and command.help in out for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command(name, capsys):
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert re.match(rf"usage: baichuan2 {name} (\[[A-Z]+\] )*\[FLAGS\]\n", out)
    assert COMMANDS[name].help in out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"baichuan2 {__version__}\n"


def test_a_command_gets_its_settings_and_gives_the_exit_code(command):
    received = []
    command(lambda *settings: received.extend(settings) or 7)
    assert main(["probe", "--json"]) == 7
    assert received == [OutputSettings(json=True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prob"], "error: unknown command 'prob': use one of "),
        (["--json"], "error: unknown command '--json': use one of "),
        (["probe", "--wrong"], "error: unrecognized arguments: --wrong (see baichuan2 probe --help)"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, message, command, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(message)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CheckpointError("no folder\n'x\x1b[2J'"), 2, "error: no folder 'x[2J'\n"),
        (
            ValueError("odd"),
            1,
            "error: ValueError: odd (run with BAICHUAN2_DEBUG=1 for the traceback)\n",
        ),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch"),
            2,
            "error: No module named 'torch': run pip install -r requirements.txt\n",
        ),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(error, code, line, command, capsys):
    command(raising(error))
    assert main(["probe"]) == code
    assert capsys.readouterr() == ("", line)


def test_a_module_of_ours_that_is_missing_is_no_advice_to_install(command, capsys):
    command(raising(ModuleNotFoundError("No module named 'baichuan2.x'", name="baichuan2.x")))
    assert main(["probe"]) == 1
    assert "pip install" not in capsys.readouterr().err


@pytest.mark.parametrize("error", [CheckpointError("no folder"), ValueError("odd")])
def test_the_debug_variable_shows_the_traceback(error, command, monkeypatch, capsys):
    monkeypatch.setenv("BAICHUAN2_DEBUG", "1")
    command(raising(error))
    main(["probe"])
    assert "Traceback (most recent call last)" in capsys.readouterr().err


@pytest.mark.parametrize(("debug", "place"), [("", ""), ("1", r" \(UserWarning at <string>:3\)")])
def test_a_warning_is_one_line(debug, place):
    # in a process of its own, as pytest keeps warnings from being shown
    script = (
        "import sys, types, warnings\n"
        "from baichuan2.cli.main import COMMANDS, Command, main\n"
        "probe = types.SimpleNamespace(SETTINGS=(), run=lambda: warnings.warn('not so\\nfast\\x1b[2J') or 0)\n"
        "sys.modules['probe'], COMMANDS['probe'] = probe, Command('probe', '')\n"
        "before = warnings.formatwarning\n"
        "assert main(['probe']) == 0\n"
        "assert warnings.formatwarning is before\n"
    )
    environment = os.environ | {"BAICHUAN2_DEBUG": debug, "PYTHONWARNINGS": ""}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert re.fullmatch(rf"warning: not so fast\[2J{place}\n", done.stderr)
    assert done.returncode == 0


def test_a_reader_that_goes_away_is_no_error():
    script = "import sys; from baichuan2.cli.main import main; sys.exit(main(['--help']))"
    read_end, write_end = os.pipe()
    os.close(read_end)
    # buffered, as it is for users: then the pipe breaks when the buffer is flushed, not at the print
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=write_end, stderr=subprocess.PIPE, env=environment, check=False
    )
    os.close(write_end)
    assert (done.returncode, done.stderr) == (main_module.EXIT_BROKEN_PIPE, b"")


def test_python_m_baichuan2_is_the_same_command():
    command = [sys.executable, "-m", "baichuan2", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == f"baichuan2 {__version__}\n"
