"""Servers as processes of their own: started on a free port, asked over real connections, stopped by signals."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60
ADDRESS = re.compile(r"http://\S+?:\d+")


class RunningServer:
    """A `baichuan2 serve` that is listening. `url`: where, such as http://127.0.0.1:40123."""

    def __init__(self, process: subprocess.Popen, log_path: Path) -> None:
        self.process = process
        self.log_path = log_path
        self.url = ""

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def log(self) -> str:
        """What the server has written on standard error so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def wait_until_listening(self) -> None:
        give_up = time.monotonic() + START_SECONDS
        while time.monotonic() < give_up:
            found = ADDRESS.search(self.log())
            if found:
                self.url = found.group()
                return
            assert self.process.poll() is None, self.log()
            time.sleep(0.05)
        raise AssertionError(f"not listening after {START_SECONDS} s: {self.log()}")

    def stop(self, signal_number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """The exit code after a signal."""
        self.process.send_signal(signal_number)
        return self.process.wait(seconds)


@contextmanager
def serving(
    *flags: str, environment: Mapping[str, str] | None = None, program: Sequence[str] = ("-m", "baichuan2", "serve")
) -> Iterator[RunningServer]:
    """`baichuan2 serve --port 0` with more flags, listening; killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        log_path = Path(folder) / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, *program, "--port", "0", "--language", "en", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            )
        try:
            server = RunningServer(process, log_path)
            server.wait_until_listening()
            yield server
        finally:
            process.kill()
            process.wait()
