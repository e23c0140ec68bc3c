"""Many conversations answered at once, each as if it were alone."""

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import TYPE_CHECKING

from baichuan2.chat.messages import Message
from baichuan2.chat.reply import Reply, Usage, prompt_of
from baichuan2.chat.writer import ReplyPiece, ReplyWriter
from baichuan2.engine.generate import iter_batch
from baichuan2.engine.sampling import resolve
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.settings import SamplingSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import LoadedModel

__all__ = ["chat_batch"]


def chat_batch(
    loaded: "LoadedModel",
    conversations: Sequence[Sequence[Message | Mapping[str, str]]],
    sampling: SamplingSettings | None = None,
) -> list[Reply]:
    """One reply for each conversation, in their order; each is the one that `reply` gives, greedy or with that seed.

    Token counts in `usage` are each reply's own; the seconds are those of the whole batch, which all replies share.
    Raises what `reply` raises; a single bad conversation fails the whole batch before the model runs.
    """
    chosen = resolve(sampling, loaded.generation_config)
    prompts = [prompt_of(loaded, messages, chosen) for messages in conversations]
    stop_ids = stop_ids_from(loaded.generation_config)
    writers = [ReplyWriter(loaded.tokenizer.piece_bytes) for _ in prompts]
    replies: list[list[ReplyPiece]] = [[] for _ in prompts]  # a piece for each token
    seconds = [0.0, 0.0]  # prefill, decode
    started = perf_counter()
    for number, steps in enumerate(
        iter_batch(loaded.model, [prompt.ids for prompt in prompts], chosen, stop_ids=stop_ids)
    ):
        for row, writer, step in zip(replies, writers, steps, strict=True):
            if step is not None:
                row.append(writer.push(step))
        seconds[min(number, 1)] += perf_counter() - started
        started = perf_counter()
    finished = []
    for prompt, row in zip(prompts, replies, strict=True):
        usage = Usage(
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(row),
            seconds_prefill=seconds[0],
            seconds_decode=seconds[1],
            dropped_messages=prompt.num_dropped_messages,
        )
        reason = row[-1].finish_reason
        assert reason is not None  # rows end with their reason
        finished.append(Reply("".join(piece.text for piece in row), reason, usage))
    return finished
