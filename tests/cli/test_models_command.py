"""`baichuan2 models` and `baichuan2 download`: tables for people, facts for programs, one line for a mistake."""

import importlib
import json
import string
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from huggingface_hub import constants
from tests.checkpoints.hub_server import FakeHub, Repository, running_hub

from baichuan2.checkpoints.locate import locate
from baichuan2.checkpoints.release_state import ReleaseState
from baichuan2.checkpoints.releases import RELEASES
from baichuan2.cli.commands.models import command_lines
from baichuan2.cli.flags import flags_of
from baichuan2.cli.main import COMMANDS, main
from baichuan2.cli.releases_text import CHINESE, ENGLISH, ReleaseWords
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.settings import flag_name


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BAICHUAN2_LANGUAGE", "en")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_both_languages_fill_in_the_same_things() -> None:
    def names(text: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)

    same = {"hub", "revision", "modelscope", "title_2", "title_1", "no", "fits_title", "fits_none", "digest"}
    for item in fields(ReleaseWords):
        assert names(getattr(CHINESE, item.name)) == names(getattr(ENGLISH, item.name)), item.name
        assert (getattr(CHINESE, item.name) == getattr(ENGLISH, item.name)) == (item.name in same), item.name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_table_has_a_row_for_each_release(capsys: pytest.CaptureFixture[str], language: str) -> None:
    assert main(["models", "--gpu", "24GB", "--memory", "16GiB", "--language", language]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert {release.name for release in RELEASES} <= set(rows)
    yes, slow, no = ("fits", "disk", "no") if language == "en" else ("放得下", "读磁盘", "放不下")
    fit = [f"{no}/{yes}/{yes}", f"{slow}/{slow}/{yes}"]
    assert rows["13B-Chat"][1:] == ["27.8", "GB", "13.9B", "2600B", "-", *fit]
    assert rows["13B-Chat-v2"][1] == "~27.8"  # its files are not known
    assert rows["7B-Chat-4bits"][1:] == ["5.4", "GB", "7.5B", "2600B", "-", yes, yes]
    assert rows["Baichuan-7B"][1:5] == ["14.0", "GB", "7.0B", "1200B"]
    assert max(map(len, lines)) <= 100


def test_one_release_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "7b-chat", "--memory", "32GB"]) == 0
    out = capsys.readouterr().out
    for fact in (
        "https://huggingface.co/baichuan-inc/Baichuan2-7B-Chat",
        "7,505,973,248",
        "sha256 594b540d36751fa3b199c609617deafc0329050937c0767fdfb2d38b72d8bec9",
        "sha256 79452955be6b419a65984273a9f08af86042e1c2a75ee3ba989cbf620a133cc2",
        "fewer than a",
        "baichuan2 chat --model 7B-Chat",
    ):
        assert fact in out


def test_facts_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json", "--memory", "16GiB"]) == 0
    found = {item["name"]: item for item in json.loads(capsys.readouterr().out)}
    assert list(found) == [release.name for release in RELEASES]
    assert found["7B@00220B"]["revision"] == "train_00220B"
    assert (found["7B@00220B"]["bytes"], found["7B@00220B"]["modelscope"]) == (None, None)
    assert found["13B-Chat"]["fits"] == {"cpu": {"bfloat16": "disk", "int8": "disk", "int4": "fits"}}
    assert found["7B-Chat-4bits"]["fits"] == {"cpu": {"nf4": "fits"}}
    assert (found["demo-chat"]["here"], found["demo-chat"]["path"]) == ("embedded", str(locate("demo-chat")))
    assert found["demo-chat"]["parameters"] > 1_000_000
    assert main(["models", "v1-7b", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "baichuan-7b"


def test_command_lines_can_be_typed() -> None:
    """Each names a command that is there, and flags that it has."""
    for release in RELEASES:
        for line in command_lines(ReleaseState(release, "no", None, {}, None, 0, 0, 0)):
            _, command, *arguments = line.split()
            flags = [
                flag for kind in importlib.import_module(COMMANDS[command].module).SETTINGS for flag in flags_of(kind)
            ]
            known = {flag.spelling for flag in flags} | {flag.short for flag in flags}
            if command == "finetune":  # which takes the framework's flags as well
                known |= {flag_name(item.name) for item in fields(FinetuneArguments)}
            assert {word for word in arguments if word.startswith("-")} <= known, line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "7B"], "may mean 7B-Base, 7B-Chat"),
        (["models", "nothing at all"], "there is no release 'nothing at all': baichuan2 models lists them all"),
        (["models", "--gpu", "24"], "--gpu: a size is a number with a unit"),
        (["download"], "NAME is missing"),
        (["download", "7B-Chat", "--from", "elsewhere"], "--from: must be one of huggingface, modelscope"),
        (["download", "7B-Chat", "--mirror", "mirror"], "--mirror is an address"),
        (["download", "7B-Chat", "--offline"], "must not be contacted (offline)"),
        (["download", "13B-Chat-v2", "--revision", "main"], "is the revision v2.0 already: leave --revision out"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err.splitlines()[-1]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with running_hub() as running:
        running.repositories["tiny/model"] = Repository(
            {"main": {"config.json": b"{}", "pytorch_model.bin": bytes(1000)}}
        )
        yield running


def test_the_path_on_standard_output(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "model"
    assert main(["download", "tiny/model", str(target), "--mirror", hub.address]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{target}\n"
    assert f"tiny/model: asking {hub.address} ..." in captured.err
    assert "digests: hub 2" in captured.err
    assert main(["download", "tiny/model", str(target), "--verify", "--json", "--language", "zh"]) == 0
    captured = capsys.readouterr()
    facts = json.loads(captured.out)
    assert (facts["path"], facts["bytes"], facts["bytes_fetched"]) == (str(target), 1002, 0)
    assert {file["name"]: file["by"] for file in facts["files"]} == {
        "config.json": ["note"],
        "pytorch_model.bin": ["note"],
    }
    assert "正在核对本机文件" in captured.err


def test_an_interrupted_run_tells_how_to_go_on(
    hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from baichuan2.checkpoints import from_huggingface

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(from_huggingface._Told, "write", stop)
    assert main(["download", "tiny/model", str(tmp_path / "model"), "--mirror", hub.address]) == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_without_the_client_of_modelscope(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelscope_hub", None)
    assert main(["download", "7B-Chat", "--from", "modelscope"]) == 2
    assert "pip install 'baichuan2[modelscope]'" in capsys.readouterr().err
    assert main(["download", "7B@00220B", "--from", "modelscope"]) == 2
    assert "it is not known under which name ModelScope holds 7B@00220B" in capsys.readouterr().err
