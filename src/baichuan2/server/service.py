"""Requests to prompts, sampling and stop ids, and into the scheduler; no HTTP is known here.

A `Service` is one loaded model with its scheduler. How replies are written down for clients: `chat_replies.py` and
`text_replies.py`.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from baichuan2 import __version__
from baichuan2.chat.messages import Message, Role
from baichuan2.chat.reply import prompt_of
from baichuan2.chat.template import render_prompt
from baichuan2.chat.writer import ReplyWriter
from baichuan2.engine.sampling import Sampling, resolve
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import ContextLengthError, OverloadedError
from baichuan2.server.problems import ApiError
from baichuan2.server.protocol import (
    ChatMessage,
    ChatRequest,
    SamplingFields,
)
from baichuan2.server.work import Work, new_mailroom
from baichuan2.settings import SamplingSettings, ServeSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel
    from baichuan2.server.deliveries import Mailroom
    from baichuan2.server.work import Delivery

__all__ = ["Plan", "Service"]

logger = logging.getLogger(__name__)
LARGEST_SEED = 2**63 - 1
SAMPLING_NAMES = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request comes down to: prompts, each continued `num_choices` times, and how."""

    prompts: Sequence[Sequence[int]]
    num_choices: int
    sampling: Sampling
    stop_strings: tuple[str, ...]


class Service:
    """A model that answers requests."""

    def __init__(
        self,
        loaded: "ReadyModel",
        settings: ServeSettings,
        sampling: SamplingSettings | None = None,
        *,
        scheduler: Scheduler,
    ) -> None:
        """`sampling`: what holds where a request says nothing; before the checkpoint's own values."""
        self.settings = settings
        self.scheduler = scheduler
        self.tokenizer = loaded.tokenizer
        self.names = names_of(settings, loaded)
        self.is_closing = False
        self._loaded = loaded
        self._sampling = sampling if sampling is not None else SamplingSettings()
        self._stop_ids = stop_ids_from(loaded.generation_config)
        self._mailroom: Mailroom[Delivery] | None = None
        context = loaded.model.config.model_max_length
        assert context is not None  # the config derives it where the file leaves it out
        self.context = context
        facts = f"{__version__} {loaded.name} {loaded.model.dtype}"
        self.fingerprint = "fp_" + hashlib.sha256(facts.encode()).hexdigest()[:10]

    # From requests to plans

    def check_model(self, name: str | None) -> str:
        """The name that the answer bears; ApiError for a model that is not served."""
        if name is None:
            return self.names[0]
        if name not in self.names:
            served = ", ".join(self.names)
            message = f"the model {name!r} is not served here: use {served}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return name

    def plan_chat(self, request: ChatRequest) -> Plan:
        """Raises ApiError, MessageError, SettingsError, and ContextLengthError for a conversation that is too long."""
        asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        sampling = self._sampling_of(request, asked, (request.top_logprobs or 0) if request.logprobs else 0)
        prompt = self.chat_prompt(request.messages, sampling)
        return Plan(
            prompts=[prompt],
            num_choices=self._num_choices(request, 1),
            sampling=sampling,
            stop_strings=_stop_strings(request.stop),
        )

    def chat_prompt(self, messages: Sequence[ChatMessage], sampling: Sampling) -> list[int]:
        """The ids of a conversation; see `plan_chat`."""
        turns = to_turns(messages)
        if self.settings.drop_oldest:
            return prompt_of(self._loaded, turns, sampling).ids
        prompt = render_prompt(self.tokenizer, turns, model_max_length=self.context, max_new_tokens=1)
        if prompt.num_dropped_messages:
            raise ContextLengthError(
                f"the conversation exceeds this model's context of {self.context} tokens: shorten it, or start the "
                "server with --drop-oldest"
            )
        return prompt.ids

    def _sampling_of(self, request: SamplingFields, max_tokens: int | None, num_top_logprobs: int) -> Sampling:
        asked = {name: getattr(request, name) for name in SAMPLING_NAMES}
        settings = replace(self._sampling, **{name: value for name, value in asked.items() if value is not None})
        sampling = resolve(settings, self._loaded.generation_config, num_top_logprobs=num_top_logprobs)
        length = sampling.max_new_tokens if max_tokens is None else max_tokens
        most = self.settings.max_reply_tokens
        return replace(
            sampling,
            max_new_tokens=length if most is None else min(length, most),
            seed=sampling.seed if request.seed is None else request.seed & LARGEST_SEED,
        )

    def _num_choices(self, request: SamplingFields, num_prompts: int) -> int:
        count = request.n or 1
        most = self.settings.max_choices
        if count * num_prompts > most:
            what = f"n={count}" if num_prompts == 1 else f"n={count} for {num_prompts} prompts"
            raise ApiError(400, f"{what} asks for more than {most} replies at once", param="n", code="invalid_value")
        return count

    # From plans to replies

    def start(self, plan: Plan) -> Work:
        """The replies, in work; raises what `Scheduler.submit` raises. To be called in the event loop."""
        if self.is_closing:
            raise OverloadedError("the server is shutting down", is_closing=True)
        if self._mailroom is None:
            self._mailroom = new_mailroom()
        requests = []
        for prompt_ids in plan.prompts:
            for number in range(plan.num_choices):
                sampling = plan.sampling
                if sampling.seed is not None:  # one seed would give the same reply n times
                    sampling = replace(sampling, seed=(sampling.seed + number) & LARGEST_SEED)
                requests.append(Request(prompt_ids=prompt_ids, sampling=sampling, stop_ids=self._stop_ids))
        return Work(
            self.scheduler,
            self._mailroom.new_box(),
            requests,
            lambda: ReplyWriter(self.tokenizer.piece_bytes, plan.stop_strings),
            num_choices=plan.num_choices,
            seconds=self.settings.request_seconds,
        )


def names_of(settings: ServeSettings, loaded: "ReadyModel") -> tuple[str, ...]:
    """What clients may call the model, the first name being the one that answers bear."""
    given = [name.strip() for name in (settings.served_model_name or "").split(",")]
    return tuple(name for name in given if name) or (loaded.name,)


def to_turns(messages: Sequence[ChatMessage]) -> list[Message]:
    """The conversation as the model knows it; several system texts at the beginning become one."""
    turns: list[Message] = []
    for index, message in enumerate(messages):
        text = text_of(message, index)
        role = "system" if message.role == "developer" else message.role
        if role == "system" and len(turns) == 1 and turns[0].role == "system" and index > 0:
            turns[0] = Message("system", f"{turns[0].content}\n{text}")
            continue
        turns.append(Message(cast("Role", role), text))
    return turns


def text_of(message: ChatMessage, index: int) -> str:
    """The text of a message; parts of it stand one after the other. ApiError for what is no text."""
    if message.content is None:
        raise ApiError(
            400, f"messages[{index}]: content is missing", param=f"messages[{index}].content", code="invalid_value"
        )
    if isinstance(message.content, str):
        return message.content
    for number, part in enumerate(message.content):
        place = f"messages[{index}].content[{number}]"
        if part.type != "text":
            text = f"{place}: this model reads text only, got a part of type {part.type[:40]!r}"
            raise ApiError(400, text, param=f"{place}.type", code="unsupported_content")
        if part.text is None:
            raise ApiError(400, f"{place}: text is missing", param=f"{place}.text", code="invalid_value")
    return "".join(part.text or "" for part in message.content)


def _stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)
