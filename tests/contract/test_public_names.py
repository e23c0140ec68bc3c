"""`__all__` is the promise: every name in it can be imported, and nothing else is public."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import baichuan2
import baichuan2.errors
import baichuan2.settings


@pytest.mark.parametrize("name", baichuan2.__all__)
def test_every_promised_name_is_there(name: str) -> None:
    value = getattr(baichuan2, name)
    assert getattr(value, "__name__", name) == name
    assert value.__module__ == f"baichuan2.{baichuan2._HOMES[name]}"  # where the table says, not merely passed on


def test_the_three_lists_agree() -> None:
    tree = ast.parse(Path(baichuan2.__file__).read_text(encoding="utf-8"))
    for_type_checkers = [
        (f"baichuan2.{name}", alias.name, alias.asname)
        for block in tree.body
        if isinstance(block, ast.If)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        for name in [(node.module or "").removeprefix("baichuan2.")]
    ]
    homes = {name: f"baichuan2.{module}" for name, module in baichuan2._HOMES.items()}
    assert {name: module for module, name, _ in for_type_checkers} == homes
    assert all(name == alias for _, name, alias in for_type_checkers)  # `as` is what marks a name as public
    assert sorted(baichuan2.__all__) == sorted(homes)
    assert len(set(baichuan2.__all__)) == len(baichuan2.__all__)


def test_all_errors_and_settings_are_public() -> None:
    assert set(baichuan2.errors.__all__) <= set(baichuan2.__all__)
    settings = {name for name in baichuan2.settings.__all__ if name.endswith("Settings")}
    assert settings <= set(baichuan2.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'baichuan2' has no attribute 'no_such_name'"):
        baichuan2.no_such_name  # noqa: B018
    with pytest.raises(ImportError):
        from baichuan2 import no_such_name  # noqa: F401


def test_star_import_and_dir() -> None:
    code = """
import baichuan2
assert set(baichuan2.__all__) <= set(dir(baichuan2))
names = {}
exec("from baichuan2 import *", names)
assert set(baichuan2.__all__) <= set(names)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280)


def test_cheap_names_stay_cheap() -> None:
    code = """
import sys
from baichuan2 import CheckpointError, LoadSettings, SamplingSettings
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=280)
