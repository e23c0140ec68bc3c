"""Why ranking merges by score alone is exact on the official file, whose appended pieces repeat older scores.

SentencePiece joins the leftmost of equally good pairs; a merge table ranks them once for all. That is the same unless
two pieces of equal score can compete, or the order in which two neighbours are built changes what is built next.
"""

from collections import defaultdict

import pytest

from baichuan2.model.byte_pair_backend import derive_merges
from baichuan2.model.sentencepiece_file import SentencePieceFile, read_sentencepiece_file
from tests.tokenizer_files import REAL_MODEL, is_repetition, require

Splits = dict[str, list[tuple[str, str]]]


@pytest.fixture(scope="module")
def file() -> SentencePieceFile:
    return read_sentencepiece_file(require(REAL_MODEL))


@pytest.fixture(scope="module")
def scores(file: SentencePieceFile) -> dict[str, float]:
    return dict(zip(file.pieces, file.scores, strict=True))


@pytest.fixture(scope="module")
def splits(file: SentencePieceFile) -> Splits:
    result: Splits = defaultdict(list)
    for left, right in derive_merges(file):
        result[left + right].append((left, right))
    return result


def tied_pairs(splits: Splits, scores: dict[str, float]) -> list[tuple[str, str]]:
    by_score: dict[float, list[str]] = defaultdict(list)
    for piece in splits:
        by_score[scores[piece]].append(piece)
    return [(left, right) for group in by_score.values() for left in group for right in group if left != right]


def test_every_longer_piece_can_be_built(file: SentencePieceFile, splits: Splits) -> None:
    user_defined = {piece for piece, kind in zip(file.pieces, file.kinds, strict=True) if kind == 4}
    longer = {piece for piece, kind in zip(file.pieces, file.kinds, strict=True) if kind == 1 and len(piece) > 1}
    unbuilt = longer - set(splits)
    assert all(any(character in user_defined for character in piece) for piece in unbuilt)


def test_pieces_of_equal_score_never_want_the_same_symbol(splits: Splits, scores: dict[str, float]) -> None:
    pairs = tied_pairs(splits, scores)
    assert len(pairs) > 700
    for left, right in pairs:
        shared = {end for _, end in splits[left]} & {start for start, _ in splits[right]}
        assert not shared, (left, right)


def test_building_one_of_two_tied_neighbours_never_makes_something_better(
    splits: Splits, scores: dict[str, float]
) -> None:
    for left, right in tied_pairs(splits, scores):
        unions = [left + start for start, _ in splits[right]] + [end + right for _, end in splits[left]]
        assert all(scores.get(union, float("-inf")) < scores[left] for union in unions)


def test_the_leftmost_split_of_a_piece_is_ranked_first(splits: Splits) -> None:
    """`er`+`e` before `e`+`re`. Pieces that repeat a unit have no such order: their runs are tested elsewhere."""
    for piece, ways in splits.items():
        if is_repetition(piece):
            continue
        for index, early in enumerate(ways):
            assert all(late[1] != early[0] for late in ways[index + 1 :]), (piece, early)
