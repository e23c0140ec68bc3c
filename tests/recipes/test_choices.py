"""The multiple-choice questions of suite `demo`: shipped as the tables give them, and fair."""

import csv
import io
from collections import Counter
from pathlib import Path

from recipes.demo.choices import NUM_EXAMPLES, SHIPPED, differences, facts, files
from recipes.demo.corpus.choices import choice_items


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_shipped_files_are_what_the_tables_give() -> None:
    assert list(differences(SHIPPED)) == []


def test_a_changed_or_added_file_is_told(tmp_path: Path) -> None:
    for name, text in files().items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode())
    (tmp_path / "test" / "antonym_test.csv").write_text("id\n")
    (tmp_path / "dev" / "more_dev.csv").write_text("id\n")
    assert sorted(differences(tmp_path)) == ["dev/more_dev.csv", "test/antonym_test.csv"]


def test_each_question_has_four_different_options_and_one_answer() -> None:
    answers = {(fact.subject, fact.stem): fact.answer for fact in facts()}
    letters = []
    for name, text in files().items():
        subject = Path(name).stem.rpartition("_")[0]
        rows = rows_of(text)
        assert len(rows) == NUM_EXAMPLES or name.startswith("test/")
        for row in rows:
            options = [row[letter] for letter in "ABCD"]
            assert len(set(options)) == 4
            assert row[row["answer"]] == answers[subject, row["question"]]
            assert row[row["answer"]] not in row["question"]
            letters += [row["answer"]] if name.startswith("test/") else []
    assert len(letters) == 399
    assert all(0.2 < letters.count(letter) / len(letters) < 0.3 for letter in "ABCD")


def test_neither_lengths_nor_being_well_known_tell_the_answer() -> None:
    alike, likelier, total = 0, 0.0, 0
    times = Counter((fact.subject, fact.answer) for fact in facts())
    for name, text in files().items():
        if not name.startswith("test/"):
            continue
        subject = Path(name).stem.rpartition("_")[0]
        for row in rows_of(text):
            options = {letter: row[letter] for letter in "ABCD"}
            alike += len({len(option) for option in options.values()}) == 1
            often = {letter: times[subject, option] for letter, option in options.items()}
            best = [letter for letter, count in often.items() if count == max(often.values())]
            likelier += (row["answer"] in best) / len(best)  # who names the one that is an answer most often
            total += 1
    assert alike > 0.95 * total
    assert 0.2 < likelier / total < 0.3


def test_none_that_the_corpus_shows_as_multiple_choice_is_asked() -> None:
    shown = {item.stem for item in choice_items() if not item.kept_back}
    asked = {row["question"] for name, text in files().items() if name.startswith("test/") for row in rows_of(text)}
    assert not {f"{question}____。" for question in asked} & shown
