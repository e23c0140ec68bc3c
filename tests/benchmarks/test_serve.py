"""The load test of the server: its figures, its clients against servers that misbehave, its processes, its page."""

import asyncio
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import serve
import serve_clients
import torch
from serve_figures import during, growth, percentile, pooled, ratios, turn
from serve_models import DEMO, prepare, with_more_pieces
from serve_page import page
from serve_scenarios import NAIVE, OURS, PEER, WHOLE
from serve_servers import Server, ServerError, family, free_port, naive, process_memory
from serve_targets import Verdict, verdicts
from serve_workload import Sizes, body, streams

from baichuan2.checkpoints.load import load_for_replies, load_model
from baichuan2.model.sentencepiece_file import read_sentencepiece_file
from baichuan2.model.tokenization_baichuan import BaichuanTokenizer
from baichuan2.settings import LoadSettings


def result(times: list[float], *, sent: float = 0.0, error: str | None = None, tokens: int | None = None) -> Any:
    return {"times": times, "sent": sent, "done": times[-1] if times else sent, "tokens": tokens or len(times),
            "prompt_tokens": 10, "cached_tokens": None, "finish_reason": "length", "error": error}  # fmt: skip


# Figures


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1)) == (50, 99, 100)
    assert percentile([7.0], 0.99) == 7
    assert percentile([], 0.5) is None


def test_a_turn_counts_what_went_well() -> None:
    good, bad = result([1.0, 1.5, 2.0, 3.0], sent=0.5), result([9.0], sent=0.6, error="status 500")
    found = turn({"streams": [[good], [bad, result([], sent=4.0, error="no text")]]})
    assert (found["requests"], found["failed"], found["tokens"]) == (3, 2, 4)
    assert found["errors"] == ["status 500", "no text"]
    assert found["seconds"] == 2.5  # to the end of the last good reply
    assert found["tokens_per_second"] == pytest.approx(4 / 2.5)
    assert found["first_token"] == [0.5]
    assert found["per_token"] == [pytest.approx(2 / 3)]
    assert found["gap"] == {"p50": 0.5, "p99": 1.0, "max": 1.0}


def test_a_turn_in_which_all_failed_has_no_speed() -> None:
    found = turn({"streams": [[result([], error="refused")]]})
    assert found["tokens_per_second"] is None
    assert pooled([found])["failed"] == 1
    assert pooled([found])["tokens_per_second"] is None


def test_time_per_token_counts_tokens_not_pieces_of_text() -> None:
    found = turn({"streams": [[result([1.0, 2.0], tokens=5)]]})  # three tokens were held back until they made text
    assert found["per_token"] == [0.25]


def test_ratios_are_taken_within_turns() -> None:
    ours = [{"tokens_per_second": 20.0, "first_token": [1.0, 3.0]}, {"tokens_per_second": 10.0, "first_token": [2.0]}]
    other = [{"tokens_per_second": 10.0, "first_token": [2.0, 2.0]}]
    assert ratios(ours, other, "tokens_per_second") == [2.0]
    assert ratios(ours, other, "first_token", "p50") == [0.5]
    assert ratios(ours, [{"tokens_per_second": None}], "tokens_per_second") == []


def test_gaps_beside_a_long_prompt_are_those_that_overlap_its_wait() -> None:
    resident = result([0.0, 1.0, 2.0, 6.0, 6.5, 9.0])
    late = result([6.2, 7.0], sent=2.5)
    found = during({"streams": [[resident]], "late": late})
    assert found["wait"] == pytest.approx(3.7)
    assert found["gap"]["max"] == 4.0  # 2 to 6; and 6 to 6.5 holds the end of the wait
    assert found["num_gaps"] == 2
    assert found["before"]["max"] == 1.0


def test_a_long_prompt_that_failed_has_no_figures() -> None:
    found = during({"streams": [[result([0.0, 1.0])]], "late": result([], sent=0.5, error="status 429")})
    assert (found["wait"], found["gap"]["p99"], found["errors"]) == (None, None, ["status 429"])


