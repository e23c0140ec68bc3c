"""The sizes and names that keep the package readable, and a docstring for everything public."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "baichuan2"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8
MAX_NESTING = 4
FORBIDDEN_NAMES = {"utils", "common", "helpers", "misc", "core", "base"}
EXCEPTION_MARK = "# budget: "

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try, ast.Match)


def violations(path: Path) -> Iterator[str]:
    """Every broken rule of one file, as a sentence; a line `# budget: reason` inside the thing allows its size."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    tree = ast.parse(text)
    if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES:
        yield f"{path.name}: a module is named after its subject"
    if len(lines) > MAX_FILE_LINES and EXCEPTION_MARK not in "\n".join(lines[:20]):
        yield f"{path.name}: {len(lines)} lines, allowed are {MAX_FILE_LINES}"
    if lines and ast.get_docstring(tree) is None:
        yield f"{path.name}: no module docstring"
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode):
            yield from function_violations(path, node, lines)
    for owner in [tree, *(node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))]:
        yield from docstring_violations(path, owner)


def function_violations(path: Path, node: FunctionNode, lines: list[str]) -> Iterator[str]:
    assert node.end_lineno is not None
    place = f"{path.name}:{node.lineno} {node.name}"
    body = lines[node.lineno - 1 : node.end_lineno]
    if any(EXCEPTION_MARK in line for line in body):
        return
    if len(body) > MAX_FUNCTION_LINES:
        yield f"{place}: {len(body)} lines, allowed are {MAX_FUNCTION_LINES}"
    arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    num_arguments = len([name for name in arguments if name not in ("self", "cls")])
    if num_arguments > MAX_ARGUMENTS:
        yield f"{place}: {num_arguments} arguments, allowed are {MAX_ARGUMENTS}"
    nesting = depth(node)
    if nesting > MAX_NESTING:
        yield f"{place}: blocks nested {nesting} deep, allowed are {MAX_NESTING}"


def depth(node: ast.AST, level: int = 0, is_else: bool = False) -> int:
    """How deep the blocks below `node` are nested; elif counts as the if that it continues."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*FunctionNode.__args__, ast.ClassDef, ast.Lambda)):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        deepest = max(deepest, depth(child, level + (isinstance(child, BLOCKS) and not is_elif)))
    return deepest


def docstring_violations(path: Path, owner: ast.Module | ast.ClassDef) -> Iterator[str]:
    if owner.__class__ is ast.ClassDef and owner.name.startswith("_"):
        return
    for node in owner.body:
        is_definition = isinstance(node, (*FunctionNode.__args__, ast.ClassDef))
        if is_definition and not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield f"{path.name}:{node.lineno} {node.name}: no docstring"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_file_keeps_the_budgets(path):
    assert list(violations(path)) == []


def test_the_rules_find_what_they_forbid(tmp_path):
    arguments = ", ".join(f"a{number}" for number in range(9))
    path = tmp_path / "utils.py"
    path.write_text(
        f"def long({arguments}):\n"
        + "    pass\n" * 60
        + "def deep():\n    'd'\n    if 1:\n     for _ in ():\n      with x:\n       while 1:\n        if 2: pass\n"
        + "def flat():\n    'd'\n    if 1: pass\n"
        + "    elif 2: pass\n" * 5
        + "class Open:\n    'd'\n    def method(self): pass\n"
        + "pass\n" * 431
    )
    found = [violation.split(": ", 1)[1] for violation in violations(path)]
    assert found == [
        "a module is named after its subject",
        "510 lines, allowed are 500",
        "no module docstring",
        "61 lines, allowed are 60",
        "9 arguments, allowed are 8",
        "blocks nested 5 deep, allowed are 4",
        "no docstring",
        "no docstring",
    ]


def test_a_reason_lifts_the_size_limit_of_a_function(tmp_path):
    path = tmp_path / "table.py"
    path.write_text("'d'\ndef long():\n    'd'\n    # budget: one table\n" + "    pass\n" * 60)
    assert list(violations(path)) == []
