"""`baichuan2 bench`: what a turn measures, what is refused before, how lines take turns, and the end by a signal."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from baichuan2.bench import speed, workload
from baichuan2.bench.speed import Line, Spread, run_benchmark
from baichuan2.bench.speed_tables import markdown, write_benchmark
from baichuan2.bench.turn import Task, Turn, measure_here
from baichuan2.bench.workload import Workload
from baichuan2.checkpoints.memory import Place
from baichuan2.errors import BaichuanError, CheckpointError, MemoryShortageError, SettingsError
from baichuan2.settings import BenchmarkSettings

GB = 10**9
LOAD = {"model": "demo-base", "device": "cpu", "threads": 1, "check_memory": False}
SHAPE = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 8,
         "num_attention_heads": 4, "max_position_embeddings": 512}  # fmt: skip
LONG = {"prompt_tokens": 24, "new_tokens": 5, "batch": 2}


@pytest.fixture(autouse=True)
def no_model_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BAICHUAN2_MODEL", raising=False)


@contextlib.contextmanager
def silent(name: str, kind: str) -> Iterator[object]:
    del name, kind
    yield lambda *_: None


def no_copy(*_: object) -> object:
    raise AssertionError("no copy was asked for")


def turn(**changes: object) -> Turn:
    values = {"load_seconds": 1.0, "first_seconds": 0.5, "prefill_seconds": 2.0, "decode_seconds": 4.0,
              "weight_bytes": 7 << 30, "peak_bytes": 8 << 30, "peak_after_load": 8 << 30, "device": "cpu"}  # fmt: skip
    return Turn(**{**values, **changes})


def test_a_turn_of_each_engine_measures_models_of_one_size() -> None:
    """The LLaMA of the demo's shape has as many bytes as the demo, and both do the same work."""
    ours = measure_here(Task(engine="baichuan2", load=LOAD, shape={}, **LONG))
    llama = measure_here(Task(engine="llama", load={**LOAD, "dtype": "bfloat16"}, shape=SHAPE, **LONG))
    tables = 3 * 64 * 4  # angles of positions, held as buffers
    assert abs(ours.weight_bytes - llama.weight_bytes) <= tables
    for measured in (ours, llama):
        assert measured.device == "cpu"
        assert min(measured.first_seconds, measured.prefill_seconds, measured.decode_seconds) > 0
        if sys.platform == "linux":
            assert measured.peak_bytes >= measured.peak_after_load > measured.weight_bytes
    assert ours.load_seconds > 0
    assert llama.load_seconds is None


def test_a_line_counts_tokens_of_all_sequences_and_tells_the_median() -> None:
    turns = tuple(turn(decode_seconds=seconds) for seconds in (4.0, 2.0, 8.0))
    line = Line(model="m", precision="p", how="h", prompt_tokens=100, new_tokens=32, batch=2, turns=turns)
    assert line.decode() == Spread(median=16.0, low=8.0, high=32.0)
    assert line.prefill() == Spread(median=100.0, low=100.0, high=100.0)
    assert Line(model="m", precision="p", how="h", prompt_tokens=1, new_tokens=1, batch=1, turns=()).decode() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 3}, "--layers 3 works with --shape only"),
        ({"precisions": "int8,int5"}, "--precisions must name each of stored, 16, int8, int4, nf4 at most once"),
        ({"precisions": "int8,int8"}, "at most once"),
        ({"shape": "7b", "precisions": "stored"}, "nothing is stored of a --shape"),
        ({"turns": 0}, r"--turns must lie in \[1, 100\]"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes, message) -> None:
    with pytest.raises(SettingsError, match=message):
        BenchmarkSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "7B"}, "names a shape, no model: baichuan2 bench --shape 7b"),
        ({"shape": "13b", "layers": 41}, "--layers 41: 13b has 40"),
        ({"model": "demo-base", "prompt_tokens": 500}, "are 565 together with the first token: demo-base takes 512"),
    ],
)
def test_workloads_that_cannot_be_are_refused(changes, message) -> None:
    with pytest.raises(SettingsError, match=message):
        Workload(BenchmarkSettings(device="cpu", **changes))


