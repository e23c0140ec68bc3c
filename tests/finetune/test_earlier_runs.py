"""What an output folder holds of an earlier run: it is gone on with, refused or deleted, as the command says."""

from pathlib import Path

import pytest

from baichuan2.errors import SettingsError
from baichuan2.finetune import folders, output_folder
from baichuan2.finetune.watching import Progress, Silence
from tests.finetune.small_runs import (
    Book,
    KilledAfter,
    assert_equal_weights,
    base_folder,
    data_file,
    names,
    settings,
    train,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_folder(tmp_path_factory.mktemp("base"))


def test_evaluation_is_by_tokens_and_the_best_model_is_kept(base: Path, tmp_path: Path) -> None:
    data, held_out = data_file(tmp_path / "data.json"), data_file(tmp_path / "held.json", 5, seed=9)
    own = settings(base, data, eval_data_path=str(held_out), early_stopping_patience=1)
    book = Book()
    values = {"save_strategy": "no", "num_train_epochs": 9, "learning_rate": 0.05, "per_device_eval_batch_size": 2}
    result = train(own, tmp_path / "out", book, **values, save_total_limit=1)
    losses = [evaluation.loss for evaluation in book.evaluations]
    best = losses.index(min(losses))
    assert len(losses) == best + 2 < 9
    assert result.evaluation_loss == min(losses)
    assert any(
        note.startswith("early stopping: eval_loss has not become better for 1 evaluation") for note in book.notes
    )
    steps = [folders.checkpoint_step(path) for path in folders.whole_checkpoints(tmp_path / "out")]
    assert steps == [4 * (best + 1), 4 * len(losses)]
    assert_equal_weights(tmp_path / "out", tmp_path / "out" / f"checkpoint-{steps[0]}")
    one_by_one = train(own, tmp_path / "other", None, **values | {"per_device_eval_batch_size": 1})
    assert one_by_one.evaluation_loss == pytest.approx(result.evaluation_loss, abs=1e-6)
    again = train(own, tmp_path / "out", None, **values, save_total_limit=1, resume_from_checkpoint=True)
    assert again.was_finished
    assert again.evaluation_loss == result.evaluation_loss


def test_the_same_command_goes_on_with_a_run_that_was_stopped(base: Path, tmp_path: Path) -> None:
    own = settings(base, data_file(tmp_path / "data.json"))
    train(own, tmp_path / "whole")
    with pytest.raises(BaseException):  # noqa: B017, PT011  # the process is gone
        train(own, tmp_path / "out", KilledAfter(4))
    book = Book()
    train(own, tmp_path / "out", book)
    assert f"going on from {tmp_path}/out/checkpoint-3; --overwrite-output-dir True would start anew" in book.notes
    assert [step.step for step in book.steps] == list(range(4, 9))
    assert_equal_weights(tmp_path / "out", tmp_path / "whole")
    assert train(own, tmp_path / "out").was_finished
    with pytest.raises(SettingsError, match="holds a finished run"):
        train(own, tmp_path / "out", resume_from_checkpoint=False, num_train_epochs=3)


def test_an_output_folder_with_an_earlier_run_is_refused(base: Path, tmp_path: Path) -> None:
    out, data = tmp_path / "out", data_file(tmp_path / "data.json")
    own = settings(base, data)
    with pytest.raises(BaseException):  # noqa: B017, PT011  # the process is gone
        train(own, out, KilledAfter(4))
    before = names(out)
    with pytest.raises(
        SettingsError, match=r"holds checkpoint-3.*--resume-from-checkpoint True.*--overwrite-output-dir"
    ):
        train(own, out, num_train_epochs=3)
    other = settings(base, data_file(tmp_path / "other.json", seed=1), model_max_length=40)
    for changed, values, message in (
        (other, {}, "model_max_length was 48, is 40; the data differs"),
        (settings(base, data, method="lora"), {}, "method was full, is lora"),
        (own, {"learning_rate": 0.5}, "learning_rate was 0.01, is 0.5"),
        (own, {"per_device_train_batch_size": 1}, "examples per step was 4, is 2"),
    ):
        with pytest.raises(SettingsError, match=f"cannot go on from {out}/checkpoint-3: {message}"):
            train(changed, out, **values, resume_from_checkpoint=True)
    with pytest.raises(SettingsError, match="is no checkpoint of a run"):
        train(own, out, resume_from_checkpoint=tmp_path)
    assert names(out) == before
    book = Book()
    train(own, out, book, num_train_epochs=3, resume_from_checkpoint=True)
    assert any("other settings: num_train_epochs was 2, is 3" in note for note in book.notes)
    assert [step.step for step in book.steps] == list(range(4, 13))
    with pytest.raises(SettingsError, match="holds a finished run"):
        train(own, out)
    (out / "checkpoint-12" / "optimizer.pt").write_bytes(b"half")
    book = Book()
    train(own, out, book, num_train_epochs=4, resume_from_checkpoint=True)
    assert any("checkpoint-12 is damaged (optimizer.pt" in note for note in book.notes)
    assert book.steps[0].step == 10
    train(own, out, overwrite_output_dir=True)
    assert [path.name for path in folders.whole_checkpoints(out)] == ["checkpoint-3", "checkpoint-6", "checkpoint-8"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dataloader_drop_last": True, "per_device_train_batch_size": 100},
            "--dataloader_drop_last leaves nothing to learn: there are 13 examples, and a batch .* 100",
        ),
        ({"report_to": "nonsense"}, "nonsense is not supported, only .*tensorboard"),
    ],
)
def test_what_only_the_data_and_the_trainer_show_is_an_error_of_the_settings(
    values: dict[str, object], message: str, base: Path, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=message):
        train(settings(base, data_file(tmp_path / "data.json")), tmp_path / "out", **values)


