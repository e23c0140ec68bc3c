"""What a request has to pass before it is answered: keys, host names, sizes, queues, origins."""

import gc
import json
import threading
from dataclasses import replace

import pytest

from baichuan2.errors import SettingsError
from baichuan2.server.gate import is_loopback
from baichuan2.server.keys import Keys, read_keys
from baichuan2.settings import ServeSettings
from tests.server.apps import asking

CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "你好"}], "max_tokens": 2}
LONG = BODY | {"max_tokens": 400, "ignore_eos": True}


def test_any_of_several_keys_lets_in():
    keys = Keys(["first-key", "second-key"])
    owners = [keys.owner(f"Bearer {key}") for key in ("first-key", "second-key")]
    assert None not in owners
    assert len(set(owners)) == 2
    assert keys.owner("bearer  first-key ") == owners[0]
    for shown in (
        None,
        "",
        "first-key",
        "Bearer",
        "Bearer first-ke",
        "Bearer first-key2",
        "Basic first-key",
        "Bearer ÿ",
    ):
        assert keys.owner(shown) is None
    assert not any("key" in owner for owner in owners)


def test_without_keys_everybody_is_let_in():
    assert Keys([]).owner(None) == ""


def test_keys_come_from_both_places(tmp_path):
    file = tmp_path / "keys"
    file.write_text("# comment\n\nkey-in-file\n", encoding="utf-8")
    keys = read_keys(ServeSettings(api_key="key-given-1,key-given-2", api_key_file=str(file)))
    assert all(keys.owner(f"Bearer {key}") for key in ("key-given-1", "key-given-2", "key-in-file"))
    assert keys.owner("Bearer # comment") is None


@pytest.mark.parametrize("key", ["short", "with space", "schlüssel-lang", "tab\tinside-it", ",", ""])
def test_keys_that_cannot_work_are_refused_without_being_told(key):
    with pytest.raises(SettingsError) as caught:
        read_keys(ServeSettings(api_key=key))
    assert len(key) < 2 or key not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# only a comment\n", b"\xff\xfe\x00"])
def test_a_file_without_keys_is_refused(tmp_path, content):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(SettingsError, match="--api-key-file"):
        read_keys(ServeSettings(api_key_file=str(file)))


def test_a_variable_for_keys_that_was_not_filled_in_is_refused(monkeypatch):
    monkeypatch.setenv("BAICHUAN2_API_KEY", "")
    with pytest.raises(SettingsError, match="BAICHUAN2_API_KEY is set but holds no key"):
        read_keys(ServeSettings())
    assert read_keys(ServeSettings(api_key="key-of-the-flag"))


