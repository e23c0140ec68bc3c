"""Which checkpoint is turned into which other layout, and where that is written."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    check_bounds,
    flag_name,
    language_setting,
    offline_setting,
    parse_bytes,
    revision_setting,
    setting,
)

__all__ = ["WAYS", "ConvertSettings"]

WAYS = (
    "to-safetensors",
    "to-baichuan1",
    "to-llama",
    "to-gguf",
    "from-baichuan1",
    "from-llama",
    "merge-lora",
    "dequantize",
)
"""What `baichuan2 convert` can do, by the word that asks for it."""
WHOLE = "whole"
FOLDER_WAYS = tuple(way for way in WAYS if way not in ("to-gguf", "merge-lora"))
TAKEN_BY = {
    "container": ("to-safetensors", "to-baichuan1"),
    "shard_size": FOLDER_WAYS,
    "dtype": FOLDER_WAYS,
    "type": ("to-gguf",),
    "base": ("merge-lora",),
    "tokenizer": ("from-llama",),
}
"""Flags that mean something to some conversions only. An adapter is merged as `baichuan2 merge` does it."""


@dataclass(frozen=True, kw_only=True)
class ConvertSettings:
    """Which checkpoint is turned into what, and where to."""

    way: str | None = setting(None, f"what to do: {', '.join(WAYS)}", metavar="WAY", is_positional=True)
    source: str | None = setting(
        None,
        "model folder, hub id or demo model; for merge-lora an adapter folder",
        metavar="SOURCE",
        is_positional=True,
    )
    target: str | None = setting(
        None,
        "folder to write, which must not exist yet; for to-gguf a file that ends in .gguf",
        metavar="TARGET",
        is_positional=True,
    )
    container: Literal["safetensors", "bin"] = setting(
        "safetensors", "files of weights; bin: pytorch_model.bin as in the official folders"
    )
    shard_size: str = setting("2GB", "largest file of weights, such as 500MB or 5GB; whole: one file", metavar="SIZE")
    dtype: Literal["same", "float32", "bfloat16", "float16"] = setting(
        "same", "number format of the weights that are written; same: that of SOURCE"
    )
    type: str = setting(
        "f16",
        "to-gguf: f32, f16, bf16, q8_0, q4_0, or where llama-cpp-python is installed a k-quant such as q4_k_m",
        metavar="TYPE",
    )
    base: str | None = setting(
        None,
        "merge-lora: model with all its bits that the adapter is put into; not given: the one that it was trained on",
        metavar="PATH_OR_ID",
    )
    tokenizer: str | None = setting(
        None,
        "from-llama: whose tokenizer.model is taken; not given: the one in SOURCE",
        metavar="PATH_OR_ID",
    )
    revision: str | None = revision_setting()
    offline: bool = offline_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.way is not None and self.way not in WAYS:
            raise SettingsError(f"unknown conversion {self.way!r}{_nearest(self.way)}: use one of {', '.join(WAYS)}")
        for name, ways in TAKEN_BY.items():
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default and self.way is not None and self.way not in ways:
                raise SettingsError(f"{flag_name(name)} is for {', '.join(ways)}: {self.way} has no use for it")
        if self.shard_size != WHOLE:
            try:
                parse_bytes(self.shard_size)
            except SettingsError as error:
                raise SettingsError(f"--shard-size: {error}, or whole") from None

    def check_complete(self) -> None:
        """Raises SettingsError unless way, source and target are given."""
        for name, value in (("WAY", self.way), ("SOURCE", self.source), ("TARGET", self.target)):
            if not value:
                raise SettingsError(
                    f"{name} is missing: baichuan2 convert WAY SOURCE TARGET, WAY being one of {', '.join(WAYS)} "
                    "(see baichuan2 convert --help)"
                )

    @property
    def shard_bytes(self) -> int | None:
        """The most bytes of a file of weights; None: no limit."""
        return None if self.shard_size == WHOLE else parse_bytes(self.shard_size)


def _nearest(word: str) -> str:
    """The way that was probably meant, as a part of a sentence."""
    from difflib import get_close_matches

    found = get_close_matches(word.strip().lower().replace("_", "-"), WAYS, n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
