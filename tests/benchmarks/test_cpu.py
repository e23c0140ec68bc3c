"""The benchmark of the processor: its arithmetic, its turns, its page, and engines that fail."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cpu
import cpu_limits
import pytest
import torch
from cpu_child import Child, EngineError
from cpu_engines import Engines, Shape
from cpu_groups import GROUPS
from cpu_limits import peaks_text
from cpu_models import _that_fits, ensure, spec_of, stored_bytes
from cpu_page import Measured, page
from cpu_profile import PerfError, sampled, shares_of
from cpu_report import Report
from cpu_rows import (
    Bench,
    Comparison,
    Row,
    Work,
    context_row,
    extrapolate,
    floor_row,
    measure,
    prefill_action,
    ratios,
    take_turns,
)

from baichuan2.checkpoints.load import load_model
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.settings import LoadSettings


class NoLimits:
    reason = "there is no C compiler"

    def bandwidth(self) -> None:
        return None


def bench(engines: Any = None) -> Bench:
    return Bench(
        engines=engines, limits=NoLimits(), turns=2, row_seconds=60, tokens=2, shape=Shape("7b"),
        large_shape=Shape("13b"), formats={"int4": "int4-g64"}, contexts=(64, 2048), prompts=(512, 2048), batches=(4,),
        batch_context=32, large_context=512, lookup_tokens=8,
    )  # fmt: skip


def test_turns_run_backwards_every_other_time() -> None:
    order: list[str] = []
    actions = {name: lambda name=name: float(len(order.append(name) or order)) for name in "abc"}
    assert take_turns(actions, 3) == ({"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}, {})
    assert "".join(order) == "abccbaabc"


def test_long_turns_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of 20 s in a row that may take 50: a third would end too late. One is always taken."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda _: None)

    def action() -> float:
        now[0] += 20
        return 1.0

    assert take_turns({"a": action}, 5, seconds=50)[0] == {"a": [1.0, 1.0]}
    assert take_turns({"a": action}, 5, seconds=1)[0] == {"a": [1.0]}


def test_an_engine_that_fails_in_a_turn_leaves_the_others() -> None:
    def fails() -> float:
        raise EngineError("it died")

    assert take_turns({"a": lambda: 1.0, "b": fails}, 2) == ({"a": [1.0, 1.0]}, {"b": "it died"})


def test_a_prompt_read_for_decoding_is_the_first_turn_of_reading() -> None:
    class Reader:
        def call(self, _key: str, do: str, **_: Any) -> float:
            return 5.0 if do == "start" else 0.0

        def is_official(self, _: str) -> bool:
            return False

    whole = bench(Reader())
    whole.reads["7b-x", 2048] = 3.0
    series, failures = measure(whole, "prefill", {"7b-x": lambda: prefill_action(whole, "7b-x", 2048)})
    assert (series, failures) == ({"7b-x": [3.0, 5.0]}, {})
    assert measure(whole, "prefill", {"7b-x": lambda: prefill_action(whole, "7b-x", 512)})[0] == {"7b-x": [5.0, 5.0]}


def test_layers_are_extrapolated_by_their_difference() -> None:
    assert extrapolate(0.5, 0.9, (2, 6), 32) == pytest.approx(0.3 + 32 * 0.1)


def test_a_ratio_is_taken_within_each_turn() -> None:
    """A machine that is three times slower in one turn is so for both."""
    assert ratios([2.0, 6.0, 2.2], [1.0, 3.0, 1.0]) == pytest.approx((2.0, 2.0, 2.2))


@pytest.mark.parametrize(("other", "is_met"), [(1.2, True), (1.0, False)])
def test_a_comparison_is_of_speeds(other: float, is_met: bool) -> None:
    row = Comparison("decode", Work("decode", 64), "7b-int4-g64", "7b-Q4_0", 1.1).row(
        {"7b-int4-g64": [0.5, 0.5], "7b-Q4_0": [0.5 * other] * 2}, {}
    )
    assert (row.ratio, row.is_met, row.ours) == (pytest.approx(other), is_met, "2.00 tokens/s")
    assert (row.against, row.what, row.turns) == ("llama.cpp Q4_0", "decode, batch 1, context 64", 2)


@pytest.mark.parametrize(
    ("work", "speed"), [(Work("decode", 64, 4), "8.00 tokens/s"), (Work("prefill", 512), "1024.00 tokens/s")]
)
def test_speeds_count_all_tokens_of_the_work(work: Work, speed: str) -> None:
    assert Comparison("g", work, "a-int4", "a-Q4_0", 1).row({"a-int4": [0.5], "a-Q4_0": [1.0]}, {}).ours == speed


def test_a_row_without_a_figure_says_why() -> None:
    row = Comparison("decode", Work("decode", 64), "a-int4", "a-Q4_0", 1.1).row(
        {"a-int4": [1.0]}, {"a-Q4_0": "it died"}
    )
    assert (row.ratio, row.is_met, row.note) == (None, None, "it died")
    floor = floor_row(bench(), "decode", Shape("7b"), "7b-int4-g64", {"7b-int4-g64": [1.0]})
    assert (floor.ratio, floor.note) == (None, "there is no C compiler")


def test_the_floor_counts_weights_and_cache() -> None:
    class Sizes:
        def bytes_per_token(self, _: str) -> int:
            return 4_000_000_000

    cache = 2 * 2 * 32 * 4096 * 64
    series = {"7b-int4-g64": [0.2], "bandwidth": [(4_000_000_000 + cache) / 0.18]}
    row = floor_row(bench(Sizes()), "decode", Shape("7b"), "7b-int4-g64", series)
    assert row.ratio == pytest.approx(0.9)


def test_what_context_costs_is_beside_its_bytes() -> None:
    extra = 2 * 2 * 32 * 4096 * (2048 - 64)
    row = context_row((64, 2048), "context", Shape("7b"), "7b-int4-g64", ([0.15], [0.15 + 0.05]), [extra / 0.04])
    assert row.ratio == pytest.approx(1.25)
    assert row.is_met


def test_sizes_are_those_of_the_published_models() -> None:
    assert Shape("7b").weight_bytes(8) == 6_476_005_376 + 125_696 * 4096


@pytest.mark.parametrize("name", ["tiny-int4-g64-head8", "tiny-int4-g32-head4", "tiny-int8", "tiny-official4"])
def test_written_models_load_and_speak(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ensure(tmp_path, name)
    model = load_model(folder, LoadSettings(device="cpu")).model
    steps = list(generate_tokens(model, [5, 6, 7], Sampling(max_new_tokens=3), stop_ids=frozenset()))
    assert len(steps) == 3
    assert ensure(tmp_path, name) == folder
    assert capsys.readouterr().err.count("writing") == 1  # the second call leaves it alone
    read = sum(tensor.nbytes for key, tensor in model.state_dict().items() if not key.startswith("model.embed_tokens"))
    assert stored_bytes(folder) == pytest.approx(read, rel=0.02)  # but for code tables, which the file may lack


def test_formats_have_their_names() -> None:
    spec = spec_of("int4-g128-head8")
    assert spec is not None
    assert (spec.format, spec.group_size, spec.head) == ("int4", 128, "int8")
    assert spec_of("bf16") is None


def test_an_engine_that_dies_is_told_apart(tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    folder = Path(cpu.__file__).parent
    script.write_text(
        f"import sys; sys.path.insert(0, {str(folder)!r})\nimport os\nfrom cpu_child import serve\n"
        "print('noise of a library')\n"
        "serve({'twice': lambda x: print('noise') or 2 * x, 'fail': lambda: 1 / 0, 'die': lambda: os._exit(3)})\n"
        .replace("print('noise of a library')\n", "")
    )  # fmt: skip
    child = Child([sys.executable, script])
    assert child("twice", x=21) == 42
    with pytest.raises(EngineError, match="ZeroDivisionError"):
        child("fail")
    with pytest.raises(EngineError, match="status 3 while it had to die"):
        child("die")


def test_without_a_peer_its_rows_say_so(tmp_path: Path) -> None:
    engines = Engines(tmp_path, None, 1, (1, 2), (1, 2))
    with pytest.raises(EngineError, match="no --peer-python"):
        engines.call("tiny-Q4_0", "start", name="x", context=4, batch=1)


def test_an_engine_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    script = tmp_path / "engine.py"
    folder = Path(cpu.__file__).parent
    script.write_text(
        f"import sys; sys.path.insert(0, {str(folder)!r})\nimport time\nfrom cpu_child import serve\n"
        "serve({'rest': lambda seconds: time.sleep(seconds)})\n"
    )
    child = Child([sys.executable, script])
    assert child("rest", seconds=0) is None
    child.seconds = 0.2
    with pytest.raises(EngineError, match=r"took more than 0\.2 s to rest"):
        child("rest", seconds=60)
    assert not child.is_alive


def test_an_engine_that_died_is_loaded_again(tmp_path: Path) -> None:
    class Dying:
        is_alive = False

        def __call__(self, do: str, **_: Any) -> None:
            raise EngineError(f"cannot {do}")

    engines = Engines(tmp_path, None, 1, (1, 2), (1, 2))
    engines.children["7b-Q4_0"] = Dying()  # type: ignore[assignment]
    with pytest.raises(EngineError, match="7b-Q4_0: cannot decode"):
        engines.call("7b-Q4_0", "decode")
    with pytest.raises(EngineError, match="no --peer-python"):
        engines.call("7b-Q4_0", "decode")


SHARED: dict[str, Any] = {"group": "decode", "what": "decode", "model": "7b-int4-g64-head8", "against": "x"}
ROWS = [
    Row(**SHARED, target=1.1, ratio=1.2, low=1.1, high=1.3, turns=2, other_model="7b-Q4_0", work=Work("decode", 64)),
    Row(**SHARED, target=1.1, ratio=1.0, low=0.9, high=1.1, turns=1),
    Row(**SHARED, target=1.1, note="the engine died"),
]


def facts(commit: str = "abc") -> dict[str, Any]:
    return {
        "date": "2026-01-01", "command": "python benchmarks/cpu.py", "commit": commit, "python": "3.11",
        "torch": torch.__version__, "transformers": "5", "bitsandbytes": None, "threads": 2, "kernels": None,
        "peer": None, "bytes": {"m": 1},
        "hardware": {"processor": "P", "cores": 2, "instructions": [], "memory_gib": 1, "system": "Linux"},
        "limits": {"reason": "there is no C compiler"},
    }  # fmt: skip


def quality_row(name: str, divergence: float) -> dict[str, Any]:
    qualities = {text: {"kl_mean": divergence, "agreement": 0.9} for text in ("conversations", "replies", "prose")}
    return {"engine": "e", "name": name, "linear_bits": 4.25, "all_bits": 5.0, "qualities": qualities,
            "way": "as it runs", "source": "this run"}  # fmt: skip


def test_the_page_shows_every_row_and_its_verdict() -> None:
    profiles = {"m": {"run": "now", "group": "decode", "stages": {"step": 0.2, "everything else": 0.1}}}
    text = page(
        [Measured(row, "now") for row in ROWS], runs={"now": facts()}, quality={"reason": "why not"}, profiles=profiles,
        missing={"decode": "One sequence.", "load": "The start."},
    )  # fmt: skip
    for part in ("1 targets met, 1 missed, 1 not measured", "1.20 ×", "1.10 to 1.30", "**missed**", "the engine died",
                 "50.0%", "there is no C compiler", "why not", "none, torch alone",
                 "- `decode` (begun): One sequence.\n- `load`: The start."):  # fmt: skip
        assert part in text
    assert "0.90 to 1.10" not in text  # one turn has no range


def test_the_page_shows_the_quality_of_both_formats_beside_their_speed() -> None:
    rows = [quality_row("int4, groups of 64, head in int8", 0.0088), quality_row("Q4_0", 0.0311)]
    quality = {"run": "now", "command": "c", "rows": rows}
    rows_of_page = [Measured(ROWS[0], "now")]
    lines = page(rows_of_page, runs={"now": facts()}, quality=quality, profiles={}, missing={}).splitlines()
    assert any("| 8.8e-03 / 3.1e-02 |" in line and "1.20 ×" in line for line in lines)
    assert any("8.80e-03" in line and line.endswith("| run 1 |") for line in lines)


def test_quality_is_taken_from_its_page_and_measured_where_that_lacks_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `quantisation.py` would measure is written by a stand-in for it."""
    for date, divergence in (("2026-01-01", 0.5), ("2026-01-02", 0.25)):
        rows = [quality_row("Q4_0", divergence), {**quality_row("Q8_0", 1.0), "way": "weights in float32"}]
        report = json.dumps({"commit": "abc", "rows": rows})
        (tmp_path / f"quantisation_cpu_{date}.json").write_text(report, encoding="utf-8")
    script = (
        "import json, pathlib, sys\n"
        "names = sys.argv[sys.argv.index('--only') + 1 :]\n"
        f"row = {quality_row('', 0.125)}\n"
        "report = {'commit': 'new', 'rows': [{**row, 'name': name} for name in names]}\n"
        "pathlib.Path(sys.argv[2], 'quantisation_cpu_x.json').write_text(json.dumps(report))\n"
    )
    (tmp_path / "quantisation.py").write_text(script, encoding="utf-8")
    monkeypatch.setattr(cpu, "SCRIPTS", tmp_path)
    elsewhere = Report(runs={"1": facts("old")})
    elsewhere.quality = {"run": "1", "rows": [quality_row("Q4_0", 0.75), quality_row("int8, head in int8", 0.0625)]}
    elsewhere.write(tmp_path / "cpu_other.json")
    options = cpu.parse_arguments(["--directory", "x"])
    found = cpu.measure_quality(options, *cpu.known_formats(options, tmp_path / "cpu_here.json"))["rows"]
    by_name = {row["name"]: (row["qualities"]["prose"]["kl_mean"], row["source"]) for row in found}
    assert by_name.pop("Q4_0") == (0.25, "quantisation_cpu_2026-01-02.json, commit abc")
    assert by_name.pop("int8, head in int8") == (0.0625, "cpu_other.json, commit old, on P")
    ours = [name for name in cpu.QUALITY_FORMATS if name not in (*cpu.PEER_FORMATS, "int8, head in int8")]
    assert by_name == dict.fromkeys(ours, (0.125, "this run"))  # without a peer its formats are not asked for


