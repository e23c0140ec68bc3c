"""What the machine can do at most, measured in the same run: read bandwidth of memory, peaks of its units.

Both are small C programs, compiled where there is a C compiler; without one the limits are unknown, and say so.
"""

import json
import os
import platform
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from baichuan2.kernels.build import find_compiler

SOURCES = Path(__file__).resolve().parent
FLAGS = ("-O3", "-march=native", "-fopenmp")
BUFFER_MIB = 2048
INSTRUCTIONS = ("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def compiler() -> list[str] | None:
    """The command of the C compiler, as `CC` says or as found; None where there is none."""
    return find_compiler()


class Limits:
    """The programs while a run lasts; a context manager. `reason`: why nothing can be measured, or None."""

    def __init__(self, threads: int, buffer_mib: int = BUFFER_MIB) -> None:
        self.threads, self.buffer_mib = threads, buffer_mib
        self.reason: str | None = None
        self.bandwidths: list[float] = []
        self._folder = tempfile.TemporaryDirectory()
        self._reader: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        command = compiler()
        if command is None:
            named = os.environ.get("CC")
            self.reason = f"there is no C compiler {named!r}, which CC names" if named else "there is no C compiler"
            return self
        for name in ("cpu_bandwidth", "cpu_matrix_peak"):
            target = Path(self._folder.name) / name
            whole = [*command, *FLAGS, str(SOURCES / f"{name}.c"), "-o", str(target)]
            done = subprocess.run(whole, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                self.reason = f"{' '.join(whole)} failed: {done.stderr.strip().splitlines()[:1]}"
                return self
        self._start_reader()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_reader()
        self._folder.cleanup()

    def _start_reader(self) -> None:
        command = [str(Path(self._folder.name) / "cpu_bandwidth"), str(self.threads), str(self.buffer_mib)]
        self._reader = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def _stop_reader(self) -> None:
        if self._reader is not None:
            self._reader.communicate()
            self._reader = None

    def bandwidth(self) -> float | None:
        """Bytes a second that are read from memory right now; None where that cannot be measured."""
        if self._reader is None:
            return None
        assert self._reader.stdin is not None
        assert self._reader.stdout is not None
        try:
            self._reader.stdin.write("\n")
            self._reader.stdin.flush()
            answer = self._reader.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.reason, self._reader = "the bandwidth program ended too early", None
            return None
        self.bandwidths.append(float(answer) * 1e9)
        return self.bandwidths[-1]

    def peaks(self) -> dict[str, float]:
        """What `cpu_matrix_peak.c` prints of the vector and matrix units; empty without a compiler."""
        if self.reason is not None:
            return {}
        self.bandwidth()  # its program fills its buffer until then, with all threads
        command = [str(Path(self._folder.name) / "cpu_matrix_peak"), str(self.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        peaks: dict[str, float] = json.loads(done.stdout) if done.returncode == 0 else {}
        return peaks


def peaks_text(peaks: Mapping[str, float]) -> str:
    """The peaks, for people."""
    parts = []
    if "vector_bits" in peaks:
        vector = f"{peaks['fp32_tflops']:g} TFLOP/s in float32, {peaks['int16_tops']:g} TOP/s in 16-bit multiply-adds"
        if "vnni_int8_tops" in peaks:
            vector += f", {peaks['vnni_int8_tops']:g} TOP/s in 8-bit ones (VNNI)"
        parts.append(f"vector units ({peaks['vector_bits']:g} bits) {vector}")
    if "bf16_tflops" in peaks:
        parts.append(
            f"matrix units (AMX) {peaks['bf16_tflops']:g} TFLOP/s in bfloat16, {peaks['int8_tops']:g} TOP/s in 8 bits"
        )
    else:
        parts.append("no matrix units")
    return "; ".join(parts)


def instructions() -> list[str]:
    """Of the instruction sets that matter here, those that the processor has; of x86 under Linux."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return [name for name in INSTRUCTIONS if name in flags]


def hardware() -> dict[str, object]:
    """The processor's name, its number of cores that this process may use, and the memory in GiB."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": available_cores(),
        "instructions": instructions(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.release()}",
    }


def available_cores() -> int:
    """Logical processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1)
    except (ValueError, OSError, AttributeError):
        return None
