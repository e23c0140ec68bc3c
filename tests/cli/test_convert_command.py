"""`baichuan2 convert`: what it says, and when it stops."""

import json
import string
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.checkpoints.folders import write_folder

from baichuan2.cli.conversion_text import CHINESE, ENGLISH, ConversionWords, conversion_words_for
from baichuan2.cli.main import main
from baichuan2.convert import ways
from baichuan2.settings.converting import WAYS


def test_both_languages_fill_in_the_same_things() -> None:
    def names(text: str) -> list[tuple[str | None, str | None]]:
        return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)

    for item in fields(ConversionWords):
        assert names(getattr(CHINESE, item.name)) == names(getattr(ENGLISH, item.name)), item.name
        assert getattr(CHINESE, item.name) != getattr(ENGLISH, item.name)
    assert conversion_words_for("zh") is CHINESE
    assert conversion_words_for("en") is ENGLISH


def test_the_result_is_told_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_folder(tmp_path / "source", "7b")
    assert main(["convert", "to-baichuan1", str(source), str(tmp_path / "first"), "--language", "zh"]) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert "完成：" in said.err
    assert main(["convert", "from-baichuan1", str(tmp_path / "first"), str(tmp_path / "back"), "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["way"] == "from-baichuan1"
    assert result["path"] == str(tmp_path / "back")
    assert result["tensors"] == 17
    assert result["resumed"] == 0
    assert result["bytes"] == sum(path.stat().st_size for path in (tmp_path / "back").iterdir())


def test_a_stop_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(ways.CONVERSIONS, "to-safetensors", stop)
    target = str(tmp_path / "target")
    assert main(["convert", "to-safetensors", "demo-chat", target, "--language", "en"]) == 130
    assert f"the same command goes on from {target}.partial" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "WAY is missing: baichuan2 convert WAY SOURCE TARGET"),
        (["to-safetensors"], "SOURCE is missing"),
        (["to-safetensors", "demo-chat"], "TARGET is missing"),
        (["to-safetensors", "demo-chat", ""], "TARGET is missing"),
        (["to-lama", "demo-chat", "x"], "did you mean to-llama?"),
        (["to-safetensors", "no/such/folder", "x"], "there is no folder no/such/folder"),
        (["merge-lora", "demo-chat", "x"], "adapter"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err.splitlines()[-1]
    assert "Traceback" not in said.err


def test_help_has_an_example_of_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--help"]) == 0
    examples = capsys.readouterr().out.split("examples:")[1]
    assert all(f"baichuan2 convert {way} " in examples for way in WAYS)
