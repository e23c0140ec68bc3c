"""`baichuan2 compare` from the command line: the page in two languages, exit codes, mistakes."""

import dataclasses
import http.server
import string
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.bench.comparison_folders import write_prompts
from tests.checkpoints.folders import change_json, write_folder

from baichuan2.cli.comparison_text import CHINESE, ENGLISH, ComparisonWords
from baichuan2.cli.main import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("a") / "tiny", "7b", "safetensors")


@pytest.fixture(scope="module")
def prompts(tmp_path_factory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "prompts.jsonl")


def arguments(a: object, b: object, prompts: Path, *more: str) -> list[str]:
    few = ["--max-new-tokens", "8", "--threads", "1", "--device", "cpu"]
    return ["compare", str(a), str(b), "--prompts", str(prompts), *few, *more]


def test_the_page_ends_with_the_verdict(folder, prompts, tmp_path, capsys):
    other = write_folder(tmp_path / "other", "7b", "safetensors")
    change_json(other / "generation_config.json", repetition_penalty=1.2)
    assert main(arguments(folder, other, prompts, "--weights", "--language", "en")) == 0
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"A  {folder}: baichuan2, bfloat16"
    assert ENGLISH.ids_same.format(count=4) in lines
    assert ENGLISH.chat_same.format(count=2) in lines
    assert ENGLISH.weights_equal.format(count=17) in lines
    assert ENGLISH.sampling.format(fields="repetition_penalty 1.05 / 1.2") in lines
    assert lines[-1] == ENGLISH.verdict.format(text=ENGLISH.level_identical)
    assert f"{other}: loading ..." in err
    limit = ("--dtype", "float32,bfloat16", "--fail-above", "0", "--limit", "1", "--language", "zh")
    assert main(arguments(folder, folder, prompts, *limit)) == 1
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == CHINESE.verdict.format(text=CHINESE.level_rounding.format(format="bfloat16"))
    assert CHINESE.kl in out
    assert "高于 --fail-above 0" in err


@pytest.fixture
def odd_server() -> Iterator[str]:
    """A server that answers whatever it is asked with something else than was asked for."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, b'{"data": [{"id": "model"}]}')

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(418, b'{"error": "short\\nand stout"}')

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_mistakes_are_one_line(folder, prompts, odd_server, tmp_path, capsys):
    plain = tmp_path / "model.txt"
    plain.write_text("no model")
    half = tmp_path / "half.jsonl"
    half.write_text('{"text": "\\ud800"}')
    for sides, more, message in (
        (("demo-chat",), (), "B is missing"),
        (("nowhere", "demo-chat"), (), "there is no folder nowhere"),
        (("demo-chat", plain), (), "is a file, and no GGUF"),
        ((f"demo-chat+{tmp_path}", "demo-chat"), (), "is no adapter folder"),
        ((tmp_path, "demo-chat"), (), "has no config.json"),
        (("demo-chat", "http://127.0.0.1:9"), (), "the server http://127.0.0.1:9 cannot be reached"),
        (("demo-chat", "http://127.0.0.1:9/#m"), (), "the server http://127.0.0.1:9 cannot be reached"),
        (("http://127.0.0.1:9", "demo-chat"), (), "give the server http://127.0.0.1:9 as B"),
        ((folder, odd_server), (), f'{odd_server}/v1/completions refuses (status 418): {{"error": "short'),
        (("demo-chat", "demo-chat"), ("--prompts", "nowhere.txt"), "--prompts nowhere.txt cannot be read"),
        (("demo-chat", "demo-chat"), ("--prompts", str(half)), "half.jsonl: document 1 holds half a character"),
        (("demo-chat", "demo-chat"), ("--dtype", "int4"), "--dtype must be one of auto, float32"),
    ):
        assert main(["compare", *map(str, sides), *(more or ("--prompts", str(prompts), "--device", "cpu"))]) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "config.json").write_text('{"model_type": "gpt2"}')
    assert main(["compare", str(folder), str(bare)]) == 2
    (error,) = capsys.readouterr().err.splitlines()  # before A is loaded and has worked for minutes
    assert "bare holds no weights: expected model.safetensors" in error


def test_both_languages_fill_in_the_same_things():
    def names(text: str) -> list[tuple[str | None, str | None]]:
        return sorted((name, spec) for _, name, spec, _ in string.Formatter().parse(text) if name is not None)

    for item in dataclasses.fields(ComparisonWords):
        english, chinese = getattr(ENGLISH, item.name), getattr(CHINESE, item.name)
        assert names(english) == names(chinese), item.name
        assert english != chinese or item.name in ("side",), item.name
