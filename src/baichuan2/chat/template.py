"""Messages to prompt ids: which turns of a conversation fit into the context.

How one turn is written is `model/prompt_format.py`'s part. Two builders: `render` never loses text silently and
protects message contents; `render_official` reproduces the released code exactly, for comparison and compatibility.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from baichuan2.chat.messages import Message, to_messages
from baichuan2.errors import ContextLengthError, MessageError
from baichuan2.model.prompt_format import TextEncoder, message_ids, wants_reply
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID

__all__ = ["ChatTokenizer", "RenderedPrompt", "render", "render_official", "render_prompt"]


class ChatTokenizer(TextEncoder, Protocol):
    """The part of the tokenizer that the builders use."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Ids of `text`, in which special tokens are recognised."""


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt that fits, and how much of the conversation had to stay out."""

    ids: list[int]
    num_dropped_messages: int
    """Messages of the oldest rounds that are not in `ids`."""


def render(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message | Mapping[str, str]],
    *,
    model_max_length: int,
    max_new_tokens: int,
) -> list[int]:
    """Prompt ids for the next reply; `render_prompt` also says how many messages were dropped."""
    return render_prompt(tokenizer, messages, model_max_length=model_max_length, max_new_tokens=max_new_tokens).ids


def render_prompt(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message | Mapping[str, str]],
    *,
    model_max_length: int,
    max_new_tokens: int,
) -> RenderedPrompt:
    """The system text, as many of the newest rounds as fit, and the assistant token.

    A round is a user message with what follows it. Prompt and `max_new_tokens` together never exceed
    `model_max_length`; the oldest rounds are left out whole, the system text and the last round never are. Contents are
    protected: text that spells a role or control token stays text. After an assistant message no assistant token is
    added: the model continues that message.

    Raises MessageError for malformed messages and ContextLengthError when system text and last round do not fit.
    """
    checked = to_messages(messages)
    room = model_max_length - max_new_tokens
    if room <= 0:
        raise ContextLengthError(
            f"max_new_tokens={max_new_tokens} leaves no room for a prompt in a context of {model_max_length} tokens: "
            "lower max_new_tokens"
        )
    system_ids: list[int] = []
    if checked[0].role == "system":
        system_ids = message_ids(tokenizer, "system", checked[0].content)
    rounds = _split_into_rounds(message for message in checked if message.role != "system")
    ending = [ASSISTANT_TOKEN_ID] if wants_reply(checked[-1].role) else []
    budget = room - len(system_ids) - len(ending)
    history: list[int] = []
    num_kept = 0
    for turns in reversed(rounds):
        ids = [token_id for turn in turns for token_id in message_ids(tokenizer, turn.role, turn.content)]
        if num_kept and len(history) + len(ids) > budget:
            break
        history = ids + history
        num_kept += 1
    if len(history) > budget:
        raise ContextLengthError(
            f"the last round ({len(history)} tokens) with the system text ({len(system_ids)}) and room for the reply "
            f"({max_new_tokens}) exceeds the context of {model_max_length} tokens: shorten the message or lower "
            "max_new_tokens"
        )
    num_dropped = sum(len(turns) for turns in rounds[: len(rounds) - num_kept])
    return RenderedPrompt(ids=system_ids + history + ending, num_dropped_messages=num_dropped)


def _split_into_rounds(messages: Iterable[Message]) -> list[list[Message]]:
    """Rounds in order; messages before the first user message form one of their own."""
    rounds: list[list[Message]] = []
    for message in messages:
        if not rounds or message.role == "user":
            rounds.append([])
        rounds[-1].append(message)
    return rounds


def render_official(
    tokenizer: ChatTokenizer,
    messages: Sequence[Message | Mapping[str, str]],
    *,
    model_max_length: int,
    max_new_tokens: int,
    protect: bool = False,
) -> list[int]:
    """Prompt ids exactly as the released code builds them.

    That is: any role but system and user counts as the assistant; a prompt that is too long loses its beginning, the
    system text first; and unless `protect` is true a content that spells a control or role token becomes that token.
    `max_new_tokens >= model_max_length` gives what the released code's slicing gives, not a useful prompt.

    Raises MessageError where the released code fails: no messages, messages of another form, or a system message that
    is not the first.
    """
    if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
        raise MessageError(f"messages must be a list of messages, got {type(messages).__name__}")
    turns = [_role_and_content(index, message) for index, message in enumerate(messages)]
    if not turns:
        raise MessageError("messages must hold at least one message")
    if any(role == "system" for role, _ in turns[1:]):
        raise MessageError("a system message must be the first message")

    def encode(text: str) -> list[int]:
        return tokenizer.encode_text(text) if protect else tokenizer.encode(text, add_special_tokens=False)

    limit = model_max_length - max_new_tokens
    system_ids = encode(turns[0][1]) if turns[0][0] == "system" else []
    rounds: list[list[int]] = []
    for role, content in turns:
        if role == "system":
            continue
        if not rounds or role == "user":
            rounds.append([])
        rounds[-1] += [USER_TOKEN_ID if role == "user" else ASSISTANT_TOKEN_ID, *encode(content)]

    budget = limit - len(system_ids)
    history: list[int] = []
    for ids in reversed(rounds):
        if history and len(history) + len(ids) > budget:
            break
        history = ids + history
        if len(history) >= budget:
            break
    prompt = system_ids + history
    if wants_reply(turns[-1][0]):
        prompt.append(ASSISTANT_TOKEN_ID)
    return prompt[-limit:]


def _role_and_content(index: int, message: Message | Mapping[str, str]) -> tuple[str, str]:
    """Role and content of a message, whatever the role; raises MessageError for one that lacks either."""
    if isinstance(message, Message):
        return message.role, message.content
    if not isinstance(message, Mapping):
        raise MessageError(f"messages[{index}]: must be a message with role and content, got {type(message).__name__}")
    for name in ("role", "content"):
        if name not in message:
            raise MessageError(f"messages[{index}]: {name} is missing")
    if not isinstance(message["content"], str):
        raise MessageError(f"messages[{index}]: content must be a string, got {type(message['content']).__name__}")
    return message["role"], message["content"]
