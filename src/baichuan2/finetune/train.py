"""One fine-tuning run, from settings to a folder that loads: data, model, trainer, and what is saved at the end."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from baichuan2.checkpoints.load import read_config, read_generation_config, read_tokenizer
from baichuan2.checkpoints.locate import locate
from baichuan2.errors import SettingsError
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.finetune.data import collate, prepare_data
from baichuan2.finetune.dpo import DPOTrainer
from baichuan2.finetune.starting_model import starting_model
from baichuan2.finetune.trainer import BaichuanTrainer
from baichuan2.settings import FinetuneSettings


@dataclass(frozen=True)
class FinetuneResult:
    """What a run came to."""

    output_dir: Path
    num_steps: int
    loss: float
    """Mean training loss."""


def finetune(settings: FinetuneSettings, arguments: FinetuneArguments) -> FinetuneResult:
    """Trains as `settings` and `arguments` say, and saves what was learnt in `arguments.output_dir`.

    Raises:
        SettingsError: settings that exclude each other, or no data.
        DataError: the data are malformed.
        CheckpointError: the model cannot be read.
        TrainingError: training cannot go on.
    """
    if settings.data_path is None:
        raise SettingsError("--data-path is missing: give a file to learn from")
    folder = locate(settings.model_name_or_path or "demo-base", revision=settings.revision, offline=settings.offline)
    tokenizer = read_tokenizer(folder, read_config(folder))
    output_dir = Path(str(arguments.output_dir))
    data = prepare_data(settings, tokenizer, output_dir / "data")
    model = starting_model(folder, settings, arguments)
    model.generation_config = read_generation_config(folder)
    trainer_kind: Any = BaichuanTrainer
    if settings.objective == "dpo":
        trainer_kind = partial(DPOTrainer, settings=settings, data_directory=output_dir / "data")
    trainer = trainer_kind(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        data_collator=collate,
        train_dataset=data.train,
        eval_dataset=data.evaluation,
    )
    outcome = trainer.train()
    trainer.save_state()
    trainer.save_model()
    return FinetuneResult(output_dir, outcome.global_step, outcome.training_loss)
