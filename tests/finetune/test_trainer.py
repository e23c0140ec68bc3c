"""What goes wrong while a model trains ends the run with one line, and everything that was saved before is whole."""

import errno
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from baichuan2.checkpoints.load import load_model
from baichuan2.errors import SettingsError, TrainingError
from baichuan2.finetune import folders
from baichuan2.finetune.trainer import BaichuanTrainer
from baichuan2.finetune.watching import Progress, Silence
from tests.finetune.small_runs import (
    assert_equal_weights,
    base_folder,
    data_file,
    names,
    settings,
    train,
    weights,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base"))


def test_a_loss_that_is_no_number_names_and_saves_the_row(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = json.loads(data_file(tmp_path / "data.json").read_text())
    rows[5]["conversations"][1]["value"] += " poison"
    (tmp_path / "data.json").write_text(json.dumps(rows))
    own = settings(base, tmp_path / "data.json", model_max_length=96)
    seen: list[int] = []
    plain = BaichuanTrainer.compute_loss

    def poisoned(self: Any, model: Any, inputs: dict[str, Any], **kwargs: Any) -> Any:
        loss = plain(self, model, inputs, **kwargs)
        texts = [self._decode(ids) for ids in inputs["input_ids"].tolist()]
        is_bad = self.state.global_step >= 4 and any("poison" in text for text in texts)
        seen.append(self.state.global_step)
        return loss * torch.nan if is_bad else loss

    monkeypatch.setattr(BaichuanTrainer, "compute_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"loss is nan, in .*data.json.*item 5 of the training data.*checkpoint-"
    ) as met:
        train(own, tmp_path / "out")
    path = next((tmp_path / "out").glob("bad-step-*.json"))
    saved = json.loads(path.read_text())
    assert [("poison" in row["text"], row["row"]) for row in saved["rows"]] == [(True, 5)]
    assert str(path) in str(met.value)
    assert len(saved["rows"][0]["input_ids"]) == len(saved["rows"][0]["labels"])
    newest = folders.whole_checkpoints(tmp_path / "out")[-1]
    assert folders.checkpoint_step(newest) < saved["step"]
    assert all(value.isfinite().all() for value in weights(newest).values())


def test_a_gradient_that_is_no_number_ends_the_run(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = BaichuanTrainer.training_step

    def poisoned(self: Any, model: Any, *args: Any) -> Any:
        loss = plain(self, model, *args)
        if self.state.global_step == 1:
            next(model.parameters()).grad[0, 0] = torch.inf
        return loss

    monkeypatch.setattr(BaichuanTrainer, "training_step", poisoned)
    own = settings(base, data_file(tmp_path / "data.json"))
    with pytest.raises(
        TrainingError, match=r"step 2: the gradient has the norm (inf|nan).*no checkpoint was written yet"
    ):
        train(own, tmp_path / "out")
    assert len(json.loads((tmp_path / "out" / "bad-step-2.json").read_text())["rows"]) == 4


@pytest.mark.parametrize("place", ["optimizer.pt", "model.safetensors", "rename"])
def test_a_full_disk_leaves_the_last_checkpoint_whole(
    place: str, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = settings(base, data_file(tmp_path / "data.json"))
    plain_save, plain_model, plain_move = torch.save, BaichuanTrainer._save, folders.move_folder_in
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(content: Any, file: Any, **kwargs: Any) -> None:
        if "checkpoint-6" in str(file) and str(file).endswith(place):
            Path(file).write_bytes(b"half")
            raise RuntimeError("unexpected pos 64 vs 0") from full
        plain_save(content, file, **kwargs)

    def save_model(self: Any, output_dir: Any = None, state_dict: Any = None) -> None:
        plain_model(self, output_dir, state_dict)
        if place == "model.safetensors" and "checkpoint-6" in str(output_dir):
            raise full

    def move(staging: Path, target: Path) -> None:
        if place == "rename" and target.name == "checkpoint-6":
            raise full
        plain_move(staging, target)

    monkeypatch.setattr(torch, "save", save)
    monkeypatch.setattr(BaichuanTrainer, "_save", save_model)
    monkeypatch.setattr(folders, "move_folder_in", move)
    with pytest.raises(
        TrainingError,
        match=r"cannot write a checkpoint.*the disk is full.*checkpoint-3 is whole: the same command goes on from it",
    ):
        train(own, tmp_path / "out", save_total_limit=1)
    assert [path.name for path in folders.whole_checkpoints(tmp_path / "out")] == ["checkpoint-3"]
    assert not folders.damaged_files(tmp_path / "out" / "checkpoint-3")
    assert not [name for name in names(tmp_path / "out") if name.startswith(".")]


class Signals(Silence):
    """Sends this process a signal while a step is under way."""

    def __init__(self, number: int, step: int) -> None:
        self._number, self._step = number, step

    def stepped(self, progress: Progress) -> None:
        if progress.step == self._step:
            os.kill(os.getpid(), self._number)


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Ctrl-C as it is in a terminal: a shell that starts the tests in the background makes them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize(("strategy", "step", "number"), [("epoch", 4, signal.SIGTERM), ("steps", 3, signal.SIGINT)])
def test_a_signal_ends_the_run_with_a_checkpoint_that_goes_on_exactly(
    strategy: str, step: int, number: int, base: Path, tmp_path: Path
) -> None:
    own = settings(base, data_file(tmp_path / "data.json"), method="lora", lora_dropout=0.3, eval_fraction=0.2)
    values = {"save_strategy": strategy, "eval_strategy": strategy, "eval_steps": 2, "save_steps": 2}
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    stopped = train(own, tmp_path / "stopped", Signals(number, step), **values)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert stopped.stop_signal == number
    assert stopped.num_steps == step + 1  # the signal came when that step was done already
    assert stopped.checkpoint == tmp_path / "stopped" / f"checkpoint-{step + 1}"
    assert not (tmp_path / "stopped" / "adapter_model.safetensors").exists()
    ended = train(own, tmp_path / "stopped", **values, resume_from_checkpoint=True)
    whole = train(own, tmp_path / "whole", **values)
    assert ended.evaluation_loss == whole.evaluation_loss
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")


def test_the_saved_folder_loads_in_the_numbers_that_it_came_from(base: Path, tmp_path: Path) -> None:
    (base / "generation_config.json").unlink(missing_ok=True)
    data = data_file(tmp_path / "data.json")
    train(settings(base, data, save_dtype="auto"), tmp_path / "out", save_strategy="epoch")
    loaded = load_model(tmp_path / "out")
    assert loaded.model.dtype == torch.bfloat16
    assert (loaded.generation_config.user_token_id, loaded.generation_config.assistant_token_id) == (195, 196)
    assert {value.dtype for value in weights(tmp_path / "out" / "checkpoint-8").values()} == {torch.float32}
    lines = [json.loads(line) for line in (tmp_path / "out" / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert (tmp_path / "out" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_can_be_written_is_told_first(base: Path, tmp_path: Path) -> None:
    own = settings(base, data_file(tmp_path / "data.json"))
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"--output-dir .*/file/out cannot be written: Not a directory"):
        train(own, tmp_path / "file" / "out")
    with pytest.raises(SettingsError, match="is the folder of the model that training starts from"):
        train(own, base)


def test_too_little_room_is_told_first(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from baichuan2.finetune import output_folder

    class Usage:
        free = 1000

    notes: list[str] = []
    monkeypatch.setattr(output_folder.shutil, "disk_usage", lambda _: Usage)
    output_folder.check_room(tmp_path, 90_000_000_000, notes.append)
    assert notes == [
        f"warning: a checkpoint takes about 90.0 GB, and {tmp_path} has room for 0.0 MB: make room, or give "
        "--output-dir on another disk"
    ]
    output_folder.check_room(tmp_path, 999, notes.append)
    assert len(notes) == 1
