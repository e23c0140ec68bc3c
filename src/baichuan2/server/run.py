"""From settings to a running server, and to its end.

The first signal lets replies in work finish, for a while; new requests are refused meanwhile. What is not finished then
ends with an error that its client can read. A second signal ends everything at once.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from baichuan2.checkpoints.cache_memory import cache_memory
from baichuan2.engine.scheduler import Scheduler
from baichuan2.errors import SettingsError
from baichuan2.server.app import create_app
from baichuan2.server.connections import protocol_for
from baichuan2.server.gate import Gate, is_loopback
from baichuan2.server.keys import Keys
from baichuan2.server.service import Service
from baichuan2.settings import SamplingSettings, ServeSettings, parse_bytes

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["Notices", "open_socket", "serve"]

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells count
FLUSH_SECONDS = 2  # for the last words of streams
JOIN_SECONDS = 10  # for the step that the engine is in
TICKS_PER_LOOK = 10
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Notices:
    """What is told to whoever started the server, each a function that says it in their language."""

    listening: Callable[[str], None]
    """At which address."""
    stopping: Callable[[int, float], None]
    """How many requests are waited for, and how many seconds at most."""


def open_socket(settings: ServeSettings) -> socket.socket:
    """A socket that is bound to the address, not yet listening, so that nobody is let in before the model is ready.

    Raises SettingsError when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _unavailable(settings, error) from None
    try:
        if os.name == "posix":  # elsewhere it would share the port with another server
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise _unavailable(settings, error) from None
    return listener


def serve(
    loaded: "ReadyModel",
    settings: ServeSettings,
    sampling: SamplingSettings,
    keys: Keys,
    listener: socket.socket,
    notices: Notices,
) -> int:
    """Serves until a signal comes; the exit code: 0, or 130 after an interrupt from the keyboard.

    Raises SettingsError when another process listens on the address by now, or the memory given holds no context.
    """
    set_up_logging()
    if settings.cache_memory is None:
        cache_bytes = cache_memory(loaded.model, num_sequences=settings.max_running, kv_cache=sampling.kv_cache)
    else:
        cache_bytes = parse_bytes(settings.cache_memory)
    scheduler = Scheduler(
        loaded.model,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        cache_bytes=cache_bytes,
        kv_cache=sampling.kv_cache,
    )
    service = Service(loaded, settings, sampling, scheduler=scheduler)
    application = create_app(service, keys)
    config = uvicorn.Config(
        application.asgi,
        http=protocol_for(settings),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=FLUSH_SECONDS,
        backlog=settings.max_connections,
    )
    try:
        listener.listen(settings.max_connections)
    except OSError as error:  # another one was bound to the same port, and began to listen first
        raise _unavailable(settings, error) from None
    url = url_of(settings.host, listener.getsockname()[1])
    server = _Server(config, service, application.gate, notices, url)
    server.run(sockets=[listener])
    if scheduler.load().is_alive:  # in a long step: the interpreter would wait for it, or break it off in native code
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(server.exit_code)
    return server.exit_code


def set_up_logging() -> None:
    """Lines on standard error: one for each request, and what goes wrong; more with BAICHUAN2_DEBUG."""
    ours = logging.getLogger("baichuan2")
    if not ours.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        ours.addHandler(handler)
    ours.propagate = False
    ours.setLevel(logging.DEBUG if os.environ.get("BAICHUAN2_DEBUG") else logging.INFO)
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # says of every broken request that it was broken


def url_of(host: str, port: int) -> str:
    """The address for a browser on this machine."""
    if host in ("0.0.0.0", "::", ""):
        host = "127.0.0.1" if host != "::" else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open(settings: ServeSettings, keys: Keys) -> bool:
    """Whether other machines can ask without a key."""
    return not keys and not is_loopback(settings.host)


class _Server(uvicorn.Server):
    """uvicorn's server, with an end of our own."""

    def __init__(self, config: uvicorn.Config, service: Service, gate: Gate, notices: Notices, url: str) -> None:
        super().__init__(config)
        self.exit_code = 0
        self._service, self._gate, self._notices, self._url = service, gate, notices, url
        self._is_urgent: asyncio.Event | None = None
        self._ending: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then says so."""
        await super().startup(sockets)
        self._notices.listening(self._url)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals start the end, in the event loop; uvicorn would send them again to itself and die of them."""
        loop = asyncio.get_running_loop()

        def stop(number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._stop, number)

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % TICKS_PER_LOOK == 0:
            self._service.look_after_engine()
        return await super().on_tick(counter)

    def _stop(self, number: int) -> None:
        if self._is_urgent is None:
            self.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else 0
            self._service.is_closing = True
            self._is_urgent = asyncio.Event()
            self._ending = asyncio.create_task(self._end(self._is_urgent))
        else:
            self._is_urgent.set()

    async def _end(self, is_urgent: asyncio.Event) -> None:
        seconds = self._service.settings.shutdown_seconds
        if self._gate.num_open:
            self._notices.stopping(self._gate.num_open, seconds)
            await _first_of(self._gate.wait_until_idle(), is_urgent.wait(), seconds=seconds)
        closing = threading.Thread(target=self._service.scheduler.close, daemon=True)
        closing.start()  # every request in work gets an error at once, then it waits for the engine's step
        await _first_of(self._gate.wait_until_idle(), seconds=FLUSH_SECONDS)
        if not is_urgent.is_set():
            is_joined = asyncio.to_thread(closing.join, JOIN_SECONDS)
            await _first_of(is_joined, is_urgent.wait(), seconds=JOIN_SECONDS)
        self.should_exit = True


async def _first_of(*waits: Coroutine[object, object, object], seconds: float) -> None:
    """Until one of `waits` is over, or the time is."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _unavailable(settings: ServeSettings, error: Exception) -> SettingsError:
    reason = getattr(error, "strerror", None) or error
    return SettingsError(
        f"cannot listen on {settings.host} port {settings.port}: {reason}; choose others with --host and --port"
    )