def test_a_later_run_replaces_its_groups_and_keeps_the_others(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    first = Report.read(path)
    first.runs["1"] = facts("one")
    unknown = Row(group="batch", what="batch", model="", against="", target=math.nan, note="it failed")
    first.put("batch", [unknown], "1", list(GROUPS))
    first.put("decode", ROWS, "1", list(GROUPS))
    first.profiles["m"] = {"run": "1", "group": "decode", "stages": {"step": 0.2}}
    first.write(path)

    second = Report.read(path)
    assert [measured.row for measured in second.rows[:3]] == ROWS
    assert math.isnan(second.rows[3].row.target)
    second.runs["2"] = facts("two")
    second.put("decode", ROWS[:1], "2", list(GROUPS))
    second.write(path)
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert [(entry["row"]["group"], entry["run"]) for entry in stored["rows"]] == [("decode", "2"), ("batch", "1")]
    assert stored["profiles"] == {}
    text = path.with_suffix(".md").read_text(encoding="utf-8")
    assert "commit one" in text
    assert "commit two" in text

    third = Report.read(path)
    third.runs["3"] = facts("three")
    for group in ("decode", "batch"):
        third.put(group, ROWS[:1] if group == "decode" else [unknown], "3", list(GROUPS))
    third.write(path)
    assert list(Report.read(path).runs) == ["3"]  # nothing on the page is of the others


def measured_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, groups: dict[str, Any], *flags: str) -> Report:
    """What a run leaves whose groups are stand-ins, and which needs no compiler."""
    monkeypatch.setattr(cpu, "GROUPS", groups)
    monkeypatch.setattr(cpu_limits, "compiler", lambda: None)
    options = cpu.parse_arguments(["--directory", str(tmp_path), "--only", *groups, *flags])
    path = tmp_path / "cpu.json"
    done = Report.read(path).groups() if options.resume else set()
    cpu.measure_groups(options, done, path, "-".join(groups))
    return Report.read(path)


