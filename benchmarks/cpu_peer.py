"""llama.cpp's side of `benchmarks/cpu.py`: run by an interpreter that has llama-cpp-python, driven over pipes.

Not for use by hand. Sessions are what `cpu_child` describes: `start` reads a prompt (the prefill), `decode` adds
tokens to what was read. Random ids go in, the most likely id is fed back; everything is at the library's defaults but
for the number of threads and the size of the context.
"""

import time
from typing import Any

import llama_cpp
import numpy as np
from cpu_child import serve
from llama_cpp import llama_cpp as api

ROOM = 128  # tokens that a session may decode
LOGICAL_BATCH = 2048  # the library's default


class Session:
    """A context of `num_rows` sequences that have all read `context` tokens."""

    def __init__(self, engine: "Engine", context: int, num_rows: int) -> None:
        self.engine, self.num_rows, self.position = engine, num_rows, 0
        params = api.llama_context_default_params()
        params.n_ctx = (context + ROOM) * num_rows
        params.n_seq_max = num_rows
        params.n_batch = LOGICAL_BATCH
        params.n_threads = params.n_threads_batch = engine.threads
        self.context = api.llama_init_from_model(engine.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp cannot make a context of that size")
        self.batch = api.llama_batch_init(LOGICAL_BATCH, 0, num_rows)

    def close(self) -> None:
        """Frees its memory."""
        api.llama_batch_free(self.batch)
        api.llama_free(self.context)

    def read(self, ids: np.ndarray) -> None:
        """Adds `ids` (B, T) to the sequences; logits of the last ones only."""
        for row, sequence in enumerate(ids):
            for start in range(0, len(sequence), LOGICAL_BATCH):
                part = sequence[start : start + LOGICAL_BATCH]
                is_last = start + len(part) == len(sequence)
                entries = [(int(token_id), self.position + start + index, row) for index, token_id in enumerate(part)]
                self._decode(entries, last_only=True, with_logits=is_last)
        self.position += ids.shape[1]

    def step(self, ids: np.ndarray) -> np.ndarray:
        """Adds one token to each sequence (B,); the most likely next ones (B,)."""
        self._decode([(int(token_id), self.position, row) for row, token_id in enumerate(ids)], last_only=False)
        self.position += 1
        size = self.engine.vocab_size
        logits = np.ctypeslib.as_array(api.llama_get_logits(self.context), shape=(self.num_rows, size))
        return logits.argmax(-1)

    def _decode(self, entries: list[tuple[int, int, int]], *, last_only: bool, with_logits: bool = True) -> None:
        self.batch.n_tokens = len(entries)
        for index, (token_id, position, row) in enumerate(entries):
            self.batch.token[index] = token_id
            self.batch.pos[index] = position
            self.batch.n_seq_id[index] = 1
            self.batch.seq_id[index][0] = row
            self.batch.logits[index] = with_logits and (not last_only or index == len(entries) - 1)
        if api.llama_decode(self.context, self.batch) != 0:
            raise RuntimeError("llama_decode failed")
        api.llama_synchronize(self.context)


class Engine:
    """One model and its sessions."""

    def __init__(self) -> None:
        self.sessions: dict[str, tuple[Session, np.ndarray]] = {}
        self.threads = 1
        self.model: Any = None
        self.vocab_size = 0
        self.generator = np.random.default_rng(0)

    def load(self, path: str, threads: int) -> dict[str, Any]:
        """Reads the model; what runs."""
        self.threads = threads
        start = time.perf_counter()
        self.model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab_size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        seconds = time.perf_counter() - start
        self.start("warm-up", context=4, batch=1)
        self.decode("warm-up", tokens=2)
        self.stop("warm-up")
        return {
            "seconds": seconds,
            "version": llama_cpp.__version__,
            "system": api.llama_print_system_info().decode(),
        }

    def start(self, name: str, context: int, batch: int) -> float:
        """Seconds in which `batch` new sequences of `context` tokens are read, one after the other."""
        self.stop(name)
        session = Session(self, context, batch)
        ids = self.generator.integers(300, self.vocab_size, (batch, context))
        start = time.perf_counter()
        session.read(ids)
        seconds = time.perf_counter() - start
        self.sessions[name] = (session, ids[:, -1])
        return seconds

    def decode(self, name: str, tokens: int) -> list[float]:
        """Seconds of each of `tokens` steps of all sequences of a session."""
        session, ids = self.sessions[name]
        seconds = []
        for _ in range(tokens):
            start = time.perf_counter()
            ids = session.step(ids)
            seconds.append(time.perf_counter() - start)
        self.sessions[name] = (session, ids)
        return seconds

    def stop(self, name: str) -> None:
        """Frees a session, if there is one of that name."""
        if name in self.sessions:
            self.sessions.pop(name)[0].close()


def main() -> None:
    api.llama_backend_init()
    engine = Engine()
    serve({"load": engine.load, "start": engine.start, "decode": engine.decode, "stop": engine.stop})


if __name__ == "__main__":
    main()
