"""What a result was made by and on: versions, commit, processor and accelerators."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.memory import main_memory

__all__ = ["describe_hardware", "describe_software"]

PACKAGES = ("torch", "transformers", "tokenizers", "numpy", "sacrebleu", "bitsandbytes")
SECONDS_FOR_GIT = 10.0


def describe_software() -> dict[str, Any]:
    """Versions, and the commit where this package lies in a checkout of its own repository.

    `commit` ends in `+changes` where files of the package are not as they were committed; None: no checkout.
    """
    return {
        "baichuan2": _version("baichuan2"),
        "commit": _commit(Path(__file__).resolve().parents[1]),
        "python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
    }


def describe_hardware() -> dict[str, Any]:
    """The processor, what of it may be used, main memory and the accelerators."""
    import torch

    from baichuan2.devices import available_devices, title

    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    return {
        "processor": _processor(),
        "cores": len(allowed) if allowed is not None else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": [title(name) for name in available_devices() if name != "cpu"],
        "memory_bytes": main_memory().total,
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(package: Path) -> str | None:
    """That of the checkout which holds `package` as src/baichuan2; an installation in some other checkout has none."""
    top = package.parent.parent
    if package != top / "src" / "baichuan2" or not (top / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(top), *words], capture_output=True, text=True, check=True, timeout=SECONDS_FOR_GIT
            ).stdout.strip()
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changes else "")
