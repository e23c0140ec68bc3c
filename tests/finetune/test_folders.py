"""Checkpoint folders are whole or not there, wherever the one who writes them is stopped."""

import errno
import json
from pathlib import Path

import pytest

from baichuan2.finetune import folders


def fill(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_checkpoints_are_sorted_by_their_steps(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", ".saving-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").touch()
    assert [path.name for path in folders.whole_checkpoints(tmp_path)] == ["checkpoint-9", "checkpoint-10"]


def test_a_checkpoint_takes_the_place_of_one_of_its_name(tmp_path: Path) -> None:
    target = fill(tmp_path / "checkpoint-3", old="1")
    folders.move_folder_in(fill(folders.staging_folder(target), new="2"), target)
    assert names(tmp_path) == ["checkpoint-3"]
    assert names(target) == ["new"]


def test_a_kill_between_old_and_new_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = fill(tmp_path / "checkpoint-3", old="1")
    staging = fill(folders.staging_folder(target), new="2")
    rename = Path.rename

    def killed(self: Path, place: Path) -> Path:
        if self == staging:
            raise KeyboardInterrupt
        return rename(self, place)

    monkeypatch.setattr(Path, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        folders.move_folder_in(staging, target)
    monkeypatch.undo()
    folders.put_in_order(tmp_path)
    assert names(tmp_path) == ["checkpoint-3"]
    assert names(target) == ["old"]


def test_rest_of_killed_runs_is_removed(tmp_path: Path) -> None:
    fill(tmp_path / "checkpoint-3", a="1")
    fill(tmp_path / ".saving-checkpoint-4", a="1")
    fill(tmp_path / ".deleting-checkpoint-1", a="1")
    fill(tmp_path / ".saving-model", a="1")
    (tmp_path / "mine.txt").touch()
    folders.put_in_order(tmp_path)
    assert names(tmp_path) == ["checkpoint-3", "mine.txt"]
    folders.put_in_order(tmp_path / "not there")


def test_the_final_model_replaces_files_and_removes_old_weights(tmp_path: Path) -> None:
    fill(tmp_path, config__json="old", **{"model-00001-of-00002__safetensors": "old", "notes__txt": "mine"})
    fill(tmp_path, model__safetensors__index__json="old", adapter_config__json="old")
    staging = fill(folders.final_staging_folder(tmp_path), config__json="new", model__safetensors="new")
    folders.move_files_in(staging, tmp_path)
    assert names(tmp_path) == ["config.json", "model.safetensors", "notes.txt"]
    assert (tmp_path / "config.json").read_text() == (tmp_path / "model.safetensors").read_text() == "new"


@pytest.mark.parametrize("num_moved", range(5))
def test_a_kill_between_two_files_never_leaves_two_models_in_one(
    num_moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    content = {
        "config.json": "{}",
        "tokenizer.model": "",
        "model.safetensors.index.json": "{}",
        **dict.fromkeys(shards),
    }
    for folder, text in ((tmp_path, "old"), (folders.final_staging_folder(tmp_path), "new")):
        folder.mkdir(exist_ok=True)
        for name in content:
            (folder / name).write_text(text, encoding="utf-8")
    replace = Path.replace
    moved: list[Path] = []

    def dying(path: Path, target: Path) -> Path:
        if len(moved) == num_moved:
            raise KeyboardInterrupt
        moved.append(path)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        folders.move_files_in(folders.final_staging_folder(tmp_path), tmp_path)
    monkeypatch.undo()
    assert not (tmp_path / "config.json").exists()
    folders.put_in_order(tmp_path)
    assert names(tmp_path) == sorted(content)
    assert {(tmp_path / name).read_text() for name in content} == {"new"}


def test_damage_is_seen_by_sizes(tmp_path: Path) -> None:
    folder = fill(tmp_path / "checkpoint-1", weights="12345", other="1")
    assert folders.damaged_files(folder) == []  # of another program: nobody knows
    folders.record_files(folder)
    assert folders.damaged_files(folder) == []
    (folder / "weights").write_text("1234")
    (folder / "other").unlink()
    assert folders.damaged_files(folder) == ["other", "weights"]
    for text in ("{", "[]", json.dumps({"a": "b"})):
        (folder / folders.FILES_RECORD).write_text(text)
        assert folders.damaged_files(folder) == [folders.FILES_RECORD]


def test_a_deleted_checkpoint_is_never_half_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "checkpoint-1", weights="12345")

    def dying(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(folders.shutil, "rmtree", dying)
    with pytest.raises(KeyboardInterrupt):
        folders.delete_folder(folder)
    monkeypatch.undo()
    assert folders.whole_checkpoints(tmp_path) == []
    folders.put_in_order(tmp_path)
    assert names(tmp_path) == []
    folders.delete_folder(folder)  # another machine was faster


def test_a_full_disk_has_one_name(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    wrapped = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 128 vs 22")
    wrapped.__cause__ = full
    assert folders.reason_of_failure(wrapped, tmp_path) == "the disk is full: make room there"
    other = OSError(errno.EIO, "Input/output error")
    assert folders.reason_of_failure(other, tmp_path) == "[Errno 5] Input/output error"
