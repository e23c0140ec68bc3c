"""What the clients of `benchmarks/serve.py` ask: prompts of random ids, seeded, the same for every server of a turn.

Prompts are ids, so that no server's tokenizer makes them longer than another's. All replies are greedy and of a fixed
length, by `ignore_eos`, which all servers here know; the clients count a reply of another length as failed.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_models import FIRST_ORDINARY_ID

SERVED_NAME = "bench"
PATH = "/v1/completions"
Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Lengths in tokens. Every second prompt begins with the same `system` tokens."""

    shortest: int = 32
    longest: int = 256
    system: int = 96
    reply: int = 64


def body(prompt: Sequence[int], reply_tokens: int) -> Body:
    """One request."""
    return {
        "model": SERVED_NAME,
        "prompt": list(prompt),
        "max_tokens": reply_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }


def random_ids(generator: random.Random, count: int, vocab_size: int) -> list[int]:
    """Ordinary tokens (count,)."""
    return [generator.randrange(FIRST_ORDINARY_ID, vocab_size) for _ in range(count)]


def streams(num_clients: int, num_requests: int, sizes: Sizes, vocab_size: int, seed: int) -> list[list[Body]]:
    """Requests of each client, `num_requests` in all.

    Lengths are spread evenly and shuffled, so that turns weigh the same.
    """
    generator = random.Random(seed)
    system = random_ids(generator, sizes.system, vocab_size)
    span = max(1, num_requests - 1)
    lengths = [sizes.shortest + (sizes.longest - sizes.shortest) * place // span for place in range(num_requests)]
    bodies = []
    for place, length in enumerate(lengths):
        start = system if place % 2 else []
        own = max(length - len(start), sizes.shortest // 2)
        bodies.append(body([*start, *random_ids(generator, own, vocab_size)], sizes.reply))
    generator.shuffle(bodies)
    return [bodies[client::num_clients] for client in range(num_clients)]
