"""Our side of `benchmarks/cpu.py`: the public engine in a process of its own, driven over pipes.

Not for use by hand, but for `python benchmarks/cpu_own.py --first-token FOLDER`, which prints the seconds from a fresh
interpreter to the first token. What is measured is what `baichuan2 chat` uses: `load_for_replies`, `generate_tokens`
and `iter_batch`, with their checks and the choice of each token.
"""

import time

started = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import torch  # noqa: E402
from cpu_child import serve  # noqa: E402

from baichuan2.checkpoints.load import load_for_replies  # noqa: E402
from baichuan2.engine.generate import generate_tokens, iter_batch  # noqa: E402
from baichuan2.engine.sampling import Sampling  # noqa: E402
from baichuan2.kernels import products  # noqa: E402
from baichuan2.settings import LoadSettings  # noqa: E402

imported = time.perf_counter()
ROOM = 128  # tokens that a session may decode
FIRST_PROMPT = 16  # tokens
GUESSES = 7  # of look-up, as --draft-tokens 7 asks for


def sampling(max_new_tokens: int, *, with_lookup: bool = False) -> Sampling:
    """Greedy choice; prompt look-up only where it is what is measured."""
    return Sampling(max_new_tokens=max_new_tokens, draft_tokens=GUESSES if with_lookup else 0)


class Engine:
    """One model and its sessions: iterators that have yielded their first tokens."""

    def __init__(self) -> None:
        self.model: Any = None
        self.sessions: dict[str, Iterator[Any]] = {}
        self.generator = torch.Generator().manual_seed(0)

    def load(self, path: str, threads: int) -> dict[str, Any]:
        """Reads the model; what runs."""
        start = time.perf_counter()
        self.model = load_for_replies(path, LoadSettings(device="cpu")).model
        torch.set_num_threads(threads)
        seconds = time.perf_counter() - start
        self.start("warm-up", context=4, batch=1)
        self.decode("warm-up", tokens=2)
        self.stop("warm-up")
        return {"seconds": seconds, "instructions": products.instructions(), "dtype": str(self.model.dtype)}

    def prompts(self, context: int, batch: int) -> list[list[int]]:
        """Random ids."""
        return torch.randint(300, self.model.config.vocab_size, (batch, context), generator=self.generator).tolist()

    def start(self, name: str, context: int, batch: int) -> float:
        """Seconds until each of `batch` prompts of `context` tokens has its first new token."""
        self.stop(name)
        prompts = self.prompts(context, batch)
        choice = sampling(min(ROOM, self.model.config.model_max_length - context))
        start = time.perf_counter()
        session: Iterator[Any]
        if batch == 1:
            session = generate_tokens(self.model, prompts[0], choice, stop_ids=frozenset())
        else:
            session = iter_batch(self.model, prompts, choice, stop_ids=frozenset())
        next(session)
        seconds = time.perf_counter() - start
        self.sessions[name] = session
        return seconds

    def decode(self, name: str, tokens: int) -> list[float]:
        """Seconds of each of the next `tokens` steps of a session."""
        session = self.sessions[name]
        seconds = []
        for _ in range(tokens):
            start = time.perf_counter()
            next(session)
            seconds.append(time.perf_counter() - start)
        return seconds

    def stop(self, name: str) -> None:
        """Frees a session, if there is one of that name."""
        self.sessions.pop(name, None)

    def reply(self, ids: Sequence[int], tokens: int, with_lookup: bool) -> dict[str, Any]:
        """`tokens` new ids after a prompt, and the seconds of all but the first."""
        choice = sampling(tokens, with_lookup=with_lookup)
        steps = generate_tokens(self.model, list(ids), choice, stop_ids=frozenset())
        found = [next(steps).token_id]
        start = time.perf_counter()
        found += [step.token_id for step in steps]
        return {"ids": found, "seconds": time.perf_counter() - start}

    def copy_prompt(self, tokens: int) -> list[int]:
        """Random ids and what the model says to them: greedy text of random weights soon repeats itself."""
        prompt = self.prompts(tokens, 1)[0]
        reply: list[int] = self.reply(prompt, 2 * tokens, with_lookup=False)["ids"]
        return prompt + reply

    def profile(self, name: str, tokens: int) -> dict[str, float]:
        """Seconds of a step by stage; see `cpu_profile`."""
        from cpu_profile import stages

        return stages(self.model, lambda: self.decode(name, 1), tokens)


def first_token(folder: Path) -> dict[str, float]:
    """Seconds from here to the first token of the model in `folder`, and what part of them each stage took."""
    start = time.perf_counter()
    model = load_for_replies(folder, LoadSettings(device="cpu")).model
    loaded = time.perf_counter()
    prompt = list(range(300, 300 + FIRST_PROMPT))
    next(generate_tokens(model, prompt, sampling(1), stop_ids=frozenset()))
    ended = time.perf_counter()
    return {"import": imported - started, "load": loaded - start, "first token": ended - loaded}


def main() -> None:
    if sys.argv[1:2] == ["--first-token"]:
        print(json.dumps(first_token(Path(sys.argv[2]))))
        return
    engine = Engine()
    names = ("load", "start", "decode", "stop", "copy_prompt", "reply", "profile")
    serve({name: getattr(engine, name) for name in names})


if __name__ == "__main__":
    main()
