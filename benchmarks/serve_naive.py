"""The server that `benchmarks/serve.py` compares with: one reply after the other, under a lock.

    python benchmarks/serve_naive.py --model FOLDER --port 8001

The same model, kernels and threads as in `baichuan2 serve`, and tokens streamed as they come, but what a script around
the library does without a scheduler: a thread for each connection, and one lock around the whole reply. It knows the
one request that the benchmark sends, `/v1/completions` with token ids, `max_tokens` and `stream`.
"""

import argparse
import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from baichuan2.chat.detokenizer import Detokenizer
from baichuan2.checkpoints.load import ReadyModel, load_for_replies
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.settings import LoadSettings


class NaiveServer(ThreadingHTTPServer):
    """Holds the model and the lock."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, loaded: ReadyModel) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.loaded = loaded
        self.lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: NaiveServer

    def do_GET(self) -> None:
        """Any GET says that the server is there."""
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        """A reply, streamed."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        with self.server.lock:
            for event in reply_events(self.server.loaded, body):
                self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


def reply_events(loaded: ReadyModel, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The events of one greedy reply of exactly `max_tokens` tokens."""
    detokenizer = Detokenizer(loaded.tokenizer.piece_bytes)
    sampling = Sampling(max_new_tokens=body["max_tokens"])
    for step in generate_tokens(loaded.model, body["prompt"], sampling, stop_ids=frozenset()):
        yield {"choices": [{"text": detokenizer.push(step.token_id), "finish_reason": step.finish_reason}]}
    usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
    yield {"choices": [], "usage": usage}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    loaded = load_for_replies(arguments.model, LoadSettings(device="cpu"))
    with NaiveServer(arguments.port, loaded) as server:
        server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
