"""Which training `baichuan2 plan --train` plans; the names are those of `baichuan2 finetune`."""

from dataclasses import dataclass, fields
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import check_bounds, flag_name, setting
from baichuan2.settings.finetuning import FinetuneSettings


@dataclass(frozen=True, kw_only=True)
class TrainingPlanSettings:
    """Which training is planned, by the names of baichuan2 finetune; --batch and --context are those of one device."""

    train: Literal["none", "full", "lora", "qlora", "all"] = setting(
        "none", "plan training by this method in place of replies; all: the three beside each other"
    )
    objective: Literal["sft", "dpo", "pretrain"] = setting(
        "sft", "what is learnt; dpo computes two rows for each example"
    )
    gradient_checkpointing: bool = setting(
        False, "activations are computed again on the way back: a third slower, far smaller"
    )
    gradient_accumulation_steps: int = setting(
        1, "batches before a step; more than one keeps gradients in between", minimum=1, metavar="N"
    )
    bf16: bool = setting(False, "products in bfloat16, and so are weights under adapters; without it all is float32")
    optim: Literal["adamw_torch", "adamw_torch_fused", "adamw_8bit", "adafactor", "lion_32bit", "lion_8bit", "sgd"] = (
        setting("adamw_torch_fused", "the optimizer, as the framework calls it")
    )
    zero: int = setting(
        0,
        "stage of ZeRO (DeepSpeed): 1 splits states of the optimizer over the devices, 2 gradients too, 3 weights too",
        minimum=0,
        maximum=3,
        metavar="STAGE",
    )
    devices: int = setting(1, "devices that train together", minimum=1, maximum=65_536, metavar="N")
    offload: Literal["none", "optimizer", "all"] = setting(
        "none", "with --zero: what waits in main memory; all: weights too, stage 3"
    )
    lora_rank: int = setting(16, "rank of the adapters", minimum=1, maximum=4096, metavar="R")
    lora_targets: str = setting(
        "all", "layers with adapters: W_pack, o_proj, gate_proj, up_proj, down_proj, or all", metavar="NAMES"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.train == "none":
            for item in fields(self):
                if getattr(self, item.name) != item.default:
                    raise SettingsError(f"{flag_name(item.name)} needs --train full, lora, qlora or all")
        least = {"none": 0, "optimizer": 1, "all": 3}[self.offload]
        if self.zero < least:
            raise SettingsError(f"--offload {self.offload} needs --zero {least} or more, got {self.zero}")
        _ = self.adapter_targets  # refuses names of no layer

    @property
    def adapter_targets(self) -> tuple[str, ...]:
        """The layers that get adapters, by their names inside of a decoder layer."""
        return FinetuneSettings(method="lora", lora_targets=self.lora_targets).adapter_targets
