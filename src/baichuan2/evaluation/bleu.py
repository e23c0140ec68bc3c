"""BLEU of a whole set of translations, for each pair of languages, by sacreBLEU.

The tokenisation decides the figure, so it is named with each: `13a`, sacreBLEU's own, which takes Japanese between two
spaces for one word. That is what the published figures are in keeping with. Beside it stands BLEU over characters for
languages that put no spaces between words.
"""

import random
from collections.abc import Mapping, Sequence
from typing import Any

from baichuan2.evaluation.records import ItemRecord
from baichuan2.optional import require

__all__ = ["bleu_difference", "bleu_result"]

TOKENISATION = "13a"
UNSPACED = ("ja", "zh")  # target languages
RESAMPLES = 200


def bleu_result(records: Sequence[ItemRecord], *, seed: int) -> dict[str, Any]:
    """The fields of a result that are other than those of shares: BLEU from 0 to 100, whose mean over pairs is `score`.

    Intervals are those of 200 resamples of the sentences (95 %, drawn by `seed`). `signature` is sacreBLEU's own.

    Raises:
        MissingExtraError: sacreBLEU is not installed.
    """
    pairs: dict[str, list[ItemRecord]] = {}
    for record in records:
        pairs.setdefault(record.subject, []).append(record)
    metric = require("sacrebleu.metrics", extra="evaluate").BLEU(tokenize=TOKENISATION)
    subjects: dict[str, Mapping[str, Any]] = {}
    draws: list[list[float]] = []
    for pair, found in pairs.items():
        texts = [record.prediction or "" for record in found]
        references = [record.answer or "" for record in found]
        value = float(metric.corpus_score(texts, [references]).score)
        drawn = _resampled(metric, texts, references, f"{seed} {pair}")
        draws.append(drawn)
        subjects[pair] = {
            "items": len(found),
            "bleu": value,
            "interval": _middle(drawn),
            "tokenisation": TOKENISATION,
            **_by_characters(pair, texts, references),
        }
    score = sum(row["bleu"] for row in subjects.values()) / len(subjects)
    means = [sum(each) / len(each) for each in zip(*draws, strict=True)]
    return {
        "metric": "bleu",
        "score": score,
        "interval": _middle(means),
        "macro": score,
        "macro_interval": _middle(means),
        "tokenisation": TOKENISATION,
        "signature": str(metric.get_signature()),
        "subjects": subjects,
    }


def bleu_difference(first: Sequence[ItemRecord], second: Sequence[ItemRecord], *, seed: int) -> dict[str, Any]:
    """Two models on the same sentences, in the same order: mean BLEU of each, and the second's less the first's.

    Paired resampling (P. Koehn, 2004, EMNLP, 388-395): both are scored on the same draws of sentences. `p_value`: twice
    the share of draws in which the sign of the difference is another one; none is below 1 / 200.

    Raises:
        MissingExtraError: sacreBLEU is not installed.
    """
    metric = require("sacrebleu.metrics", extra="evaluate").BLEU(tokenize=TOKENISATION)
    pairs = dict.fromkeys(record.subject for record in first)
    scores: list[list[float]] = [[], []]
    draws: list[list[list[float]]] = [[], []]
    for pair in pairs:
        for side, records in enumerate((first, second)):
            found = [record for record in records if record.subject == pair]
            texts, references = [one.prediction or "" for one in found], [one.answer or "" for one in found]
            scores[side].append(float(metric.corpus_score(texts, [references]).score))
            draws[side].append(_resampled(metric, texts, references, f"{seed} {pair}"))
    means = [sum(values) / len(pairs) for values in scores]
    drawn = [[sum(each) / len(pairs) for each in zip(*one, strict=True)] for one in draws]
    differences = [after - before for before, after in zip(*drawn, strict=True)]
    not_above, not_below = (sum(sign * value <= 0 for value in differences) for sign in (1, -1))
    return {
        "first": means[0],
        "second": means[1],
        "difference": means[1] - means[0],
        "interval": _middle(differences),
        "p_value": min(1.0, 2 * max(1, min(not_above, not_below)) / len(differences)),
    }


def _by_characters(pair: str, texts: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    if pair.rpartition("-")[2] not in UNSPACED:
        return {}
    metric = require("sacrebleu.metrics", extra="evaluate").BLEU(tokenize="char")
    return {"bleu_characters": float(metric.corpus_score(texts, [references]).score)}


def _resampled(metric: Any, texts: Sequence[str], references: Sequence[str], seed: str) -> list[float]:
    """BLEU of as many sentences, drawn with repetition, many times; the counts of each are taken once."""
    counts = metric._extract_corpus_statistics(texts, [references])
    draw = random.Random(seed)
    places = range(len(texts))
    return [
        float(metric._aggregate_and_compute([counts[place] for place in draw.choices(places, k=len(texts))]).score)
        for _ in range(RESAMPLES)
    ]


def _middle(values: Sequence[float]) -> list[float]:
    """Between which 95 % of the values lie."""
    ordered = sorted(values)
    edge = round(0.025 * len(ordered))
    return [ordered[edge], ordered[-1 - edge]]
