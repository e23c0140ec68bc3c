"""The benchmark of the processor: its arithmetic, its turns, its page, and engines that fail."""

import sys
from pathlib import Path
from typing import Any

import cpu
import pytest
import torch
from cpu_child import Child, EngineError
from cpu_engines import Engines, Shape
from cpu_models import ensure, spec_of, stored_bytes
from cpu_page import page
from cpu_rows import Bench, Comparison, Row, context_row, extrapolate, floor_row, ratios, take_turns

from baichuan2.checkpoints.load import load_model
from baichuan2.engine.generate import generate_tokens
from baichuan2.engine.sampling import Sampling
from baichuan2.settings import LoadSettings


class NoLimits:
    reason = "there is no C compiler"


def bench(engines: Any = None) -> Bench:
    return Bench(
        engines=engines, limits=NoLimits(), turns=2, tokens=2, shape=Shape("7b"), large_shape=Shape("13b"),
        formats={"int4": "int4-g64"}, contexts=(64, 2048), prompts=(512, 2048), batches=(4,),
    )  # fmt: skip


def test_turns_run_backwards_every_other_time() -> None:
    order: list[str] = []
    actions = {name: lambda name=name: float(len(order.append(name) or order)) for name in "abc"}
    assert take_turns(actions, 3) == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert "".join(order) == "abccbaabc"


def test_layers_are_extrapolated_by_their_difference() -> None:
    assert extrapolate(0.5, 0.9, (2, 6), 32) == pytest.approx(0.3 + 32 * 0.1)


def test_a_ratio_is_taken_within_each_turn() -> None:
    """A machine that is three times slower in one turn is so for both."""
    assert ratios([2.0, 6.0, 2.2], [1.0, 3.0, 1.0]) == pytest.approx((2.0, 2.0, 2.2))


@pytest.mark.parametrize(("other", "is_met"), [(1.2, True), (1.0, False)])
def test_a_comparison_is_of_speeds(other: float, is_met: bool) -> None:
    row = Comparison("decode", "decode", "7b-int4-g64", "7b-Q4_0", 1.1).row(
        {"7b-int4-g64": [0.5, 0.5], "7b-Q4_0": [0.5 * other] * 2}, {}
    )
    assert (row.ratio, row.is_met, row.ours) == (pytest.approx(other), is_met, "2.00 tokens/s")
    assert row.against == "llama.cpp Q4_0"


def test_a_row_without_a_figure_says_why() -> None:
    row = Comparison("decode", "decode", "a-int4", "a-Q4_0", 1.1).row({"a-int4": [1.0]}, {"a-Q4_0": "it died"})
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
    row = context_row(bench(), "context", Shape("7b"), "7b-int4-g64", ([0.15], [0.15 + 0.05]), [extra / 0.04])
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
    engines = Engines(tmp_path, None, 1, (1, 2))
    with pytest.raises(EngineError, match="no --peer-python"):
        engines.call("tiny-Q4_0", "start", name="x", context=4, batch=1)


def test_the_page_shows_every_row_and_its_verdict() -> None:
    shared = {"group": "decode", "what": "decode", "model": "m", "against": "x"}
    rows = [
        Row(**shared, target=1.1, ratio=1.2, low=1.1, high=1.3),  # type: ignore[arg-type]
        Row(**shared, target=1.1, ratio=1.0, low=0.9, high=1.1),  # type: ignore[arg-type]
        Row(**shared, target=1.1, note="the engine died"),  # type: ignore[arg-type]
    ]
    facts: dict[str, Any] = {
        "date": "2026-01-01", "command": "python benchmarks/cpu.py", "commit": "abc", "python": "3.11",
        "torch": torch.__version__, "transformers": "5", "threads": 2, "kernels": None, "peer": None, "bytes": {"m": 1},
        "hardware": {"processor": "P", "cores": 2, "instructions": [], "memory_gib": 1, "system": "Linux"},
        "limits": {"reason": "there is no C compiler"}, "quality": {"reason": "--no-quality"},
        "profile": {"m": {"step": 0.2, "everything else": 0.1}},
    }  # fmt: skip
    text = page(rows, facts)
    for part in ("1 targets met, 1 missed, 1 not measured", "1.20 ×", "**missed**", "the engine died", "50.0%",
                 "there is no C compiler", "--no-quality", "none, torch alone"):  # fmt: skip
        assert part in text


@pytest.mark.parametrize("flags", [["--turns", "0"], ["--official-layers", "6", "2"], ["--peer-python", "/none"]])
def test_arguments_that_cannot_work_are_refused(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cpu.parse_arguments(["--directory", "x", *flags])
    assert stopped.value.code == 2
    assert flags[0] in capsys.readouterr().err
