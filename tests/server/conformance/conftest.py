"""The server that the clients ask, one for all of them."""

import pytest

from tests.server.conformance.engine import engine_from


@pytest.fixture(scope="session")
def engine():
    with engine_from() as made:
        yield made
