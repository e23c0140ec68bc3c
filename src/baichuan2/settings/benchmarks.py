"""What is measured, in which precisions, how long, and where the figures go."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    check_bounds,
    device_setting,
    language_setting,
    offline_setting,
    revision_setting,
    setting,
    threads_setting,
)

PRECISIONS = ("stored", "16", "int8", "int4", "nf4")


@dataclass(frozen=True, kw_only=True)
class BenchmarkSettings:
    """Which model is measured, and how."""

    model: str | None = setting(
        None,
        "model folder, hub id or demo model; without it, and without --shape, the embedded demo model",
        metavar="MODEL",
        environment="BAICHUAN2_MODEL",
        is_positional=True,
    )
    shape: Literal["7b", "13b"] | None = setting(
        None, "in place of a MODEL: random weights in a released shape; speed and memory do not depend on the values"
    )
    layers: int | None = setting(
        None, "of --shape: only so many layers, for a machine that the whole does not fit", minimum=1, metavar="N"
    )
    precisions: str | None = setting(
        None,
        f"with commas, of {', '.join(PRECISIONS)}; not given: as stored, with --shape 16,int8,int4",
        metavar="NAMES",
    )
    device: str = device_setting()
    prompt_tokens: int = setting(128, "of the prompt, random ids", minimum=1, metavar="N")
    new_tokens: int = setting(64, "decoded after the first one in each turn", minimum=1, metavar="N")
    batch: int = setting(1, "sequences at once", minimum=1, maximum=1024, metavar="N")
    turns: int = setting(3, "of each precision and of the LLaMA, in alternation", minimum=1, maximum=100, metavar="N")
    llama: Literal["16", "float32", "none"] = setting(
        "16", "numbers of the LLaMA of equal size that is measured beside it (by transformers, random weights)"
    )
    threads: int | None = threads_setting()
    scratch: str | None = setting(
        None, "folder for models that are made and removed again; not given: the system's temporary one", metavar="DIR"
    )
    output_dir: str = setting("results/bench", "folder for bench.json and bench.md", metavar="DIR")
    revision: str | None = revision_setting()
    offline: bool = offline_setting()
    check_memory: bool = setting(
        True, "stop before anything is made where a precision does not fit into memory; with no: try whatever happens"
    )
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.layers is not None and self.shape is None:
            raise SettingsError(f"--layers {self.layers} works with --shape only: a MODEL is measured whole")
        names = self.wanted
        unknown = next((name for name in names if name not in PRECISIONS), None)
        if unknown is not None or not names or len(set(names)) < len(names):
            raise SettingsError(
                f"--precisions must name each of {', '.join(PRECISIONS)} at most once, with commas, got "
                f"{self.precisions!r}"
            )
        if self.shape is not None and "stored" in names:
            raise SettingsError("--precisions stored: nothing is stored of a --shape: use 16, int8, int4 or nf4")

    @property
    def wanted(self) -> tuple[str, ...]:
        """The precisions that were asked for, in their order."""
        if self.precisions is None:
            return ("stored",) if self.shape is None else ("16", "int8", "int4")
        return tuple(name.strip() for name in self.precisions.split(","))
