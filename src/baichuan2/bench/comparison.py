"""`baichuan2 compare`: two models on the same prompts, and what tells them apart.

A goes first: its ids of every prompt, its greedy continuations, its logits of prompts and continuations, which are kept
on disk. Then it leaves the memory, and B is asked the same of A's ids.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from baichuan2.bench.comparison_asked import Asked, ask_all
from baichuan2.bench.comparison_ids import IdsFinding, compare_ids
from baichuan2.bench.comparison_prompts import Prompt, read_prompts
from baichuan2.bench.comparison_replies import ReplyPair, pair_replies, parting_of
from baichuan2.bench.comparison_server import ServedComparison, ask_server
from baichuan2.bench.comparison_verdict import Verdict, coarser, judge
from baichuan2.bench.logit_differences import LogitDifferences, LogitMeter
from baichuan2.bench.quality import Quality, QualityMeter
from baichuan2.bench.server_client import Server
from baichuan2.bench.sides import Choice, Found, Side, check_sides, check_vocabulary, find_side, open_side
from baichuan2.bench.stored_logits import StoredLogits
from baichuan2.bench.weight_differences import WeightDifferences, compare_weights
from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.settings import CompareSettings
from baichuan2.settings.comparing import is_url

__all__ = ["Comparison", "SideFacts", "Stage", "compare"]

Stage = Callable[[str, str], AbstractContextManager[Callable[[int, int], None]]]
"""Called with the name of a side and "load", "reply" or "read"; gives what is told how much of it is done."""


@dataclass(frozen=True, kw_only=True)
class SideFacts:
    """What a side is; see `sides.Side`."""

    name: str
    program: str
    number_format: str
    stored_as: str | None
    sampling: dict[str, float | bool]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was found.

    `text_ids` and `chat_ids`: of tokenizer and chat format, None where a side has none. `quality`, `differences`: of
    the logits, on the prompts and on A's replies to them; None where B is a server. `logprob_difference`: mean absolute
    difference of the log-probabilities of the tokens that count for `quality`, of a server of those that both replies
    begin with. `weights`: of the files, where that was asked for.
    """

    a: SideFacts
    b: SideFacts
    text_ids: IdsFinding
    chat_ids: IdsFinding | None
    quality: Quality | None
    differences: LogitDifferences | None
    logprob_difference: float | None
    replies: tuple[ReplyPair, ...]
    verdict: Verdict
    weights: WeightDifferences | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for what is no finite number."""
        written: dict[str, Any] = _plain(asdict(self))
        return {**written, "sampling_differences": _plain(self.sampling_differences)}

    @property
    def sampling_differences(self) -> dict[str, tuple[Any, Any]]:
        """Values of generation_config.json in which the sides differ, those of A and of B; greedy choices heed none."""
        names = [name for name in self.a.sampling if name in self.b.sampling]
        pairs = {name: (self.a.sampling[name], self.b.sampling[name]) for name in names}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _plain(value: Any) -> Any:
    """`value` with None in place of numbers that are not finite, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def _silent(name: str, kind: str) -> Iterator[Callable[[int, int], None]]:
    del name, kind
    yield lambda *_: None


def compare(settings: CompareSettings, *, stage: Stage = _silent) -> Comparison:
    """B of `settings` beside A.

    Raises:
        SettingsError: A or B is not given, or a flag does not go with them.
        CheckpointError: a model cannot be read, the vocabularies differ, or the disk has no room for the logits.
        DataError: the prompts cannot be read.
        TokenizerError, MissingExtraError, GenerationError: as loading and running a model does.
    """
    if not settings.a or not settings.b:
        missing = "A" if not settings.a else "B"
        raise SettingsError(f"{missing} is missing: baichuan2 compare A B (see baichuan2 compare --help)")
    prompts = read_prompts(settings.prompts, settings.limit)
    found_a = find_side(settings.a, offline=settings.offline)
    if is_url(settings.b):
        server = Server(settings.b)  # whether it is there is told before anything long begins
        with contextlib.closing(_open(found_a, settings, stage)) as a:
            asked = _ask(a, prompts, settings, stage)
            with stage(settings.b, "reply") as show:
                return _with_server(a, ask_server(a, asked, server, show), server)
    found_b = find_side(settings.b, offline=settings.offline)
    check_sides(found_a, found_b, settings)
    weights = None
    if settings.weights:
        with stage(found_b.name, "weights") as show:
            weights = compare_weights(found_a.folder, found_b.folder, show)
    return replace(_two_models(found_a, found_b, settings, prompts, stage), weights=weights)


def _two_models(
    found_a: Found, found_b: Found, settings: CompareSettings, prompts: list[Prompt], stage: Stage
) -> Comparison:
    with contextlib.ExitStack() as stack:
        with contextlib.closing(_open(found_a, settings, stage)) as a:
            asked = _ask(a, prompts, settings, stage)
            stored = stack.enter_context(StoredLogits(sum(len(one.sequence) - 1 for one in asked), a.vocab_size))
            with stage(a.name, "read") as show:
                _read(a, asked, stored, show)
            facts, lengths, stop_ids = _facts_of(a), a.head_lengths(), a.stop_ids
            pieces = {token_id: a.piece(token_id) for one in asked for token_id in (*one.text_ids, *one.sequence)}
        b = stack.enter_context(contextlib.closing(_open(found_b, settings, stage, is_b=True)))
        check_vocabulary(found_a.name, stored.vocab_size, found_b.name, b.vocab_size)
        beside = _Beside(b, asked, stored, pieces)
        with stage(b.name, "reply") as show:
            beside.reply(stop_ids, show)
        with stage(b.name, "read") as show:
            beside.read(show)
        return beside.result(facts, lengths)


