"""A running server for the tests that ask over real connections.

`running_server` starts `baichuan2 serve` with the demo model on a free port, once for all tests, and gives its address,
such as http://127.0.0.1:40123. Tests that need other flags: `with serving("--api-key", "k") as server: server.url`.
"""

import pytest

from tests.server.processes import serving


@pytest.fixture(scope="session")
def running_server():
    with serving() as server:
        yield server.url
