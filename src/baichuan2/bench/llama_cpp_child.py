"""llama.cpp as one side of a comparison: a program of its own, run by any Python that has llama-cpp-python.

It reads one JSON object a line, `{"do": NAME, ...}`, and answers with one, `{"result": ...}` or `{"error": ...}`.
Logits are written to a file that the caller names, as float32. Nothing of this package is imported: the interpreter may
have nothing but llama_cpp and numpy.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

BATCH = 512


class Engine:
    """A GGUF file in memory."""

    def __init__(self, api: Any, numpy: Any) -> None:
        self._api, self._numpy = api, numpy
        self._model: Any = None
        self._vocab: Any = None
        self._context: Any = None
        self._vocab_size = 0

    def load(self, path: str, context: int, threads: int | None) -> dict[str, Any]:
        """Reads the file; what it holds."""
        api = self._api
        self._model = api.llama_model_load_from_file(path.encode(), api.llama_model_default_params())
        if not self._model:
            raise RuntimeError(
                "llama.cpp cannot load it: the file is damaged, or of a model that this version does not know"
            )
        self._vocab = api.llama_model_get_vocab(self._model)
        self._vocab_size = api.llama_vocab_n_tokens(self._vocab)
        context = min(context, api.llama_model_n_ctx_train(self._model))
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, BATCH, BATCH
        if threads is not None:
            params.n_threads = params.n_threads_batch = threads
        self._context = api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError("llama.cpp has no memory for a context")
        description = self._text(lambda buffer, size: api.llama_model_desc(self._model, buffer, size), 256)
        return {
            "vocab_size": self._vocab_size,
            "context": context,
            "description": description.decode("utf-8", "replace"),
            "eos": api.llama_vocab_eos(self._vocab),
            "eot": api.llama_vocab_eot(self._vocab),
            "template": self._template(),
            "bos_piece": self._bytes(api.llama_vocab_bos(self._vocab)).decode("utf-8", "replace"),
            "eos_piece": self._bytes(api.llama_vocab_eos(self._vocab)).decode("utf-8", "replace"),
        }

    def _template(self) -> str | None:
        api, key = self._api, b"tokenizer.chat_template"
        size = api.llama_model_meta_val_str(self._model, key, None, 0)
        if size < 0:
            return None
        content = self._text(
            lambda buffer, room: api.llama_model_meta_val_str(self._model, key, buffer, room), size + 1
        )
        return content.decode("utf-8", "replace")

    @staticmethod
    def _text(fill: Callable[[Any, int], int], size: int) -> bytes:
        import ctypes

        buffer = ctypes.create_string_buffer(size)
        fill(buffer, size)
        return buffer.value

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Ids of a text, with what the file wants in front; `special`: names of control tokens become these."""
        content = text.encode()
        room = len(content) + 8
        ids = (self._api.llama_token * room)()
        count = self._api.llama_tokenize(self._vocab, content, len(content), ids, room, not special, special)
        if count < 0:
            raise RuntimeError("llama.cpp cannot make tokens of a text")
        return list(ids[:count])

    def piece(self, token_id: int) -> str:
        """The bytes of a token in hexadecimal digits."""
        return self._bytes(token_id).hex()

    def _bytes(self, token_id: int) -> bytes:
        import ctypes

        if not 0 <= token_id < self._vocab_size:
            return b""
        buffer = ctypes.create_string_buffer(256)
        count = self._api.llama_token_to_piece(self._vocab, token_id, buffer, len(buffer), 0, True)
        return buffer.raw[: max(0, count)]

    def logits(self, ids: list[int], path: str) -> int:
        """Writes the logits of all places of `ids` but the last to `path`; how many places that are."""
        self._forget()
        with Path(path).open("wb") as file:
            for start in range(0, len(ids) - 1, BATCH):
                part = ids[start : min(start + BATCH, len(ids) - 1)]
                self._rows(part, start, everywhere=True).tofile(file)
        return len(ids) - 1

    def generate(self, ids: list[int], count: int, stop_ids: list[int]) -> list[tuple[int, float]]:
        """The likeliest next tokens, one after the other, with the logarithms of their probabilities."""
        self._forget()
        numpy = self._numpy
        chosen: list[tuple[int, float]] = []
        row: Any = None
        for start in range(0, len(ids), BATCH):
            row = self._rows(ids[start : start + BATCH], start, everywhere=False)[0]
        for step in range(count):
            token_id = int(row.argmax())
            wide = row.astype(numpy.float64)
            top = wide.max()
            chosen.append((token_id, float(wide[token_id] - top - numpy.log(numpy.exp(wide - top).sum()))))
            if token_id in stop_ids or step == count - 1:
                break
            row = self._rows([token_id], len(ids) + step, everywhere=False)[0]
        return chosen

    def _forget(self) -> None:
        api = self._api
        api.llama_memory_clear(api.llama_get_memory(self._context), True)

    def _rows(self, ids: list[int], position: int, *, everywhere: bool) -> Any:
        """Logits (n, V) of these tokens, or (1, V) of the last one."""
        api = self._api
        batch = api.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for index, token_id in enumerate(ids):
                batch.token[index], batch.pos[index] = token_id, position + index
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
                batch.logits[index] = everywhere or index == len(ids) - 1
            if api.llama_decode(self._context, batch) != 0:
                raise RuntimeError("llama.cpp failed while reading tokens")
            count = len(ids) if everywhere else 1
            found = self._numpy.ctypeslib.as_array(api.llama_get_logits(self._context), (count, self._vocab_size))
            return found.copy()
        finally:
            api.llama_batch_free(batch)


def serve(commands: Mapping[str, Callable[..., Any]]) -> None:
    """Answers commands until the input ends; what the library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"result": commands[request.pop("do")](**request)}
        except Exception as error:
            answer = {"error": " ".join(str(error).split()) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """The program: imports the library, then answers."""
    try:
        import llama_cpp
        import numpy
    except ImportError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    api = llama_cpp.llama_cpp
    api.llama_backend_init()
    engine = Engine(api, numpy)
    names = ("load", "tokenize", "piece", "logits", "generate")
    commands: dict[str, Callable[..., Any]] = {name: getattr(engine, name) for name in names}
    serve({**commands, "version": lambda: llama_cpp.__version__})


if __name__ == "__main__":
    main()