def test_growth_is_told_from_noise() -> None:
    noisy = [{"requests": n, "anonymous": 1000 + (n % 200) // 100} for n in range(0, 2001, 100)]
    assert growth(noisy, 500)["bytes"] == pytest.approx(0, abs=1)
    leaking = [{"requests": n, "anonymous": 1000 + n} for n in range(0, 2001, 100)]
    assert growth(leaking, 500)["bytes"] == 1300
    assert growth(leaking, 500)["share"] == pytest.approx(1300 / 1600)
    assert growth(leaking[:3], 500)["share"] is None


# Workload


def test_every_turn_asks_the_same_of_every_server() -> None:
    first, again, other = (streams(4, 12, Sizes(), 4096, seed) for seed in (1, 1, 2))
    assert first == again != other
    prompts = [request["prompt"] for stream in first for request in stream]
    assert [len(stream) for stream in first] == [3, 3, 3, 3]
    assert (min(map(len, prompts)), max(map(len, prompts))) == (32, 256)
    assert all(300 <= token_id < 4096 for prompt in prompts for token_id in prompt)
    system = Sizes().system
    beginnings = [tuple(prompt[:system]) for prompt in prompts]
    assert max(beginnings.count(beginning) for beginning in beginnings) == 6  # half of them begin alike
    total = [sum(len(request["prompt"]) for stream in asked for request in stream) for asked in (first, other)]
    assert total[0] == total[1]


def test_no_reply_may_end_by_itself() -> None:
    request = body([5, 6], 8)
    assert (request["prompt"], request["max_tokens"], request["ignore_eos"]) == ([5, 6], 8, True)


# Clients


@contextmanager
def answering(answer: Callable[[Any], None]) -> Iterator[int]:
    """A server whose POST is `answer(handler)`; its port."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.close_connection = True
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def stream_head(handler: Any, *, chunked: bool = True) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    if chunked:
        handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def event(text: str, finish_reason: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "text": text, "finish_reason": finish_reason}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


WHOLE_REPLY = (
    event("好") + b": a comment\n\n" + event("", None) + event("吗", "length")
    + b'data: {"choices": [], "usage": {"completion_tokens": 3, "prompt_tokens": 2, '
    + b'"prompt_tokens_details": {"cached_tokens": 1}}}\r\n\r\ndata: [DONE]\n\n'
)  # fmt: skip


def ask_one(port: int, *, seconds: float = 20, max_tokens: int = 3) -> Any:
    plan = {"port": port, "path": "/", "streams": [[body([5, 6], max_tokens)]], "seconds": seconds, "late": None}
    return asyncio.run(serve_clients.run_plan(plan))["streams"][0][0]


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_streams_are_read_however_they_are_cut(size: int) -> None:
    def answer(handler: Any) -> None:
        stream_head(handler)
        for start in range(0, len(WHOLE_REPLY), size):
            part = WHOLE_REPLY[start : start + size]
            handler.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    with answering(answer) as port:
        found = ask_one(port)
    assert found["error"] is None
    assert (len(found["times"]), found["tokens"], found["prompt_tokens"], found["cached_tokens"]) == (2, 3, 2, 1)
    assert found["sent"] < found["times"][0] <= found["times"][1] <= found["done"]


def test_streams_without_chunks_are_read_to_the_end_of_the_connection() -> None:
    def answer(handler: Any) -> None:
        stream_head(handler, chunked=False)
        handler.wfile.write(WHOLE_REPLY)

    with answering(answer) as port:
        assert ask_one(port)["error"] is None
        assert ask_one(port, max_tokens=9)["error"] == "3 of 9 tokens, finish_reason length"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (event("好"), "ended without"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "out of memory"),
        (b"data: {not json}\n\n", "JSONDecodeError"),
        (b"data: 5\n\n", "TypeError"),
        (event("好", "stop", usage={"completion_tokens": 2, "prompt_tokens": 1}) + b"data: [DONE]\n\n", "2 of 3"),
        (event("", "length", usage={"completion_tokens": 3, "prompt_tokens": 1}) + b"data: [DONE]\n\n", "no text"),
    ],
)
def test_replies_that_are_not_what_was_asked_for_are_failures(content: bytes, expected: str) -> None:
    def answer(handler: Any) -> None:
        stream_head(handler, chunked=False)
        handler.wfile.write(content)

    with answering(answer) as port:
        assert expected in ask_one(port)["error"]


def test_refusals_and_servers_that_are_gone_are_failures() -> None:
    def refuse(handler: Any) -> None:
        handler.send_error(429, "queue is full")

    with answering(refuse) as port:
        assert "status 429" in ask_one(port)["error"]
    with answering(lambda handler: handler.wfile.write(b"garbage\r\n\r\n")) as port:
        assert "no HTTP answer" in ask_one(port)["error"]
    assert "ConnectionRefusedError" in ask_one(free_port())["error"]


def test_a_reply_that_never_comes_does_not_hold_the_clients() -> None:
    release = threading.Event()
    with answering(lambda _: release.wait(30) and None) as port:
        found = ask_one(port, seconds=0.3)
        release.set()
    assert found["error"] == "not finished in time"
    assert found["times"] == []


def test_a_late_request_waits_until_all_replies_have_begun() -> None:
    def answer(handler: Any) -> None:
        stream_head(handler, chunked=False)
        handler.wfile.write(WHOLE_REPLY)

    with answering(answer) as port:
        requests = [[body([5], 3)], [body([6], 3)]]
        plan = {"port": port, "path": "/", "streams": requests, "seconds": 20, "late": {"body": body([7], 3),
                "after_chunks": 2}}  # fmt: skip
        found = asyncio.run(serve_clients.run_plan(plan))
    assert found["late"]["error"] is None
    assert found["late"]["sent"] >= max(stream[0]["times"][1] for stream in found["streams"])


# Servers


def test_a_server_that_dies_is_told_with_its_last_words(tmp_path: Path) -> None:
    server = Server("broken", [sys.executable, "-c", "raise SystemExit('no such model')"], tmp_path / "log")
    with pytest.raises(ServerError, match=r"broken ended with status 1: no such model"):
        server.start()
    with pytest.raises(ServerError, match="broken ended with status 1"):
        server.memory()
    server.stop()
    with pytest.raises(ServerError, match="cannot be started"):
        Server("absent", [tmp_path / "nothing"], tmp_path / "log").start()


HEALTHY = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", {port}), Handler).serve_forever()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whoever_ends_the_script_ends_its_servers(number: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(Path(serve.__file__).parent)!r})\n"
        "from pathlib import Path\nfrom serve_servers import Server, end_servers_on_signals\nend_servers_on_signals()\n"
        f"with Server('x', [sys.executable, '-c', {HEALTHY!r}], Path({str(tmp_path / 'log')!r})) as server:\n"
        "    print(server._process.pid, flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert process_memory(pid)["rss"] > 0
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number
    assert process_memory(pid) == {}


def test_memory_is_that_of_a_process_and_its_children() -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(1, flush=True); input()'])"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert len(family(process.pid)) == 2
        process.stdin.write(b"\n")
        process.stdin.close()
    own = process_memory(os.getpid())
    assert own["rss"] >= own["pss"] > own["anonymous"] > 1 << 20
    assert process_memory(process.pid) == {}  # it has ended


def test_the_naive_loop_answers_one_after_the_other(tmp_path: Path) -> None:
    generator = random.Random(0)
    prompts = [[generator.randrange(300, 4096) for _ in range(9)] for _ in range(3)]
    with naive(DEMO, tmp_path / "log", 1) as server:
        plan = {"port": server.port, "path": "/v1/completions", "streams": [[body(prompt, 12)] for prompt in prompts],
                "seconds": 60, "late": None}  # fmt: skip
        found = asyncio.run(serve_clients.run_plan(plan))
        assert server.memory()["rss"] > server.memory()["anonymous"] > 1 << 20
        assert server.cpu_seconds() > 0
    results = [stream[0] for stream in found["streams"]]
    assert [(one["error"], one["tokens"], one["prompt_tokens"]) for one in results] == [(None, 12, 9)] * 3
    spans = sorted((one["times"][0], one["done"]) for one in results)
    assert all(earlier[1] <= later[0] + 0.05 for earlier, later in itertools.pairwise(spans))
    with pytest.raises(ServerError):
        server.memory()


def test_the_vocabulary_of_a_part_of_a_model_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    own = read_sentencepiece_file(DEMO / "tokenizer.model")
    path.write_bytes(with_more_pieces(own, 15_712))
    whole = read_sentencepiece_file(path)
    assert len(whole) == len(set(whole.pieces)) == 15_712
    assert whole.pieces[: len(own)] == own.pieces
    tokenizer = BaichuanTokenizer(str(path))
    assert {len(tokenizer.piece_bytes(token_id).decode()) for token_id in (len(own), 15_711)} == {1}
    assert tokenizer.encode_text("你好") == BaichuanTokenizer(str(DEMO / "tokenizer.model")).encode_text("你好")


def test_random_models_say_ordinary_tokens_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gguf = pytest.importorskip("gguf")
    pair = prepare(tmp_path, "tiny", with_peer=True)
    assert prepare(tmp_path, "tiny", with_peer=True) == pair
    assert capsys.readouterr().err.count("writing") == 2  # once each
    loaded = load_for_replies(pair.folder, LoadSettings(device="cpu"))
    logits = loaded.model(torch.tensor([[400, 500]])).logits[0, -1]
    assert not logits[:300].any()
    assert logits[300:].all()
    assert pair.gguf is not None
    reader = gguf.GGUFReader(pair.gguf)
    head = next(tensor for tensor in reader.tensors if tensor.name == "output.weight")
    rows = gguf.quants.dequantize(head.data, head.tensor_type)
    assert not rows[:300].any()
    assert rows[300:].any(axis=1).all()
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == pair.vocab_size
    assert reader.fields["llama.context_length"].contents() == 4096


def test_the_peers_demo_model_is_ours(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    pair = prepare(tmp_path, "demo", with_peer=True)
    assert pair.gguf is not None
    state = load_model(None, LoadSettings(device="cpu")).model.state_dict()
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(pair.gguf).tensors}
    embedding = torch.from_numpy(stored["token_embd.weight"].data.astype("float32"))
    torch.testing.assert_close(embedding, state["model.embed_tokens.weight"].float(), rtol=0, atol=2e-7)
    assert {tensor.tensor_type.name for tensor in stored.values()} == {"F16", "F32"}
    assert [path.name for path in tmp_path.iterdir()] == [pair.gguf.name]


# Page and targets


def turns(speed: float, first: float) -> list[Any]:
    times = [first + place * 10 / speed for place in range(11)]
    return [turn({"streams": [[result([0.0 + time for time in times])]]})]


def parts(*, with_peer: bool = True) -> dict[str, Any]:
    told = {"run": "2026-01-01 00:00:00 UTC", "what": "2 layers", "lengths": "Short."}
    level = {OURS: turns(20, 1), NAIVE: turns(10, 4), **({PEER: turns(40, 1)} if with_peer else {})}
    gap = during({"streams": [[result([0.0, 1.0, 2.0])]], "late": result([2.5], sent=1.5)})
    slow = during({"streams": [[result([0.0, 1.0, 9.0])]], "late": result([8.5], sent=1.5)})
    samples = [{"requests": n, "rss": 2 << 20, "pss": 9, "anonymous": (1 << 20) + n} for n in range(0, 2001, 100)]
    return {
        "load/demo": {"levels": {"1": level, "16": level}, "idle_cores": 0.01, **told},
        "intruder/slice2": {OURS: gap, WHOLE: slow, **told},
        "prefix/slice2": {OURS: {"first": 4.0, "later": [1.0, 1.2], "cached": [0, 768, 768], "errors": []}, **told},
        "memory/demo": {OURS: {"samples": samples, "failed": 0, "growth": growth(samples, 500)}, **told},
    }


def test_targets_are_met_or_missed_by_their_own_figures() -> None:
    found = {verdict.what: verdict for verdict in verdicts(parts())}
    beside = found["demo, 16 clients: tokens/s, ours / llama.cpp"]
    assert beside.value == pytest.approx(0.583, abs=0.001)  # 11 tokens in 6 s and in 3.5 s
    assert beside.is_met is False
    assert found["demo, 16 clients: time to first token, p99, ours / naive loop"].value == 0.25
    assert found["demo, 16 clients: tokens/s, ours / naive loop"].is_met
    assert "demo, 1 client: time to first token, p99, ours / naive loop" not in found
    assert found["slice2, a long prompt amid replies: p99 of their gaps, in pieces / whole"].value == 0.125
    assert found["slice2, same beginning: time to first token, later / first request"].value == pytest.approx(0.275)
    assert found["demo: growth of anonymous memory until 2,000 requests, as a part"].is_met
    assert found["demo: of 2,000 requests, failed"].is_met


def test_without_a_peer_nothing_is_said_of_it() -> None:
    assert not [verdict for verdict in verdicts(parts(with_peer=False)) if "llama.cpp" in verdict.what]


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert Verdict(what="x", target=1, better=">=").is_met is None
    assert Verdict(what="x", target=0, better="<=", value=1).is_met is False


FACTS = {"command": "python benchmarks/serve.py", "date": "2026-01-01", "commit": "abc", "python": "3", "torch": "2",
         "packages": "fastapi 0", "threads": 2, "peer": None, "note": "Beside other work.",
         "hardware": {"cores": 2, "processor": "P", "instructions": ["avx2"], "memory_gib": 1, "system": "Linux"},
}  # fmt: skip


def test_the_page_tells_targets_figures_and_prediction() -> None:
    report = {"date": "2026-01-01", "runs": {"2026-01-01 00:00:00 UTC": FACTS}, "parts": parts(),
              "prediction": {"text": "Twice as fast.", "date": "2026-01-01", "commit": "abc"}}  # fmt: skip
    text = page(report)
    assert text.index("Twice as fast.") < text.index("## Targets") < text.index("## Load: demo (run 1)")
    assert "**missed**" in text
    assert "| 16 | ours | 1.8 | 1 s | 1 s | 500 ms |" in text
    assert "0, 768, 768" in text
    assert "Beside other work." in text
    widths = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert min(widths) >= 6


def test_a_prediction_comes_before_the_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, text = tmp_path / "serve.json", tmp_path / "prediction.md"
    text.write_text("As fast as llama.cpp.\n", encoding="utf-8")
    command = ["serve.py", "--directory", str(tmp_path), "--page", str(path), "--predict", str(text), "--commit", "abc"]
    monkeypatch.setattr(sys, "argv", command)
    assert serve.main() == 0
    assert "As fast as llama.cpp." in path.with_suffix(".md").read_text(encoding="utf-8")
    report = serve.read_report(path)
    report["parts"] = parts()
    report["runs"] = {"2026-01-01 00:00:00 UTC": FACTS}
    serve.write_report(path, report)
    assert serve.main() == 2
    assert list(tmp_path.glob("*.partial")) == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"runs": [], "parts": {}}'])
def test_a_file_that_is_no_report_is_left_alone(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "serve.json"
    path.write_text(content, encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["serve.py", "--directory", str(tmp_path), "--page", str(path)])
    assert serve.main() == 2
    assert "is no report of this script" in capsys.readouterr().err
    assert path.read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--turns", "0"], "--turns must be at least 1, got 0"),
        (["--clients", "4", "0"], "--clients must lie in [1, 64], got [4, 0]"),
        (["--peer-server", "/nowhere/llama-server"], "there is no such file"),
        (["--only", "everything"], "invalid choice"),
    ],
)
def test_arguments_that_cannot_be_met_are_refused(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        serve.parse_arguments(["--directory", "x", *arguments])
    assert expected in capsys.readouterr().err


def test_numbers_of_clients_and_turns_can_be_chosen() -> None:
    options = serve.parse_arguments(["--directory", "x", "--clients", "4", "8", "--turns", "5"])
    plan = serve.plan_of(options)
    assert plan.levels == ((4, 12), (8, 16))
    assert plan.turns == 5
    assert serve.plan_of(serve.parse_arguments(["--directory", "x"])).levels == ((1, 6), (4, 12), (16, 32))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "only", "parts_of"),
    [
        pytest.param("demo", ["load", "memory"], ["load/demo", "memory/demo"], marks=pytest.mark.long),
        pytest.param("tiny", ["intruder"], ["intruder/tiny"], marks=pytest.mark.long),
        ("tiny", ["prefix"], ["prefix/tiny"]),
    ],
)
def test_the_whole_script_runs(model: str, only: list[str], parts_of: list[str], tmp_path: Path) -> None:
    command = [sys.executable, serve.__file__, "--directory", str(tmp_path / "models"), "--models", model, "--quick",
               "--threads", "1", "--page", str(tmp_path / "serve.json"), "--only", *only]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "serve.json").read_text(encoding="utf-8"))["parts"]
    assert list(found) == parts_of
    for servers in found.get("load/demo", {"levels": {}})["levels"].values():
        assert [one["failed"] for turns_of in servers.values() for one in turns_of] == [0, 0]
    assert found.get("memory/demo", {OURS: {"failed": 0}})[OURS]["failed"] == 0
    for part in (found.get("intruder/tiny", {}), found.get("prefix/tiny", {})):
        assert [server["errors"] for server in part.values() if isinstance(server, dict)] in ([], [[], []])
    assert (tmp_path / "serve.md").read_text(encoding="utf-8").startswith("# Serving on a processor")
