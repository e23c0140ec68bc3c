"""How the page starts, or says in one line why it does not."""

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from baichuan2.cli.commands.web import is_local
from baichuan2.errors import SettingsError
from baichuan2.settings import WebSettings
from baichuan2.web.launch import check_address, url_of
from baichuan2.web.options import OPTIONS, options_for
from baichuan2.web.parting import PARTING_SECONDS
from tests.web.browser import free_port, wait_for

ROOT = Path(__file__).parents[2]


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=120,
        env=os.environ | environment,
    )


@pytest.fixture
def taken_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_taken_port_is_one_line_before_the_model_is_loaded(taken_port):
    done = run("-m", "baichuan2", "web", "--host", "127.0.0.1", "--port", str(taken_port), "--model", "no-such-folder")
    expected = f"error: --port {taken_port} is taken by another program on 127.0.0.1: pick another one\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "0"], "--port must lie in [1, 65535], got 0"),
        (["--port", "x"], "--port: must be a whole number, got 'x'"),
        (["--host", ""], "--host must be an address or a name, such as localhost, got an empty text"),
        (["--host", "192.0.2.1"], "cannot listen on 192.0.2.1, port 8501: Cannot assign requested address"),
        (["--theme", "pink"], "--theme: must be one of auto, light, dark, got 'pink'"),
        (["--model", "no-such-folder"], "no-such-folder"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    done = run("-m", "baichuan2", "web", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_without_streamlit_the_command_says_what_to_install():
    code = "import sys; sys.modules['streamlit'] = None; from baichuan2.cli.main import main; sys.exit(main(['web']))"
    done = run("-c", code)
    expected = "error: the optional package 'streamlit' is not installed: run pip install 'baichuan2[web]'\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_the_official_script_is_the_command_when_python_runs_it(taken_port):
    done = run("web_demo.py", "--host", "127.0.0.1", "--port", str(taken_port))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: --port {taken_port} is taken")
    assert len((ROOT / "web_demo.py").read_text().splitlines()) <= 10


def test_a_free_port_is_no_problem():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    check_address(WebSettings(host="127.0.0.1", port=port))
    with pytest.raises(SettingsError, match=r"cannot listen on no-such-host\.invalid"):
        check_address(WebSettings(host="no-such-host.invalid"))


@pytest.mark.parametrize(
    ("host", "url", "local"),
    [
        ("localhost", "http://localhost:8501", True),
        ("127.0.0.1", "http://127.0.0.1:8501", True),
        ("::1", "http://[::1]:8501", True),
        ("0.0.0.0", "http://localhost:8501", False),
        ("example.org", "http://example.org:8501", False),
    ],
)
def test_addresses(host, url, local):
    assert (url_of(WebSettings(host=host)), is_local(host)) == (url, local)


def test_streamlit_knows_every_option_and_takes_them_from_the_file():
    config = pytest.importorskip("streamlit.config")
    known = config._config_options_template
    assert set(options_for(WebSettings(theme="dark"))) <= set(known)

    def flat(table, prefix=""):
        for name, value in table.items():
            yield from flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]

    written = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text(encoding="utf-8"))
    assert dict(flat(written)) == OPTIONS


def test_the_page_is_local_and_tells_nobody_by_default():
    options = options_for(WebSettings())
    assert options["server.address"] == "localhost"
    assert options["browser.gatherUsageStats"] is False
    assert "theme.base" not in options  # the browser decides
    assert options_for(WebSettings(theme="dark"))["theme.base"] == "dark"


def test_starting_the_help_loads_no_streamlit():
    code = (
        "import sys; from baichuan2.cli.main import main; main(['web', '--help']); "
        "heavy = {'streamlit', 'torch', 'transformers', 'numpy', 'rich', 'prompt_toolkit'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--port" in done.stdout


def test_a_page_from_elsewhere_is_refused_without_asking_the_network():
    code = """
import socket, sys
from baichuan2.web.launch import ask_nobody_for_our_address
from streamlit.web.server.server_util import is_url_from_allowed_origins
import streamlit.net_util

def fail(*arguments, **options):
    raise AssertionError("the network was asked")

streamlit.net_util._make_blocking_http_get = fail
ask_nobody_for_our_address()
sys.exit(is_url_from_allowed_origins("http://evil.example"))
"""
    done = run("-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_local_page_answers_to_local_names_alone():
    from streamlit import config
    from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

    before = config.get_option("server.allowedHosts")
    config.set_option("server.allowedHosts", options_for(WebSettings())["server.allowedHosts"])
    try:
        hosts = ["localhost:8501", "127.0.0.1:8501", "[::1]:8501", "evil.example:8501", "localhost.evil.example"]
        assert [is_host_allowed(host) for host in hosts] == [True, True, True, False, False]
    finally:
        config.set_option("server.allowedHosts", before)


def test_an_open_page_answers_to_any_name_whatever_the_file_in_this_folder_says():
    from streamlit import config
    from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

    before = config.get_option("server.allowedHosts")
    config.set_option("server.allowedHosts", options_for(WebSettings(host="0.0.0.0"))["server.allowedHosts"])
    try:
        assert is_host_allowed("192.168.1.5:8501")
    finally:
        config.set_option("server.allowedHosts", before)


def test_a_browser_that_fell_asleep_over_a_file_does_not_keep_the_page_from_ending():
    static = Path(importlib.util.find_spec("streamlit").origin).parent / "static"
    largest = max(static.rglob("*.js"), key=lambda path: path.stat().st_size).relative_to(static)
    port = free_port()
    code = (
        "from baichuan2.settings import WebSettings; from baichuan2.web.launch import PageSettings, run_page;"
        f"run_page(PageSettings(web=WebSettings(host='127.0.0.1', port={port}, open_browser=False)))"
    )
    command = [sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT) as process,
        socket.socket() as asleep,
    ):
        try:
            asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            wait_for(lambda: process.poll() is not None or asleep.connect_ex(("127.0.0.1", port)) == 0, 60)
            asleep.sendall(f"GET /{largest.as_posix()} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert asleep.recv(12) == b"HTTP/1.1 200"
            time.sleep(0.5)  # what the kernel keeps for it is full now
            started = time.monotonic()
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=PARTING_SECONDS + 15)
            assert time.monotonic() - started > PARTING_SECONDS  # it was given that time
            assert (process.returncode, output.strip()) == (0, "Stopping...")
        finally:
            process.kill()
