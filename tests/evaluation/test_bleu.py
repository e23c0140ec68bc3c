"""BLEU of sets of translations: sacreBLEU's own figures, pair by pair."""

import pytest
import sacrebleu

from baichuan2.evaluation.bleu import bleu_result
from baichuan2.evaluation.records import ItemRecord


def record(pair, number, prediction, answer):
    return ItemRecord(
        subject=pair,
        number=str(number),
        is_right=None,
        answer=answer,
        prediction=prediction,
        prompt_tokens=1,
        shots=8,
        prompt_sha256="",
    )


ENGLISH = [
    ("The train leaves at nine in the morning.", "The train leaves at nine tomorrow morning."),
    ("She put the book on the table.", "She put the book on the table."),
    ("", "The library is closed on Mondays."),
]
JAPANESE = [
    ("列車は明日の朝九時に出発です。", "列車は明日の朝九時に出発します。"),
    ("彼女は本を読む。", "彼女は本を机の上に置きました。"),
]
RECORDS = [record("zh-en", number, *texts) for number, texts in enumerate(ENGLISH)]
RECORDS += [record("zh-ja", number, *texts) for number, texts in enumerate(JAPANESE)]


def test_each_pair_has_the_figure_that_sacrebleu_gives_and_the_score_is_their_mean():
    result = bleu_result(RECORDS, seed=0)
    expected = {}
    for pair, texts in (("zh-en", ENGLISH), ("zh-ja", JAPANESE)):
        said, right = zip(*texts, strict=True)
        expected[pair] = sacrebleu.corpus_bleu(list(said), [list(right)]).score
        row = result["subjects"][pair]
        assert row["bleu"] == expected[pair]
        assert (row["items"], row["tokenisation"]) == (len(texts), "13a")
        assert row["interval"][0] <= row["bleu"] <= row["interval"][1]
    assert result["score"] == pytest.approx(sum(expected.values()) / 2)
    assert (result["metric"], result["tokenisation"]) == ("bleu", "13a")
    assert "tok:13a" in result["signature"]


def test_japanese_by_characters_stands_beside_the_figure_without_words():
    said, right = zip(*JAPANESE, strict=True)
    row = bleu_result(RECORDS, seed=0)["subjects"]["zh-ja"]
    assert row["bleu_characters"] == sacrebleu.corpus_bleu(list(said), [list(right)], tokenize="char").score
    assert row["bleu"] < row["bleu_characters"]
    assert "bleu_characters" not in bleu_result(RECORDS, seed=0)["subjects"]["zh-en"]


def test_intervals_are_those_of_the_seed():
    assert bleu_result(RECORDS, seed=1) == bleu_result(RECORDS, seed=1)
    other = [bleu_result(RECORDS, seed=seed)["interval"] for seed in range(3)]
    assert len({tuple(interval) for interval in other}) > 1
    assert bleu_result(RECORDS[:1], seed=0)["interval"][0] == bleu_result(RECORDS[:1], seed=0)["score"]
