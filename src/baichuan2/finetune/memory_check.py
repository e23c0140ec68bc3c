"""Before a run starts: what it will take on each device beside what is free there, and the refusal of what cannot fit.

The figures are those of `baichuan2 plan --train`; here they are asked for by the settings of the run itself.
"""

import os
import warnings
from typing import Any

from baichuan2.checkpoints.memory import Place, accelerator, main_memory
from baichuan2.checkpoints.training_plan import (
    Method,
    TrainingEstimate,
    TrainingSetup,
    check_training_fits,
)
from baichuan2.finetune.arguments import FinetuneArguments
from baichuan2.finetune.starting_model import DROPOUT, OFFICIAL_RANK, RANK
from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.training_cost import Adapters
from baichuan2.settings import FinetuneSettings

__all__ = ["check_memory", "training_setup"]

BITS_OF_METHODS = {"load_in_4bit": "nf4", "load_in_8bit": "int8"}


def check_memory(
    config: BaichuanConfig, name: str, settings: FinetuneSettings, arguments: FinetuneArguments, *, longest: int
) -> str:
    """One line: what training the model called `name` takes on a device of this run, and what is free there.

    `longest`: tokens of the longest example. Warns where the estimate is larger than what is free but may be wrong.

    Raises:
        MemoryShortageError: it cannot fit, and `settings.check_memory` is on.
    """
    setup = training_setup(config, settings, arguments, longest=longest)
    place = main_memory() if arguments.device.type == "cpu" else accelerator(str(arguments.device))
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if place.kind == "main" else 1
    needed, free = check_training_fits(config, name, setup, place, processes, refuses=settings.check_memory)
    if free is not None and needed.beside_program > free:
        warnings.warn(
            f"training takes about {_size(needed.beside_program)} on {place.name}, where {_size(free)} are free: it "
            "may run out of memory",
            stacklevel=2,
        )
    if place.kind != "main":
        warn_of_main_memory(needed, main_memory())
    return _line(needed, place, processes, free)


def warn_of_main_memory(needed: TrainingEstimate, main: Place) -> None:
    """Warns where what the processes of a machine hold in main memory beside their devices is more than is free."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    room = main.free if main.free is not None else main.total
    if room is not None and processes * needed.host > room + main.swap:
        each = f"{processes} processes take" if processes > 1 else "the run takes"
        warnings.warn(
            f"{each} about {_size(processes * needed.host)} of main memory, the model while it is read or what waits "
            f"there, and {_size(room)} are free: the system may kill the run; ZeRO-3 reads a share in each process",
            stacklevel=3,
        )


def training_setup(
    config: BaichuanConfig, settings: FinetuneSettings, arguments: FinetuneArguments, *, longest: int
) -> TrainingSetup:
    """What of a run decides how much memory it takes; `longest` as in `check_memory`."""
    is_dense = settings.packing or settings.objective == "pretrain"  # rows are full, and need no mask
    rows_each = 2 if settings.objective == "dpo" else 1
    batch = int(arguments.per_device_train_batch_size)
    stage, offload = _zero(arguments)
    method: Method = "full" if not settings.has_adapters else "qlora" if settings.method == "qlora" else "lora"
    return TrainingSetup(
        method=method,
        batch=batch,
        context=settings.model_max_length if is_dense else min(settings.model_max_length, longest),
        rows_each=rows_each,
        has_mask=not is_dense and batch * rows_each > 1,
        gradient_checkpointing=bool(
            getattr(arguments, "activation_checkpointing", None) or arguments.gradient_checkpointing
        ),
        keeps_gradients=arguments.gradient_accumulation_steps > 1,
        bf16=bool(arguments.bf16 or arguments.fp16),
        optim=str(getattr(arguments.optim, "value", arguments.optim)),
        zero=stage,
        devices=arguments.world_size,
        offload=offload,
        base_format=_base_format(config, settings),
        adapters=_adapters(settings) if settings.has_adapters else None,
        on_processor=arguments.device.type == "cpu",
        stored_bytes=4 if str(getattr(config, "dtype", None)).endswith("float32") else 2,
    )


def _adapters(settings: FinetuneSettings) -> Adapters:
    rank = settings.lora_rank if settings.lora_rank is not None else OFFICIAL_RANK if settings.use_lora else RANK
    dropout = settings.lora_dropout if settings.lora_dropout is not None else DROPOUT
    return Adapters(rank=rank, targets=settings.adapter_targets, has_dropout=dropout > 0, is_dora=settings.use_dora)


def _base_format(config: BaichuanConfig, settings: FinetuneSettings) -> Any:
    """Numbers of the decoder's weights: those of a quantised folder, or what they are quantised to while loading."""
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return settings.base_quantization
    fields = stored if isinstance(stored, dict) else vars(stored)
    for field, found in BITS_OF_METHODS.items():
        if fields.get(field) is True or fields.get("_" + field) is True:
            return found
    written = fields.get("format")
    return written if written in ("int4", "int8", "nf4") else "none"


def _zero(arguments: FinetuneArguments) -> tuple[int, Any]:
    """Stage of ZeRO and what it offloads; FSDP, which splits up weights as well, counts as stage 3."""
    if arguments.deepspeed is None:
        is_split = bool(arguments.fsdp) and arguments.world_size > 1
        return (3 if is_split else 0), "none"
    written: Any = getattr(arguments, "hf_deepspeed_config", None)
    if written is None:
        return 0, "none"
    stage = int(written.get_value("zero_optimization.stage", 0))
    waits = [
        name
        for name, field in (("all", "offload_param"), ("optimizer", "offload_optimizer"))
        if written.get_value(f"zero_optimization.{field}.device", "none") not in (None, "none")
    ]
    return stage, waits[0] if waits else "none"


def _line(needed: TrainingEstimate, place: Place, processes: int, free: int | None) -> str:
    parts = ", ".join(
        f"{word} {_size(size)}"
        for word, size in (
            ("weights", needed.weights + needed.adapters + needed.copies + needed.master),
            ("optimizer", needed.optimizer),
            ("gradients", needed.gradients),
            ("activations", needed.activations),
        )
    )
    each = f" for each of {processes} processes" if processes > 1 else ""
    room = "free memory unknown" if free is None else f"{_size(free)} free"
    return f"memory: about {_size(needed.beside_program)} on {place.name}{each}, {room} ({parts})"


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