def test_nothing_but_the_health_is_told_without_a_key(demo):
    with asking(demo, ServeSettings(api_key="a-good-key")) as client:
        for method, path in (("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/openapi.json"), ("POST", CHAT)):
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                answer = client.request(method, path, headers=headers, json=BODY if method == "POST" else None)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
                assert answer.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").status_code == 200
        assert client.post(CHAT, json=BODY, headers={"Authorization": "Bearer a-good-key"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8000", 200),
        ("localhost.", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example:8000", 403),
        ("", 403),
    ],
)
def test_a_page_whose_name_was_turned_to_this_machine_is_kept_out(client, host, status):
    answer = client.get("/v1/models", headers={"host": host})
    assert answer.status_code == status
    if status == 403:
        assert answer.json()["error"]["code"] == "unknown_host"


def test_other_names_are_fine_with_a_key_or_on_an_open_address(demo):
    for settings in (ServeSettings(api_key="a-good-key"), ServeSettings(host="0.0.0.0")):
        with asking(demo, settings) as client:
            headers = {"host": "ai.example.org", "Authorization": "Bearer a-good-key"}
            assert client.get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("127.8.9.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_which_addresses_are_this_machines_own(host, expected):
    assert is_loopback(host) == expected


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_kinds_that_a_web_page_may_send_unasked_are_refused(client, kind):
    answer = client.post(CHAT, content=json.dumps(BODY), headers={"content-type": kind})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")


def test_web_pages_are_let_in_by_their_origin_only(demo, client):
    asked = {
        "Origin": "https://page.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    assert "access-control-allow-origin" not in client.get("/v1/models", headers=asked).headers
    assert client.options(CHAT, headers=asked).status_code == 405
    with asking(demo, ServeSettings(allow_origin="https://page.example, https://two.example")) as open_client:
        before = open_client.options(CHAT, headers=asked)
        assert before.status_code == 200
        assert before.headers["access-control-allow-origin"] == "https://page.example"
        answer = open_client.post(CHAT, json=BODY, headers={"Origin": "https://page.example"})
        assert answer.headers["access-control-allow-origin"] == "https://page.example"
        foreign = open_client.options(CHAT, headers=asked | {"Origin": "https://evil.example"})
        assert foreign.headers.get("access-control-allow-origin") != "https://evil.example"


@pytest.mark.parametrize(
    "origin",
    [
        "example.org",
        "https://example.org/",
        "https://example.org/chat",
        "https://Example.org",
        "HTTPS://example.org",
        "https://example.org:443",
        "http://example.org:80",
        "https://user@example.org",
        "https://example .org",
        "https://*.example.org",
        "https://example.org, example.org",
        "https://例子.中国",
        "http://::1",
        "//example.org",
        "https://",
        "",
        " , ",
    ],
)
def test_origins_that_no_browser_sends_are_refused(origin):
    with pytest.raises(SettingsError, match=r"^--allow-origin.*https://example\.org") as caught:
        ServeSettings(allow_origin=origin)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://example.org",
        "http://localhost:3000, https://a-b.example.org:8443",
        "http://[::1]:8080",
        "https://xn--fsqu00a.xn--fiqs8s",
        "chrome-extension://abcdefghijklmnop",
        "http://example.org:443",
    ],
)
def test_origins_that_browsers_send_are_taken(origin):
    assert ServeSettings(allow_origin=origin).allow_origin == origin


def test_bodies_are_limited_announced_or_not(demo):
    with asking(demo, ServeSettings(max_body="2kB")) as client:
        fitting = {"messages": [{"role": "user", "content": "你好" * 100}], "max_tokens": 1}
        assert client.post(CHAT, json=fitting).status_code == 200
        large = json.dumps(BODY | {"padding": "x" * 2000}).encode()
        headers = {"content-type": "application/json"}
        pieces = (large[start : start + 100] for start in range(0, len(large), 100))
        for content in (large, pieces):  # the second without a length
            answer = client.post(CHAT, content=content, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


def test_a_full_queue_refuses_at_once_and_keeps_nothing_of_a_request_that_fits_in_part(demo):
    with asking(demo, ServeSettings(max_waiting=2)) as client:  # four run, two wait
        refused = client.post(CHAT, json=LONG | {"n": 8})
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.json()["error"]["type"] == "rate_limit_error"
        assert int(refused.headers["retry-after"]) > 0
        answers = []
        threads = [
            threading.Thread(target=lambda: answers.append(client.post(CHAT, json=LONG).status_code)) for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(answers) == {200, 429}
        assert client.post(CHAT, json=BODY).status_code == 200


def test_a_closing_server_refuses_but_tells_how_it_is(demo):
    with asking(demo) as client:
        client.service.is_closing = True
        for method, path, status in (("POST", CHAT, 503), ("GET", "/v1/models", 503), ("GET", "/metrics", 200)):
            answer = client.request(method, path, json=BODY if method == "POST" else None)
            assert answer.status_code == status
        assert client.get("/health").json()["error"]["code"] == "server_closing"


def test_a_dead_engine_is_told(demo):
    with asking(demo) as client:
        assert client.get("/health").json() == {"status": "ok"}
        client.service.scheduler.close()
        assert client.get("/health").json()["error"]["code"] == "engine_dead"
        assert client.post(CHAT, json=BODY).json()["error"]["code"] == "engine_dead"


def test_replies_in_work_end_when_the_engine_dies(demo, monkeypatch):
    with asking(demo) as client:
        service = client.service
        load = service.scheduler.load

        def look_when_dead() -> None:
            monkeypatch.setattr(service.scheduler, "load", lambda: replace(load(), is_alive=False))
            client.portal.call(service.look_after_engine)

        looking = threading.Timer(0.3, look_when_dead)
        looking.start()
        answer = client.post(CHAT, json=LONG | {"n": 8})
        looking.join()
        monkeypatch.undo()
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_dead")


def test_time_and_length_are_limited(demo):
    with asking(demo, ServeSettings(request_seconds=0.1)) as client:
        answer = client.post(CHAT, json=LONG)
        assert (answer.status_code, answer.json()["error"]["code"]) == (504, "request_timeout")
        assert answer.headers["x-should-retry"] == "false"
        stream = client.post(CHAT, json=LONG | {"stream": True}).text.split("\n\n")
        assert json.loads(stream[-3].removeprefix("data: "))["error"]["code"] == "request_timeout"
        assert stream[-2] == "data: [DONE]"
        assert client.service.scheduler.load().num_waiting == 0
    with asking(demo, ServeSettings(max_reply_tokens=3)) as client:
        assert client.post(CHAT, json=LONG).json()["usage"]["completion_tokens"] == 3


def test_conversations_that_grow_too_long_lose_their_oldest_rounds_if_that_is_wished(demo):
    rounds = [{"role": role, "content": "字" * 100} for _ in range(4) for role in ("user", "assistant")]
    talk = {"messages": [{"role": "system", "content": "甲"}, *rounds, *BODY["messages"]], "max_tokens": 2}
    with asking(demo, ServeSettings(drop_oldest=True)) as client:
        usage = client.post(CHAT, json=talk).json()["usage"]
        assert 200 < usage["prompt_tokens"] < 512
    with asking(demo) as client:
        assert "--drop-oldest" in client.post(CHAT, json=talk).json()["error"]["message"]


def test_names_of_the_model(demo):
    with asking(demo, ServeSettings(served_model_name="gpt-4o, baichuan")) as client:
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["gpt-4o", "baichuan"]
        assert client.post(CHAT, json=BODY | {"model": "baichuan"}).json()["model"] == "baichuan"
        assert client.post(CHAT, json=BODY).json()["model"] == "gpt-4o"
        assert client.post(CHAT, json=BODY | {"model": "demo-chat"}).status_code == 404


def test_nothing_of_a_request_is_left_when_it_is_answered(demo):
    with asking(demo) as client:
        gc.collect()
        gc.disable()  # what is left in a circle would stay until garbage is looked for
        try:
            for fields in ({}, {"stream": True}, {"n": 3}, {"stop": "好"}):
                client.post(CHAT, json=BODY | fields)
            assert len(client.service._works) == 0
        finally:
            gc.enable()
