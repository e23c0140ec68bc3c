"""From single conversations to the sessions real users have: several matters after each other."""

from __future__ import annotations

from random import Random

from recipes.demo.corpus.conversation import Conversation

MAX_CHARS = 420
CHAIN_SHARE = 0.4
LENGTHS = (2, 2, 2, 3, 3, 4, 5, 6, 7)


def chain(singles: list[Conversation], rng: Random) -> list[Conversation]:
    """All conversations once each, in random order; about `CHAIN_SHARE` of the results join two to seven of them.

    Conversations that only make sense at the beginning of a session are never joined to an earlier one.
    """
    queue = list(singles)
    rng.shuffle(queue)
    found: list[Conversation] = []
    while queue:
        parts = [queue.pop()]
        if rng.random() < CHAIN_SHARE:
            wanted = rng.choice(LENGTHS)
            room = MAX_CHARS - parts[0].num_chars
            while queue and len(parts) < wanted and not queue[-1].opens and queue[-1].num_chars <= room:
                room -= queue[-1].num_chars
                parts.append(queue.pop())
        turns = tuple(turn for part in parts for turn in part.turns)
        found.append(Conversation("+".join(sorted({part.task for part in parts})), turns))
    return found
