"""What the first side of a comparison is asked, and what it says: the ids that the other side is asked then."""

from collections.abc import Callable
from dataclasses import dataclass

from baichuan2.bench.comparison_prompts import Prompt
from baichuan2.bench.sides import Choice, Side
from baichuan2.errors import DataError

__all__ = ["Asked", "ask_all"]


@dataclass(frozen=True)
class Asked:
    """A prompt, and what A made of it. `ids`: what both sides are asked."""

    prompt: Prompt
    text_ids: list[int]
    chat_ids: list[int] | None
    ids: list[int]
    reply: list[Choice]

    @property
    def sequence(self) -> list[int]:
        """Prompt and reply."""
        return self.ids + [choice.token_id for choice in self.reply]

    @property
    def first_counted(self) -> int:
        """The first place whose next token counts for perplexity: of plain text all do, of a conversation the reply."""
        return 0 if self.chat_ids is None else len(self.ids) - 1


def ask_all(a: Side, prompts: list[Prompt], most: int, show: Callable[[int, int], None]) -> list[Asked]:
    """What A makes of each prompt, cut so that the reply fits into the context.

    Raises:
        DataError: no prompt has a token.
    """
    most = min(most, a.context // 2)
    room = a.context - most
    asked = []
    for number, prompt in enumerate(prompts):
        show(number, len(prompts))
        text_ids = a.text_ids(prompt.text)
        chat_ids = a.chat_ids(prompt) if prompt.messages is not None else None
        ids = text_ids[:room] if chat_ids is None else chat_ids[-room:]
        if ids:
            asked.append(Asked(prompt, text_ids, chat_ids, ids, a.continuation(ids, most, a.stop_ids)))
    if not asked:
        raise DataError(f"no prompt is left: {a.name} makes no token of any of them")
    return asked