def _read(a: Side, asked: list[Asked], stored: StoredLogits, show: Callable[[int, int], None]) -> None:
    for number, one in enumerate(asked):
        show(number, len(asked))
        for block in a.blocks(one.sequence):
            stored.add(block)


def _open(found: Found, settings: CompareSettings, stage: Stage, *, is_b: bool = False) -> Side:
    with stage(found.name, "load"):
        return open_side(found, settings, is_b=is_b)


def _ask(a: Side, prompts: list[Prompt], settings: CompareSettings, stage: Stage) -> list[Asked]:
    with stage(a.name, "reply") as show:
        return ask_all(a, prompts, settings.max_new_tokens, show)


def _with_server(a: Side, served: ServedComparison, server: Server) -> Comparison:
    return Comparison(
        a=_facts_of(a),
        b=SideFacts(name=server.url, program="server", number_format="unknown", stored_as=None, sampling={}),
        text_ids=served.text_ids,
        chat_ids=served.chat_ids,
        quality=None,
        differences=None,
        logprob_difference=served.logprob_difference,
        replies=served.replies,
        verdict=served.verdict,
    )


def _facts_of(side: Side) -> SideFacts:
    return SideFacts(
        name=side.name,
        program=side.program,
        number_format=side.number_format,
        stored_as=side.stored_as,
        sampling=side.sampling_defaults(),
    )


class _Beside:
    """B, asked what A was asked."""

    def __init__(self, b: Side, asked: list[Asked], stored: StoredLogits, pieces: dict[int, bytes]) -> None:
        self._b, self._asked, self._stored, self._pieces = b, asked, stored, pieces
        self._replies: list[list[Choice]] = []
        self._quality, self._logits = QualityMeter(), LogitMeter(stored.vocab_size)
        self._turns: list[tuple[Tensor, Tensor] | None] = []  # logits (V,) of both where replies part

    def reply(self, stop_ids: frozenset[int], show: Callable[[int, int], None]) -> None:
        """Lets B go on from A's ids of each prompt."""
        for number, one in enumerate(self._asked):
            show(number, len(self._asked))
            if len(one.sequence) > self._b.context:
                raise ContextLengthError(
                    f"prompt {one.prompt.number} and its reply have {len(one.sequence)} tokens, {self._b.name} takes "
                    f"{self._b.context}: give shorter --prompts, or a lower --max-new-tokens"
                )
            self._replies.append(self._b.continuation(one.ids, len(one.reply), stop_ids))

    def read(self, show: Callable[[int, int], None]) -> None:
        """Logits of B on prompts and A's replies, beside those of A."""
        row = 0
        for number, (one, reply) in enumerate(zip(self._asked, self._replies, strict=True)):
            show(number, len(self._asked))
            sequence = torch.tensor(one.sequence)
            parting = parting_of(one.reply, reply)
            turn_place = None if parting is None else len(one.ids) - 1 + parting
            turn, place = None, 0
            for block in self._b.blocks(one.sequence):
                expected = self._stored.read(row + place, len(block))
                positions = torch.arange(place, place + len(block))
                self._logits.add(expected, block, positions)
                first = max(0, one.first_counted - place)
                self._quality.add(expected[first:], block[first:], sequence[1:][positions[first:]])
                if turn_place is not None and place <= turn_place < place + len(block):
                    turn = (expected[turn_place - place].float(), block[turn_place - place].float())
                place += len(block)
            assert place == len(sequence) - 1
            self._quality.add_groups([place - one.first_counted])
            self._turns.append(turn)
            row += place

    def result(self, a: SideFacts, lengths: Tensor | None) -> Comparison:
        """Everything, summed up."""
        b = self._b
        quality = self._quality.result()
        differences = self._logits.result(lengths if lengths is not None else b.head_lengths())
        logprobs = self._quality.logprobs_of_targets()
        text_pairs, chat_pairs = [], []
        for one in self._asked:
            prompt = one.prompt
            text_pairs.append((prompt.number, one.text_ids, b.text_ids(prompt.text)))
            chat_ids = b.chat_ids(prompt) if one.chat_ids is not None else None
            if one.chat_ids is not None and chat_ids is not None:
                chat_pairs.append((prompt.number, one.chat_ids, chat_ids))
        facts = _facts_of(b)
        few_bits = tuple(side.stored_as for side in (a, facts) if side.stored_as is not None)
        coarsest = coarser(a.number_format, facts.number_format)
        replies = [
            pair_replies(one.prompt, (one.reply, reply), turn, self._piece, number_format=coarsest)
            for one, reply, turn in zip(self._asked, self._replies, self._turns, strict=True)
        ]
        partings = [pair.parting for pair in replies if pair.parting is not None]
        verdict = judge(differences, quality, partings, number_format=coarsest, few_bits=few_bits)
        return Comparison(
            a=a,
            b=facts,
            text_ids=compare_ids(text_pairs, self._piece, b.piece),
            chat_ids=compare_ids(chat_pairs, self._piece, b.piece) if chat_pairs else None,
            quality=quality,
            differences=differences,
            logprob_difference=(logprobs[0] - logprobs[1]).abs().mean().item(),
            replies=tuple(replies),
            verdict=verdict,
        )

    def _piece(self, token_id: int) -> bytes:
        """A's spelling of a token; B's of one that A never used."""
        return self._pieces.get(token_id) or self._b.piece(token_id)
