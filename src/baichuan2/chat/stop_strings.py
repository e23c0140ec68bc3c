"""Stop strings in a text that comes piece by piece, whatever the borders of the pieces.

The automaton of Aho and Corasick (1975): one look-up a character, however many and long the strings are. Text that may
be the beginning of one is held back until the next characters tell.
"""

from collections import deque
from collections.abc import Sequence

from baichuan2.errors import SettingsError

__all__ = ["StopStrings"]


class StopStrings:
    """Gives on a text up to the first stop string.

    The first is the one that is complete first, as nothing after it was said; of several that end together the longest.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """`strings`: none of them empty; a single string counts as a list of one. Raises SettingsError."""
        if isinstance(strings, str):
            strings = [strings]
        if not isinstance(strings, Sequence):
            raise SettingsError(f"stop must be a list of strings, got {type(strings).__name__}")
        for string in strings:
            if not isinstance(string, str) or not string:
                raise SettingsError(f"a stop string must be a text of one character at least, got {string!r}")
        self._next: list[dict[str, int]] = [{}]  # of each state: the state behind a character
        self._depths = [0]  # how many characters of a stop string a state stands for
        self._matched = [0]  # length of the longest stop string that ends in it, 0: none
        self._shorter = [0]  # the state of the longest shorter ending that begins a stop string too
        for string in strings:
            self._insert(string)
        self._link()
        self._state = 0
        self._held: deque[str] = deque()  # what is not given on yet: the characters that the state stands for
        self.num_held = 0
        """How many characters are held back."""
        self.is_found = False
        """Whether the text has ended with a stop string; nothing more comes."""

    def push(self, text: str) -> str:
        """What is now known to stand before any stop string, of this piece and those before."""
        if self.is_found or not text:
            return ""
        if len(self._next) == 1:
            return text
        state = self._state
        for index, character in enumerate(text):
            state = self._step(state, character)
            length = self._matched[state]
            if length:
                self.is_found = True
                self._hold(text[: index + 1])
                before = self._take(self.num_held - length)
                self._take(length)
                return before
        self._state = state
        self._hold(text)
        return self._take(self.num_held - self._depths[state])

    def finish(self) -> str:
        """What was held back when the text ended without a stop string."""
        self._state = 0
        return self._take(self.num_held)

    def _insert(self, string: str) -> None:
        state = 0
        for character in string:
            following = self._next[state].get(character)
            if following is None:
                following = self._next[state][character] = len(self._next)
                self._next.append({})
                self._depths.append(self._depths[state] + 1)
                self._matched.append(0)
                self._shorter.append(0)
            state = following
        self._matched[state] = len(string)

    def _link(self) -> None:
        """Finds the shorter endings, state by state in the order of their depth."""
        waiting = deque(self._next[0].values())
        while waiting:
            state = waiting.popleft()
            for character, following in self._next[state].items():
                shorter = self._shorter[following] = self._step(self._shorter[state], character)
                self._matched[following] = self._matched[following] or self._matched[shorter]
                waiting.append(following)

    def _step(self, state: int, character: str) -> int:
        while True:
            following = self._next[state].get(character)
            if following is not None:
                return following
            if state == 0:
                return 0
            state = self._shorter[state]

    def _hold(self, text: str) -> None:
        self._held.append(text)
        self.num_held += len(text)

    def _take(self, count: int) -> str:
        """The first `count` of the characters that are held, which are then no more."""
        self.num_held -= count
        taken: list[str] = []
        while count:
            first = self._held.popleft()
            if len(first) > count:
                self._held.appendleft(first[count:])
                first = first[:count]
            count -= len(first)
            taken.append(first)
        return "".join(taken)
