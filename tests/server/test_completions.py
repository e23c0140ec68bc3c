"""POST /v1/completions, /tokenize and /detokenize."""

import json

import pytest

from tests.server.apps import events_of

PATH = "/v1/completions"


def ask(client, prompt, **fields):
    answer = client.post(PATH, json={"prompt": prompt, "max_tokens": 6, **fields})
    assert answer.status_code == 200, answer.text
    return answer


def texts(client, prompt, **fields):
    choices = ask(client, prompt, **fields).json()["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["text"] for choice in choices]


def test_prompts_in_every_form(client, demo):
    ids = demo.tokenizer.encode_text("今天")
    other = demo.tokenizer.encode_text("水的化学式")
    (text,) = texts(client, "今天")
    assert texts(client, ids) == [text]
    assert texts(client, ["今天"]) == [text]
    assert texts(client, [ids]) == [text]
    assert texts(client, [ids, other], n=2) == [text, text, *texts(client, "水的化学式", n=2)]
    assert texts(client, ["今天", other]) == [text, *texts(client, other)]


def test_the_shape(client):
    answer = ask(client, "今天", ignore_eos=True).json()
    assert answer["id"].startswith("cmpl-")
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 6
    usage = client.post(PATH, json={"prompt": "今天", "ignore_eos": True}).json()["usage"]
    assert usage["completion_tokens"] == 16  # OpenAI's default


def test_a_stream_says_the_same(client):
    fields = {"n": 2, "temperature": 2.0, "seed": 3}
    events = events_of(ask(client, ["今天", "水"], stream=True, stream_options={"include_usage": True}, **fields))
    assert events.pop() == "[DONE]"
    *parts, usage = map(json.loads, events)
    streamed = [""] * 4
    reasons = [None] * 4
    for part in parts:
        (choice,) = part["choices"]
        streamed[choice["index"]] += choice["text"]
        reasons[choice["index"]] = choice["finish_reason"] or reasons[choice["index"]]
    assert streamed == texts(client, ["今天", "水"], **fields)
    assert all(reasons)
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 24)


def test_an_echoed_prompt_stands_before_its_continuation(client, demo):
    (text,) = texts(client, "今天")
    assert texts(client, "今天", echo=True) == ["今天" + text]
    assert texts(client, demo.tokenizer.encode_text("今天"), echo=True) == ["今天" + text]
    events = events_of(ask(client, "今天", echo=True, stream=True))
    parts = [json.loads(event)["choices"][0]["text"] for event in events[:-1]]
    assert parts[0] == "今天"
    assert "".join(parts) == "今天" + text


def test_logprobs(client):
    answer = ask(client, "今天", logprobs=2).json()["choices"][0]
    found = answer["logprobs"]
    assert "".join(found["tokens"]) == answer["text"]
    assert [answer["text"][offset : offset + 1] for offset in found["text_offset"]] == [t[0] for t in found["tokens"]]
    for token, logprob, top in zip(found["tokens"], found["token_logprobs"], found["top_logprobs"], strict=True):
        assert len(top) == 2
        assert top[token] == logprob <= 0
    assert all(
        len(top) == 1 for top in ask(client, "今天", logprobs=0).json()["choices"][0]["logprobs"]["top_logprobs"]
    )
    assert ask(client, "今天").json()["choices"][0]["logprobs"] is None


def test_a_part_of_a_character_is_told_in_bytes(client):
    """A character outside the vocabulary is spelt in byte tokens, of which none is a text."""
    bias = {str(token_id): -100 for token_id in (2, 195)}
    answer = ask(client, "\U0001f98a", logprobs=0, guided_regex="\U0001f98a", logit_bias=bias).json()["choices"][0]
    assert answer["text"] == "\U0001f98a"
    assert answer["logprobs"]["tokens"] == ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\xa6", "bytes:\\x8a"]
    assert answer["logprobs"]["text_offset"] == [0, 0, 0, 0]


@pytest.mark.parametrize("text", ["", "你好 hello\n", "\U0001f98a", "<reserved_106></s>", " " * 40, "a" * 20_000])
def test_tokens_and_back(client, demo, text):
    answer = client.post("/tokenize", json={"prompt": text}).json()
    assert answer["tokens"] == demo.tokenizer.encode_text(text)
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 512
    assert client.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}


def test_control_tokens_have_no_text(client):
    assert client.post("/detokenize", json={"tokens": [195, 2, 196]}).json() == {"prompt": ""}
