"""k-quants, which llama.cpp itself writes: out of a GGUF file with all bits, in a process of its own.

That process is a Python that holds llama-cpp-python: this one, or the one that BAICHUAN2_LLAMA_PYTHON names. What
goes wrong inside llama.cpp ends that process and not this one.
"""

import os
import subprocess
import sys
from pathlib import Path

from baichuan2.errors import CheckpointError, MissingExtraError

__all__ = ["INTERPRETER_VARIABLE", "check_llama_cpp", "quantize_mixed"]

INTERPRETER_VARIABLE = "BAICHUAN2_LLAMA_PYTHON"
QUANTIZE = """
import sys
import llama_cpp
parameters = llama_cpp.llama_model_quantize_default_params()
parameters.ftype = int(sys.argv[3])
parameters.nthread = int(sys.argv[4])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), parameters))
"""


def check_llama_cpp() -> str:
    """The version of llama-cpp-python that will be used.

    Raises:
        MissingExtraError: there is none.
    """
    command = [_interpreter(), "-c", "import llama_cpp; print(llama_cpp.__version__)"]
    try:
        found = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace", timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingExtraError(f"{INTERPRETER_VARIABLE} names no Python that runs ({error})") from error
    if found.returncode:
        raise MissingExtraError(
            "k-quants are written by llama.cpp itself, and llama-cpp-python is not installed: run  pip install "
            f"llama-cpp-python  (it is compiled), or name a Python that has it in {INTERPRETER_VARIABLE}",
            name="llama_cpp",
        )
    return found.stdout.strip()


def quantize_mixed(source: Path, target: Path, file_type: int, num_threads: int) -> None:
    """Writes the GGUF file `source` in the k-quant with this number.

    Raises:
        CheckpointError: llama.cpp did not finish.
    """
    command = [_interpreter(), "-c", QUANTIZE, str(source), str(target), str(file_type), str(num_threads)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, errors="replace")
    if done.returncode or not target.is_file():
        target.unlink(missing_ok=True)
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if "error" in line.lower() or "failed" in line.lower()), None)
        raise CheckpointError(
            f"llama.cpp did not write {target} (exit code {done.returncode}): "
            f"{reason or (lines[-1] if lines else 'it said nothing')}"
        )


def _interpreter() -> str:
    return os.environ.get(INTERPRETER_VARIABLE) or sys.executable
