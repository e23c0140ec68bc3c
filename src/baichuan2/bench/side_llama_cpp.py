"""A GGUF file as one side of a comparison, run by llama.cpp in a process of its own, which `llama_cpp_child` is."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from baichuan2.bench import llama_cpp_child
from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.bench.quality import BLOCK_ELEMENTS
from baichuan2.bench.sides import Choice, Found
from baichuan2.errors import CheckpointError, DataError, GenerationError, MissingExtraError, SettingsError
from baichuan2.settings import CompareSettings

__all__ = ["LlamaCppSide", "check_library"]

CONTEXT = 4096
PLAIN_TYPES = {"F32": "float16", "F16": "float16", "BF16": "bfloat16"}
"""Types of files without few bits, and in what llama.cpp computes: its keys and values are float16 for all of them."""


class LlamaCppSide:
    """See `sides.Side`."""

    program = "llama.cpp"

    def __init__(self, found: Found, settings: CompareSettings) -> None:
        """Loads the file.

        Raises:
            SettingsError: there is no such interpreter.
            CheckpointError: llama.cpp cannot load the file.
        """
        self.name = found.name
        self._process = _start(settings.llama_python)
        self._pieces: dict[int, bytes] = {}
        path = str(found.folder.resolve())
        try:
            about = self._ask("load", path=path, context=CONTEXT, threads=settings.threads)
        except GenerationError as error:
            self.close()
            raise CheckpointError(str(error)) from error
        except BaseException:
            self.close()
            raise
        words = about["description"].split()
        file_type = words[-1].upper() if words else ""
        self.number_format = PLAIN_TYPES.get(file_type, "float16")
        self.stored_as = None if file_type in PLAIN_TYPES else file_type.lower()
        self.vocab_size, self.context = int(about["vocab_size"]), int(about["context"])
        self.stop_ids = frozenset(token_id for token_id in (about["eos"], about["eot"]) if token_id >= 0)
        self._template: str | None = about["template"]
        self._names = {"bos_token": about["bos_piece"], "eos_token": about["eos_piece"]}
        self.is_chat = self._template is not None

    def text_ids(self, text: str) -> list[int]:
        """Token ids of plain text, with what the file wants in front."""
        return [int(token_id) for token_id in self._ask("tokenize", text=text, special=False)]

    def chat_ids(self, prompt: Prompt) -> list[int] | None:
        """Token ids by the chat template in the file; None where it holds none."""
        if self._template is None:
            return None
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            rendered, _ = render_jinja_template(
                [prompt.as_mappings()], chat_template=self._template, add_generation_prompt=True, **self._names
            )
        except Exception as error:  # a template may raise whatever it likes
            reason = " ".join(str(error).split())[:400]
            raise DataError(f"{self.name}: its chat template refuses prompt {prompt.number}: {reason}") from error
        return [int(token_id) for token_id in self._ask("tokenize", text=rendered[0], special=True)]

    def piece(self, token_id: int) -> bytes:
        """What a token adds to a text."""
        if token_id not in self._pieces:
            self._pieces[token_id] = bytes.fromhex(self._ask("piece", token_id=token_id)) or f"<{token_id}>".encode()
        return self._pieces[token_id]

    def blocks(self, ids: Sequence[int]) -> Iterator[Tensor]:
        """Logits (n, V) of all places of `ids` (T,) but the last, which come through a file that is gone afterwards."""
        with tempfile.TemporaryDirectory(prefix="baichuan2-compare-") as folder:
            path = Path(folder) / "logits"
            count = int(self._ask("logits", ids=list(ids), path=str(path)))
            width = max(1, BLOCK_ELEMENTS // self.vocab_size)
            with path.open("rb") as file:
                for start in range(0, count, width):
                    num_rows = min(width, count - start)
                    rows = np.fromfile(file, dtype=np.float32, count=num_rows * self.vocab_size)
                    yield torch.from_numpy(rows).view(num_rows, self.vocab_size)

    def continuation(self, ids: Sequence[int], num_tokens: int, stop_ids: frozenset[int]) -> list[Choice]:
        """The likeliest next tokens, by llama.cpp's own steps."""
        chosen = self._ask("generate", ids=list(ids), count=num_tokens, stop_ids=sorted(stop_ids))
        return [Choice(int(token_id), float(logprob)) for token_id, logprob in chosen]

    def sampling_defaults(self) -> dict[str, float | bool]:
        """Nothing: a GGUF file says nothing of sampling."""
        return {}

    def head_lengths(self) -> Tensor | None:
        """None: such a head is plain."""
        return None

    def close(self) -> None:
        """Ends the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ask(self, do: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            code = self._process.poll()
            raise GenerationError(f"{self.name}: the process of llama.cpp died (exit code {code})") from error
        if "error" in answer:
            raise GenerationError(f"{self.name}: {answer['error']}")
        return answer["result"]


def check_library(found: Found, settings: CompareSettings) -> None:
    """Raises where llama.cpp cannot be run.

    Raises:
        SettingsError: there is no such interpreter.
        MissingExtraError: it has no llama-cpp-python.
    """
    process = _start(settings.llama_python)
    answer, _ = process.communicate(json.dumps({"do": "version"}) + "\n")
    if "result" not in answer:
        raise MissingExtraError(
            f"{found.name} is a GGUF file, for which llama-cpp-python is needed: pip install llama-cpp-python, or give "
            "--llama-python the interpreter that has it"
        )


def _start(python: str | None) -> "subprocess.Popen[str]":
    program = python or sys.executable
    if python is not None and not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise SettingsError(
            f"--llama-python {python} is no program: give the Python interpreter that has llama-cpp-python"
        )
    try:
        return subprocess.Popen(
            [program, llama_cpp_child.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
    except OSError as error:
        raise SettingsError(f"--llama-python {program} cannot be run: {error.strerror}") from error
