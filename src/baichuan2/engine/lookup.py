"""Guesses of the next tokens, looked up in the text itself: after words that stood there before, what followed them.

Prompt look-up (Saxena 2023): a passage that is copied, quoted or repeated is guessed for nothing, and one forward pass
checks all guesses at once. Only ids and counts here, no tensor; that guesses change no reply is the engine's part.
"""

from collections.abc import Sequence

__all__ = ["Drafter"]

LONGEST_KEY = 4  # tokens that are looked up at once; a longer match is found by comparing backwards
LONGEST_MATCH = 16  # a longer one is no better founded
# How often a guess is right, before anything is known, by the number of bits of the match's length: 1 token, 2 to 3,
# 4 to 7, 8 to 15, 16. In prose one or two equal tokens mean little.
FIRST_CHANCES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
WEIGHT_OF_FIRST = 2.0  # observations that they count for
MEMORY = 0.95  # what an observation still weighs after the next of its kind
LEAST_CHANCE = 0.4  # of the first guess; below, what a draft costs (about 0.2 of a pass) eats what it saves
LEAST_REACH = 0.05  # chance that a further guess is reached and right, for which one more row is worth computing


class Drafter:
    """A text while it grows, and where its recent tokens stood before.

    Every token is first guessed and then seen, whether or not a draft was asked for: so how often guesses are right is
    known without trying them on the model, and text that repeats nothing costs microseconds a token.
    """

    def __init__(self, token_ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._ends: dict[tuple[int, ...], int] = {}  # the tokens of a key -> place behind where they stood last
        self._source = 0  # place of the token that is expected next
        self._length = 0  # how many tokens before it equal the last ones of the text; 0: nothing is expected
        self._hits = [chance * WEIGHT_OF_FIRST for chance in FIRST_CHANCES]
        self._trials = [WEIGHT_OF_FIRST] * len(FIRST_CHANCES)
        for token_id in token_ids:
            self._extend(token_id)

    def append(self, token_id: int) -> None:
        """Takes the text's next token."""
        if self._length:
            kind = self._length.bit_length()
            is_hit = self._ids[self._source] == token_id
            self._hits[kind] = self._hits[kind] * MEMORY + is_hit
            self._trials[kind] = self._trials[kind] * MEMORY + 1
        self._extend(token_id)

    def draft(self, most: int) -> list[int]:
        """The next tokens as far as they are likely enough to be worth a row each, at most `most`; often none."""
        if most <= 0 or not self._length:
            return []
        kind = self._length.bit_length()
        chance = self._hits[kind] / self._trials[kind]
        if chance < LEAST_CHANCE:
            return []
        tokens: list[int] = []
        reach = 1.0
        length = self._length
        while len(tokens) < most:
            kind = min(length, LONGEST_MATCH).bit_length()
            reach *= self._hits[kind] / self._trials[kind]
            if tokens and reach < LEAST_REACH:
                break
            place = self._source + len(tokens)
            # a text that repeats itself at once runs on into what is guessed
            tokens.append(self._ids[place] if place < len(self._ids) else tokens[place - len(self._ids)])
            length += 1
        return tokens

    def _extend(self, token_id: int) -> None:
        """Adds a token, and finds what is expected after it: the copy that goes on, or a longer match."""
        ids = self._ids
        goes_on = self._length > 0 and ids[self._source] == token_id
        self._length = min(self._length + 1, LONGEST_MATCH) if goes_on else 0
        self._source += 1
        ids.append(token_id)
        end = len(ids)
        found = 0
        for length in range(min(LONGEST_KEY, end), 0, -1):
            key = tuple(ids[end - length :])
            if not found:
                found = self._ends.get(key, 0)
            self._ends[key] = end
        if found and self._length < LONGEST_MATCH:
            length = self._matching(found)
            if length > self._length:
                self._source, self._length = found, length

    def _matching(self, place: int) -> int:
        """How many tokens before `place` equal the text's last ones, up to LONGEST_MATCH."""
        ids = self._ids
        length = 1
        while length < min(LONGEST_MATCH, place) and ids[place - 1 - length] == ids[-1 - length]:
            length += 1
        return length
