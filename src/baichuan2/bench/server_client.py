"""An OpenAI-compatible server as side B of a comparison: what `/v1/completions` tells of greedy replies.

Standard library only. What a server sends is not trusted: it is bounded, and every field is looked at.
"""

import http.client
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from baichuan2.chat.detokenizer import spelled
from baichuan2.errors import CheckpointError, GenerationError

__all__ = ["ServedReply", "Server"]

LARGEST_ANSWER = 1 << 26
KEY_VARIABLES = ("OPENAI_API_KEY", "BAICHUAN2_API_KEY")
CONNECT_SECONDS, REPLY_SECONDS = 10, 600


@dataclass(frozen=True)
class ServedReply:
    """A reply as a server tells it.

    `tokens`, `logprobs`: one for each token, empty where the server tells none. `tops`: the likeliest tokens at each
    place and their log-probabilities. `num_prompt_tokens`: as the server counts them; None where it does not.
    """

    text: str
    is_ended: bool
    tokens: tuple[str, ...]
    logprobs: tuple[float, ...]
    tops: tuple[Mapping[str, float], ...]
    num_prompt_tokens: int | None


class Server:
    """Asks one server for one model."""

    def __init__(self, url: str) -> None:
        """`url`: `http://host:port`, with `/v1` or without, and `#MODEL` where it serves several.

        Raises:
            CheckpointError: it cannot be reached, or names no model.
        """
        address, _, model = url.partition("#")
        self.url = address.rstrip("/").removesuffix("/v1")
        first = self._first_model()
        if not (model or first):
            raise CheckpointError(f"{self.url} names no model: write {self.url}#MODEL")
        self.model = model or first

    def _first_model(self) -> str:
        """The first model that it lists; empty where it lists none."""
        try:
            answer = self._fetch("/v1/models", None, CONNECT_SECONDS)
        except GenerationError:
            return ""
        models = answer.get("data")
        first = models[0] if isinstance(models, list) and models else None
        name = first.get("id") if isinstance(first, dict) else None
        return name if isinstance(name, str) else ""

    def complete(self, prompt: str | Sequence[int], num_tokens: int, *, num_tops: int = 2) -> ServedReply:
        """The greedy continuation of a text or of token ids.

        Raises:
            GenerationError: the server refuses, fails, or answers something else.
        """
        fields = {"prompt": prompt if isinstance(prompt, str) else list(prompt), "logprobs": num_tops}
        answer = self._post("/v1/completions", fields, num_tokens)
        choice = self._choice(answer)
        text = choice.get("text")
        if not isinstance(text, str):
            raise GenerationError(f"{self.url} answers without a text")
        told = _by_columns(choice.get("logprobs"))
        tokens, logprobs = _strings(told.get("tokens")), _numbers(told.get("token_logprobs"))
        tops = told.get("top_logprobs")
        count = len(tokens) if len(tokens) == len(logprobs) else 0
        return ServedReply(
            text=text,
            is_ended=choice.get("finish_reason") == "stop",
            tokens=tokens[:count],
            logprobs=logprobs[:count],
            tops=tuple(_top(top) for top in tops[:count]) if isinstance(tops, list) else (),
            num_prompt_tokens=_prompt_tokens(answer),
        )

    def num_chat_tokens(self, messages: Sequence[Mapping[str, str]]) -> int | None:
        """How many tokens the server makes of a conversation; None where it does not tell, or takes none."""
        try:
            answer = self._post("/v1/chat/completions", {"messages": [dict(message) for message in messages]}, 1)
        except GenerationError:
            return None
        return _prompt_tokens(answer)

    def _post(self, path: str, fields: Mapping[str, Any], num_tokens: int) -> dict[str, Any]:
        # greedy, by every name that servers give to what might stand in the way
        greedy = {"temperature": 0, "top_p": 1, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
        body = {"model": self.model, "max_tokens": num_tokens, "seed": 0, "stream": False, **greedy, **fields}
        return self._fetch(path, body, REPLY_SECONDS)

    def _fetch(self, path: str, body: Mapping[str, Any] | None, seconds: float) -> dict[str, Any]:
        """The object that it answers; CheckpointError where it is not there, GenerationError where it refuses."""
        headers = {"Content-Type": "application/json"}
        key = next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)
        if key is not None:
            headers["Authorization"] = f"Bearer {key.split(',')[0].strip()}"
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(self.url + path, data=data, headers=headers)
            with urllib.request.urlopen(request, timeout=seconds) as answer:
                content = answer.read(LARGEST_ANSWER)
        except urllib.error.HTTPError as error:
            with error:
                reason = " ".join(error.read(2000).decode("utf-8", "replace").split())
            raise GenerationError(f"{self.url}{path} refuses (status {error.code}): {reason[:300]}") from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", None) or error) or type(error).__name__
            raise CheckpointError(f"the server {self.url} cannot be reached: {reason}") from error
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise GenerationError(f"{self.url}{path} answers no JSON: is it an OpenAI-compatible server?") from error
        if not isinstance(found, dict):
            raise GenerationError(f"{self.url}{path} answers no object: is it an OpenAI-compatible server?")
        return found

    def _choice(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        choices = answer.get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(first, dict):
            raise GenerationError(f"{self.url} answers without a choice")
        return first


def _by_columns(told: object) -> Mapping[str, Any]:
    """The `logprobs` of a choice in the form of completions; llama.cpp's server tells them in that of chats."""
    if not isinstance(told, dict):
        return {}
    content = told.get("content")
    if not isinstance(content, list) or not all(isinstance(entry, dict) for entry in content):
        return told
    tops = [entry.get("top_logprobs") for entry in content]
    return {
        "tokens": [_spelled(entry) for entry in content],
        "token_logprobs": [entry.get("logprob") for entry in content],
        "top_logprobs": [
            {_spelled(one): one.get("logprob") for one in top if isinstance(one, dict)} if isinstance(top, list) else {}
            for top in tops
        ],
    }


def _spelled(entry: Mapping[str, Any]) -> object:
    """The token of an entry; a part of a character as completions spell it."""
    token, content = entry.get("token"), entry.get("bytes")
    if not isinstance(content, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in content):
        return token if isinstance(token, str) else None
    return spelled(bytes(content))


def _strings(value: object) -> tuple[str, ...]:
    return tuple(value) if isinstance(value, list) and all(isinstance(item, str) for item in value) else ()


def _numbers(value: object) -> tuple[float, ...]:
    is_whole = isinstance(value, list) and all(isinstance(item, int | float) for item in value)
    return tuple(map(float, value)) if is_whole and isinstance(value, list) else ()


def _top(value: object) -> dict[str, float]:
    if not isinstance(value, dict):
        return {}
    return {str(name): float(number) for name, number in value.items() if isinstance(number, int | float)}


def _prompt_tokens(answer: Mapping[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) else None
