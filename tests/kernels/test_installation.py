"""Installing with and without a C compiler, and libraries that cannot be used: one line says so, torch computes."""

import os
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from baichuan2.kernels import build, products
from baichuan2.kernels.library import PATH, Opened, open_library

ROOT = Path(__file__).parents[2]
LIBRARY = Path(os.environ.get(PATH) or build.LIBRARY)
needs_library = pytest.mark.skipif(not LIBRARY.exists(), reason="the library of kernels is not built here")
WORKS = """
import sys, torch
from baichuan2.cli.main import main
from baichuan2.kernels import products
from baichuan2.quantization.blockwise import quantize_int4, quantize_int8
from baichuan2.quantization.linear import Int4Linear, Int8Linear, NF4Linear
from baichuan2.quantization.nf4 import quantize_nf4
weight, inputs = torch.randn(64, 128), torch.randn(3, 128)
for layer in (
    Int4Linear.from_tensor(quantize_int4(weight, group_size=32)),
    Int8Linear.from_tensor(quantize_int8(weight, group_size=0)),
    NF4Linear.from_tensor(quantize_nf4(weight)),
):
    assert torch.allclose(layer(inputs), inputs @ layer.dequantize().T, rtol=1e-4, atol=1e-4)
print("works on", products.instructions())
sys.exit(main(["info"]))
"""


def python(*arguments: str, cwd: Path, **environment: str | None) -> str:
    """What the program prints; a variable that is None is left out."""
    variables = {name: value for name, value in (os.environ | environment).items() if value is not None}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def seen_by_a_program(cwd: Path, **environment: str | None) -> tuple[str, str]:
    """The instruction set that products are computed on, and what `baichuan2 info` says of the kernels."""
    first, *lines = python("-c", WORKS, cwd=cwd, **environment).splitlines()
    (line,) = [line for line in lines if "quantised products: " in line]
    return first.removeprefix("works on "), line.partition("quantised products: ")[2]


# --- installation


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `pip install .` needs, without the demo model's weights."""
    pytest.importorskip("hatchling", reason="the build backend is not installed: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("sources")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignored = shutil.ignore_patterns("demo", "*.so", "__pycache__")
    for name in ("src", "scripts"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def install(sources: Path, target: Path, **environment: str | None) -> None:
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile", "--target", str(target)]
    python("-m", "pip", "install", *options, str(sources), cwd=target.parent, PIP_NO_INPUT="1", **environment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_without_a_compiler_all_is_installed_but_the_kernels(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    (tmp_path / "empty").mkdir()
    without: dict[str, str | None] = {"CC": None, "PATH": str(tmp_path / "empty")}
    install(sources, target, **without)
    assert (target / "baichuan2" / "kernels" / "native" / "product.h").exists()
    assert not list(target.rglob("*.so"))
    installed = {"PYTHONPATH": str(target), PATH: None, **without}
    used, said = seen_by_a_program(tmp_path, **installed)
    assert said.startswith("torch's (slower); not compiled, as no C compiler is here: install gcc or clang")
    assert used == "None"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(build.find_compiler() is None, reason="there is no C compiler here")
@pytest.mark.skipif(sys.platform != "linux", reason="the kernels are built on Linux only")
def test_with_a_compiler_the_kernels_are_there(sources: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    compiler = tmp_path / "compiler"  # a quarter of the time: how fast the library is, others measure
    compiler.write_text(f'#!/bin/sh\nexec {shlex.join(build.find_compiler() or [])} "$@" -O0\n')
    compiler.chmod(0o755)
    install(sources, target, CC=str(compiler))
    assert (target / "baichuan2" / "kernels" / build.LIBRARY.name).exists()
    installed = {"PYTHONPATH": str(target), PATH: None, "BAICHUAN2_KERNELS": None}
    used, said = seen_by_a_program(tmp_path, **installed)
    assert used in products.INSTRUCTIONS
    assert said == f"own, {used}"


def test_the_command_tells_its_flags_and_refuses_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "build", lambda: pytest.fail("nothing is to be compiled"))
    for arguments, code in ((["--help"], 0), (["--nonsense"], 2), (["--if"], 2), (["libbaichuan2_kernels.so"], 2)):
        with pytest.raises(SystemExit) as ended:
            build.main(arguments)
        assert ended.value.code == code
    said, complaints = capsys.readouterr()
    assert "--if-needed" in said
    assert "CC=gcc-12 python -m baichuan2.kernels.build" in said
    assert "unrecognized arguments: --nonsense" in complaints


def test_what_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert build.main([]) == 1
    assert capsys.readouterr() == ("", "error: no C compiler was found\n")


# --- libraries that cannot be used


def damaged(kind: str) -> bytes:
    content = LIBRARY.read_bytes()
    if kind == "cut off":
        return content[: len(content) // 2]
    if kind == "without its end":
        return content[:-1]
    if kind == "zeros":
        return bytes(len(content))
    return {"empty": b"", "a text": b"not a library\n" * 100, "a header alone": content[:64]}[kind]


KINDS = ("cut off", "without its end", "zeros", "empty", "a text", "a header alone")


@pytest.mark.parametrize("name", ["/nonexistent/cc", "no-such-compiler -m64", " ", "gcc '-m64"])
def test_a_compiler_that_is_named_but_absent(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", name)
    assert build.build(tmp_path / "kernels.so") == "no C compiler was found"
    remark = (
        "not compiled, as no C compiler is here: install gcc or clang, then run `python -m baichuan2.kernels.build`"
    )
    assert open_library(tmp_path / "kernels.so") == Opened(None, remark)


@needs_library
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_library_is_not_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.so"
    path.write_bytes(damaged(kind))
    found = open_library(path)
    assert found.library is None
    assert found.remark == f"{path} is damaged: compile anew with `python -m baichuan2.kernels.build`"


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    assert open_library(tmp_path) == Opened(None, f"{tmp_path} cannot be read: Is a directory")
    remark = open_library(tmp_path / "absent.so").remark
    assert remark is not None
    assert remark.startswith("not compiled")


@needs_library
def test_a_library_for_another_machine_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "other.so"
    content = bytearray(LIBRARY.read_bytes())
    content[18:20] = (0xF3).to_bytes(2, "little")  # RISC-V
    path.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the version, while headers are newer than the library
        found = open_library(path)
    assert found.library is None
    assert found.remark is not None
    assert "\n" not in found.remark


@pytest.mark.slow
@pytest.mark.timeout(900)
@needs_library
def test_libraries_of_other_sources_and_other_headers(tmp_path: Path) -> None:
    content = LIBRARY.read_bytes()
    if not build.is_current(content):
        pytest.skip("the library was compiled from other sources already")
    assert open_library(LIBRARY).remark is None
    older = tmp_path / "older.so"
    older.write_bytes(content.replace(build.fingerprint().encode(), b"0" * 64))
    found = open_library(older)
    assert found.library is not None
    assert found.remark == "compiled from other sources than these: anew with `python -m baichuan2.kernels.build`"
    stranger = tmp_path / "stranger.so"
    stranger.write_bytes(content.replace(build.interface().encode(), b"0" * 64))
    with pytest.warns(UserWarning, match="the kernels are not used: .* is of another version"):
        found = open_library(stranger)
    assert found.library is None
    cut = tmp_path / "cut.so"
    cut.write_bytes(content[:1000])
    for path, way, is_used in ((older, "own, ", True), (stranger, "torch's (slower)", False), (cut, "torch's", False)):
        used, said = seen_by_a_program(ROOT, **{PATH: str(path), "BAICHUAN2_KERNELS": None})
        assert said.startswith(way)
        assert "anew with" in said
        assert (used == "None") is not is_used
