"""What a model is evaluated on, by which recipe, and where the results go."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.settings.fields import check_bounds, setting


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the model is tried on, and how."""

    suite: str | None = setting(
        None,
        "what to run: names with commas, such as ceval,mmlu,cmmlu; list shows all; compare A B compares two results",
        metavar="SUITE",
        is_positional=True,
    )
    first: str | None = setting(None, "after compare: a result folder", metavar="A", is_positional=True)
    second: str | None = setting(None, "after compare: another one", metavar="B", is_positional=True)
    data: str | None = setting(
        None, "folder that holds the benchmarks as they are published, unpacked or not", metavar="DIR"
    )
    output_dir: str = setting("results", "folder for the results; a stopped run goes on there", metavar="DIR")
    recipe: Literal["official", "lm-eval", "opencompass"] = setting(
        "official", "whose prompts, letters and averages: those behind the published scores, or another tool's"
    )
    shots: int | None = setting(
        None, "examples before each question; not given: the recipe's", minimum=0, maximum=100, metavar="N"
    )
    split: str | None = setting(None, "val, test or dev; not given: the recipe's", metavar="NAME")
    subjects: str | None = setting(None, "only these subjects, with commas", metavar="NAMES")
    limit: int | None = setting(None, "only the first N items of each subject", minimum=1, metavar="N")
    seed: int = setting(0, "of what a recipe leaves to chance, such as the order of examples", minimum=0, metavar="N")
    batch_tokens: int | None = setting(
        None, "tokens that go through the model at once; not given: as suits the memory", minimum=1, metavar="N"
    )
    language: Literal["auto", "zh", "en"] = setting(
        "auto", "language of the program's own words; auto: from the locale", environment="BAICHUAN2_LANGUAGE"
    )

    def __post_init__(self) -> None:
        check_bounds(self)
