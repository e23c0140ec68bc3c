"""LangChain's ChatOpenAI as a client: chats alone, which it tells as messages of its own."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, convert_to_messages
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.server.conformance.cases import Call
from tests.server.conformance.drivers import SECONDS, failure_of, in_kwargs
from tests.server.conformance.engine import Engine
from tests.server.conformance.outcomes import Outcome, read_answer, read_chunks


def chat_model(engine: Engine, key: str | None = None, **fields: Any) -> ChatOpenAI:
    """The chat model as its users make it."""
    told = {"model": engine.model, "max_retries": 0, "timeout": SECONDS} | fields
    return ChatOpenAI(base_url=f"{engine.url}/v1", api_key=SecretStr(key or engine.key), **told)


class LangChainDriver:
    """ChatOpenAI, told everything when it is asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with openai.OpenAI(base_url=engine.url, api_key="none") as client:
            self._create = client.chat.completions.create

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return

    def make(self, call: Call, body: Mapping[str, Any]) -> Outcome:
        """See `Driver`."""
        model = chat_model(self._engine, call.key, model=body["model"])
        told = {name: value for name, value in body.items() if name not in ("messages", "model")}
        options = in_kwargs(self._create, told)
        messages = convert_to_messages(body["messages"])
        try:
            if not call.stream:
                result = model.generate([messages], **options)
                return whole_outcome([generation.message for generation in result.generations[0]])
            chunks = []
            stream = model.stream(messages, **options)
            for chunk in stream:
                chunks.append(chunk)
                if len(chunks) == call.leave_after:
                    stream.close()
                    break
            return stream_outcome(chunks)
        except openai.APIError as error:
            return Outcome(failure=failure_of(error))


def whole_outcome(messages: Sequence[AIMessage]) -> Outcome:
    """LangChain's messages, told as OpenAI's answer."""
    facts = messages[0].response_metadata
    choices = []
    for index, message in enumerate(messages):
        assert not message.invalid_tool_calls
        calls = [
            {"id": call["id"], "function": {"name": call["name"], "arguments": json.dumps(call["args"])}}
            for call in message.tool_calls
        ]
        told = {"role": "assistant", "content": message.content, "tool_calls": calls}
        reason, logprobs = message.response_metadata["finish_reason"], message.response_metadata.get("logprobs")
        choices.append({"index": index, "message": told, "finish_reason": reason, "logprobs": logprobs})
    answer = {"id": facts["id"], "model": facts["model_name"], "choices": choices, "usage": facts["token_usage"]}
    return read_answer(answer)


def stream_outcome(messages: Sequence[AIMessageChunk]) -> Outcome:
    """LangChain's parts of a message, told as OpenAI's chunks."""
    outcome = read_chunks([])
    whole = sum(messages[1:], messages[0])
    outcome.num_chunks = len(messages)
    choice = outcome.at(0)
    choice.text = str(whole.content)
    facts = whole.response_metadata
    if "finish_reason" in facts:
        choice.finish_reasons.append(facts["finish_reason"])
        outcome.models = [facts["model_name"]]
        assert not whole.invalid_tool_calls
    choice.logprobs = (facts.get("logprobs") or {}).get("content") or []
    choice.calls = [
        {"id": call["id"], "name": call["name"], "arguments": json.dumps(call["args"])} for call in whole.tool_calls
    ]
    outcome.ids = {str(whole.id)}
    outcome.roles = ["assistant"]
    if whole.usage_metadata is not None:
        counts = whole.usage_metadata
        outcome.usage = {
            "prompt_tokens": counts["input_tokens"],
            "completion_tokens": counts["output_tokens"],
            "total_tokens": counts["total_tokens"],
        }
    return outcome
