"""One fine-tuning run, from settings to a folder that loads: data, model, trainer, and what is saved at the end."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, set_seed
from transformers.utils import logging

from baichuan2.checkpoints.load import read_config, read_generation_config, read_tokenizer
from baichuan2.checkpoints.locate import locate
from baichuan2.errors import SettingsError
from baichuan2.finetune import folders
from baichuan2.finetune.arguments import FinetuneArguments, one_sentence, seed_of_data
from baichuan2.finetune.data import TrainingData, collate, prepare_data
from baichuan2.finetune.dpo import DPOTrainer
from baichuan2.finetune.evaluating import EarlyStopping, arrange_evaluation
from baichuan2.finetune.fsdp import check_going_on
from baichuan2.finetune.interrupts import catch_interrupts
from baichuan2.finetune.memory_check import check_memory
from baichuan2.finetune.output_folder import (
    EarlierRun,
    alone_in,
    check_room,
    check_writable,
    clear,
    find_earlier_run,
)
from baichuan2.finetune.preview import shown_examples
from baichuan2.finetune.run_record import describe_run, is_same_run, mark_finished, settle_differences, write_record
from baichuan2.finetune.starting_model import starting_model
from baichuan2.finetune.trainer import BaichuanTrainer
from baichuan2.finetune.watching import Silence, Watcher
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID
from baichuan2.settings import FinetuneSettings


@dataclass(frozen=True)
class FinetuneResult:
    """What a run came to."""

    output_dir: Path
    num_steps: int
    loss: float
    """Mean training loss; of a run that went on, since then."""
    evaluation_loss: float | None = None
    """Of the held-out data at the end: of the best checkpoint, where that became the model."""
    num_planned_steps: int = 0
    num_tokens: int = 0
    """Read while training, without padding; of a run that went on, since then."""
    seconds: float = 0.0
    stop_signal: int = 0
    """Number of the signal that ended the run before its last step; 0: none did, and the model is saved."""
    checkpoint: Path | None = None
    """The newest checkpoint."""
    was_finished: bool = False
    """The run had come to its end before, and nothing was done."""


def finetune(
    settings: FinetuneSettings, arguments: FinetuneArguments, watcher: Watcher | None = None
) -> FinetuneResult:
    """Trains as `settings` and `arguments` say, and saves what was learnt in `arguments.output_dir`.

    `watcher` is told what happens meanwhile. A SIGTERM or Ctrl-C ends the run after the step that it falls into, with
    a checkpoint; the result says so.

    Raises:
        SettingsError: settings that exclude each other, no data, or an output folder that holds another run.
        DataError: the data are malformed.
        CheckpointError: the model cannot be read.
        TrainingError: training cannot go on.
    """
    if settings.data_path is None:
        raise SettingsError("--data-path is missing: give a file to learn from")
    watcher = watcher if watcher is not None and arguments.process_index == 0 else Silence()
    folder = locate(settings.model_name_or_path or "demo-base", revision=settings.revision, offline=settings.offline)
    tokenizer = read_tokenizer(folder, read_config(folder))
    output_dir = Path(str(arguments.output_dir))
    with contextlib.ExitStack() as held:
        earlier = _look_at(output_dir, folder, arguments, watcher, held)
        return _train(settings, arguments, watcher, folder=folder, tokenizer=tokenizer, earlier=earlier)


def _train(
    settings: FinetuneSettings,
    arguments: FinetuneArguments,
    watcher: Watcher,
    *,
    folder: Path,
    tokenizer: Any,
    earlier: EarlierRun,
) -> FinetuneResult:
    output_dir = Path(str(arguments.output_dir))
    seed = seed_of_data(arguments)
    data = prepare_data(settings, tokenizer, output_dir / "data", seed=seed, watch=watcher.reading)
    watcher.read(data.report, next(shown_examples(data, tokenizer, 1)))
    _check_batch(arguments, data.train)
    arrange_evaluation(settings, arguments, has_data=data.evaluation is not None, note=watcher.note)
    record = describe_run(settings, arguments, model_folder=folder, dataset=data.train)
    if earlier.refusal is not None and not is_same_run(earlier.record, record):
        raise SettingsError(earlier.refusal)
    changed = settle_differences(earlier.record, record, earlier.place) if earlier.record is not None else None
    if earlier.is_finished and changed is None:
        return _finished_before(output_dir, earlier)
    if earlier.refusal is not None:
        watcher.note(f"going on from {earlier.place}; --overwrite-output-dir True would start anew")
    if changed is not None:
        watcher.note(changed)
        if earlier.checkpoint is None:
            watcher.note(f"{output_dir} holds no checkpoint: training starts from the beginning")
    name = settings.model_name_or_path or "demo-base"
    watcher.note(check_memory(read_config(folder), name, settings, arguments, longest=data.report.longest))
    logging.disable_progress_bar()  # there is one of our own
    set_seed(arguments.seed)  # adapters begin with random numbers
    with _without_others_warnings():
        model = starting_model(folder, settings, arguments)
    model.generation_config = _generation_config(folder, settings)
    trainer = _trainer(settings, arguments, data, model=model, tokenizer=tokenizer, watcher=watcher, record=record)
    if arguments.should_save:
        check_room(output_dir, _checkpoint_bytes(model), watcher.note)
        write_record(output_dir, record)
    return _run(trainer, earlier.checkpoint, None if settings.has_adapters else _save_dtype(folder, settings))


def _look_at(
    output_dir: Path, model_folder: Path, arguments: FinetuneArguments, watcher: Watcher, held: contextlib.ExitStack
) -> EarlierRun:
    """The output folder, ready to be written, and what it holds of an earlier run; the same in all processes.

    While `held` is open, no other run gets the folder.
    """
    is_local_first = arguments.local_process_index == 0
    with arguments.main_process_first(local=True):  # the others see the folder as the first has left it
        if is_local_first:
            check_writable(output_dir, model_folder)
            if arguments.process_index == 0:  # of several machines one, as they may share the folder
                held.enter_context(alone_in(output_dir))
            folders.put_in_order(output_dir)
        earlier = find_earlier_run(output_dir, arguments, watcher.note)
        if is_local_first and earlier.checkpoint is None and not earlier.is_finished:
            clear(output_dir)
    return earlier


def _check_batch(arguments: FinetuneArguments, dataset: Any) -> None:
    size = arguments.train_batch_size * arguments.world_size
    if arguments.dataloader_drop_last and hasattr(dataset, "__len__") and len(dataset) < size:
        raise SettingsError(
            f"--dataloader_drop_last leaves nothing to learn: there are {len(dataset)} examples, and a batch of all "
            f"processes has {size}: leave it out, or make --per_device_train_batch_size smaller"
        )


def _finished_before(output_dir: Path, earlier: EarlierRun) -> FinetuneResult:
    assert earlier.record is not None
    outcome = earlier.record["finished"]
    return FinetuneResult(
        output_dir,
        num_steps=int(outcome["num_steps"]),
        loss=float(outcome["loss"]),
        evaluation_loss=outcome.get("evaluation_loss"),
        checkpoint=earlier.checkpoint,
        was_finished=True,
    )


def _generation_config(folder: Path, settings: FinetuneSettings) -> GenerationConfig:
    """The starting model's, with the ids of the speakers where it learns conversations: a Base model may have none."""
    config = read_generation_config(folder)
    if settings.objective != "pretrain":
        for name, token_id in (("user_token_id", USER_TOKEN_ID), ("assistant_token_id", ASSISTANT_TOKEN_ID)):
            if getattr(config, name, None) is None:
                setattr(config, name, token_id)
    return config