def test_going_on_with_a_run_that_is_over_adds_no_step(base: Path, tmp_path: Path) -> None:
    own = settings(base, data_file(tmp_path / "data.json"))
    train(own, tmp_path / "out", max_steps=3, save_steps=1)
    (tmp_path / "out" / "training_run.json").unlink()
    result = train(own, tmp_path / "out", max_steps=3, save_steps=1, resume_from_checkpoint=True)
    assert result.num_steps == 3


def test_a_finished_run_without_checkpoints_begins_anew_when_asked_for_more(base: Path, tmp_path: Path) -> None:
    own, out, book = settings(base, data_file(tmp_path / "data.json")), tmp_path / "out", Book()
    train(own, out, max_steps=1, save_strategy="no")
    train(own, out, book, max_steps=2, save_strategy="no", resume_from_checkpoint=True)
    assert [step.step for step in book.steps] == [1, 2]
    assert f"{out} holds no checkpoint: training starts from the beginning" in book.notes


def test_two_runs_do_not_share_a_folder(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_folder, "SECONDS_OF_WORKERS", 0.2)
    own, out = settings(base, data_file(tmp_path / "data.json")), tmp_path / "out"
    refused: list[str] = []

    class Second(Silence):
        def stepped(self, progress: Progress) -> None:
            for values in ({"resume_from_checkpoint": True}, {"overwrite_output_dir": True}):
                with pytest.raises(SettingsError, match="another run is training into it") as met:
                    train(own, out, **values)
                refused.append(str(met.value))

    train(own, out, Second(), max_steps=1, save_steps=1)
    assert len(refused) == 2
    assert train(own, out, max_steps=1, save_steps=1, resume_from_checkpoint=True).was_finished  # free again


def test_seed_zero_of_the_data_is_a_seed(base: Path, tmp_path: Path) -> None:
    own = settings(base, data_file(tmp_path / "data.json"), eval_fraction=0.3)
    losses = [
        train(own, tmp_path / name, max_steps=1, save_strategy="no", learning_rate=0, **values).evaluation_loss
        for name, values in (("one", {"data_seed": 0}), ("two", {"data_seed": 0, "seed": 9}), ("three", {"seed": 9}))
    ]
    assert losses[0] == losses[1] != losses[2]
