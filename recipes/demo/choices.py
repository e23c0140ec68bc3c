"""`python -m recipes.demo.choices`: the multiple-choice questions of suite `demo`, made from the facts of the tables.

Folders and files are those of C-Eval, so that the same reader takes both. Of each relation the questions are those
that the corpus never showed as multiple choice; five that it may have shown serve as examples. A question is the
beginning of a sentence, which its answer ends: what is asked for is the fact, not the knack of naming a letter. The
three wrong options are answers to other questions of the same kind, each as likely as it is an answer (欧元 is right
often, so it is wrong often), and as long as the right one, where there are enough of that length. So neither lengths
nor what is well known tell the answer. All is drawn from the questions themselves: the same on every machine.
"""

import argparse
import csv
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from recipes.demo.corpus.choices import choice_items
from recipes.demo.facts import poems, table
from recipes.demo.tasks import is_really_wrong, poem_tables

SHIPPED = Path(__file__).parents[2] / "src" / "baichuan2" / "demo" / "questions"
BLANK = "____。"
SUBJECTS = {
    "首都是": "capital_zh",
    "使用的货币是": "currency_zh",
    "的省会是": "province_capital",
    "的元素符号是": "element_symbol",
    "的原子序数是": "element_number",
    "的意思是": "idiom_meaning",
    "的反义词是": "antonym",
    "的英文是": "word_zh_en",
    "》的作者是": "poem_author",
}
NUM_EXAMPLES = 5
NUM_WRONG = 3
NEAREST = 8  # values from which the wrong ones are drawn where too few are of the right length


@dataclass(frozen=True)
class Fact:
    """The beginning of a sentence, and the text that ends it."""

    subject: str
    stem: str
    answer: str
    is_kept_back: bool


def facts() -> list[Fact]:
    """All that is asked or shown as an example, in the order of the tables."""
    found = []
    for item in choice_items():
        stem = item.stem.removesuffix(BLANK)
        subject = next(name for ending, name in SUBJECTS.items() if stem.endswith(ending))
        found.append(Fact(subject, stem, item.answer, item.kept_back))
    for row in table("countries"):
        found.append(_never_shown("capital_en", f"The capital of {row['name_en']} is ", row["capital_en"]))
    for row in poem_tables(poems())["poem_next_line_zh"]:
        found.append(_never_shown("poem_next_line", f"{row['line']}，", row["next_line"], share=15))
    times = Counter(fact.stem for fact in found)
    # 少 has two opposites, so there is no one answer; 新加坡's capital stands in the question
    return [fact for fact in found if times[fact.stem] == 1 and fact.answer not in fact.stem]


def _never_shown(subject: str, stem: str, answer: str, share: int = 5) -> Fact:
    """A fact of which the corpus makes no multiple choice; one in `share` is asked."""
    return Fact(subject, stem, answer, sum(map(ord, stem)) % share == 2)


def options_of(fact: Fact, answers: Sequence[str]) -> list[str]:
    """Four texts, the right one among them, in an order that the question decides.

    `answers`: those of all questions of the kind, as often as they are right.
    """
    draw = Random(f"{fact.subject}/{fact.stem}")
    wrong = [value for value in answers if is_really_wrong(value, fact.answer, fact.stem)]
    draw.shuffle(wrong)
    wrong = list(dict.fromkeys(wrong))  # what is an answer often comes early
    alike = [value for value in wrong if len(value) == len(fact.answer)]
    if len(alike) < NUM_WRONG:
        nearest = sorted(wrong, key=lambda value: abs(len(value) - len(fact.answer)))[:NEAREST]
        draw.shuffle(nearest)
        alike = [*alike, *(value for value in nearest if value not in alike)]
    options = [*alike[:NUM_WRONG], fact.answer]
    draw.shuffle(options)
    return options


def files() -> dict[str, str]:
    """The text of each file by its name: dev holds examples, test what is asked."""
    by_subject: dict[str, list[Fact]] = {}
    for fact in facts():
        by_subject.setdefault(fact.subject, []).append(fact)
    found = {}
    for subject, all_facts in by_subject.items():
        asked = [fact for fact in all_facts if fact.is_kept_back]
        shown = [fact for fact in all_facts if not fact.is_kept_back]
        examples = Random(subject).sample(shown, NUM_EXAMPLES)
        answers = [fact.answer for fact in all_facts]
        found[f"dev/{subject}_dev.csv"] = _table(examples, answers)
        found[f"test/{subject}_test.csv"] = _table(asked, answers)
    return found


def _table(rows: Sequence[Fact], answers: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "question", "A", "B", "C", "D", "answer"])
    for number, fact in enumerate(rows):
        options = options_of(fact, answers)
        writer.writerow([number, fact.stem, *options, "ABCD"[options.index(fact.answer)]])
    return text.getvalue()


def differences(folder: Path) -> Iterator[str]:
    """The files below `folder` that are not what the tables give."""
    wanted = files()
    present = {path.relative_to(folder).as_posix() for path in folder.glob("*/*.csv")}
    yield from sorted(present - set(wanted))
    for name, text in wanted.items():
        path = folder / name
        if not path.is_file() or path.read_bytes() != text.encode():
            yield name


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.demo.choices", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--output", type=Path, default=SHIPPED, metavar="DIR", help="where to write; the package itself"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a file differs")
    options = parser.parse_args()
    if options.check:
        different = list(differences(options.output))
        print("\n".join(different))
        return 1 if different else 0
    for name, text in files().items():
        path = options.output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
