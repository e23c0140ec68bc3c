"""The clients: each makes a `Call` in its own way and tells what came of it as an `Outcome`."""

import asyncio
import inspect
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import openai

from tests.server.conformance.cases import Call
from tests.server.conformance.engine import Engine
from tests.server.conformance.outcomes import Failure, Outcome, read_answer, read_chunks

SECONDS = 60.0
NODE_DIR = Path(__file__).parents[1] / "node"
Body = Mapping[str, Any]


class Driver(Protocol):
    """A client that can be told what to do; a context manager."""

    def make(self, call: Call, body: Body) -> Outcome:
        """What comes of `call` with `body`, which holds the model's name."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def failure_of(error: openai.APIError) -> Failure:
    """An exception of the Python client, or one that LangChain derived from it."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__.startswith("openai"))
    if not isinstance(error, openai.APIStatusError):
        return Failure(kind.__name__, code=error.code, param=error.param, message=error.message)
    retry_after = error.response.headers.get("retry-after")
    return Failure(kind.__name__, error.status_code, error.code, error.param, error.message, retry_after)


def in_kwargs(create: Callable[..., object], body: Body) -> dict[str, Any]:
    """`body` as keyword arguments; what the client does not know goes into `extra_body`."""
    known = inspect.signature(create).parameters
    extra = {name: value for name, value in body.items() if name not in known}
    return {name: value for name, value in body.items() if name in known} | {"extra_body": extra}


class PythonDriver:
    """The official client for Python, without a loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._client = openai.OpenAI(base_url=f"{engine.url}/v1", api_key=engine.key, max_retries=0, timeout=SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def make(self, call: Call, body: Body) -> Outcome:
        """See `Driver`."""
        client = self._client if call.key is None else self._client.with_options(api_key=call.key)
        try:
            if call.route == "models":
                return Outcome(models=[model.id for model in client.models.list()])
            if call.route == "model":
                return read_answer(client.models.retrieve(body["model"]).model_dump())
            create = client.chat.completions.create if call.route == "chat" else client.completions.create
            answer = create(**in_kwargs(create, body), stream=call.stream)
            if not call.stream:
                return read_answer(answer.model_dump())
            chunks = []
            with answer:  # leaving it closes the connection
                for chunk in answer:
                    chunks.append(chunk.model_dump())
                    if len(chunks) == call.leave_after:
                        break
            return read_chunks(chunks)
        except openai.APIError as error:
            return Outcome(failure=failure_of(error))


class AsyncPythonDriver:
    """The official client for Python, in an event loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._runner = asyncio.Runner()

    def __enter__(self) -> Self:
        self._runner.__enter__()
        self._client = openai.AsyncOpenAI(
            base_url=f"{self._engine.url}/v1", api_key=self._engine.key, max_retries=0, timeout=SECONDS
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._runner.run(self._client.close())
        self._runner.__exit__(kind, error, trace)

    def make(self, call: Call, body: Body) -> Outcome:
        """See `Driver`."""
        return self._runner.run(self._make(call, body))

    async def _make(self, call: Call, body: Body) -> Outcome:
        client = self._client if call.key is None else self._client.with_options(api_key=call.key)
        try:
            if call.route == "models":
                return Outcome(models=[model.id async for model in client.models.list()])
            if call.route == "model":
                return read_answer((await client.models.retrieve(body["model"])).model_dump())
            create = client.chat.completions.create if call.route == "chat" else client.completions.create
            answer = await create(**in_kwargs(create, body), stream=call.stream)
            if not call.stream:
                return read_answer(answer.model_dump())
            chunks = []
            async with answer:
                async for chunk in answer:
                    chunks.append(chunk.model_dump())
                    if len(chunks) == call.leave_after:
                        break
            return read_chunks(chunks)
        except openai.APIError as error:
            return Outcome(failure=failure_of(error))


class NodeDriver:
    """The official client for JavaScript, in one process of Node that is told calls line by line."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            ["node", "conformance.mjs"],
            cwd=NODE_DIR,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "BASE_URL": f"{self._engine.url}/v1", "API_KEY": self._engine.key},
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()

    def make(self, call: Call, body: Body) -> Outcome:
        """See `Driver`."""
        told = {"route": call.route, "body": body, "stream": call.stream, "key": call.key}
        told["leaveAfter"] = call.leave_after
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"node ended with {self._process.poll()}"
        result = json.loads(line)
        if "failure" in result:
            return Outcome(failure=Failure(**result["failure"]))
        if "chunks" in result:
            return read_chunks(result["chunks"])
        if call.route == "models":
            return Outcome(models=[model["id"] for model in result["models"]])
        return read_answer(result["answer"])


def missing_for_node() -> str | None:
    """Why the client for JavaScript cannot run here; None: it can."""
    if shutil.which("node") is None:
        return "needs Node.js"
    if not (NODE_DIR / "node_modules" / "openai").is_dir():
        return "needs the npm package: run  npm ci  in tests/server/node"
    return None
