"""Which two models are told apart, on what, and what counts as too far apart."""

from dataclasses import dataclass
from typing import Literal, get_args

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import (
    check_bounds,
    check_memory_setting,
    device_setting,
    flag_name,
    language_setting,
    offline_setting,
    setting,
    threads_setting,
)

__all__ = ["CompareSettings", "is_url"]

DTypeName = Literal["auto", "float32", "bfloat16", "float16"]
Numerics = Literal["exact", "official"]
CHOICES = {"dtype": get_args(DTypeName), "numerics": get_args(Numerics)}
"""What a flag may say for each of the two sides."""
SIDE_HELP = (
    "model folder, hub id (ID@REVISION), demo model, MODEL+ADAPTER, folder of a Llama or another model that "
    "transformers runs, GGUF file"
)


def is_url(name: str) -> bool:
    """Whether a side is a server."""
    return name.startswith(("http://", "https://"))


@dataclass(frozen=True, kw_only=True)
class CompareSettings:
    """Which two models are compared, and on which prompts."""

    a: str | None = setting(None, f"the reference: {SIDE_HELP}", metavar="A", is_positional=True)
    b: str | None = setting(
        None,
        "what is measured beside it: the same, or an OpenAI-compatible server such as http://localhost:8000, with "
        "#MODEL where it serves several",
        metavar="B",
        is_positional=True,
    )
    prompts: str | None = setting(
        None,
        "prompts: paragraphs between blank lines, or JSONL with a text or messages; not given: built-in ones",
        metavar="FILE",
    )
    limit: int | None = setting(None, "only so many of the prompts, the first ones", minimum=1, metavar="N")
    max_new_tokens: int = setting(
        64, "tokens that each side adds to each prompt, always the likeliest", minimum=1, maximum=4096, metavar="N"
    )
    weights: bool = setting(False, "also which tensors of the two folders differ, by name, read from the files")
    fail_above: float | None = setting(
        None,
        "exit with 1 where the mean KL divergence is above this, in nats per token; not given: every comparison that "
        "was finished exits with 0",
        minimum=0.0,
        metavar="KL",
    )
    dtype: str = setting(
        "auto",
        "number format to compute in: auto (each its own), float32, bfloat16, float16; two with a comma: of A and of B",
        metavar="NAME",
    )
    numerics: str = setting(
        "exact", "13B position bias: exact or official; two with a comma: of A and of B", metavar="NAME"
    )
    device: str = device_setting()
    threads: int | None = threads_setting()
    llama_python: str | None = setting(
        None,
        "Python interpreter that has llama-cpp-python, for GGUF files; not given: this one",
        metavar="PATH",
        environment="BAICHUAN2_LLAMA_PYTHON",
    )
    offline: bool = offline_setting()
    check_memory: bool = check_memory_setting()
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in CHOICES:
            self.sides_of(name)
        if self.a is not None and is_url(self.a):
            raise SettingsError(f"A is the reference, whose logits are needed: give the server {self.a} as B")
        if self.b is not None and is_url(self.b):
            for name in ("weights", "fail_above"):
                if getattr(self, name) not in (None, False):
                    raise SettingsError(f"{flag_name(name)} needs two models that are read here, B is a server")

    def sides_of(self, name: str) -> tuple[str, str]:
        """What `dtype` or `numerics` says for A and for B.

        Raises:
            SettingsError: it names something else, or more than two.
        """
        value = getattr(self, name)
        parts = [part.strip() for part in value.split(",")]
        if len(parts) > 2 or any(part not in CHOICES[name] for part in parts):
            raise SettingsError(
                f"{flag_name(name)} must be one of {', '.join(CHOICES[name])}, or two of them with a comma, "
                f"got {value!r}"
            )
        return parts[0], parts[-1]
