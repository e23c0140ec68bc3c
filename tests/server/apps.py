"""The application in this process, over the demo model, asked without a network."""

from collections.abc import Iterator
from contextlib import contextmanager

from starlette.testclient import TestClient

from baichuan2.engine.scheduler import Scheduler
from baichuan2.server.app import create_app
from baichuan2.server.keys import read_keys
from baichuan2.server.service import Service
from baichuan2.settings import SamplingSettings, ServeSettings


@contextmanager
def asking(loaded, settings: ServeSettings | None = None, **scheduler_options) -> Iterator[TestClient]:
    """A client of a server for `loaded`; `client.service` is what answers."""
    settings = settings if settings is not None else ServeSettings()
    scheduler = Scheduler(loaded.model, max_running=4, max_waiting=settings.max_waiting, **scheduler_options)
    service = Service(loaded, settings, SamplingSettings(), scheduler=scheduler)
    app = create_app(service, read_keys(settings)).asgi
    try:
        with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
            client.service = service
            yield client
    finally:
        scheduler.close()


def events_of(answer) -> list[str]:
    """What stands behind `data: ` in a stream."""
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    lines = answer.text.split("\n\n")
    assert lines[-1] == ""
    assert all(line.startswith("data: ") and "\n" not in line for line in lines[:-1])
    return [line.removeprefix("data: ") for line in lines[:-1]]
