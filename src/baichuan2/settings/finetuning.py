"""How a model is fine-tuned: what this package adds to the flags of the framework's training arguments.

Learning rate, epochs, batch sizes, saving, logging and DeepSpeed are flags of `transformers.TrainingArguments`, because
the official README uses them; `finetune/arguments.py` reads them.
"""

from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    check_bounds,
    flag_name,
    language_setting,
    offline_setting,
    revision_setting,
    setting,
)

ADAPTER_TARGETS = ("W_pack", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder layer, on which adapters can be put."""
ADAPTER_FLAGS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "use_dora", "use_rslora")


@dataclass(frozen=True, kw_only=True)
class FinetuneSettings:
    """Which model learns what, from which data, and which of its weights change."""

    config: str | None = setting(
        None,
        "flags from a YAML or JSON file, by their names; those on the command line and in the environment win",
        short="-c",
        metavar="FILE",
    )
    model_name_or_path: str | None = setting(
        None,
        "model folder or hub id to start from; without it the embedded demo-base model",
        short="-m",
        metavar="PATH_OR_ID",
        environment="BAICHUAN2_MODEL",
    )
    data_path: str | None = setting(
        None, "training data: JSON, JSONL or plain text files, several with commas", short="-d", metavar="FILE"
    )
    eval_data_path: str | None = setting(
        None, "held-out data of the same kinds, for loss and perplexity while training", metavar="FILE"
    )
    eval_fraction: float = setting(
        0.0, "this part of the training data is held out in place of --eval-data-path", minimum=0.0, maximum=0.5
    )
    data_format: Literal["auto", "conversations", "alpaca", "sharegpt", "messages", "preference", "text"] = setting(
        "auto",
        "layout of the rows; auto: seen from their fields; conversations: the official one; preference: prompt, "
        "chosen, rejected; text: whole documents",
    )
    objective: Literal["sft", "dpo", "pretrain"] = setting(
        "sft",
        "sft: replies of conversations; dpo: preferring one reply to another (arXiv 2305.18290); pretrain: every "
        "token of plain text",
    )
    model_max_length: int = setting(512, "tokens of one example; longer ones are cut", minimum=8, metavar="N")
    packing: bool = setting(
        False, "several examples in one row of --model-max-length tokens, none of which sees another; pretrain always"
    )
    method: Literal["full", "lora", "qlora"] = setting(
        "full",
        "full: all weights; lora: small adapters beside them (arXiv 2106.09685); qlora: adapters on weights in NF4 "
        "(arXiv 2305.14314)",
    )
    use_lora: bool = setting(
        False, "the official LoRA: method lora on W_pack with rank 1, alpha 32, dropout 0.1; the flags below change it"
    )
    quantize: Literal["none", "nf4", "int8"] = setting(
        "none", "numbers of the weights under the adapters: nf4 (what qlora means) or int8, made by bitsandbytes"
    )
    lora_rank: int | None = setting(
        None, "rank of the adapters; not given: 16, with --use-lora 1", minimum=1, maximum=4096, metavar="R"
    )
    lora_alpha: float | None = setting(
        None, "what adapters are multiplied by, before it is divided by the rank; not given: 32", minimum=0.0
    )
    lora_dropout: float | None = setting(
        None, "part of an adapter's inputs that is left out; not given: 0.1", minimum=0.0, maximum=0.95
    )
    lora_targets: str | None = setting(
        None,
        "which layers get adapters, with commas: W_pack, o_proj, gate_proj, up_proj, down_proj, or all; not given: "
        "all, with --use-lora W_pack",
        metavar="NAMES",
    )
    use_dora: bool = setting(False, "adapters with a magnitude of their own (DoRA, arXiv 2402.09353)")
    use_rslora: bool = setting(False, "divide by the root of the rank (rsLoRA, arXiv 2312.03732)")
    dpo_beta: float = setting(0.1, "dpo: how strongly the model is held to where it started", minimum=0.0, metavar="B")
    dpo_label_smoothing: float = setting(
        0.0, "dpo: how often pairs are believed to be the wrong way round", minimum=0.0, maximum=0.5, metavar="P"
    )
    dpo_sft_weight: float = setting(
        0.0, "dpo: weight of the chosen reply's own loss, which keeps it likely (arXiv 2404.19733)", minimum=0.0
    )
    z_loss_weight: float | None = setting(
        None, "weight of the max-z loss (arXiv 2309.10305); not given: the checkpoint's own, mostly 0", minimum=0.0
    )
    save_dtype: Literal["auto", "float32", "bfloat16", "float16"] = setting(
        "auto",
        "numbers of the weights that are saved at the end of full training; auto: those of the model that it started "
        "from, as the official models are in bfloat16; checkpoints keep the numbers that are trained",
    )
    early_stopping_patience: int | None = setting(
        None, "stop after so many evaluations without a better loss", minimum=1, metavar="N"
    )
    max_bad_rows: int = setting(
        0, "go on when up to so many rows are malformed; they are counted and left out", minimum=0, metavar="N"
    )
    protect_roles: bool = setting(
        True, "text in the data cannot spell control tokens; with no: it can, as with the official script"
    )
    preview: int = setting(
        0, "show so many examples as tokens, coloured by what is learnt, and stop", minimum=0, metavar="N"
    )
    check_memory: bool = setting(
        True, "stop before training what cannot fit into memory; with no: train it whatever happens"
    )
    cache_dir: str | None = setting(None, "where files from the hub are kept", metavar="FOLDER")
    revision: str | None = revision_setting()
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.eval_data_path is not None and self.eval_fraction > 0:
            raise SettingsError("--eval-fraction and --eval-data-path exclude each other: give one of them")
        if self.packing and self.objective == "dpo":
            raise SettingsError("--packing is for conversations and text: pairs are not packed, leave it out")
        if self.objective == "dpo" and self.dpo_beta == 0 and self.dpo_sft_weight == 0:
            raise SettingsError("--dpo-beta 0 teaches nothing: give a number above 0, such as 0.1")
        if self.quantize != "none" and not self.has_adapters:
            raise SettingsError(
                f"--quantize {self.quantize} needs --method lora or qlora: weights in few bits cannot be trained"
            )
        if not self.has_adapters:
            given = [name for name in ADAPTER_FLAGS if getattr(self, name) not in (None, False)]
            if given:
                raise SettingsError(f"{flag_name(given[0])} needs --method lora or qlora, or --use-lora")
        unknown = [name for name in self.adapter_targets if name not in ADAPTER_TARGETS]
        if unknown or not self.adapter_targets:
            found = repr(unknown[0]) if unknown else "no name"
            raise SettingsError(f"--lora-targets takes {', '.join(ADAPTER_TARGETS)} or all, with commas, got {found}")

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained, and the model's own weights stay as they are."""
        return self.use_lora or self.method in ("lora", "qlora")

    @property
    def base_quantization(self) -> Literal["none", "nf4", "int8"]:
        """Numbers of the weights under the adapters."""
        return "nf4" if self.method == "qlora" and self.quantize == "none" else self.quantize

    @property
    def adapter_targets(self) -> tuple[str, ...]:
        """The layers that get adapters, by their names inside of a decoder layer."""
        if self.lora_targets is None:
            return ("W_pack",) if self.use_lora else ADAPTER_TARGETS
        names = tuple(dict.fromkeys(name.strip() for name in self.lora_targets.split(",") if name.strip()))
        return ADAPTER_TARGETS if names == ("all",) else names