def test_what_does_not_fit_is_refused_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workload, "main_memory", lambda: Place("cpu", "main", 16 * GB, 12 * GB))
    with pytest.raises(
        MemoryShortageError, match=r"7B, random weights in bfloat16 needs 1[67]\.\d GB on cpu"
    ) as refused:
        run_benchmark(BenchmarkSettings(shape="7b", device="cpu", scratch=str(tmp_path)), no_copy, silent)
    assert refused.value.plan is not None
    assert list(tmp_path.iterdir()) == []
    small = Workload(BenchmarkSettings(shape="7b", device="cpu", precisions="int4"))
    assert small.released == "7b"
    llama = small._llama()
    assert llama.task is None
    assert llama.problem is not None
    assert llama.problem.startswith("needs 15.")
    part = Workload(BenchmarkSettings(shape="7b", layers=2, device="cpu"))
    assert part.released is None
    assert part.name == "Baichuan 2 7B, random weights, 2 of 32 layers"
    assert part._llama().task is not None


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(workload.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3 * GB}))
    settings = BenchmarkSettings(shape="7b", device="cpu", precisions="int4", scratch=str(tmp_path), check_memory=False)
    with pytest.raises(CheckpointError, match=r"3\.0 GB free, 5\.\d GB are needed"):
        run_benchmark(settings, no_copy, silent)
    assert list(tmp_path.iterdir()) == []


def test_lines_take_turns_and_one_that_fails_leaves_the_others(tmp_path, monkeypatch) -> None:
    order = []

    def in_child(task: Task) -> Turn:
        name = task.engine if task.engine == "llama" else Path(task.load["model"]).name
        order.append(name)
        if name == "int8" and order.count("int8") == 2:
            raise BaichuanError("killed")
        seconds = 4.0 if name != "int4" else (1.0, 2.0, 4.0)[order.count("int4") - 1]
        return turn(decode_seconds=seconds)

    monkeypatch.setattr(speed, "_in_child", in_child)
    settings = BenchmarkSettings(shape="7b", layers=1, device="cpu", precisions="int8,int4", scratch=str(tmp_path))
    monkeypatch.setattr(workload, "write_random_model", lambda folder, *_: folder.mkdir())
    measured = run_benchmark(settings, no_copy, silent)
    assert order == ["int8", "int4", "llama", "int4", "llama", "int8", "llama", "int4"]
    assert [len(line.turns) for line in measured.lines] == [1, 3, 3]
    assert not measured.is_whole
    text = markdown(measured)
    assert "## Not measured\n\n- Baichuan 2 int8: killed\n" in text
    assert "25.4 tokens/s, LLaMA-13B 19.4" in text
    assert (
        "| Baichuan 2, int4 | 64.0 | 32.00 (16.00 to 64.00) | 2.00 |\n| LLaMA, bfloat16 | 64.0 | 16.00 | 1.00 |" in text
    )
    assert "published" not in text.partition("## Speed")[0].lower()  # of the whole models alone
    paths = write_benchmark(measured, tmp_path / "out" / "bench")
    assert paths[1].read_text(encoding="utf-8") == text
    written = json.loads(paths[0].read_text(encoding="utf-8"))
    assert written["lines"][1]["decode"] == asdict(Spread(median=32.0, low=16.0, high=64.0))
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_the_published_memory_stands_beside_a_whole_model(monkeypatch) -> None:
    monkeypatch.setattr(speed, "_in_child", lambda task: turn(weight_bytes=int(13.98 * 2**30)))
    monkeypatch.setattr(workload, "write_random_model", lambda *_: None)
    settings = BenchmarkSettings(shape="13b", device="cpu", turns=1, check_memory=False, llama="none")
    monkeypatch.setattr(Workload, "_check_disk", lambda *_: None)
    rows = [line.split(" | ") for line in markdown(run_benchmark(settings, no_copy, silent)).splitlines()]
    cells = {row[0]: row[1:4] for row in rows if row[0].startswith("| Baichuan 2") and len(row) > 5}
    assert cells == {
        "| Baichuan 2, bfloat16": ["13.98", "8.00", "25.9"],
        "| Baichuan 2, int8": ["13.98", "8.00", "14.2"],
        "| Baichuan 2, int4": ["13.98", "8.00", "8.6"],
    }


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_children_and_removes_what_was_written(number, tmp_path) -> None:
    command = [sys.executable, "-m", "baichuan2", "bench", "--shape", "7b", "--layers", "1", "--precisions", "int4"]
    command += ["--llama", "none", "--turns", "100", "--scratch", str(tmp_path), "--output-dir", str(tmp_path / "out")]
    script = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    script += f"; from baichuan2.cli.main import main; sys.exit(main({command[3:]!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", script], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "measuring" in line or "测量" in line:
                break
        deadline = time.monotonic() + 60
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while not children.read_text() and time.monotonic() < deadline:
            time.sleep(0.05)
        child = int(children.read_text().split()[0])
        time.sleep(0.5)  # a signal within the call that starts the child would not know it yet
        os.kill(process.pid, number)
        assert process.wait(timeout=60) == 128 + number
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)
    finally:
        process.kill()
        process.communicate()  # closes the pipe
