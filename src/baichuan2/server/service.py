"""Requests to prompts, sampling and stop ids, and into the scheduler; no HTTP is known here.

A `Service` is one loaded model with its scheduler. How replies are written down for clients: `chat_replies.py` and
`text_replies.py`.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakSet

from baichuan2 import __version__
from baichuan2.chat.grammar import GrammarConstraint
from baichuan2.chat.reply import prompt_of
from baichuan2.chat.template import render_prompt
from baichuan2.chat.tools import ToolUse, read_tool_use
from baichuan2.chat.writer import ReplyWriter
from baichuan2.engine.sampling import Sampling, resolve
from baichuan2.engine.scheduler import Request, Scheduler
from baichuan2.engine.stopping import stop_ids_from
from baichuan2.errors import ContextLengthError, SettingsError
from baichuan2.model.low_rank import NO_ADAPTER
from baichuan2.model.prompt_format import chat_ids
from baichuan2.server.conversation import turns_of
from baichuan2.server.escaping import escaped
from baichuan2.server.forms import Forms
from baichuan2.server.problems import ApiError, engine_dead
from baichuan2.server.protocol import (
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    SamplingFields,
    TokenizeRequest,
)
from baichuan2.server.work import Work, new_mailroom
from baichuan2.settings import SamplingSettings, ServeSettings

if TYPE_CHECKING:
    from baichuan2.checkpoints.load import ReadyModel
    from baichuan2.server.deliveries import Mailroom
    from baichuan2.server.work import Delivery

__all__ = ["Plan", "Service"]

logger = logging.getLogger(__name__)
NO_TOOLS = ToolUse()
LARGEST_SEED = 2**63 - 1
COMPLETION_TOKENS = 16  # OpenAI's own default for completions, short as it is
MOST_CHARACTERS = 400_000  # to cut into tokens: half a second, in which nobody else is served
MOST_DIGITS = 10  # of a token id
UNSUPPORTED = "unsupported_parameter"
REFUSED = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "audio": "this model writes text only",
    "web_search_options": "this server asks no other",
    "use_beam_search": "this server samples, or takes the most likely token",
}
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
    stop_ids: frozenset[int]
    stop_strings: tuple[str, ...]
    adapter: int = NO_ADAPTER
    """The number of the one that answers."""
    constraint: GrammarConstraint | None = None
    """The form of each reply."""
    tool_use: ToolUse = NO_TOOLS


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
        """What clients may ask for: the model, under each of its names, then the adapters beside it."""
        self._adapters = {name: number for number, name in enumerate(loaded.adapters)}
        self.is_closing = False
        self._loaded = loaded
        self._sampling = sampling if sampling is not None else SamplingSettings()
        self._stop_ids = stop_ids_from(loaded.generation_config)
        self._forms = Forms(loaded.tokenizer, self._stop_ids)
        self._works: WeakSet[Work] = WeakSet()
        self._mailroom: Mailroom[Delivery] | None = None
        context = loaded.model.config.model_max_length
        assert context is not None  # the config derives it where the file leaves it out
        self.context = context
        facts = f"{__version__} {loaded.name} {loaded.model.dtype}"
        self._vocab_size = loaded.model.config.vocab_size
        self._longest_piece = max(len(self.tokenizer.piece_bytes(token_id)) for token_id in range(len(self.tokenizer)))
        self.fingerprint = "fp_" + hashlib.sha256(facts.encode()).hexdigest()[:10]

    # From requests to plans

    def check_model(self, name: str | None) -> str:
        """The name that the answer bears; ApiError for a model that is not served."""
        if name is None:
            return self.names[0]
        if name not in self.names:
            message = f"the model {name[:80]!r} is not served here: use {', '.join(self.names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return name

    def parent_of(self, name: str) -> str | None:
        """The model that the adapter of that name stands beside; None for the model itself."""
        return self.names[0] if name in self._adapters else None

    def plan_chat(self, request: ChatRequest) -> Plan:
        """Raises ApiError, MessageError, SettingsError, and ContextLengthError for a conversation that is too long."""
        if request.top_logprobs is not None and not request.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs to be true", param="top_logprobs", code="invalid_value")
        _refuse_unsupported(request)
        asked = request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens
        sampling = self._sampling_of(request, asked, request.top_logprobs or 0)
        tool_use = tool_use_of(request)
        return Plan(
            prompts=[self.chat_prompt(request.messages, sampling, tool_use)],
            num_choices=self._num_choices(request, 1),
            sampling=sampling,
            stop_ids=frozenset() if request.ignore_eos else self._stop_ids,
            stop_strings=stop_strings_of(request.stop),
            adapter=self._adapters.get(request.model or "", NO_ADAPTER),
            constraint=self._forms.constraint(request, tool_use),
            tool_use=tool_use,
        )

    def plan_completion(self, request: CompletionRequest) -> Plan:
        """Raises as `plan_chat`."""
        _refuse_unsupported(request)
        if request.suffix:
            raise ApiError(
                400, "suffix is not supported: this model cannot fill gaps", param="suffix", code=UNSUPPORTED
            )
        if request.echo and request.logprobs is not None:
            message = "echo with logprobs is not supported: prompts get no log-probabilities"
            raise ApiError(400, message, param="logprobs", code=UNSUPPORTED)
        if request.best_of is not None and request.best_of > (request.n or 1):
            message = "best_of larger than n is not supported"
            raise ApiError(400, message, param="best_of", code=UNSUPPORTED)
        prompts = [self._completion_prompt(prompt) for prompt in prompts_of(request)]
        length = request.max_tokens
        if length is None and self._sampling.max_new_tokens is None:
            length = COMPLETION_TOKENS
        return Plan(
            prompts=prompts,
            num_choices=self._num_choices(request, len(prompts)),
            sampling=self._sampling_of(request, length, request.logprobs or 0),
            stop_ids=frozenset() if request.ignore_eos else self._stop_ids,
            stop_strings=stop_strings_of(request.stop),
            adapter=self._adapters.get(request.model or "", NO_ADAPTER),
            constraint=self._forms.constraint(request, NO_TOOLS),
        )

    def chat_prompt(
        self, messages: Sequence[ChatMessage], sampling: Sampling | None = None, tool_use: ToolUse = NO_TOOLS
    ) -> list[int]:
        """The ids of a conversation; see `plan_chat`. Without `sampling` none of it is left out, however long it is."""
        turns = turns_of(messages, tool_use)
        if sampling is None:
            messages_of = [{"role": turn.role, "content": turn.content} for turn in turns]
            return chat_ids(self.tokenizer, messages_of, add_generation_prompt=True)[0]
        if self.settings.drop_oldest:
            return prompt_of(self._loaded, turns, sampling).ids
        self._check_size(sum(len(turn.content) for turn in turns), "messages")
        prompt = render_prompt(self.tokenizer, turns, model_max_length=self.context, max_new_tokens=1)
        if prompt.num_dropped_messages:
            raise ContextLengthError(
                f"the conversation exceeds this model's context of {self.context} tokens: shorten it, or start the "
                "server with --drop-oldest"
            )
        return prompt.ids

    def token_ids(self, request: TokenizeRequest) -> list[int]:
        """The ids of a text, or of a conversation as the model gets it, however long it is."""
        text = request.prompt or ""
        num_characters = len(text) + sum(len(str(message.content)) for message in request.messages or ())
        if num_characters > MOST_CHARACTERS:
            param = "prompt" if request.messages is None else "messages"
            message = f"{param}: {num_characters} characters are more than the {MOST_CHARACTERS} that are cut at once"
            raise ApiError(400, message, param=param, code="invalid_value")
        return self.tokenizer.encode_text(text) if request.messages is None else self.chat_prompt(request.messages)

    def text_of_ids(self, ids: Sequence[int]) -> str:
        """The text of token ids; ApiError for an id that there is not."""
        self._check_ids(ids, "tokens")
        return b"".join(map(self.tokenizer.piece_bytes, ids)).decode("utf-8", "replace")

    def _completion_prompt(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, str):
            self._check_size(len(prompt), "prompt")
            prompt = self.tokenizer.encode_text(prompt)
        if not prompt:
            raise ApiError(400, "prompt: must not be empty", param="prompt", code="invalid_value")
        self._check_ids(prompt, "prompt")
        if len(prompt) >= self.context:
            message = f"the prompt has {len(prompt)} tokens, this model's context {self.context}: shorten it"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")
        return prompt

    def _check_ids(self, ids: Sequence[int], param: str) -> None:
        wrong = next((token_id for token_id in ids if token_id >= len(self.tokenizer)), None)
        if wrong is not None:
            message = (
                f"{param}: token id {str(wrong)[:20]} is outside of the vocabulary of {len(self.tokenizer)} tokens"
            )
            raise ApiError(400, message, param=param, code="invalid_value")

    def _check_size(self, num_characters: int, param: str) -> None:
        """Refuses what is too long in any spelling, before the time is spent to cut it into tokens."""
        if num_characters > self.context * self._longest_piece:
            message = f"{num_characters} characters exceed this model's context of {self.context} tokens: shorten them"
            raise ApiError(400, message, param=param, code="context_length_exceeded")

    def _sampling_of(self, request: SamplingFields, max_tokens: int | None, num_top_logprobs: int) -> Sampling:
        asked = {name: getattr(request, name) for name in SAMPLING_NAMES}
        settings = replace(self._sampling, **{name: value for name, value in asked.items() if value is not None})
        sampling = resolve(
            settings,
            self._loaded.generation_config,
            logit_bias=self._logit_bias(request.logit_bias or {}),
            num_top_logprobs=num_top_logprobs,
        )
        length = sampling.max_new_tokens if max_tokens is None else max_tokens
        most = self.settings.max_reply_tokens
        return replace(
            sampling,
            max_new_tokens=length if most is None else min(length, most),
            seed=sampling.seed if request.seed is None else request.seed & LARGEST_SEED,
        )

    def _logit_bias(self, asked: Mapping[str, float]) -> dict[int, float]:
        biases = {}
        for text, bias in asked.items():
            token_id = int(text) if text.isascii() and text.isdigit() and len(text) < MOST_DIGITS else -1
            if not 0 <= token_id < self._vocab_size:
                message = f"logit_bias: {text[:20]!r} is no token id, a whole number below {self._vocab_size}"
                raise ApiError(400, message, param="logit_bias", code="invalid_value")
            biases[token_id] = bias
        return biases

    def _num_choices(self, request: SamplingFields, num_prompts: int) -> int:
        count = request.n or 1
        most = self.settings.max_choices
        if count * num_prompts > most:
            what = f"n={count}" if num_prompts == 1 else f"n={count} for {num_prompts} prompts"
            raise ApiError(400, f"{what} asks for more than {most} replies at once", param="n", code="invalid_value")
        return count

    # From plans to replies

    def start(self, plan: Plan, client: str = "") -> Work:
        """The replies, in work; raises what `Scheduler.submit` raises. To be called in the event loop.

        `client`: whose they are, so that nobody's many requests hold up another's few.
        """
        if not self.scheduler.load().is_alive:
            raise engine_dead()
        if self._mailroom is None:
            self._mailroom = new_mailroom()
        requests = []
        for prompt_ids in plan.prompts:
            for number in range(plan.num_choices):
                sampling = plan.sampling
                if sampling.seed is not None:  # one seed would give the same reply n times
                    sampling = replace(sampling, seed=(sampling.seed + number) & LARGEST_SEED)
                requests.append(
                    Request(
                        prompt_ids=prompt_ids,
                        sampling=sampling,
                        stop_ids=plan.stop_ids,
                        constraint=None if plan.constraint is None else plan.constraint.fork(),
                        client=client,
                        adapter=plan.adapter,
                    )
                )
        work = Work(
            self.scheduler,
            self._mailroom.new_box(),
            requests,
            lambda: ReplyWriter(self.tokenizer.piece_bytes, plan.stop_strings),
            num_choices=plan.num_choices,
            seconds=self.settings.request_seconds,
            keep_texts=self.settings.log_messages,
        )
        self._works.add(work)
        return work

    def look_after_engine(self) -> None:
        """Ends what is in work if the engine has: nobody else would."""
        if len(self._works) and not self.scheduler.load().is_alive:
            for work in list(self._works):
                work.fail(engine_dead())


def names_of(settings: ServeSettings, loaded: "ReadyModel") -> tuple[str, ...]:
    """What clients may call the model, the first name being the one that answers bear, and its adapters.

    Raises SettingsError where an adapter has a name of the model.
    """
    given = [name.strip() for name in (settings.served_model_name or "").split(",")]
    names = tuple(name for name in given if name) or (loaded.name,)
    for name in loaded.adapters:
        if name in names:
            raise SettingsError(f"--adapter {name}=...: the model itself has that name: give the adapter another one")
    return (*names, *loaded.adapters)


def stop_strings_of(stop: str | list[str] | None) -> tuple[str, ...]:
    """The strings that end a reply, however they were given."""
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def prompts_of(request: CompletionRequest) -> list[str | list[int]]:
    """The prompts, one or many, each a text or token ids."""
    given = request.prompt
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [given]
    return given


def tool_use_of(request: ChatRequest) -> ToolUse:
    """The functions that a request offers. Raises SettingsError, which names the field that is wrong."""
    tools = None if request.tools is None else [tool.model_dump() for tool in request.tools]
    choice = request.tool_choice
    return read_tool_use(
        tools, choice if choice is None or isinstance(choice, str) else choice.model_dump(), request.parallel_tool_calls
    )


def _refuse_unsupported(request: SamplingFields) -> None:
    """ApiError for a known wish that would be left out in silence."""
    for name, advice in REFUSED.items():
        if (request.model_extra or {}).get(name):
            raise ApiError(400, f"{name} is not supported: {advice}", param=name, code=UNSUPPORTED)
    if request.model_extra and logger.isEnabledFor(logging.DEBUG):
        logger.debug("ignored fields: %s", ", ".join(map(escaped, request.model_extra)))
