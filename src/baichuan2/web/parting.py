"""The end of the page's server: browsers get a few seconds to take what is on its way to them.

The server under Streamlit waits for them for ever, and Streamlit has no option for it: one tab that fell asleep over a
file would keep the process alive.
"""

import asyncio
import socket
from typing import Any

import uvicorn

__all__ = ["PARTING_SECONDS", "PartingServer", "part_from_browsers_in_time"]

PARTING_SECONDS = 3.0


class PartingServer(uvicorn.Server):
    """Cuts off whoever is still connected PARTING_SECONDS after it was told to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for all connections, but not for longer."""
        cutting = asyncio.get_running_loop().call_later(PARTING_SECONDS, self._cut_off)
        try:
            await super().shutdown(sockets)
        finally:
            cutting.cancel()

    def _cut_off(self) -> None:
        for connection in list(self.server_state.connections):
            transport: Any = connection.transport
            transport.abort()  # `close` would wait until everything is read


def part_from_browsers_in_time() -> None:
    """Makes Streamlit start a `PartingServer`: it takes the class from uvicorn when it starts its server."""
    uvicorn.Server = PartingServer  # type: ignore[misc]
