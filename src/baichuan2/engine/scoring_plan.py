"""Which tokens the passes of a scoring run compute, and which of their places are read for what.

All prompts, with what of their candidates goes in, are sorted by their token ids. Each is then computed from where it
leaves the one before it, so that nothing which two of them begin with is computed twice: the examples of a subject, the
first of the examples where their order differs, a question before its candidates. A place is known by its number in
this order; it is read for a token that may follow it, once for each such token, whoever asks.
"""

import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from baichuan2.engine.prefix_tree import num_common

__all__ = ["Passage", "Plan", "ScoringRequest", "plan_readings"]


@dataclass(frozen=True, slots=True)
class ScoringRequest:
    """A prompt and what may follow it, as token ids; at least one of each."""

    prompt_ids: tuple[int, ...]
    candidates: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """What one pass computes: `token_ids` of `pieces`, each (places it goes on from, new ones); see `Branches`."""

    token_ids: list[int]
    pieces: list[tuple[int, int]]


@dataclass(slots=True)
class Plan:
    """The work of one run.

    A reading is the likelihood of a token at a place; readings are numbered in the order of their places.
    """

    texts: list[tuple[int, list[int]]]
    """For each text in order: how many tokens of the one before it begins with, and the new ones."""
    places: list[int]
    """The place of each reading, growing."""
    targets: list[int]
    """The token of each reading."""
    candidates: list[list[list[int]]]
    """For each request the readings of each of its candidates."""
    prompt_ends: list[int | None]
    """For each request the reading of its prompt's last token; None where prompts are not read or have one token."""
    parents: list[int | None]
    """For each reading of a prompt's token that of the token before it; None for the second token."""
    order: list[tuple[int, int]]
    """The last place that a request needs, and the request; growing."""
    longest: int
    """Places of the longest text."""

    def passages(self, most: int) -> Iterator[Passage]:
        """The passes, of `most` tokens each but the last."""
        passage = Passage([], [])
        for start, token_ids in self.texts:
            done = 0
            while done < len(token_ids):
                part = token_ids[done : done + most - len(passage.token_ids)]
                passage.token_ids.extend(part)
                passage.pieces.append((start + done, len(part)))
                done += len(part)
                if len(passage.token_ids) == most:
                    yield passage
                    passage = Passage([], [])
        if passage.token_ids:
            yield passage

    def readings(self, start: int, stop: int) -> range:
        """The readings at the places start..stop."""
        return range(bisect_left(self.places, start), bisect_left(self.places, stop))


def plan_readings(requests: Sequence[ScoringRequest], *, whole: bool, prompts: bool) -> Plan:
    """The plan that answers `requests`.

    `whole`: candidates are read whole; else their first tokens alone. `prompts`: so are the tokens of the prompts, but
    the first.
    """
    texts = sorted(
        (_key(ids), ids, index, number)
        for index, request in enumerate(requests)
        for number, ids in enumerate(_inputs(request, whole))
    )
    builder = _Builder(requests, prompts)
    for key, ids, index, number in texts:
        builder.add(key, ids, index, number if whole else None)
    return builder.finish()


def _inputs(request: ScoringRequest, whole: bool) -> Iterator[tuple[int, ...]]:
    """What goes into the model for each candidate: all tokens but the last, or the prompt for all of them."""
    if not whole:
        yield request.prompt_ids
        return
    for candidate in request.candidates:
        yield request.prompt_ids + candidate[:-1]


def _key(ids: tuple[int, ...]) -> bytes:
    """Token ids as bytes that sort like them."""
    return struct.pack(f">{len(ids)}I", *ids)


class _Builder:
    """Reads sorted texts."""

    def __init__(self, requests: Sequence[ScoringRequest], prompts: bool) -> None:
        self.requests = requests
        self.prompts = prompts
        self.texts: list[tuple[int, list[int]]] = []
        self.key = b""
        self.path: list[int] = []  # the place of each token of the text
        self.path_readings: list[int | None] = []  # of each token after the one before it, where prompts are read
        self.num_places = 0
        self.known: dict[tuple[int, int], int] = {}  # place and target -> reading
        self.parents: dict[int, int | None] = {}
        self.candidates: list[list[list[int]]] = [[[] for _ in request.candidates] for request in requests]
        self.prompt_ends: list[int | None] = [None] * len(requests)
        self.ends = [0] * len(requests)
        self.longest = 0

    def add(self, key: bytes, ids: tuple[int, ...], index: int, number: int | None) -> None:
        """The next text, of candidate `number` of a request; None: of all its candidates."""
        start = num_common(self.key, key)
        new = list(ids[start:])
        self.texts.append((start, new))
        del self.path[start:]
        self.path.extend(range(self.num_places, self.num_places + len(new)))
        self.num_places += len(new)
        self.key = key
        self.longest = max(self.longest, len(ids))
        if self.prompts:
            self._read_path(ids, start)
        prompt = self.requests[index].prompt_ids
        if self.prompts:
            self.prompt_ends[index] = self.path_readings[len(prompt) - 1]
        last = len(prompt) - 1
        for which, candidate in enumerate(self.requests[index].candidates):
            if number is None:
                self.candidates[index][which] = [self._read(self.path[last], candidate[0])]
            elif number == which:
                self.candidates[index][which] = [
                    self._read(self.path[last + depth], target) for depth, target in enumerate(candidate)
                ]
        self.ends[index] = max(self.ends[index], *(self.path[last:]))

    def _read_path(self, ids: tuple[int, ...], start: int) -> None:
        del self.path_readings[start:]
        for depth in range(start, len(ids)):
            if depth == 0:
                self.path_readings.append(None)
                continue
            reading = self._read(self.path[depth - 1], ids[depth])
            self.parents[reading] = self.path_readings[-1]
            self.path_readings.append(reading)

    def _read(self, place: int, target: int) -> int:
        return self.known.setdefault((place, target), len(self.known))

    def finish(self) -> Plan:
        """The plan, its readings numbered by their places."""
        by_place = sorted(self.known, key=lambda pair: pair[0])
        number = {self.known[pair]: position for position, pair in enumerate(by_place)}
        parents: list[int | None] = [None] * len(by_place)
        for reading, parent in self.parents.items():
            parents[number[reading]] = None if parent is None else number[parent]
        return Plan(
            texts=self.texts,
            places=[place for place, _ in by_place],
            targets=[target for _, target in by_place],
            candidates=[[[number[reading] for reading in row] for row in rows] for rows in self.candidates],
            prompt_ends=[None if reading is None else number[reading] for reading in self.prompt_ends],
            parents=parents,
            order=sorted((end, index) for index, end in enumerate(self.ends)),
            longest=self.longest,
        )
