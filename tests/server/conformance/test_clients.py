"""Every case of the table by every client: OpenAI's for Python and JavaScript, and LangChain's ChatOpenAI."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.server.conformance.cases import CLIENTS, Call, Case
from tests.server.conformance.chat_cases import CHAT_CASES, LONG
from tests.server.conformance.drivers import (
    AsyncPythonDriver,
    Driver,
    NodeDriver,
    PythonDriver,
    missing_for_node,
)
from tests.server.conformance.engine import MAX_RUNNING, MAX_WAITING, Engine
from tests.server.conformance.langchain_driver import LangChainDriver
from tests.server.conformance.other_cases import COMPLETION_CASES, REFUSAL_CASES
from tests.server.conformance.outcomes import Outcome

CASES = [*CHAT_CASES, *COMPLETION_CASES, *REFUSAL_CASES]
DRIVERS = {
    "python": PythonDriver,
    "python-async": AsyncPythonDriver,
    "node": NodeDriver,
    "langchain": LangChainDriver,
}
BY_LOOP = ("plain", "stream", "stream with usage", "tools required", "cancel", "full queue", "wrong key", "completion")
FREE_SECONDS = 1.0  # within which the place of a client that leaves has to be free


@pytest.fixture(scope="module")
def driver_of(engine) -> Iterator[Callable[[str], Driver]]:
    """A client's driver by its name, made once for all cases: a parametrised fixture would be made for each."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def driver(client: str) -> Driver:
            return stack.enter_context(DRIVERS[client](engine))

        yield driver


@contextlib.contextmanager
def full_queue(engine: Engine) -> Iterator[None]:
    """All places are taken: some replies are written, others wait."""
    headers = {"Authorization": f"Bearer {engine.key}"}
    with contextlib.ExitStack() as streams:
        for state, count in (("running", MAX_RUNNING), ("waiting", MAX_WAITING)):
            body = LONG | {"model": engine.model, "n": count, "temperature": 1, "max_tokens": 480, "stream": True}
            stream = httpx.stream("POST", f"{engine.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            assert streams.enter_context(stream).status_code == 200
            engine.seconds_until(count, state)
        yield
    engine.seconds_until(0)


def make(driver: Driver, engine: Engine, call: Call, before: list[Outcome]) -> Outcome:
    """What comes of `call`; a place that is left has to be free in time."""
    body = call.body(before) if callable(call.body) else call.body
    with full_queue(engine) if call.on_full_queue else contextlib.nullcontext():
        outcome = driver.make(call, {"model": call.model or engine.model} | dict(body))
    if call.leave_after is not None:
        assert engine.seconds_until(0) < FREE_SECONDS
    return outcome


def told_apart() -> Iterator[object]:
    """Each case by each client that can say it; slow are those where the loop makes no difference to Python's."""
    for client in CLIENTS:
        for case in CASES:
            is_slow = client == "python-async" and case.name not in BY_LOOP
            marks = [pytest.mark.slow] if is_slow else []
            if client in case.clients:
                yield pytest.param(client, case, id=f"{client}-{case.name}", marks=marks)


@pytest.mark.parametrize(("client", "case"), list(told_apart()))
def test_case(driver_of, engine, client: str, case: Case):
    if client == "node" and (reason := missing_for_node()):
        pytest.skip(reason)
    driver = driver_of(client)
    for feature in case.features:
        if not engine.has(feature):
            pytest.skip(f"{feature}: {engine.lacking[feature]}")
    outcomes: list[Outcome] = []
    for call in case.calls:
        outcomes.append(make(driver, engine, call, outcomes))
    case.check(outcomes, engine)
