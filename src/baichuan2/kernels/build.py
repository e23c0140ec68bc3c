"""Compiles the kernels of `native/` into one library beside this file, where a C compiler is found.

Needs nothing but Python: the installation runs it by path, before the package can be imported. By hand:
`python -m baichuan2.kernels.build`; with `--if-needed` a library of these very sources is kept.
"""

import argparse
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

__all__ = ["LIBRARY", "MARK_OF_INTERFACE", "MARK_OF_SOURCES", "build", "find_compiler", "interface", "is_current"]

SOURCES = Path(__file__).parent / "native"
LIBRARY = Path(__file__).parent / "libbaichuan2_kernels.so"
COMMON_FLAGS = ("-O3", "-std=gnu11", "-fPIC", "-ffp-contract=off")  # the same bits whichever way a row takes
WITH_THREADS = "-fopenmp"
AVX512_FLAGS = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c")
AVX2_FLAGS = ("-mavx2", "-mfma", "-mf16c")
PLAIN_SOURCES = ("dispatch.c", "plain.c", "rows.c", "rows_float.c", "step.c", "attention_plain.c")
X86_SOURCES = {
    "avx2.c": AVX2_FLAGS,
    "rows_avx2.c": AVX2_FLAGS,
    "rows_avx2_numbers.c": AVX2_FLAGS,
    "avx512.c": AVX512_FLAGS,
    "rows_vnni.c": (*AVX512_FLAGS, "-mavx512vnni"),
    "rows_vbmi.c": (*AVX512_FLAGS, "-mavx512vnni", "-mavx512vbmi"),
    "avx512_bf16.c": (*AVX512_FLAGS, "-mavx512bf16"),
    "attention_avx2.c": AVX2_FLAGS,
    "attention_avx512.c": AVX512_FLAGS,
    "amx_bf16.c": (*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "rows_amx.c": (*AVX512_FLAGS, "-mavx512vbmi", "-mamx-tile", "-mamx-int8"),
    "rows_amx_inputs.c": (*AVX512_FLAGS, "-mavx512vbmi"),
    "gemm_amx.c": (*AVX512_FLAGS, "-mavx512bf16", "-mamx-tile", "-mamx-bf16"),
    "prompt_avx512.c": AVX512_FLAGS,
}
"""The only files compiled for instructions that the processor may lack; the others choose at run time."""
INTERFACES = ("product.h", "rows.h", "step.h")
"""Headers whose structures Python mirrors: a library of other ones would read them wrongly."""
MARK_OF_SOURCES = "baichuan2 sources "
MARK_OF_INTERFACE = "baichuan2 interface "
SECONDS = 600


def find_compiler() -> list[str] | None:
    """The C compiler with its arguments: that of the variable CC, else the first of cc, gcc and clang on the path."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    for name in names:
        try:
            words = shlex.split(name)
        except ValueError:  # a quote that is not closed
            continue
        if words and (found := shutil.which(words[0])):
            return [found, *words[1:]]
    return None


@functools.cache
def fingerprint() -> str:
    """The digest of all sources and of the flags they are compiled with."""
    flags = repr((COMMON_FLAGS, WITH_THREADS, PLAIN_SOURCES, sorted(X86_SOURCES.items())))
    return _digest(sorted(path.name for path in SOURCES.glob("*.[ch]")), flags)


@functools.cache
def interface() -> str:
    """The digest of the headers that Python mirrors."""
    return _digest([name for name in INTERFACES if (SOURCES / name).exists()], "")


def _digest(names: list[str], more: str) -> str:
    digest = hashlib.sha256(more.encode())
    for name in names:
        digest.update(f"\n{name}\n".encode() + (SOURCES / name).read_bytes())
    return digest.hexdigest()


def is_current(library: bytes) -> bool:
    """Whether the file that holds `library` was compiled from the sources as they are."""
    return (MARK_OF_SOURCES + fingerprint()).encode() in library


def build(target: Path = LIBRARY, extra_flags: tuple[str, ...] = ()) -> str | None:
    """Compiles to `target`; None, or in one line why there is no new library now."""
    compiler = find_compiler()
    if compiler is None:
        return "no C compiler was found"
    if sys.platform != "linux":
        return f"the kernels are built on Linux only, not on {sys.platform}"
    try:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / target.name
            # some compilers come without the library for threads
            for flags in ((*COMMON_FLAGS, WITH_THREADS, *extra_flags), (*COMMON_FLAGS, *extra_flags)):
                problem = _compile(compiler, library, flags)
                if problem is None:
                    _put(library, target)
                    break
    except OSError as error:  # no room, or a folder that may not be written to
        return f"{error.strerror}: {error.filename}"
    return problem


def _put(library: Path, target: Path) -> None:
    """Copies under another name first: programs keep the library that they have, and none sees half of one."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{target.stem}.", suffix=".new.so")
    os.close(handle)
    try:
        shutil.copyfile(library, temporary)
        Path(temporary).chmod(0o755)
        Path(temporary).replace(target)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


def _compile(compiler: list[str], library: Path, flags: tuple[str, ...]) -> str | None:
    """Compiles every file beside `library` and links them; what went wrong in one line, or None."""
    marks = library.with_name("marks.c")
    texts = (MARK_OF_SOURCES + fingerprint(), MARK_OF_INTERFACE + interface())
    lines = [f'const char baichuan2_mark_{number}[] = "{text}";\n' for number, text in enumerate(texts)]
    marks.write_text("".join(lines), encoding="utf-8")
    sources: dict[Path, tuple[str, ...]] = dict.fromkeys((marks, *(SOURCES / name for name in PLAIN_SOURCES)), ())
    if platform.machine() in ("x86_64", "AMD64"):
        sources |= {SOURCES / name: own_flags for name, own_flags in X86_SOURCES.items()}
    objects = {source: str(library.with_name(f"{source.name}.o")) for source in sources}
    commands = [
        [*compiler, *flags, *own_flags, "-c", str(source), "-o", objects[source]]
        for source, own_flags in sources.items()
    ]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        problems = [problem for problem in pool.map(_run, commands) if problem is not None]
    if problems:
        return problems[0]
    return _run([*compiler, *flags, "-shared", *objects.values(), "-o", str(library), "-lm"])


def _run(command: list[str]) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the C compiler failed: {error}"
    if done.returncode == 0:
        return None
    lines = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
    return f"the C compiler failed: {lines[0] if lines else command[0]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m baichuan2.kernels.build",
        description="Compiles the kernels into the library beside the package and prints where that is.",
        epilog="example, with another compiler:\n  CC=gcc-12 python -m baichuan2.kernels.build --if-needed",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--if-needed", action="store_true", help="keep a library of these very sources and flags")
    is_kept = parser.parse_args(arguments).if_needed and LIBRARY.exists() and is_current(LIBRARY.read_bytes())
    problem = None if is_kept else build()
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print(LIBRARY)
    return 0


if __name__ == "__main__":
    sys.exit(main())
