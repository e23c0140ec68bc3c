"""The engines of one run of `benchmarks/cpu.py`: each in a process of its own, loaded when first asked for.

An engine has sessions (`start` reads prompts, `decode` adds tokens); those of `cpu_own`, `cpu_peer` and `cpu_official`
answer the same commands.
"""

import contextlib
import sys
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cpu_child import Child, EngineError
from cpu_models import PEER_FORMATS, SHAPES, VOCABULARY, ensure, gguf_bytes, stored_bytes

SCRIPTS = Path(__file__).resolve().parent
OFFICIAL_WAYS = ("eager-fp32", "eager-bf16", "sdpa-bf16", "bnb-nf4")


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that the floors are computed from."""

    name: str

    @property
    def layers(self) -> int:
        """Decoder layers."""
        return int(SHAPES[self.name]["num_hidden_layers"])

    def cache_bytes(self, context: int) -> int:
        """What attention reads of 16-bit keys and values for one token of one sequence."""
        return 2 * 2 * self.layers * int(SHAPES[self.name]["hidden_size"]) * context

    def weight_bytes(self, bits: int) -> int:
        """What one token reads of weights with so many bits: all but the embedding."""
        hidden, inner = (int(SHAPES[self.name][name]) for name in ("hidden_size", "intermediate_size"))
        vocabulary = int(SHAPES[self.name].get("vocab_size", VOCABULARY))
        return (self.layers * hidden * (4 * hidden + 3 * inner) + vocabulary * hidden) * bits // 8


@dataclass
class Engines:
    """Loaded engines by key: `7b-int4-g64-head8` and the like (ours), `7b-Q4_0` (llama.cpp), `7b-eager-bf16`."""

    directory: Path
    peer_python: Path | None
    threads: int
    official_layers: tuple[int, int]
    official_prefill_layers: tuple[int, int]
    call_seconds: float = 600.0
    facts: dict[str, Any] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    children: dict[str, Child] = field(default_factory=dict)

    def is_peer(self, key: str) -> bool:
        """Whether it is a format of llama.cpp."""
        return key.partition("-")[2] in PEER_FORMATS

    def is_official(self, key: str) -> bool:
        """Whether it is transformers with a few layers, to be extrapolated."""
        return key.partition("-")[2] in OFFICIAL_WAYS

    def path(self, key: str) -> Path:
        """The model's folder or file, written now if it is not there."""
        return ensure(self.directory, key)

    def bytes_per_token(self, key: str) -> int:
        """Weights that one token reads, as they are stored."""
        if key not in self.sizes:
            self.sizes[key] = (gguf_bytes if self.is_peer(key) else stored_bytes)(self.path(key))
        return self.sizes[key]

    def call(self, key: str, do: str, **arguments: Any) -> Any:
        """The result of a command of the engine `key`.

        Raises:
            EngineError: it failed, or cannot be loaded.
        """
        if key not in self.children:
            self._load(key)
        try:
            return self.children[key](do, **arguments)
        except EngineError as error:
            if not self.children[key].is_alive:  # the next row gets a new one
                self.children.pop(key)
            raise EngineError(f"{key}: {error}") from error

    def stop(self, key: str, name: str) -> None:
        """Frees a session of an engine, if both are there."""
        if key in self.children:
            with contextlib.suppress(EngineError):  # its row says so already
                self.call(key, "stop", name=name)

    def pid(self, key: str) -> int:
        """The process of a loaded engine."""
        return self.children[key].pid

    def _load(self, key: str) -> None:
        shape, _, way = key.partition("-")
        arguments: dict[str, Any] = {"threads": self.threads}
        if self.is_peer(key):
            if self.peer_python is None:
                raise EngineError("left out: no --peer-python")
            command: list[object] = [self.peer_python, SCRIPTS / "cpu_peer.py"]
            arguments["path"] = str(self.path(key))
        elif self.is_official(key):
            command = [sys.executable, SCRIPTS / "cpu_official.py", "--shape", shape, "--way", way]
            arguments["layers"] = self.official_layers[1]
        else:
            command = [sys.executable, SCRIPTS / "cpu_own.py"]
            arguments["path"] = str(self.path(key))
        try:
            child = Child(command)
            child.seconds = self.call_seconds
            self.facts[key] = child("load", **arguments)
        except (EngineError, OSError) as error:
            raise EngineError(f"{key}: {error}") from error
        self.children[key] = child

    def keep_only(self, keys: Collection[str] = ()) -> None:
        """Ends all other engines, so that their memory is free."""
        for key in [key for key in self.children if key not in keys]:
            self.children.pop(key).close()
