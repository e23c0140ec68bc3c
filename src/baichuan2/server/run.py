"""From settings to a running server, and to its end."""

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

import uvicorn

from baichuan2.engine.scheduler import Scheduler
from baichuan2.errors import SettingsError
from baichuan2.server.app import create_app
from baichuan2.server.service import Service
from baichuan2.settings import SamplingSettings, ServeSettings, parse_bytes

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel

__all__ = ["open_socket", "serve"]


def open_socket(settings: ServeSettings) -> socket.socket:
    """A socket that is bound to the address, not yet listening, so that nobody is let in before the model is ready.

    Raises SettingsError when the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise _unavailable(settings, error) from None
    return listener


def serve(
    loaded: "ReadyModel",
    settings: ServeSettings,
    sampling: SamplingSettings,
    listener: socket.socket,
    ready: Callable[[str], None],
) -> int:
    """Serves until a signal comes; `ready` is told the address. The exit code."""
    scheduler = Scheduler(
        loaded.model,
        max_running=settings.max_running,
        max_waiting=settings.max_waiting,
        cache_bytes=None if settings.cache_memory is None else parse_bytes(settings.cache_memory),
    )
    service = Service(loaded, settings, sampling, scheduler=scheduler)
    config = uvicorn.Config(create_app(service), log_config=None, access_log=False, server_header=False, ws="none")
    server = uvicorn.Server(config)
    ready(url_of(settings.host, listener.getsockname()[1]))
    server.run(sockets=[listener])
    return 0


def url_of(host: str, port: int) -> str:
    """The address for a browser."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _unavailable(settings: ServeSettings, error: OSError) -> SettingsError:
    return SettingsError(
        f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; choose others with --host "
        "and --port"
    )
