"""What LangChain's users do with a chat model, beyond the table of cases."""

import asyncio
from typing import Literal

import httpx
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from tests.server.conformance.langchain_driver import chat_model


class Trip(BaseModel):
    """A journey."""

    city: Literal["北京", "上海"]
    days: int = Field(ge=1, le=7)


@tool
def get_weather(city: Literal["北京", "上海"]) -> str:
    """The weather of a city."""
    return f"{city}：晴"


@pytest.fixture(scope="module")
def model(engine):
    return chat_model(engine, temperature=0, max_tokens=24)


def needs(engine, *features: str) -> None:
    for feature in features:
        if not engine.has(feature):
            pytest.skip(f"{feature}: {engine.lacking[feature]}")


def test_a_conversation_asked_and_streamed_both_ways(model, engine):
    needs(engine, "chat")
    messages = [SystemMessage("你是一个助手。"), HumanMessage("你好"), AIMessage("你好！"), HumanMessage("再见")]
    reply = model.invoke(messages)
    assert reply.content
    assert reply.usage_metadata["total_tokens"] > reply.usage_metadata["input_tokens"] > 0
    assert "".join(part.content for part in model.stream(messages)) == reply.content

    async def ask() -> tuple[object, str]:
        async with httpx.AsyncClient() as http:
            model = chat_model(engine, temperature=0, max_tokens=24, http_async_client=http)
            parts = [str(part.content) async for part in model.astream(messages)]
            return (await model.ainvoke(messages)).content, "".join(parts)

    assert asyncio.run(ask()) == (reply.content, reply.content)


def test_a_batch_gives_what_each_gives_alone(model, engine):
    needs(engine, "chat")
    texts = ["你好", "再见", "讲一个故事", "1加1等于几？"]
    alone = [model.invoke(text).content for text in texts]
    assert [reply.content for reply in model.batch(texts)] == alone
    assert len(set(alone)) > 1


@pytest.mark.parametrize("choice", ["any", "get_weather"])
def test_tools_are_called_and_their_results_read(model, engine, choice):
    needs(engine, "tools")
    asked = HumanMessage("北京天气怎么样？")
    caller = model.bind_tools([get_weather], tool_choice=choice, parallel_tool_calls=False).bind(max_tokens=100)
    reply = caller.invoke([asked])
    (call,) = reply.tool_calls
    assert call["name"] == "get_weather"
    assert call["args"]["city"] in ("北京", "上海")
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    assert model.invoke([asked, reply, result]).content
    parts = list(caller.stream([asked]))
    whole = sum(parts[1:], parts[0])
    assert [call["args"] for call in whole.tool_calls] == [reply.tool_calls[0]["args"]]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_is_what_was_asked_for(model, engine, method):
    needs(engine, "json_schema" if method == "json_schema" else "tools")
    asking = chat_model(engine, temperature=0, max_tokens=200).with_structured_output(Trip, method=method)
    trip = asking.invoke("我想去北京")
    assert isinstance(trip, Trip)
    assert trip.days in range(1, 8)
