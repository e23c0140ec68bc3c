"""Conversions of folders to folders, by the shortest one."""

from pathlib import Path

import pytest
import torch

from baichuan2 import ConvertSettings, SettingsError, load_model
from baichuan2.convert.ways import convert_checkpoint


def test_tensors_stay_as_they_are_in_shards_of_the_size_asked_for(tmp_path: Path) -> None:
    result = convert_checkpoint(
        ConvertSettings(way="to-safetensors", source="demo-chat", target=str(tmp_path / "copy"), shard_size="3MB")
    )
    shards = sorted(result.path.glob("*.safetensors"))
    assert len(shards) > 1
    assert all(shard.stat().st_size < 3.1e6 for shard in shards)
    before, after = load_model("demo-chat").model.state_dict(), load_model(result.path).model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_an_existing_target_is_not_touched(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="exists, and nothing is overwritten"):
        convert_checkpoint(ConvertSettings(way="to-safetensors", source="demo-chat", target=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []
