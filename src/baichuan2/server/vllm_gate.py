"""Our own gate before the routes of vLLM's server, whose key guards some of them alone.

vLLM builds it from its import path, in its own process; what it needs to know comes by an environment variable.
"""

import json
import os
from collections.abc import Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from baichuan2.server.gate import Gate
from baichuan2.server.keys import Keys

__all__ = ["VARIABLE", "VllmGate", "gate_environment"]

VARIABLE = "BAICHUAN2_VLLM_GATE"


def gate_environment(
    keys: Sequence[str], hosts: frozenset[str] | None, max_body: int, origins: Sequence[str]
) -> dict[str, str]:
    """The environment variable from which a `VllmGate` learns whom to let in; see `Gate`.

    `origins`: web pages that may ask. They are told here, as vLLM's own answer to them stands behind this gate, where
    the question that a browser asks first, without a key, does not get.
    """
    names = None if hosts is None else sorted(hosts)
    told = {"keys": list(keys), "hosts": names, "max_body": max_body, "origins": list(origins)}
    return {VARIABLE: json.dumps(told)}


class VllmGate(Gate):
    """ASGI middleware: all paths but /health ask for the key, and names of other machines are refused."""

    def __init__(self, app: ASGIApp) -> None:
        told = json.loads(os.environ[VARIABLE])
        hosts = None if told["hosts"] is None else frozenset(told["hosts"])
        super().__init__(app, keys=Keys(told["keys"]), hosts=hosts, max_body=told["max_body"], is_closing=lambda: False)
        self._guarded: ASGIApp = super().__call__
        if told["origins"]:
            self._guarded = CORSMiddleware(
                self._guarded, allow_origins=told["origins"], allow_methods=["GET", "POST"], allow_headers=["*"]
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or hands it on; connections of other kinds, which show no key here, are refused."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._guarded(scope, receive, send)
