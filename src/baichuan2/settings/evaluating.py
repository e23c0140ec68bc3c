"""What a model is evaluated on, by which recipe, and where the results go."""

from dataclasses import dataclass
from typing import Literal

from baichuan2.errors import SettingsError
from baichuan2.settings.fields import check_bounds, flag_name, language_setting, setting


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """What the model is tried on, and how."""

    suite: str | None = setting(
        None,
        "what to run: names with commas, such as ceval,mmlu,cmmlu, or all; list shows them; compare A B compares two "
        "results; report A prints those in a folder again",
        metavar="SUITE",
        is_positional=True,
    )
    first: str | None = setting(None, "after compare or report: a folder of results", metavar="A", is_positional=True)
    second: str | None = setting(None, "after compare: another one", metavar="B", is_positional=True)
    data: str | None = setting(
        None,
        "folder that holds the benchmarks as they are published, unpacked or not",
        short="-d",
        metavar="DIR",
        environment="BAICHUAN2_EVALUATION_DATA",
    )
    output_dir: str | None = setting(
        None,
        "folder for the results, in which the same command goes on where it was stopped; not given: one named after "
        "model, precision and recipe, in results",
        metavar="DIR",
    )
    revisions: str | None = setting(
        None,
        "the checkpoints of one training run in place of one model, with a plot of how the scores went: a folder of "
        "checkpoint-100 ..., names with commas, or official for those on the hub",
        metavar="FOLDER_OR_LIST",
    )
    recipe: Literal["official", "lm-eval", "opencompass"] = setting(
        "official", "whose prompts, letters and averages: those behind the published scores, or another tool's"
    )
    shots: int | None = setting(
        None, "examples before each question; not given: the recipe's", minimum=0, maximum=100, metavar="N"
    )
    split: str | None = setting(None, "val, test or dev; not given: the recipe's", metavar="NAME")
    subjects: str | None = setting(None, "only these subjects, with commas", metavar="NAMES")
    limit: int | None = setting(
        None, "only the first N items of each subject; the result says that it is partial", minimum=1, metavar="N"
    )
    seed: int = setting(0, "of what a recipe leaves to chance, such as the order of examples", minimum=0, metavar="N")
    order: Literal["file", "shuffled"] | None = setting(
        None, "examples as they stand in their file, or shuffled for each item by the seed; not given: the recipe's"
    )
    letters: Literal["bare", "spaced"] | None = setting(
        None, "which tokens of A, B, C, D are compared, with a space before them or not; not given: the recipe's"
    )
    max_tokens: int | None = setting(
        None, "longer prompts lose examples; not given: the recipe's limit, if it has one", minimum=1, metavar="N"
    )
    chat_format: bool = setting(
        False, "ask as a user of a Chat model would, each prompt as one message; the official scripts do not"
    )
    batch_tokens: int | None = setting(
        None, "tokens that go through the model at once; not given: as suits the memory", minimum=1, metavar="N"
    )
    log_prompts: bool = setting(False, "write each prompt into the log of items")
    overwrite: bool = setting(False, "delete what an earlier run left in the folder, and start anew")
    force: bool = setting(False, "compare results that were not made in the same way, by the items that both hold")
    generated_code: Literal["refuse", "sandbox", "weaker"] = setting(
        "refuse",
        "programs that the model writes (humaneval, mbpp): refuse to run them; sandbox: each in a process without your "
        "files, without network, within limits; weaker: also where this machine lacks a part of that",
    )
    language: Literal["auto", "zh", "en"] = language_setting()

    def __post_init__(self) -> None:
        check_bounds(self)
        for name in ("data", "output_dir", "revisions", "split", "subjects"):
            value = getattr(self, name)
            if value is not None and not value.strip(" ,"):
                raise SettingsError(f"{flag_name(name)} is empty: give a name, or leave it out")

    @property
    def suite_names(self) -> tuple[str, ...]:
        """The suites that are asked for, each once, as they are spelled."""
        return tuple(dict.fromkeys(part.strip() for part in (self.suite or "").split(",") if part.strip()))

    @property
    def subject_names(self) -> tuple[str, ...] | None:
        """The subjects that are asked for, each once; None: all."""
        if self.subjects is None:
            return None
        return tuple(dict.fromkeys(part.strip() for part in self.subjects.split(",") if part.strip()))
