"""A run that was killed and goes on is the run that was not: the same weights, bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from baichuan2.finetune.folders import whole_checkpoints
from tests.finetune.small_runs import (
    Killed,
    KilledAfter,
    assert_equal_weights,
    base_folder,
    data_file,
    settings,
    train,
)

LORA = {"method": "lora", "lora_dropout": 0.3, "lora_rank": 2}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int]] = {
    # what is learnt, how, and after which of the steps (four an epoch) the process is gone
    "middle of the first epoch": ({}, {}, 4),
    "middle of the second epoch": ({}, {}, 7),
    "right after saving": ({}, {"save_steps": 5}, 6),
    "end of an epoch": ({}, {"save_strategy": "epoch"}, 6),
    "last step of an epoch": ({}, {"save_steps": 4}, 5),
    "dropout": (LORA, {}, 7),
    "dropout at the end of an epoch": (LORA, {"save_strategy": "epoch"}, 5),
    "dropout with evaluation": ({**LORA, "eval_fraction": 0.2}, {"save_steps": 2, "num_train_epochs": 3}, 3),
    "packing": ({"packing": True}, {"per_device_train_batch_size": 1, "save_steps": 2}, 3),
    "rows grouped by length": ({}, {"train_sampling_strategy": "group_by_length"}, 7),
    "several workers": ({}, {"dataloader_num_workers": 1}, 4),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("case", CASES)
def test_the_same_weights_as_without_the_kill(case: str, base: Path, tmp_path: Path) -> None:
    own_values, values, last_step = CASES[case]
    own = settings(base, data_file(tmp_path / "data.json"), **own_values)
    train(own, tmp_path / "whole", **values)
    with pytest.raises(Killed):
        train(own, tmp_path / "killed", KilledAfter(last_step), **values)
    assert whole_checkpoints(tmp_path / "killed")
    assert not list((tmp_path / "killed").glob("*.safetensors"))
    train(own, tmp_path / "killed", **values, resume_from_checkpoint=True)
    assert_equal_weights(tmp_path / "killed", tmp_path / "whole")
    newest = whole_checkpoints(tmp_path / "whole")[-1].name
    assert_equal_weights(tmp_path / "killed" / newest, tmp_path / "whole" / newest)
