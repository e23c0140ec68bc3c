"""The names of accelerators stand in one module; all else takes a device from there, or a name from the user."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "baichuan2"
WORDS = ("cuda", "is_xpu", "is_npu", "is_mps")
KINDS = {"npu", "xpu", "mps", "hpu"}

ALLOWED = Counter(
    {
        ("model/modeling_baichuan.py", "method cuda"): 1,  # the official README's `model.cuda()`
        ("settings/fields.py", "text where to run: auto, cpu, cuda, cuda:1, npu, xpu, mps"): 1,  # the help of --device
        ("finetune/old_flags.py", "text no_cuda"): 1,  # an old flag of the framework, which is still taken
    }
)


def findings(tree: ast.Module) -> Iterator[str]:
    """What of a module's code, its docstrings and comments left out, names an accelerator."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and ast.get_docstring(node) is not None
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in docstrings:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if any(word in text.lower() for word in WORDS) or text.partition(":")[0] in KINDS:
                yield f"text {text}"
        elif isinstance(node, ast.Attribute) and _is_name(node.attr):
            yield f"attribute {node.attr}"
        elif isinstance(node, ast.Name) and _is_name(node.id):
            yield f"name {node.id}"
        elif isinstance(node, ast.arg | ast.keyword) and node.arg is not None and _is_name(node.arg):
            yield f"argument {node.arg}"
        elif isinstance(node, ast.alias) and any(map(_is_name, node.name.split("."))):
            yield f"import {node.name}"
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and _is_name(node.name):
            yield f"method {node.name}"


def _is_name(word: str) -> bool:
    return word in KINDS or any(known in word.lower() for known in WORDS)


def test_one_module_names_accelerators() -> None:
    found = Counter(
        (path.relative_to(SOURCE).as_posix(), finding)
        for path in SOURCE.rglob("*.py")
        if path != SOURCE / "devices.py"
        for finding in findings(ast.parse(path.read_text(encoding="utf-8")))
    )
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        'torch.device("cuda:0")',
        'f"cuda:{index}"',
        'b"cuda"',
        "torch.cuda.synchronize()",
        "getattr(torch, 'CUDA')",
        "import torch.cuda.amp",
        "from torch import cuda",
        "ids.is_cuda",
        "use(cuda=True)",
        "def cuda(self): ...",
        'device.type == "npu"',
        'model.to("mps:0")',
        "torch.npu.empty_cache()",
        "from torch import xpu",
    ],
)
def test_every_way_to_name_one_is_seen(code: str) -> None:
    assert len(list(findings(ast.parse(code)))) == 1


def test_words_about_them_are_free() -> None:
    code = '"""On a GPU, steps are CUDA graphs."""\n# cuda\ndevice.type == "cpu"\ninput("numpy")\n'
    assert list(findings(ast.parse(code))) == []
