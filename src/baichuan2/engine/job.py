"""One request while it is in the hands of the scheduler."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from baichuan2.engine.batch import Held
from baichuan2.engine.chooser import Choice, Chooser
from baichuan2.engine.constraint import Constraint
from baichuan2.engine.generate import TokenStep
from baichuan2.engine.lookup import Drafter
from baichuan2.engine.sampling import Sampling
from baichuan2.engine.stopping import FinishReason
from baichuan2.errors import BaichuanError
from baichuan2.model.low_rank import NO_ADAPTER

__all__ = ["Job", "Request"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt to continue, and how; see `generate_tokens`.

    `client`: whose it is, so that nobody's many requests hold up another's few. `adapter`: the number of the one that
    answers, of those beside the model's weights (`model.low_rank`).
    """

    prompt_ids: Sequence[int]
    sampling: Sampling
    stop_ids: frozenset[int]
    constraint: Constraint | None = None
    client: str = ""
    adapter: int = NO_ADAPTER


class Job:
    """The tokens so far, how the next is chosen, and where keys and values are; `token_ids`: prompt and reply."""

    def __init__(
        self, request: Request, deliver: Callable[[TokenStep | BaichuanError], None], number: int, context: float
    ) -> None:
        """`number` tells the order of coming; `context`: how many tokens prompt and reply may have together."""
        self.request = request
        self._deliver = deliver
        self.number = number
        self.token_ids = list(request.prompt_ids)
        self.held: Held | None = None
        self.num_reused = 0
        self.was_preempted = False
        self.num_passed_over = 0
        """Steps since it was last in one."""
        self.is_cancelled = self.is_done = False
        self._limit = min(request.sampling.max_new_tokens, context - len(self.token_ids))
        self._chooser: Chooser | None = None
        self._drafter: Drafter | None = None

    @property
    def num_pending(self) -> int:
        """Tokens that are known and whose keys and values are not."""
        return len(self.token_ids) - (0 if self.held is None else self.held.num_tokens)

    @property
    def num_new(self) -> int:
        """Tokens of the reply so far."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    def chooser(self, device: torch.device) -> Chooser:
        """What chooses its tokens, by logits on that device."""
        if self._chooser is None:
            self._chooser = Chooser(self.request.sampling, self.request.prompt_ids, device, self.request.constraint)
        return self._chooser

    def begins_like(self, other: "Job", num_tokens: int) -> bool:
        """Whether both texts begin with the same `num_tokens` tokens for the same adapter, and this one goes on."""
        mine, others = self.token_ids, other.token_ids
        if self.request.adapter != other.request.adapter:
            return False
        return num_tokens < len(mine) and num_tokens <= len(others) and mine[:num_tokens] == others[:num_tokens]

    def draft(self, most: int) -> list[int]:
        """Guesses of the tokens after the next one, at most so many, where the request wants them."""
        most = min(most, self.request.sampling.draft_tokens or 0, int(self._limit) - self.num_new - 1)
        if most <= 0 or self.request.constraint is not None:
            return []
        if self._drafter is None:
            self._drafter = Drafter(self.token_ids)
        return self._drafter.draft(most)

    def take(self, choice: Choice) -> None:
        """Goes on with a token that was chosen, and delivers it."""
        token_id = choice.token_id
        self.token_ids.append(token_id)
        if self._drafter is not None:
            self._drafter.append(token_id)
        reason: FinishReason | None = None
        if token_id in self.request.stop_ids:
            reason = "stop"
        elif self.num_new >= self._limit:
            reason = "length"
        if reason is not None:
            self.is_done = True
        self._hand_over(TokenStep(token_id, reason, choice.logprob, choice.top_logprobs))

    def fail(self, error: BaichuanError) -> None:
        """Ends the request with an error; what a step in work may still bring is not delivered."""
        if not self.is_done:
            self.is_done = True
            self._hand_over(error)
            self.is_cancelled = True

    def _hand_over(self, item: TokenStep | BaichuanError) -> None:
        """Calls whoever gets the tokens; one who cannot take them is one who has left."""
        if self.is_cancelled:
            return
        try:
            self._deliver(item)
        except Exception:
            logger.exception("a token could not be delivered")
            self.is_cancelled = True
