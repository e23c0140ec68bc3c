"""The memory of a process, as the system counts it, and what loading a model really takes.

    python -m baichuan2.bench.memory '{"model": "demo-chat"}'     what `measure_load` runs; prints one JSON line last

Figures come from /proc and are None where there is none (macOS, Windows). Resident memory counts the pages of mapped
weight files that were read; `anonymous` is the part that no file backs and that the system cannot drop.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from baichuan2.errors import BaichuanError, CheckpointError
from baichuan2.settings import LoadSettings

__all__ = ["LoadMemory", "ProcessMemory", "measure_load", "process_memory", "reset_peak"]

FIELDS = {"resident": "VmRSS", "anonymous": "RssAnon", "file_backed": "RssFile", "peak": "VmHWM"}
PROMPT_IDS = (300, 301, 302, 303)
"""Text ids of every Baichuan vocabulary: memory does not depend on what is said."""


@dataclass(frozen=True, kw_only=True)
class ProcessMemory:
    """Bytes of one process: now (`resident`, of which `anonymous` and `file_backed`), and at its peak.

    None: the system does not tell.
    """

    resident: int | None
    anonymous: int | None
    file_backed: int | None
    peak: int | None


@dataclass(frozen=True, kw_only=True)
class LoadMemory:
    """A process that loads a model and generates `num_tokens`: before loading, after it, and at the end.

    `generated.peak` is the highest point since `before`, loading included. `weight_bytes`: of parameters and buffers.
    """

    before: ProcessMemory
    loaded: ProcessMemory
    generated: ProcessMemory
    weight_bytes: int
    num_tokens: int
    load_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, written: Mapping[str, Any]) -> "LoadMemory":
        """What `to_dict` made."""
        stages = {name: ProcessMemory(**written[name]) for name in ("before", "loaded", "generated")}
        return cls(**{**written, **stages})


def process_memory(pid: int | None = None) -> ProcessMemory:
    """The memory of process `pid`, of this one without it."""
    try:
        text = Path(f"/proc/{'self' if pid is None else pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    return _parse_status(text)


def _parse_status(text: str) -> ProcessMemory:
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)

    def read(name: str) -> int | None:
        words = found.get(name, "").split()
        return int(words[0]) * 1024 if len(words) == 2 and words[0].isdecimal() and words[1] == "kB" else None

    return ProcessMemory(**{ours: read(theirs) for ours, theirs in FIELDS.items()})


def reset_peak() -> bool:
    """Makes the present memory of this process its peak; False where the system cannot."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def measure_load(
    name_or_path: str | Path | None = None, settings: LoadSettings | None = None, *, max_new_tokens: int = 8
) -> LoadMemory:
    """What loading the model in a fresh process takes, by `load_model`, with a few tokens generated afterwards.

    Raises:
        CheckpointError: the model cannot be loaded; the message is that of the process.
        BaichuanError: the process ended without figures, for instance killed for want of memory.
    """
    fields = asdict(settings if settings is not None else LoadSettings())
    if name_or_path is not None:
        fields["model"] = str(name_or_path)
    task = json.dumps({"settings": fields, "max_new_tokens": max_new_tokens})
    # pieces of a megabyte go back to the system when they are freed, so that the peak is what was alive at once
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    command = [sys.executable, "-m", "baichuan2.bench.memory", task]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    lines = done.stdout.splitlines()
    answer = json.loads(lines[-1]) if done.returncode == 0 and lines else {}
    if "error" in answer:
        raise CheckpointError(answer["error"])
    if not answer:
        said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
        raise BaichuanError(f"the process that loads the model ended with status {done.returncode}: {said}")
    return LoadMemory.from_dict(answer)


def _measure_here(settings: LoadSettings, max_new_tokens: int) -> LoadMemory:
    """Loads and generates in this process, which should have done nothing else."""
    from baichuan2.checkpoints.load import load_model
    from baichuan2.engine.generate import generate_tokens
    from baichuan2.engine.sampling import Sampling

    gc.collect()
    reset_peak()
    before = process_memory()
    start = time.perf_counter()
    model = load_model(settings=settings).model
    seconds = time.perf_counter() - start
    loaded = process_memory()
    tensors = [*model.parameters(), *model.buffers()]
    sampling = Sampling(max_new_tokens=max_new_tokens)
    steps = list(generate_tokens(model, PROMPT_IDS, sampling, stop_ids=frozenset()))
    return LoadMemory(
        before=before,
        loaded=loaded,
        generated=process_memory(),
        weight_bytes=sum(tensor.nbytes for tensor in tensors),
        num_tokens=len(steps),
        load_seconds=seconds,
    )


def _main() -> int:
    task = json.loads(sys.argv[1])
    settings = LoadSettings(**task.get("settings", {"model": task.get("model")}))
    try:
        measured = _measure_here(settings, task.get("max_new_tokens", 8))
    except BaichuanError as error:
        print(json.dumps({"error": str(error)}))
        return 0
    print(json.dumps(measured.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(_main())
