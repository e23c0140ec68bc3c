"""What all conversions of folders share: files, shards, number formats; stopping, going on, and what is refused."""

import hashlib
import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from baichuan2 import CheckpointError, ConvertSettings, QuantizationError, SettingsError, load_model
from baichuan2.convert.ways import CONVERSIONS, convert_checkpoint
from baichuan2.settings.converting import WAYS
from tests.checkpoints.folders import change_json, weights, write_folder, write_weights

KILLED = """
import os, signal, sys
from baichuan2 import ConvertSettings
from baichuan2.convert.ways import convert_checkpoint
def stop(done, total):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
settings = ConvertSettings(way="to-baichuan1", source=sys.argv[1], target=sys.argv[2], shard_size="200KB")
convert_checkpoint(settings, stop)
"""


def convert(source: object, target: Path, **settings: Any) -> Path:
    settings = {"way": "to-safetensors", "source": str(source), "target": str(target), **settings}
    return convert_checkpoint(ConvertSettings(**settings)).path


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def test_every_way_that_can_be_asked_for_is_there() -> None:
    assert set(CONVERSIONS) == set(WAYS)


def test_what_the_system_refuses_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "some/file")

    monkeypatch.setitem(CONVERSIONS, "dequantize", refuse)
    with pytest.raises(CheckpointError, match=r"^some/file cannot be used: Permission denied$"):
        convert("demo-chat", tmp_path / "target", way="dequantize")


def test_tensors_stay_as_they_are_in_shards_of_the_size_asked_for(tmp_path: Path) -> None:
    folder = convert("demo-chat", tmp_path / "copy", shard_size="3MB")
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 3.1e6 for shard in shards)
    before, after = load_model("demo-chat").model.state_dict(), load_model(folder).model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    sums = (folder / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1]: line.split("  ")[0] for line in sums} == {
        name: digest for name, digest in digests(folder).items() if name != "SHA256SUMS"
    }


@pytest.mark.parametrize("shard_size", ["whole", "200KB"])
def test_bin_files_have_the_official_names_and_are_read_again(tmp_path: Path, shard_size: str) -> None:
    source = write_folder(tmp_path / "source", "13b", "safetensors", "sharded")
    folder = convert(source, tmp_path / "bin", container="bin", shard_size=shard_size)
    names = sorted(path.name for path in folder.glob("*.bin*"))
    if shard_size == "whole":
        assert names == ["pytorch_model.bin"]
    else:
        index = json.loads((folder / "pytorch_model.bin.index.json").read_text())
        assert set(index["weight_map"]) == set(weights("13b"))
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in weights("13b").values())
        assert sorted({*index["weight_map"].values(), "pytorch_model.bin.index.json"}) == names
        assert names[0] == f"pytorch_model-00001-of-{len(names) - 1:05d}.bin"
    found = {}
    for path in folder.glob("*.bin"):
        found |= torch.load(path, weights_only=True)
    assert all(torch.equal(found[name], tensor) for name, tensor in weights("13b").items())
    assert (
        digests(convert(folder, tmp_path / "again"))["model.safetensors"]
        == (digests(convert(source, tmp_path / "direct"))["model.safetensors"])
    )


def test_the_number_format_can_be_chosen_and_is_said(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    folder = convert(source, tmp_path / "half", dtype="float16")
    found = load_file(folder / "model.safetensors")
    assert all(torch.equal(found[name], tensor.half()) for name, tensor in weights("7b").items())
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float16"
    tensors = weights("7b") | {"model.norm.weight": torch.full((128,), 70_000.0).bfloat16()}
    write_weights(source, tensors, "bin", "whole")
    with pytest.raises(QuantizationError, match=r"model.norm.weight holds numbers beyond what float16 can"):
        convert(source, tmp_path / "other", dtype="float16")


def test_a_run_that_was_killed_goes_on_and_writes_the_same(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    settings = {"way": "to-baichuan1", "source": str(source), "shard_size": "200KB"}
    whole = convert(target=tmp_path / "whole", **settings)
    child = subprocess.run([sys.executable, "-c", KILLED, str(source), str(tmp_path / "target")], timeout=120)
    assert child.returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("target")] == ["target.partial"]
    with pytest.raises(SettingsError, match="was begun with dtype same, not float16"):
        convert(target=tmp_path / "target", dtype="float16", **settings)
    result = convert_checkpoint(ConvertSettings(target=str(tmp_path / "target"), **settings))  # type: ignore[arg-type]
    assert result.resumed == 2
    assert digests(result.path) == digests(whole)
    assert not (tmp_path / "target.partial").exists()


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(tmp_path: Path, container: str) -> None:
    source = write_folder(tmp_path / "source", "7b")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, limits[1]))  # no file may grow beyond: what the disk says then
    try:
        with pytest.raises(CheckpointError, match=r"cannot be written: \[Errno 27\]") as error:
            convert(source, tmp_path / "target", container=container)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "target").exists()
    assert not (tmp_path / "target.partial").exists()  # nothing in it was worth going on with
    assert load_model(convert(source, tmp_path / "target", container=container))