def test_a_run_that_is_cut_off_keeps_its_rows_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut_off(_: Bench) -> Any:
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured_here(monkeypatch, tmp_path, {"decode": cut_off}, "--commit", "abc", "--note", "On two cores.")
    report = Report.read(tmp_path / "cpu.json")
    assert ([measured.row for measured in report.rows], report.groups()) == ([ROWS[0]], set())
    text = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert "- `decode` (begun): One sequence" in text
    assert "- `load`: From" in text
    assert "commit abc;" in text
    assert "On two cores." in text

    report = measured_here(monkeypatch, tmp_path, {"decode": lambda _: ROWS}, "--resume")
    assert ([measured.row for measured in report.rows], report.groups()) == (ROWS, {"decode"})
    assert "`decode` (begun)" not in (tmp_path / "cpu.md").read_text(encoding="utf-8")


def test_runs_that_share_a_page_keep_each_other_s_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second run begins, and ends, while the first one measures."""

    def other_run(_: Bench) -> Any:
        yield ROWS[0]
        with monkeypatch.context() as inner:
            measured_here(inner, tmp_path, {"context": lambda _: [dataclasses.replace(ROWS[1], group="context")]})
        yield ROWS[2]

    report = measured_here(monkeypatch, tmp_path, {"decode": other_run})
    assert [(measured.row.group, measured.run) for measured in report.rows] == [
        ("decode", "decode"), ("decode", "decode"), ("context", "context")]  # fmt: skip
    assert report.groups() == {"decode", "context"}


def test_a_file_that_is_no_report_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cpu.json"
    path.write_text('{"rows": [{}]}', encoding="utf-8")
    with pytest.raises(ValueError, match="no report of this script"):
        Report.read(path)


def test_what_perf_says_is_added_up() -> None:
    report = "# comment\n\n  30\tlibours.so\t[.] multiply\n  10\tlibours.so\t[.] attend\n  60\t[kernel]\t[k] fault\n"
    found = shares_of(report)
    assert found["libraries"] == {"kernel": 0.6, "libours.so": 0.4}
    assert found["functions"][1] == {"function": "multiply", "library": "libours.so", "share": 0.3}
    with pytest.raises(PerfError, match="no samples"):
        shares_of("# nothing\n")


def test_without_perf_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(PerfError, match="not installed"):
        sampled(os.getpid(), lambda: None)


@pytest.mark.parametrize("name", ["no-such-compiler", "gcc '-m64"])
def test_a_compiler_that_is_named_but_absent_is_a_reason(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", name)
    with cpu_limits.Limits(1) as limits:
        assert limits.reason == f"there is no C compiler {name!r}, which CC names"
        assert (limits.bandwidth(), limits.peaks()) == (None, {})


@pytest.mark.skipif(cpu_limits.compiler() is None, reason="needs a C compiler")
def test_the_peaks_of_this_machine_are_plausible(tmp_path: Path) -> None:
    source = Path(cpu.__file__).with_name("cpu_matrix_peak.c")
    compiler = cpu_limits.compiler()
    assert compiler is not None
    command = [*compiler, *cpu_limits.FLAGS, "-Wall", "-Wextra", "-Werror", str(source), "-o", str(tmp_path / "peak")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "peak", "1"], capture_output=True, text=True, check=True)
    peaks = json.loads(done.stdout)
    if "vector_bits" in peaks:
        # a core has at most two units of each kind at less than 8 GHz, and all that is not measured away is above 0
        assert 0 < peaks["fp32_tflops"] <= 2 * 2 * peaks["vector_bits"] / 32 * 8e9 / 1e12
        assert 0 < peaks["int16_tops"] <= 2 * 2 * peaks["vector_bits"] / 16 * 8e9 / 1e12
        assert f"{peaks['int16_tops']:g} TOP/s in 16-bit multiply-adds" in peaks_text(peaks)
    assert ("no matrix units" in peaks_text(peaks)) == ("bf16_tflops" not in peaks)


@pytest.mark.parametrize(
    "flags",
    [["--turns", "0"], ["--turns", "50"], ["--lookup-tokens", "1"], ["--row-seconds", "0"],
     ["--official-layers", "6", "2"],
     ["--official-prefill-layers", "2", "7"],
     ["--peer-python", "/none"]],
)  # fmt: skip
def test_arguments_that_cannot_work_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cpu.parse_arguments(["--directory", "x", *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err


@pytest.mark.parametrize(("width", "kinds"), [(11008, ("Q4_K", "Q6_K", "Q4_0")), (13696, ("Q5_0", "Q8_0", "Q4_0"))])
def test_types_of_blocks_that_do_not_fill_rows_are_replaced(width: int, kinds: tuple[str, ...]) -> None:
    """As the 13B's `down` in files of llama-quantize."""
    gguf = pytest.importorskip("gguf", reason="the gguf package names the types")
    asked = [gguf.GGMLQuantizationType[name] for name in ("Q4_K", "Q6_K", "Q4_0")]
    assert tuple(_that_fits(kind, width).name for kind in asked) == kinds
