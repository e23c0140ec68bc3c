"""The framework's trainer, which loses nothing: what every objective shares.

It differs from the framework's in what happens around the steps: checkpoints are whole or not there, a run that goes
on is the run that was interrupted, a loss that is no number ends it with the rows named, and a signal ends it after a
step.
"""

import contextlib
import json
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from baichuan2.devices import random_state_kept, wide_dtype
from baichuan2.errors import BaichuanError, TrainingError
from baichuan2.finetune import folders
from baichuan2.finetune.arguments import seed_of_data
from baichuan2.finetune.fsdp import gathered, share_weights_on_processor
from baichuan2.finetune.interrupts import Interrupts
from baichuan2.finetune.run_record import write_record
from baichuan2.finetune.step_batches import (
    EpochSampler,
    NumberedBatches,
    StepBatches,
    named_rows,
    save_batches,
    with_numbers,
)
from baichuan2.finetune.telling import Telling
from baichuan2.finetune.watching import Silence, Watcher
from baichuan2.model.loss import IGNORED_LABEL
from baichuan2.model.segments import without_first_labels

TRAINER_STATE = "trainer_state.json"


class BaichuanTrainer(Trainer):
    """Trains a Baichuan model; `train.py` makes it.

    Args:
        watcher: is told what happens, in the first process.
        record: what decides how the run goes; lies in each checkpoint, for the comparison when it goes on.
        origins: file and row of what is in the training item of that index, for messages.
        **kwargs: the framework's own.
    """

    def __init__(
        self,
        *,
        watcher: Watcher | None = None,
        record: Mapping[str, Any] | None = None,
        origins: Callable[[int], list[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        arguments = kwargs["args"]
        arguments.remove_unused_columns = False  # items have fields that are no inputs of the model
        arguments.logging_nan_inf_filter = False  # it would wait for every batch, and hide what we look for
        super().__init__(**kwargs)
        self.interrupts: Interrupts | None = None
        self.record = dict(record or {})
        self._origins = origins
        self._step = StepBatches()
        self._grad_norm: Any = None
        self._sums: list[Tensor] = []  # of an evaluation: losses and tokens of each batch
        watcher = watcher if watcher is not None and self.is_world_process_zero() else Silence()
        self.telling = Telling(self, watcher)
        for callback in (ProgressCallback, PrinterCallback):
            self.remove_callback(callback)
        self.add_callback(_Steps(self))
        self.add_callback(self.telling)

    def create_accelerator_and_postprocess(self) -> None:
        """The framework's accelerator, with FSDP on a processor too."""
        super().create_accelerator_and_postprocess()
        share_weights_on_processor(self)

    # Steps

    def get_train_dataloader(self) -> Any:
        """The framework's, whose batches also hold the numbers of their rows."""
        dataset, collator = vars(self)["train_dataset"], vars(self)["data_collator"]
        self.train_dataset, self.data_collator = with_numbers(dataset), NumberedBatches(collator)
        try:
            return super().get_train_dataloader()
        finally:
            self.train_dataset, self.data_collator = dataset, collator

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        sampler = super()._get_train_sampler(train_dataset)
        return EpochSampler(sampler, seed_of_data(self.args)) if isinstance(sampler, LengthGroupedSampler) else sampler

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of a batch, whose gradient is added to the others'."""
        self._step.take(inputs)
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        self._step.losses.append(loss)
        return loss

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        self._grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        return self._grad_norm

    def finish_gradient(self) -> None:
        """Before the optimizer changes anything: looks whether loss and gradient are numbers, and for signals.

        The one place in a step that waits for the device, where the framework does so for every batch.

        Raises:
            TrainingError: they are none; the rows are named and saved.
        """
        step, self._step = self._step, StepBatches()
        norm = self._norm_as_tensor(step.loss)
        is_bad = ~torch.isfinite(step.loss) | (~torch.isfinite(norm) if not self.args.fp16 else False)
        wish = 0 if self.interrupts is None else self.interrupts.received or 0
        facts = torch.stack([step.loss, is_bad.float(), norm.new_tensor(float(wish)), norm.new_tensor(step.num_tokens)])
        if self.args.world_size > 1:
            facts = self.accelerator.gather(facts[None])
        rows = facts.view(-1, 4).tolist()
        if any(row[1] for row in rows):
            self._refuse_step(step, norm)
        self.stop_signal = int(max(row[2] for row in rows))
        self.telling.step_done(
            loss=sum(row[0] for row in rows) / len(rows), num_tokens=int(sum(row[3] for row in rows))
        )

    stop_signal = 0
    """Number of the signal that ends the run after this step, the same in all processes; 0: none."""

    def _norm_as_tensor(self, like: Tensor) -> Tensor:
        norm = self._grad_norm
        if norm is None:
            return torch.zeros_like(like)
        if isinstance(norm, Tensor):
            norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
            return norm.detach().float().to(like.device)
        return like.new_tensor(float(norm))

    def _refuse_step(self, step: StepBatches, norm: Tensor) -> None:
        number = self.state.global_step + 1
        suspects = step.suspects()
        if self.args.world_size == 1:
            suspects = self._narrowed(suspects)
        rank = f"-process-{self.args.process_index}" if self.args.world_size > 1 else ""
        path = Path(self.args.output_dir) / f"bad-step-{number}{rank}.json"
        loss = step.loss.item()
        what = (
            f"loss is {loss}" if not math.isfinite(loss) else f"gradient has the norm {norm.item()} (loss {loss:.4g})"
        )
        rows = [row for _, numbers in suspects for row in numbers]
        with contextlib.suppress(OSError):
            save_batches(
                path,
                suspects,
                facts={"step": number, "loss": str(loss), "grad_norm": str(norm.item())},
                decode=self._decode,
                origins=self._origins,
            )
        where = named_rows(rows, self._origins)
        raise TrainingError(
            f"step {number}: the {what}, in {where} of the training data, saved in {path}; "
            f"{self.way_on()}. Look at these rows; a smaller --learning-rate, a longer --warmup-steps or "
            "--bf16 in place of --fp16 may help"
        )

    def _narrowed(self, suspects: list[tuple[dict[str, Any], list[int]]]) -> list[tuple[dict[str, Any], list[int]]]:
        """Of the rows, those that have no loss by themselves either; all, where each has one."""
        found = []
        for batch, numbers in suspects:
            if len(batch["input_ids"]) != len(numbers):
                return suspects  # pairs: a reply alone has no loss
            for index, number in enumerate(numbers):
                row = {name: value[index : index + 1] for name, value in batch.items() if isinstance(value, Tensor)}
                with torch.no_grad(), self.compute_loss_context_manager():
                    loss = self.compute_loss(self.model, self._prepare_inputs(row))
                if not math.isfinite(float(loss)):
                    found.append((row, [number]))
        return found or suspects

    def _decode(self, ids: list[int]) -> str:
        return str(self.processing_class.decode(ids)) if self.processing_class is not None else ""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """The framework's; random numbers of training go on as if there had been no evaluation."""
        with random_state_kept(self.args.device):
            return dict(super().evaluate(*args, **kwargs))

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """The framework's; the loss is the mean of all tokens, not of batches, and perplexity stands beside it."""
        self._sums = []
        result = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if self._sums:
            sums = torch.stack(self._sums).sum(0)
            total, count = (sums if self.args.world_size == 1 else self.accelerator.reduce(sums, "sum")).tolist()
            loss = total / count if count > 0 else math.nan
            result.metrics[f"{metric_key_prefix}_loss"] = loss
            result.metrics[f"{metric_key_prefix}_perplexity"] = math.exp(min(loss, 700.0))
        return result

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The mean loss of a batch; a row that only fills up the last one counts nothing."""
        del prediction_loss_only, ignore_keys
        inputs = self._prepare_inputs(inputs)
        batch = self.accelerator.gradient_state
        if self.args.world_size > 1 and batch.end_of_dataloader and batch.remainder > 0:
            places = torch.arange(len(inputs["labels"]), device=inputs["labels"].device)
            copies = places + self.args.process_index * len(places) >= batch.remainder
            inputs["labels"] = inputs["labels"].masked_fill(copies[:, None], IGNORED_LABEL)
        with torch.no_grad(), self.compute_loss_context_manager():
            total = -model(**inputs, return_logprobs=True).logprobs.sum()
        counted = without_first_labels(inputs["labels"], inputs["attention_mask"], IGNORED_LABEL)[:, 1:]
        wide = wide_dtype(total.device)
        sums = torch.stack([total.to(wide), (counted != IGNORED_LABEL).sum().to(wide)])
        self._sums.append(sums)
        return (sums[0] / sums[1]).float(), None, None

    # Checkpoints

    @property
    def newest_checkpoint(self) -> Path | None:
        """The last whole checkpoint in the output folder."""
        found = folders.whole_checkpoints(Path(self.args.output_dir))
        return found[-1] if found else None

    def way_on(self) -> str:
        """Half a sentence that says how to go on with a run that ended early."""
        checkpoint = self.newest_checkpoint
        if checkpoint is None:
            return "no checkpoint was written yet"
        return f"{checkpoint} is whole: the same command goes on from it"

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Writes a checkpoint beside its place, and gives it its name when all of it is on the disk."""
        del model, trial
        target = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        staging = folders.staging_folder(target)
        with self._one_line_if_it_fails(staging, "a checkpoint"):
            self.store_flos()
            self.save_model(str(staging), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(staging))
                self._save_scaler(str(staging))
                self._save_rng_state(str(staging))
            if self.args.should_save:
                self._save_state(staging)
            self._publish(staging, target)
        if self.args.should_save:
            self._delete_old_checkpoints()
        self.telling.saved(target)

    def _save_state(self, staging: Path) -> None:
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and (self.state.best_global_step == self.state.global_step or best.is_dir()):
            self.state.best_model_checkpoint = str(best)
        for callback in [*self.callback_handler.callbacks, self.control]:
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks[type(callback).__name__] = callback.state()
        self.state.save_to_json(str(staging / TRAINER_STATE))
        write_record(staging, self.record)

    def _publish(self, staging: Path, target: Path) -> None:
        """Renames a complete folder: rank 0's, then those of machines that do not see its disk."""
        self._wait_for_all()
        for is_turn in (self.is_world_process_zero(), self.is_local_process_zero()):
            if is_turn and staging.is_dir():
                folders.record_files(staging)
                folders.sync_folder(staging)
                folders.move_folder_in(staging, target)
            self._wait_for_all()

    def _delete_old_checkpoints(self) -> None:
        limit = self.args.save_total_limit
        found = folders.whole_checkpoints(Path(self.args.output_dir))
        if not limit or limit < 1:
            return
        best = self.state.best_model_checkpoint
        kept = {found[-1].name, Path(best).name if best is not None else ""}
        old = [folder for folder in found if folder.name not in kept]
        num_kept = len(found) - len(old)
        for folder in old[: max(len(old) - max(limit - num_kept, 0), 0)]:
            folders.delete_folder(folder)

    def save_final(self, dtype: torch.dtype | None = None) -> None:
        """Saves the model in the output folder, in place of what lies there; `dtype` None: as it is."""
        output_dir = Path(self.args.output_dir)
        staging = folders.final_staging_folder(output_dir)
        with self._one_line_if_it_fails(staging, "the model"):
            self._final_dtype = dtype
            self.save_model(str(staging), _internal_call=True)
            if self.args.should_save:
                self.state.save_to_json(str(staging / TRAINER_STATE))
                folders.sync_folder(staging)
                folders.move_files_in(staging, output_dir)
            self._wait_for_all()

    _final_dtype: torch.dtype | None = None

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The framework's; the final model in the number format that was asked for."""
        dtype = self._final_dtype
        if state_dict is not None:
            state_dict = gathered(state_dict)
        if dtype is None:
            super()._save(output_dir, state_dict)
            return
        if state_dict is None:
            state_dict = self.accelerator.unwrap_model(self.model).state_dict()
        super()._save(output_dir, {name: _cast(value, dtype) for name, value in state_dict.items()})
        path = Path(str(output_dir)) / "config.json"
        if self.args.should_save and path.is_file():
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("torch_dtype", None)
            config["dtype"] = str(dtype).removeprefix("torch.")
            path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @contextlib.contextmanager
    def _one_line_if_it_fails(self, staging: Path, what: str) -> Any:
        """Turns what goes wrong while `what` is written into a TrainingError, and removes what was written of it."""
        try:
            yield
        except BaichuanError:
            raise
        except (OSError, RuntimeError, ValueError, SafetensorError) as error:
            reason = folders.reason_of_failure(error, Path(self.args.output_dir))
            shutil.rmtree(staging, ignore_errors=True)
            raise TrainingError(
                f"cannot write {what} into {self.args.output_dir}: {reason}; {self.way_on()}"
            ) from error
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise

    def _wait_for_all(self) -> None:
        if self.args.world_size > 1:
            self.accelerator.wait_for_everyone()

    def _finalize_training(self, *args: Any, **kwargs: Any) -> Any:
        """The framework's, which would delete all checkpoints but the best, and in a way that can be half done."""
        limit, loads_best = self.args.save_total_limit, self.args.load_best_model_at_end
        self.args.save_total_limit = None
        self.args.load_best_model_at_end = loads_best and not self.is_interrupted
        try:
            return super()._finalize_training(*args, **kwargs)
        finally:
            self.args.save_total_limit, self.args.load_best_model_at_end = limit, loads_best

    @property
    def is_interrupted(self) -> bool:
        """Whether a signal ended the run before its last step."""
        return bool(self.stop_signal) and self.state.global_step < self.state.max_steps

    def best_or_last_evaluation(self) -> float | None:
        """The held-out loss of the model that is saved; None: it was never measured."""
        if self.args.load_best_model_at_end and self.state.best_metric is not None:
            return float(self.state.best_metric)
        found = [entry["eval_loss"] for entry in self.state.log_history if "eval_loss" in entry]
        return float(found[-1]) if found else None

    # Going on

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """The framework's; nothing where a run goes on that is over, to which it would add a step."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._init_training_state(*args, **kwargs)
        best = Path(self.args.output_dir) / f"checkpoint-{self.state.best_global_step}"
        if self.state.best_global_step and best.is_dir():  # the folder may have been moved since
            self.state.best_model_checkpoint = str(best)
        return result


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


class _Steps(TrainerCallback):
    """Calls the trainer at the right moments, and ends the run when a signal came."""

    def __init__(self, trainer: BaichuanTrainer) -> None:
        self._trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control, kwargs
        self._trainer.finish_gradient()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, kwargs
        if self._trainer.stop_signal and not control.should_training_stop:
            control.should_training_stop = True
            control.should_save = True
            if is_whole(state.epoch):
                control.should_save = False  # the end of the epoch comes at once, and may have to evaluate first

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, kwargs
        if not self._trainer.stop_signal:
            return
        if is_whole(state.epoch):
            control.should_save = True
        else:  # the epoch has no end yet: what belongs there comes when the run has gone on to it
            control.should_log = control.should_save = control.should_evaluate = False


def is_whole(epoch: float | None) -> bool:
    """Whether a run stands at the end of an epoch."""
    return epoch is not None and abs(epoch - round(epoch)) < 1e-9
