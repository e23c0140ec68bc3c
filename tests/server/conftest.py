"""A running server for the tests that ask over real connections.

`running_server` starts `baichuan2 serve` with the demo model on a free port, once for all tests, and gives its address,
such as http://127.0.0.1:40123. Tests that need other flags: `with serving("--api-key", "k") as server: server.url`.
"""

import pytest

from baichuan2.checkpoints.load import load_for_replies
from tests.server.apps import asking
from tests.server.processes import serving


@pytest.fixture(scope="session")
def running_server():
    with serving() as server:
        yield server.url


@pytest.fixture(scope="session")
def demo():
    """The demo model."""
    return load_for_replies()


@pytest.fixture(scope="module")
def client(demo):
    """A client of a server in this process."""
    with asking(demo) as made:
        yield made
