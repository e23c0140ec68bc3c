"""The server that the clients ask: our own, started for the tests, or the one that environment variables name.

BAICHUAN2_CONFORMANCE_URL      such as http://127.0.0.1:8000, without /v1
BAICHUAN2_CONFORMANCE_KEY      its key; not given: it needs none
BAICHUAN2_CONFORMANCE_MODEL    not given: the first one that it lists
BAICHUAN2_CONFORMANCE_WITHOUT  what it lacks and why: "feature: reason; feature: reason"
"""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.server.processes import serving

KEY = "conformance-key"
WRONG_KEY = "no-such-key-here"
MAX_RUNNING, MAX_WAITING = 4, 6
FEATURES = {
    "chat": "replies to a conversation, whole and streamed",
    "completions": "continuations of texts",
    "models": "the list of models",
    "model": "one model by its name",
    "parts": "the parts of a message follow each other with nothing between",
    "tools": "a function has to be called, any or a named one",
    "tools_auto": "the model chooses whether to call a function",
    "json_object": "response_format json_object",
    "json_schema": "response_format json_schema",
    "guided": "guided_choice and guided_regex, as fields of their own",
    "logprobs": "log-probabilities of a chat",
    "completions_logprobs": "log-probabilities of a continuation",
    "developer": "the role developer",
    "keys": "a wrong key is refused",
    "queue": "a full queue refuses: needs a queue of few places",
    "cancel": "a client that leaves frees its place within a second: needs /metrics with the running requests",
    "context": "what exceeds the context is refused",
    "validation": "wrong values are refused with status 400",
    "error_params": "errors name the field in `param`",
    "error_codes": "errors bear OpenAI's words in `code`",
    "tool_names": "a function whose name no client could read back is refused",
    "refusals": "what our server does not know is refused: suffix, best_of, echo with logprobs",
    "request_id": "answers name the request in x-request-id",
    "ignore_eos": "replies of a fixed length by ignore_eos",
}

NO_FUNCTIONS = "vLLM does not tell this model of functions, and holds arguments to no schema"
KNOWN_ENGINES = {
    "vllm": {  # 0.32
        "tools": NO_FUNCTIONS,
        "tools_auto": NO_FUNCTIONS,
        "tool_names": "vLLM takes any name",
        "model": "vLLM lists models only",
        "parts": "vLLM puts a line break between parts",
        "guided": "vLLM calls it structured_outputs",
        "error_codes": "vLLM tells the status there",
        "error_params": "vLLM names the field of some errors only",
        "refusals": "vLLM passes over other fields",
        "queue": "vLLM refuses with 503, and says nothing of when to come again",
        "request_id": "vLLM has it behind a flag",
    }
}


@dataclass(frozen=True)
class Engine:
    """A server to be asked. `lacking`: features that it has not, each with the reason."""

    url: str
    key: str
    model: str
    lacking: Mapping[str, str] = field(default_factory=dict)

    def has(self, feature: str) -> bool:
        assert feature in FEATURES
        return feature not in self.lacking

    def busy(self, *states: str) -> float:
        """Requests that are "running" or "waiting", from its metrics, which ours and vLLM's spell much alike."""
        page = httpx.get(f"{self.url}/metrics", headers={"Authorization": f"Bearer {self.key}"}).text
        counts = {}
        for line in page.splitlines():
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            if not line.startswith("#") and name.endswith(("requests_running", "requests_waiting")):
                counts[name.rpartition("_")[2]] = float(value)
        return sum(counts[state] for state in states or ("running", "waiting"))

    def seconds_until(self, count: int, *states: str, most: float = 20.0) -> float:
        """How long it takes from now until `busy(*states)` is `count`; AssertionError beyond `most`."""
        started = time.monotonic()
        while self.busy(*states) != count:
            assert time.monotonic() - started < most, f"{self.busy(*states)} requests, not {count}"
            time.sleep(0.01)
        return time.monotonic() - started


@contextmanager
def engine_from(environment: Mapping[str, str] = os.environ) -> Iterator[Engine]:
    """The server that `environment` names, else one of our own with the demo model."""
    url = environment.get("BAICHUAN2_CONFORMANCE_URL")
    if url is not None:
        key = environment.get("BAICHUAN2_CONFORMANCE_KEY", "none")
        url = url.rstrip("/").removesuffix("/v1")
        model = environment.get("BAICHUAN2_CONFORMANCE_MODEL") or _first_model(url, key)
        yield Engine(url, key, model, read_lacking(environment.get("BAICHUAN2_CONFORMANCE_WITHOUT", "")))
        return
    flags = ["--max-running", str(MAX_RUNNING), "--max-waiting", str(MAX_WAITING)]
    with serving(*flags, environment={"BAICHUAN2_API_KEY": KEY}) as server:
        yield Engine(server.url, KEY, "demo-chat")


def read_lacking(text: str) -> dict[str, str]:
    """`feature: reason; feature: reason` as a mapping; ValueError for what is no feature or has no reason.

    The name of a known engine stands for all that it lacks.
    """
    lacking: dict[str, str] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        if entry in KNOWN_ENGINES:
            lacking |= KNOWN_ENGINES[entry]
            continue
        feature, _, reason = (part.strip() for part in entry.partition(":"))
        if feature not in FEATURES or not reason:
            raise ValueError(f"{entry!r}: write  feature: reason , with a feature of {', '.join(FEATURES)}")
        lacking[feature] = reason
    return lacking


def _first_model(url: str, key: str) -> str:
    answer = httpx.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})
    return str(answer.raise_for_status().json()["data"][0]["id"])
