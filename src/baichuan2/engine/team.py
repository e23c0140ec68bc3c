"""How many threads compute a step: all of them, or one, where they would wait for each other longer than they compute.

A step of a small model takes a millisecond, in which threads meet at some thirty barriers. If another process has one
of the cores at that moment, all the others wait for it. What a step computes does not depend on the number of threads,
so the better way is simply found out, and tried anew now and then, as machines get busy and quiet again.
"""

from collections import defaultdict

__all__ = ["Team"]

SHORT = 0.02  # seconds; longer steps bear a wait
PROBE = 40  # every so many steps of a kind the other way is tried
MEMORY = 0.85  # of a mean, what the next measurement leaves


class Team:
    """Watches how long steps take, by about how many rows they have."""

    def __init__(self, most: int) -> None:
        """`most`: how many threads there are."""
        self._most = most
        self._means: dict[tuple[int, int], float] = {}
        self._num_steps: defaultdict[int, int] = defaultdict(int)

    def threads(self, num_rows: int) -> int:
        """How many threads the next step of so many rows gets."""
        kind = num_rows.bit_length()
        together = self._means.get((kind, self._most))
        if self._most == 1 or together is None or together > SHORT:
            return self._most
        alone = self._means.get((kind, 1))
        if alone is None:
            return 1
        better, other = (1, self._most) if alone < together else (self._most, 1)
        self._num_steps[kind] += 1
        return other if self._num_steps[kind] % PROBE == 0 else better

    def took(self, num_rows: int, threads: int, seconds: float) -> None:
        """Tells how long such a step took."""
        key = (num_rows.bit_length(), threads)
        before = self._means.get(key, seconds)
        self._means[key] = MEMORY * before + (1 - MEMORY) * seconds
