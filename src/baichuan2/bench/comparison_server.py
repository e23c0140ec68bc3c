"""Greedy replies of a server beside those of a model here: all that can be compared where no logits are told."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan2.bench.comparison_asked import Asked
from baichuan2.bench.comparison_ids import IdsFinding, count_finding
from baichuan2.bench.comparison_replies import SHOWN, Parting, ReplyPair, is_near_tie
from baichuan2.bench.comparison_verdict import Verdict, judge_replies
from baichuan2.bench.server_client import ServedReply, Server
from baichuan2.bench.sides import Side
from baichuan2.chat.detokenizer import spelled

__all__ = ["ServedComparison", "ask_server"]

CANDIDATES = 64
"""Of A's likeliest tokens, among which the one that the server chose is looked for."""


@dataclass(frozen=True, kw_only=True)
class ServedComparison:
    """See the fields of `comparison.Comparison`."""

    text_ids: IdsFinding
    chat_ids: IdsFinding | None
    logprob_difference: float | None
    replies: tuple[ReplyPair, ...]
    verdict: Verdict


def ask_server(a: Side, asked: Sequence[Asked], server: Server, show: Callable[[int, int], None]) -> ServedComparison:
    """Asks a server to go on from A's token ids, and for the number of tokens that it makes of each prompt itself.

    Raises:
        GenerationError: the server refuses, fails, or answers something else.
    """
    texts, chats, replies = [], [], []
    differences: list[float] = []
    for number, one in enumerate(asked):
        show(number, len(asked))
        served = server.complete(one.ids, len(one.reply))
        replies.append(_pair(a, one, served))
        same = _same_tokens(a, one, served)
        pairs = zip(one.reply[:same], served.logprobs[:same], strict=True)
        differences += [abs(choice.logprob - logprob) for choice, logprob in pairs]
        if one.chat_ids is None:
            count = server.complete(one.prompt.text, 1).num_prompt_tokens if one.ids == one.text_ids else None
            texts.append((one.prompt.number, len(one.text_ids), count))
        else:
            count = server.num_chat_tokens(one.prompt.as_mappings()) if one.ids == one.chat_ids else None
            chats.append((one.prompt.number, len(one.chat_ids), count))
    difference = sum(differences) / len(differences) if differences else None
    return ServedComparison(
        text_ids=count_finding(texts),
        chat_ids=count_finding(chats) if any(count is not None for _, _, count in chats) else None,
        logprob_difference=difference,
        replies=tuple(replies),
        verdict=judge_replies([pair.parting for pair in replies], difference, number_format=a.number_format),
    )


def _same_tokens(a: Side, one: Asked, served: ServedReply) -> int:
    """How many tokens both replies begin with, as far as the server tells its tokens."""
    count = 0
    for choice, token in zip(one.reply, served.tokens, strict=False):
        if spelled(a.piece(choice.token_id)) != token:
            break
        count += 1
    return count


def _pair(a: Side, one: Asked, served: ServedReply) -> ReplyPair:
    """Both replies as texts: servers spell single tokens in many ways."""
    pieces = [a.piece(choice.token_id) for choice in one.reply if choice.token_id not in a.stop_ids]
    content = served.text.encode("utf-8", "replace")
    parting = None
    # a reply that was cut within a character ends with a mark in its place, or without it
    if b"".join(pieces).decode("utf-8", "ignore") != served.text.rstrip("\N{REPLACEMENT CHARACTER}"):
        place = length = 0
        while place < len(pieces) and content[length : length + len(pieces[place])] == pieces[place]:
            length += len(pieces[place])
            place += 1
        parting = _part(a, one, served, place, content[length:].decode("utf-8", "replace"))
    return ReplyPair(prompt=one.prompt.number, prompt_text=one.prompt.shown, num_tokens=len(one.reply), parting=parting)


def _part(a: Side, one: Asked, served: ServedReply, place: int, rest: str) -> Parting:
    logits = _logits_at(a, one, len(one.ids) - 1 + place)
    logprobs = logits.log_softmax(-1)
    a_id = one.reply[place].token_id if place < len(one.reply) else int(logits.argmax())
    told = served.tokens[place] if place < len(served.tokens) and _same_tokens(a, one, served) >= place else None
    b_id = _find(a, logits, told, rest, is_ended=not rest and served.is_ended)
    margin = None if b_id is None else (logprobs[a_id] - logprobs[b_id]).item()
    top = served.tops[place] if told is not None and place < len(served.tops) else {}
    of_a, of_b = top.get(spelled(a.piece(a_id))), None if told is None else served.logprobs[place]

    def text(start: int, stop: int) -> str:
        return b"".join(a.piece(choice.token_id) for choice in one.reply[start:stop]).decode("utf-8", "replace")

    return Parting(
        position=place,
        before=text(0, place),
        a_piece=text(place, place + 1),
        b_piece=told if told is not None else rest[:8],
        a_text=text(place, place + SHOWN),
        b_text=rest[: 4 * SHOWN],
        a_probabilities=(logprobs[a_id].exp().item(), None if b_id is None else logprobs[b_id].exp().item()),
        b_probabilities=(_exp(of_a), _exp(of_b)),
        margin=margin,
        is_near_tie=margin is not None and is_near_tie(margin, logits, a.number_format),
    )


def _logits_at(a: Side, one: Asked, place: int) -> Tensor:
    """A's logits (V,) of one place of prompt and reply."""
    first = 0
    for block in a.blocks([*one.sequence, 0]):  # the last place as well
        if place < first + len(block):
            return block[place - first].float()
        first += len(block)
    raise AssertionError(place)


def _find(a: Side, logits: Tensor, told: str | None, rest: str, *, is_ended: bool) -> int | None:
    """The id of the server's token, among A's likeliest ones: as it spells it, else as the text goes on."""
    likeliest = logits.topk(min(CANDIDATES, len(logits))).indices.tolist()
    if is_ended:
        return next((token_id for token_id in likeliest if token_id in a.stop_ids), None)
    pieces = {token_id: spelled(a.piece(token_id)) for token_id in likeliest}
    if told is not None:
        ids = a.text_ids(told)
        unlikely = ids[0] if len(ids) == 1 else None
        return next((token_id for token_id, piece in pieces.items() if piece == told), unlikely)
    # the longest piece that the text goes on with: greedy replies are mostly of such
    fitting = [token_id for token_id, piece in pieces.items() if piece and rest.startswith(piece)]
    return max(fitting, key=lambda token_id: len(pieces[token_id]), default=None)


def _exp(value: float | None) -> float | None:
    return None if value is None else torch.tensor(value).exp().item()
