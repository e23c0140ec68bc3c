"""Messages to token ids in vLLM's front end, by our tokenizer's own rule."""

from dataclasses import replace
from typing import Any

from vllm.renderers.hf import HfRenderer
from vllm.renderers.params import ChatParams

__all__ = ["BaichuanRenderer"]


class BaichuanRenderer(HfRenderer):
    """vLLM's renderer, but never by way of a text.

    Left alone, vLLM writes a conversation as one text and tokenises that, where a message that spells
    `<reserved_106>` opens a user turn. With `tokenize=True` our tokenizer makes the ids message by message.
    """

    def render_messages(self, messages: Any, params: ChatParams) -> Any:
        """The conversation and its prompt, as token ids."""
        return super().render_messages(messages, _as_ids(params))

    async def render_messages_async(self, messages: Any, params: ChatParams) -> Any:
        """Likewise, for the server."""
        return await super().render_messages_async(messages, _as_ids(params))


def _as_ids(params: ChatParams) -> ChatParams:
    return replace(params, chat_template_kwargs={**params.chat_template_kwargs, "tokenize": True})