def test_a_disk_without_room_is_told_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 40_000_000))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"has 0.04 GB free, 0.08 GB are needed: make room, or give a TARGET"):
        convert("demo-chat", tmp_path / "target")


def test_a_source_that_changed_meanwhile_is_not_gone_on_with(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")

    def stop(done: int, total: int) -> None:
        if done == 1:
            raise KeyboardInterrupt

    settings = ConvertSettings(
        way="to-safetensors", source=str(source), target=str(tmp_path / "target"), shard_size="100KB"
    )
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(settings, stop)
    change_json(source / "config.json", rms_norm_eps=1e-5)
    with pytest.raises(SettingsError, match="was begun with another source"):
        convert_checkpoint(settings)


def test_a_source_that_changes_while_it_is_read_gives_no_result(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")

    def change(done: int, total: int) -> None:
        if done == 1:
            change_json(source / "config.json", rms_norm_eps=1e-5)

    settings = ConvertSettings(
        way="to-safetensors", source=str(source), target=str(tmp_path / "target"), shard_size="100KB"
    )
    with pytest.raises(CheckpointError, match=r"source was changed while it was read, .* remove TARGET\.partial"):
        convert_checkpoint(settings, change)
    assert not (tmp_path / "target").exists()


def test_a_number_that_is_none_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    tensors = weights("7b")
    tensors["lm_head.weight"][3, 4] = float("nan")
    write_weights(source, tensors, "safetensors", "whole")
    with pytest.raises(CheckpointError, match=r"lm_head.weight holds NaN or infinite numbers"):
        convert(source, tmp_path / "target")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_existing_and_impossible_targets_are_not_touched(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link").symlink_to(source)
    before = digests(source)
    for target, message in (
        ("empty", "exists, and nothing is overwritten"),
        ("dangling", "exists, and nothing is overwritten"),
        ("source/inside", "lies inside SOURCE"),
        ("link/inside", "lies inside SOURCE"),
        ("no/such", "there is no folder"),
        ("nul\0", "cannot be a folder"),
    ):
        with pytest.raises(SettingsError, match=message):
            convert(source, tmp_path / target)
    assert digests(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "empty", "link", "source"]


def test_shards_may_be_links_and_half_a_set_is_refused(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", "7b", "safetensors", "sharded")
    shard = source / "model-00002-of-00003.safetensors"
    (tmp_path / "blobs").mkdir()
    shard.rename(tmp_path / "blobs" / "1")
    shard.symlink_to(tmp_path / "blobs" / "1")
    folder = convert(source, tmp_path / "copy")
    assert not any(path.is_symlink() for path in folder.iterdir())
    shard.unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of the 3 weight files .* model-00002-of-00003.safetensors"):
        convert(source, tmp_path / "other")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"way": "to-baichan1"}, r"unknown conversion 'to-baichan1' \(did you mean to-baichuan1\?\): use one of"),
        ({"way": "to_GGUF"}, r"did you mean to-gguf\?"),
        ({"way": "xyz"}, r"unknown conversion 'xyz': use one of to-safetensors, "),
        ({"way": "merge-lora", "shard_size": "1GB"}, "--shard-size is for .*: merge-lora has no use for it"),
        ({"way": "merge-lora", "dtype": "float16"}, "--dtype is for "),
        ({"way": "to-llama", "container": "bin"}, "--container is for to-safetensors, to-baichuan1"),
        ({"way": "to-safetensors", "base": "x"}, "--base is for merge-lora"),
        ({"way": "to-safetensors", "shard_size": "2 apples"}, "--shard-size: .*, or whole"),
    ],
)
def test_settings_that_cannot_work_are_told_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ConvertSettings(**settings)
