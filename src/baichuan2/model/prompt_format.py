"""How one conversation is written down, as token ids and as a Jinja template: the two spellings stand side by side.

    [system text] {<user> text | <assistant> text}* [<assistant>]

No end token and no line break separates turns. Choosing which turns fit into the context is `chat/template.py`'s part.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from baichuan2.errors import MessageError
from baichuan2.model.special_tokens import ASSISTANT_TOKEN_ID, USER_TOKEN_ID

__all__ = ["ROLE_TOKEN_IDS", "TextEncoder", "chat_ids", "chat_template", "message_ids", "wants_reply"]

ROLE_TOKEN_IDS: Final[Mapping[str, int | None]] = {
    "system": None,  # plain text before the first turn
    "user": USER_TOKEN_ID,
    "assistant": ASSISTANT_TOKEN_ID,
}


class TextEncoder(Protocol):
    """The part of the tokenizer that prompts are made with."""

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text`, none of which is a control or role token."""


def message_ids(tokenizer: TextEncoder, role: str, content: str) -> list[int]:
    """Role token and protected content of one message. Raises MessageError for an unknown role."""
    if role not in ROLE_TOKEN_IDS:
        raise MessageError(f"role must be one of {', '.join(ROLE_TOKEN_IDS)}, got {role!r}")
    role_token_id = ROLE_TOKEN_IDS[role]
    content_ids = tokenizer.encode_text(content)
    return content_ids if role_token_id is None else [role_token_id, *content_ids]


def wants_reply(last_role: str) -> bool:
    """Whether a prompt ends with the assistant token; after an assistant message the model goes on with that one."""
    return last_role != "assistant"


def chat_ids(
    tokenizer: TextEncoder, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
) -> tuple[list[int], list[int]]:
    """Ids of all messages, and 1 for each id that the assistant wrote (its contents, not its role tokens), else 0.

    Raises MessageError for a bad role or content, or a system message that is not the first.
    """
    if not messages:
        raise MessageError("a conversation needs at least one message")
    ids: list[int] = []
    written_by_assistant: list[int] = []
    for index, message in enumerate(messages):
        role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
        if not isinstance(role, str) or not isinstance(content, str):
            raise MessageError(f"message {index} needs a role and a content, both strings, got {message!r}")
        if role == "system" and index > 0:
            raise MessageError(f"a system message must be the first one, but message {index} is one")
        turn = message_ids(tokenizer, role, content)
        ids += turn
        written_by_assistant += [0] + [1] * (len(turn) - 1) if role == "assistant" else [0] * len(turn)
    if add_generation_prompt and wants_reply(messages[-1]["role"]):
        ids.append(ASSISTANT_TOKEN_ID)
        written_by_assistant.append(0)
    return ids, written_by_assistant


def chat_template(
    user_piece: str,
    assistant_piece: str,
    *,
    before: str = "",
    text: str = "message['content']",
    marks_replies: bool = True,
) -> str:
    """The Jinja template that writes `chat_ids`'s conversation as text, with role tokens spelled as these pieces.

    `before`: what the template does first with each message; `text`: the Jinja expression of its content.
    `marks_replies`: with the generation tags, between which stands what `return_assistant_tokens_mask` marks.
    """
    user, assistant = json.dumps(user_piece, ensure_ascii=False), json.dumps(assistant_piece, ensure_ascii=False)
    reply = "{{ " + assistant + " + " + text + " }}"
    if marks_replies:
        reply = "{{ " + assistant + " }}{% generation %}{{ " + text + " }}{% endgeneration %}"
    return (
        "{%- for message in messages -%}" + before + "{%- if message['role'] == 'system' and loop.first -%}"
        "{{ " + text + " }}"
        "{%- elif message['role'] == 'user' -%}"
        "{{ " + user + " + " + text + " }}"
        "{%- elif message['role'] == 'assistant' -%}" + reply + "{%- elif message['role'] == 'system' -%}"
        "{{ raise_exception('a system message must be the first one') }}"
        "{%- else -%}"
        "{{ raise_exception('role must be one of system, user, assistant') }}"
        "{%- endif -%}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' -%}"
        "{{ " + assistant + " }}"
        "{%- endif -%}"
    )
