"""Compiles the kernels of `native/` into one library beside this file, where a C compiler is found.

Needs nothing but Python: the installation runs it by path, before the package can be imported. By hand:
`python -m baichuan2.kernels.build`.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["LIBRARY", "build", "find_compiler"]

SOURCES = Path(__file__).parent / "native"
LIBRARY = Path(__file__).parent / "libbaichuan2_kernels.so"
COMMON_FLAGS = ("-O3", "-std=gnu11", "-fPIC")
WITH_THREADS = "-fopenmp"
AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c")
X86_SOURCES = {
    "avx2.c": ("-mavx2", "-mfma", "-mf16c"),
    "avx512.c": AVX512_FLAGS,
    "avx512_bf16.c": (*AVX512_FLAGS, "-mavx512bf16"),
    "amx_bf16.c": (*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
}
"""The only files compiled for instructions that the processor may lack; the others choose at run time."""
SECONDS = 600


def find_compiler() -> str | None:
    """The C compiler: that of the variable CC, else the first of cc, gcc and clang on the path."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for name in names if (found := shutil.which(name))), None)


def build(target: Path = LIBRARY, extra_flags: tuple[str, ...] = ()) -> str | None:
    """Compiles to `target`; None, or in one line why there is no library now."""
    compiler = find_compiler()
    if compiler is None:
        return "no C compiler was found"
    if sys.platform != "linux":
        return f"the kernels are built on Linux only, not on {sys.platform}"
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / target.name
        problem = _compile(compiler, library, (*COMMON_FLAGS, WITH_THREADS, *extra_flags))
        if problem is not None:  # some compilers come without the library for threads
            problem = _compile(compiler, library, (*COMMON_FLAGS, *extra_flags))
        if problem is None:
            temporary = target.with_suffix(f".{os.getpid()}")  # a running program keeps the library that it has
            shutil.copyfile(library, temporary)
            temporary.replace(target)
    return problem


def _compile(compiler: str, library: Path, flags: tuple[str, ...]) -> str | None:
    """Compiles every file beside `library` and links them; what went wrong in one line, or None."""
    sources: dict[str, tuple[str, ...]] = {"dispatch.c": (), "plain.c": ()}
    if platform.machine() in ("x86_64", "AMD64"):
        sources |= X86_SOURCES
    objects = []
    for name, own_flags in sources.items():
        objects.append(str(library.with_name(f"{name}.o")))
        problem = _run([compiler, *flags, *own_flags, "-c", str(SOURCES / name), "-o", objects[-1]])
        if problem is not None:
            return problem
    return _run([compiler, *flags, "-shared", *objects, "-o", str(library), "-lm"])


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the C compiler failed: {error}"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return f"the C compiler failed: {lines[0] if lines else command[0]}"


if __name__ == "__main__":
    found = build()
    if found is not None:
        sys.exit(f"error: {found}")
    print(LIBRARY)
