"""Which example conversations are shown, and how their replies are chosen."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import check_bounds, language_setting, setting
from baichuan2.settings.replies import SamplingSettings

__all__ = ["SHOWCASE_KINDS", "ShowcaseSettings"]

SHOWCASE_KINDS = (
    "coding",
    "maths",
    "instructions",
    "quiz",
    "knowledge",
    "translation",
    "conversation",
    "poem",
    "continuation",
    "unknown",
)
"""What an example may be of, in the order in which they are shown."""


@dataclass(frozen=True, kw_only=True)
class ShowcaseSettings:
    """Which example conversations a model is shown with."""

    kind: str | None = setting(
        None, f"only these, with commas: {', '.join(SHOWCASE_KINDS)}; not given: all that there are", metavar="KINDS"
    )
    style: Literal["auto", "chat", "base"] = setting(
        "auto", "conversations for a Chat model, or texts that a Base model continues; auto: by what the model is"
    )
    questions: Literal["auto", "official", "demo"] = setting(
        "auto", "whose questions: those for the official models, or on what the demo models were taught; auto: by model"
    )
    sample: bool = setting(
        False, "choose tokens by chance, as generation_config.json of the model says; without it the likeliest (greedy)"
    )
    seed: int = setting(0, "makes --sample repeatable", minimum=0, maximum=2**63 - 1, metavar="N")
    max_new_tokens: int = setting(512, "longest reply, in tokens", minimum=1, metavar="N")
    markdown: str | None = setting(
        None,
        "also write what was asked and answered to this new file, with model, settings, versions and speed",
        metavar="FILE",
    )
    list: bool = setting(False, "tell what is asked, and load no model")
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.kind is not None and not self.kinds:
            raise SettingsError(f"--kind names nothing: give some of {', '.join(SHOWCASE_KINDS)}, with commas")
        for name in self.kinds:
            if name not in SHOWCASE_KINDS:
                raise SettingsError(f"--kind: there is no kind {name!r}: use some of {', '.join(SHOWCASE_KINDS)}")
        if self.markdown is not None and (not self.markdown.strip() or "\0" in self.markdown):
            raise SettingsError(f"--markdown must be a file to write, got {self.markdown!r}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Those asked for, each once; empty: all."""
        return tuple(dict.fromkeys(name.strip() for name in (self.kind or "").split(",") if name.strip()))

    @property
    def sampling(self) -> SamplingSettings:
        """How replies are chosen."""
        return SamplingSettings(
            max_new_tokens=self.max_new_tokens,
            do_sample=None if self.sample else False,
            seed=self.seed if self.sample else None,
        )
