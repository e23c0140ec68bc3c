"""The servers of `benchmarks/serve.py`: started, watched and ended; only processes that were started here."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

HOST = "127.0.0.1"
SCRIPTS = Path(__file__).resolve().parent
START_SECONDS = 120.0
POLL_SECONDS = 0.1


class ServerError(Exception):
    """A server that does not start, or that died; the message holds the end of what it printed."""


class Server:
    """One server process on a free port of this machine."""

    def __init__(
        self, name: str, command: Sequence[object], log: Path, *, environment: Mapping[str, str] | None = None
    ) -> None:
        """`command` may hold "{port}" as a part of its own."""
        self.name, self.log = name, log
        self.port = free_port()
        self.command = [str(part).replace("{port}", str(self.port)) for part in command]
        self._environment = {**os.environ, **(environment or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it says that it is healthy.

        Raises:
            ServerError: the process ended, or took too long.
        """
        with self.log.open("wb") as output:
            try:
                self._process = subprocess.Popen(
                    self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment
                )
            except OSError as error:
                raise ServerError(f"{self.name} cannot be started: {error}") from error
        deadline = time.monotonic() + START_SECONDS
        while not self._is_healthy():
            if self._process.poll() is not None:
                raise ServerError(f"{self.name} ended with status {self._process.returncode}: {self._last_words()}")
            if time.monotonic() > deadline:
                raise ServerError(f"{self.name} was not ready within {START_SECONDS:g} s: {self._last_words()}")
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Raises ServerError if the process has ended."""
        if self._process is None or self._process.poll() is not None:
            status = "was not started" if self._process is None else f"ended with status {self._process.returncode}"
            raise ServerError(f"{self.name} {status}: {self._last_words()}")

    def memory(self) -> dict[str, int]:
        """Bytes that the process and its children hold: "rss", "pss", and "anonymous", what is no file's."""
        self.check()
        assert self._process is not None
        total = {"rss": 0, "pss": 0, "anonymous": 0}
        for pid in family(self._process.pid):
            for name, size in process_memory(pid).items():
                total[name] += size
        return total

    def cpu_seconds(self) -> float:
        """Time that the process and its children have computed so far, on all cores together."""
        self.check()
        assert self._process is not None
        return sum(process_seconds(pid) for pid in family(self._process.pid))

    def stop(self) -> None:
        """Ends it, by force if need be."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _is_healthy(self) -> bool:
        with contextlib.suppress(urllib.error.URLError, OSError):
            # no proxy of the environment stands between this machine and itself
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://{HOST}:{self.port}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        return False

    def _last_words(self) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log.exists() else ""
        return " / ".join(text.strip().splitlines()[-3:])[-400:] or "it printed nothing"


def ours(folder: Path, log: Path, threads: int | None, *, name: str = "ours", options: Sequence[object] = ()) -> Server:
    """`baichuan2 serve`."""
    command = [sys.executable, "-m", "baichuan2", "serve", "--model", folder, "--host", HOST, "--port", "{port}"]
    return Server(name, [*command, *options], log, environment=_environment(threads))


def whole_prompts(folder: Path, log: Path, threads: int | None, *, options: Sequence[object] = ()) -> Server:
    """`baichuan2 serve` that computes each prompt in one step; see `serve_whole_prompts.py`."""
    server = ours(folder, log, threads, name="ours, whole prompts", options=options)
    server.command[1:3] = [str(SCRIPTS / "serve_whole_prompts.py")]
    return server


def naive(folder: Path, log: Path, threads: int | None) -> Server:
    """One reply after the other; see `serve_naive.py`."""
    command = [sys.executable, SCRIPTS / "serve_naive.py", "--model", folder, "--port", "{port}"]
    return Server("naive loop", command, log, environment=_environment(threads))


def peer(program: Path, model: Path, log: Path, threads: int, *, slots: int, context: int) -> Server:
    """llama.cpp's server: its defaults, but for threads, places (`slots`) and the tokens that each of them holds."""
    command = [program, "-m", model, "--host", HOST, "--port", "{port}", "-t", threads, "-tb", threads,
               "--parallel", slots, "-c", slots * context, "--no-webui"]  # fmt: skip
    return Server("llama.cpp", command, log)


def peer_version(program: Path) -> str:
    """What the program says of itself."""
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False, timeout=60)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith(("version", "built"))]
    return ", ".join(lines) or "unknown"


def _environment(threads: int | None) -> dict[str, str]:
    """None leaves the number of threads to the server."""
    return {"HF_HUB_OFFLINE": "1", **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}


def end_servers_on_signals() -> None:
    """From now on SIGTERM and SIGHUP end the program as Ctrl-C does: its servers first."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def process_memory(pid: int) -> dict[str, int]:
    """Bytes of one process, from the kernel's own sums; nothing for one that has ended."""
    names = {"Rss": "rss", "Pss": "pss", "Anonymous": "anonymous"}
    sizes = {}
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            field, _, value = line.partition(":")
            if field in names:
                sizes[names[field]] = int(value.split()[0]) * 1024
    return sizes


def process_seconds(pid: int) -> float:
    """Seconds that one process has computed; none for one that has ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
