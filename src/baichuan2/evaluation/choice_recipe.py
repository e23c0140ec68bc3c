"""How multiple-choice questions become prompts, and logits scores: what the recipes in the task files say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

__all__ = ["ChoiceRecipe", "PromptForm"]


@dataclass(frozen=True, kw_only=True)
class PromptForm:
    """The text of a prompt: `header`, then for each example `item`, `answer` and `gap`, then `item` for the question.

    In braces stand: in a header and an item `{subject}`; in an item `{question}`, `{options}`, `{passage}` (empty where
    there is none), `{passage_line}` (with a line break behind it), `{raw_options}` (as the file holds them, with spaces
    between), `{option_lines}` (with line breaks between) and `{last}`, the last letter; in an option `{letter}` and
    `{text}`; in an answer `{letter}`, or `{text}`: the option as the file holds it.

    `close`: after the last example, behind its gap. `empty`: in the place of examples where there are none.
    `strip`: whether white space around a question is left out.
    """

    header: str = ""
    item: str
    option: str = "{letter}. {text}\n"
    answer: str = "{letter}"
    gap: str = ""
    close: str = ""
    empty: str = ""
    strip: bool = False


@dataclass(frozen=True, kw_only=True)
class ChoiceRecipe:
    """How one tool, or the official scripts, ask and score the questions of one benchmark.

    `exactness`: exact: as the source computes it, letter by letter; approximation: `unknown` says what is not
    published. `order`: of the examples: as in their file, or shuffled anew for each item, by the seed.
    `form`: of the prompts; `forms`: of those of some subjects, by their names.
    `scoring`: letters: the logits of the letters at the prompt's last place, no softmax over the rest; continuation:
    the log-probability of ` A` and so on, whole, over all of the vocabulary; text: the mean loss of the whole text with
    each letter. `letters`: bare: the piece `A`; spaced: the piece with a space before it. For `scoring: letters`.
    `candidates`: for `scoring: continuation`: the letters, or the options, as the form's `answer` writes them.
    `max_tokens`: longer prompts lose examples: `drop` says which: the last one first, the longest first, or tokens from
    the left. None: no limit but the model's.
    `average`: which one the tool calls the score: macro: the mean of the subjects' accuracies; micro: of all items.
    `titles`: subjects that this recipe calls by other words than the task. `subjects`: those that it asks; None: all.
    `num_options`, `single_answer`, `only`: it asks items with so many options, one right answer, these columns alone.
    `held_out`: so many items of each subject serve as examples and are not scored, for want of a split of examples.
    `file`: where this recipe's questions lie, if not where the task's do.
    """

    exactness: Literal["exact", "approximation"]
    source: str
    unknown: str = ""
    shots: int
    order: Literal["file", "shuffled"] = "file"
    form: PromptForm
    forms: Mapping[str, PromptForm] = field(default_factory=dict)
    scoring: Literal["letters", "continuation", "text"] = "letters"
    letters: Literal["bare", "spaced"] = "bare"
    candidates: Literal["letters", "options"] = "letters"
    max_tokens: int | None = None
    drop: Literal["last", "longest", "left"] = "last"
    average: Literal["macro", "micro"] = "macro"
    titles: Mapping[str, str] = field(default_factory=dict)
    subjects: Sequence[str] | None = None
    num_options: int | None = None
    single_answer: bool = False
    only: Mapping[str, Any] = field(default_factory=dict)
    held_out: int = 0
    file: str | None = None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """The recipe that a task file holds; each of its `forms` names its `subjects`, and what differs from `form`."""
        form = PromptForm(**values["form"])
        forms = {
            subject: replace(form, **{key: value for key, value in other.items() if key != "subjects"})
            for other in values.get("forms", ())
            for subject in other["subjects"]
        }
        return cls(**{**values, "form": form, "forms": forms})

    def form_of(self, subject: str) -> PromptForm:
        """How prompts of that subject look."""
        return self.forms.get(subject, self.form)
