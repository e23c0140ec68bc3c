"""The clients of `benchmarks/serve.py`: one process, asyncio, one connection a request, replies read as they stream.

    echo '{"port": 8000, "streams": [[{"prompt": [5, 6], "max_tokens": 8}]], ...}' | python benchmarks/serve_clients.py

Not for use by hand. Reads one plan, sends each stream's requests one after the other and all streams at the same time,
and writes what each request saw. Standard library alone, and HTTP read by hand: on two cores that the server needs
itself, a client must cost little, and the same for every server.

A plan: "port", "path", "streams" (lists of request bodies), "seconds" (all of it must be done by then) and maybe
"late": {"body": ..., "after_chunks": N}, a request that is sent when each stream has seen N chunks of its first reply.
A result: "times" (seconds since the plan's start at which text came), "sent", "done", "tokens", "prompt_tokens",
"cached_tokens", "finish_reason" and "error", None where all went well.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

HOST = "127.0.0.1"
END = "[DONE]"
LARGEST_LINE = 1 << 20


class ReplyError(Exception):
    """The server did not answer as it should; the message says how."""


async def run_plan(plan: dict[str, Any]) -> dict[str, Any]:
    """All results: "streams", in the order of the plan's requests, and "late"."""
    started = time.perf_counter()
    begun = [asyncio.Event() for _ in plan["streams"]]
    threshold = plan["late"]["after_chunks"] if plan.get("late") else 0
    results: list[list[dict[str, Any]]] = [[] for _ in plan["streams"]]

    async def stream(place: int) -> None:
        for body in plan["streams"][place]:
            found = new_result()
            results[place].append(found)
            await ask(plan, body, found, started, begun[place], threshold)
        begun[place].set()

    late = new_result()

    async def send_late() -> None:
        await asyncio.gather(*(event.wait() for event in begun))
        await ask(plan, plan["late"]["body"], late, started, asyncio.Event(), 0)

    tasks = [asyncio.create_task(stream(place)) for place in range(len(plan["streams"]))]
    if plan.get("late"):
        tasks.append(asyncio.create_task(send_late()))
    _, unfinished = await asyncio.wait(tasks, timeout=plan["seconds"])
    for task in unfinished:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    seconds = time.perf_counter() - started
    return {"streams": results, "late": late if plan.get("late") else None, "seconds": seconds}


def new_result() -> dict[str, Any]:
    """What is known of a request that nobody has sent."""
    return {"times": [], "sent": None, "done": None, "tokens": 0, "prompt_tokens": 0, "cached_tokens": None,
            "finish_reason": None, "error": "not finished in time"}  # fmt: skip


async def ask(
    plan: dict[str, Any], body: dict[str, Any], found: dict[str, Any], started: float, begun: asyncio.Event, chunks: int
) -> None:
    """Sends one request and fills `found` while the reply comes; `begun` is set after so many `chunks`."""
    found["sent"] = time.perf_counter() - started
    try:
        async for event in events(plan["port"], plan["path"], body):
            now = time.perf_counter() - started
            if take(event, found):
                found["times"].append(now)
                if len(found["times"]) >= chunks:
                    begun.set()
        found["done"] = time.perf_counter() - started
        found["error"] = problem(found, body)
    except (ReplyError, OSError, ValueError, KeyError, TypeError, asyncio.IncompleteReadError) as error:
        found["error"] = f"{type(error).__name__}: {error}"


def take(event: dict[str, Any], found: dict[str, Any]) -> bool:
    """Takes up what an event of a stream says; whether it holds text."""
    if "error" in event:
        raise ReplyError(json.dumps(event["error"])[:300])
    usage = event.get("usage")
    if usage:
        found["tokens"], found["prompt_tokens"] = usage["completion_tokens"], usage["prompt_tokens"]
        found["cached_tokens"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens")
    has_text = False
    for choice in event.get("choices", ()):
        has_text = has_text or bool(choice.get("text"))
        found["finish_reason"] = choice.get("finish_reason") or found["finish_reason"]
    return has_text


def problem(found: dict[str, Any], body: dict[str, Any]) -> str | None:
    """What is wrong with a reply that came to its end: every one must have the length that was asked for."""
    if found["finish_reason"] != "length" or found["tokens"] != body["max_tokens"]:
        return f"{found['tokens']} of {body['max_tokens']} tokens, finish_reason {found['finish_reason']}"
    return None if found["times"] else "no text"


async def events(port: int, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed reply, until its end mark.

    Raises ReplyError for any answer but 200, and for a stream without its end mark.
    """
    reader, writer = await asyncio.open_connection(HOST, port, limit=LARGEST_LINE)
    try:
        content = json.dumps(body).encode()
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(head.encode() + content)
        await writer.drain()
        status, is_chunked = await read_head(reader)
        parts = chunks_of(reader) if is_chunked else rest_of(reader)
        if status != 200:
            text = b"".join([part async for part in parts])[:300].decode(errors="replace")
            raise ReplyError(f"status {status}: {text}")
        async for line in lines_of(parts):
            if not line.startswith(b"data:"):
                continue
            data = line[5:].strip().decode()
            if data == END:
                return
            yield json.loads(data)
        raise ReplyError(f"the stream ended without {END}")
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status, and whether the body comes in chunks."""
    first = await reader.readline()
    if not first.startswith(b"HTTP/1."):
        raise ReplyError(f"no HTTP answer: {first[:80]!r}")
    is_chunked = False
    while (line := await reader.readline()).strip():
        name, _, value = line.partition(b":")
        is_chunked = is_chunked or (name.strip().lower() == b"transfer-encoding" and b"chunked" in value.lower())
    return int(first.split()[1]), is_chunked


async def chunks_of(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The chunks of a body with chunked encoding."""
    while size := int((await reader.readline()).split(b";")[0], 16):
        yield (await reader.readexactly(size + 2))[:-2]


async def rest_of(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """What comes until the connection ends."""
    while part := await reader.read(65536):
        yield part


async def lines_of(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Lines of a body, however it was cut; its last one need not end."""
    held = b""
    async for part in parts:
        *whole, held = (held + part).split(b"\n")
        for line in whole:
            yield line
    if held:
        yield held


def main() -> int:
    print(json.dumps(asyncio.run(run_plan(json.load(sys.stdin)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