def _trainer(
    settings: FinetuneSettings,
    arguments: FinetuneArguments,
    data: TrainingData,
    *,
    model: Any,
    tokenizer: Any,
    watcher: Watcher,
    record: dict[str, Any],
) -> BaichuanTrainer:
    kind: Any = BaichuanTrainer
    if settings.objective == "dpo":
        kind = partial(DPOTrainer, settings=settings, data_directory=Path(str(arguments.output_dir)) / "data")
    try:
        trainer: BaichuanTrainer = kind(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            data_collator=collate,
            train_dataset=data.train,
            eval_dataset=data.evaluation,
            watcher=watcher,
            record=record,
            origins=getattr(data.train, "origins", None),
        )
    except (ValueError, ImportError, RuntimeError) as error:  # --report_to and --optim are looked at here only
        raise SettingsError(one_sentence(error)) from error
    if settings.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(settings.early_stopping_patience, watcher.note))
    return trainer


def _save_dtype(folder: Path, settings: FinetuneSettings) -> torch.dtype | None:
    """The number format in which all weights are saved at the end; None: as they were trained."""
    if settings.save_dtype != "auto":
        found = getattr(torch, settings.save_dtype)
    else:
        found = getattr(read_config(folder), "dtype", None)
    return found if isinstance(found, torch.dtype) else None


def _checkpoint_bytes(model: Any) -> int:
    """About how large a checkpoint is: float32 weights that learn, and two numbers of AdamW for each."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    return 12 * sum(getattr(weight, "ds_numel", weight.numel()) for weight in learning)  # ZeRO-3 spreads them


@contextlib.contextmanager
def _without_others_warnings() -> Iterator[None]:
    """What libraries tell each other about names of the future is nothing that a user could do anything about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _run(trainer: BaichuanTrainer, checkpoint: Path | None, dtype: torch.dtype | None) -> FinetuneResult:
    """Trains, and saves the model unless a signal ended the run."""
    output_dir = Path(trainer.args.output_dir)
    telling = trainer.telling
    try:
        with _without_others_warnings(), catch_interrupts(telling.watcher.stopping) as trainer.interrupts:
            if checkpoint is not None:
                check_going_on(trainer)
            outcome = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
            if not trainer.is_interrupted:
                trainer.save_final(dtype)
    finally:
        telling.watcher.ended()
    evaluation_loss = trainer.best_or_last_evaluation()
    if not trainer.is_interrupted and trainer.args.should_save:
        mark_finished(
            output_dir,
            trainer.record,
            {
                "num_steps": outcome.global_step,
                "loss": outcome.training_loss,
                "evaluation_loss": evaluation_loss,
            },
        )
    return FinetuneResult(
        output_dir,
        num_steps=outcome.global_step,
        loss=outcome.training_loss,
        evaluation_loss=evaluation_loss,
        num_planned_steps=trainer.state.max_steps,
        num_tokens=telling.pace.num_tokens,
        seconds=telling.pace.total_seconds,
        stop_signal=trainer.stop_signal if trainer.is_interrupted else 0,
        checkpoint=trainer.newest_checkpoint,
    )
