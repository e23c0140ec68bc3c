"""The report on what quantising costs: sizes counted by hand, quality, and copies that are gone afterwards."""

import contextlib
import gzip
import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch

from baichuan2.bench import report as report_module
from baichuan2.bench.memory import LoadMemory, ProcessMemory
from baichuan2.bench.report import make_report
from baichuan2.bench.report_text import ReportText, built_in_texts, file_text
from baichuan2.checkpoints.load import load_model
from baichuan2.checkpoints.memory import Place
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.errors import CheckpointError, DataError, MemoryShortageError, SettingsError
from baichuan2.settings import QuantizeSettings
from tests.checkpoints.folders import write_folder

PROSE = "The capital of France is Paris. 中国的首都是北京。\n" * 12


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "tiny", "7b", "safetensors")


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(PROSE, encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_process(monkeypatch) -> None:
    """Memory is measured by tests of its own; a process for each row would take seconds."""
    stage = ProcessMemory(resident=1, anonymous=1, file_backed=1, peak=1)
    measured = LoadMemory(before=stage, loaded=stage, generated=stage, weight_bytes=1, num_tokens=1, load_seconds=1.0)
    monkeypatch.setattr(report_module, "measure_load", lambda *_: measured)


def wanted(source: Path, text: Path | None, **choices) -> QuantizeSettings:
    written = None if text is None else str(text)
    return QuantizeSettings(source=str(source), text=written, report=True, method="nearest", **choices)


def test_all_formats_are_measured_and_their_copies_are_gone(source, text, scratch):
    seen, announced = [], []

    @contextlib.contextmanager
    def stage(name, kind):
        seen.append((name, kind))
        yield lambda *_: None

    report = make_report(wanted(source, text), quantize_checkpoint, stage=stage, announce=announced.append)
    assert list(scratch.iterdir()) == []
    assert [row.name for row in report.rows] == ["bfloat16", "int8", "int4", "nf4"]
    assert seen.index(("int8", "copy")) < seen.index(("int8", "memory")) < seen.index(("int8", "quality"))
    assert announced[0].seconds > 0
    assert announced[0].disk > 0
    plain, int8, int4, nf4 = (row.qualities[0] for row in report.rows)
    assert report.reference_dtype == "float32"
    assert plain.kl_mean < int8.kl_mean < nf4.kl_mean
    assert int8.kl_mean < int4.kl_mean
    assert plain.agreement > 0.95
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["texts"][0]["kind"] == "file"


def test_bytes_of_each_part(source, text):
    report = make_report(wanted(source, text), quantize_checkpoint)
    plain, int8, int4, _ = (row.parts for row in report.rows)
    hidden, inner, layers, vocabulary = 128, 192, 2, 768
    attention, mlp = 4 * hidden * hidden * layers, 3 * hidden * inner * layers
    assert (plain.attention, plain.mlp) == (2 * attention, 2 * mlp)
    assert plain.embedding == plain.head == plain.head_copy == 2 * vocabulary * hidden
    assert (int8.embedding, int8.head) == (plain.embedding, plain.head)
    assert attention < int8.attention < 1.1 * attention
    assert attention / 2 < int4.attention < 0.6 * attention + 200
    row = report.rows[0]
    model = load_model(source).model
    tensors = (*model.parameters(), *model.buffers())
    assert row.parts.weights == sum(tensor.nbytes for tensor in tensors)
    assert row.file_bytes == (source / "model.safetensors").stat().st_size
    assert report.context == 128  # no more than the model takes
    assert row.cache == 256 * 2 * layers * hidden * 2  # of whole blocks


def test_a_written_folder_beside_its_source_and_by_itself(source, text, tmp_path):
    target = tmp_path / "small"
    settings = wanted(source, text, target=str(target), format="int8")
    quantize_checkpoint(settings)

    def never(_):
        raise AssertionError("nothing is to be written")

    beside = make_report(settings, never)
    assert [row.name for row in beside.rows] == ["bfloat16", "small"]
    alone = make_report(QuantizeSettings(source=str(target), report=True), never)
    assert ([row.name for row in alone.rows], alone.texts, alone.reference_dtype) == (["small"], (), None)
    again = make_report(wanted(target, text, reference=str(source)), never)
    assert again.rows[1].qualities == beside.rows[1].qualities
    assert again.rows[1].parts == alone.rows[0].parts
    with pytest.raises(SettingsError, match=r"--reference .* is quantised itself"):
        make_report(wanted(target, text, reference=str(target)), never)
    with pytest.raises(SettingsError, match="needs --reference"):
        make_report(wanted(target, text), never)


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_nothing_stays_after_an_interruption(failure, source, text, scratch):
    def interrupted(settings):
        quantize_checkpoint(settings)
        assert list(scratch.iterdir())
        raise failure

    with pytest.raises(failure):
        make_report(wanted(source, text), interrupted)
    assert list(scratch.iterdir()) == []


def test_choices_hold_for_their_own_format(source, text):
    asked = []
    with contextlib.suppress(CheckpointError):
        make_report(wanted(source, text), asked.append)  # writes nothing, so that the copy cannot be loaded
    copies = report_module._copies(wanted(source, text, format="int4", group_size=64, head="int8"))
    assert [(item.format, item.group_size, item.head, item.method) for item in copies] == [
        ("int8", None, "none", "nearest"),
        ("int4", 64, "int8", "nearest"),
        ("nf4", None, "none", "nearest"),
    ]
    assert [item.format for item in report_module._copies(wanted(source, text, format="official-4bits"))][-1] == (
        "official-4bits"
    )
    assert asked[0].report is False


def test_what_does_not_fit_is_refused_in_one_line_before_anything_is_written(source, text, monkeypatch):
    def never(_):
        raise AssertionError("nothing is to be written")

    usage = type("Usage", (), {"free": 1000})
    with monkeypatch.context() as patch:
        patch.setattr(report_module.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(CheckpointError, match="set TMPDIR") as caught:
            make_report(wanted(source, text), never)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(report_module, "main_memory", lambda: Place("cpu", "main", 10**6, 10**6))
    with pytest.raises(MemoryShortageError, match="holds two models at once"):
        make_report(wanted(source, text), never)


def test_less_memory_computes_the_reference_in_its_own_format(source, text, monkeypatch):
    job = report_module._Job(wanted(source, text))
    need = job.forecast(Path("/")).memory
    monkeypatch.setattr(report_module, "main_memory", lambda: Place("cpu", "main", need, need - 1))
    report = make_report(wanted(source, text), quantize_checkpoint)
    assert report.reference_dtype == "bfloat16"
    assert report.rows[0].qualities[0].kl_mean == 0
    assert report.rows[1].qualities[0].kl_mean > 0


def test_the_built_in_text_is_apart_from_the_calibration_text():
    calibration = gzip.decompress(files("baichuan2.convert").joinpath("calibration.jsonl.gz").read_bytes()).decode()
    lines = files("baichuan2.bench").joinpath("report.jsonl").read_text(encoding="utf-8").splitlines()
    shared = set(lines) & set(calibration.splitlines())
    assert not shared
    asked = {json.loads(line)["messages"][-2]["content"] for line in lines if '"messages"' in line}
    calibrated = {
        message["content"] for line in calibration.splitlines() for message in json.loads(line).get("messages", [])
    }
    assert not {question for question in asked & calibrated if len(question) > 12}


def test_built_in_texts_count_replies_of_a_chat_model_and_everything_of_a_base_model():
    tokenizer = load_model("demo-chat").tokenizer
    replies, plain = built_in_texts(tokenizer, is_chat=True, max_length=512)
    assert (replies.kind, plain.kind) == ("replies", "text")
    ids, start = replies.sequences[0].tolist(), replies.starts[0]
    assert (ids[0], ids[start - 1]) == (195, 196)
    assert replies.num_tokens == sum(map(len, replies.sequences)) - sum(replies.starts)
    (whole,) = built_in_texts(tokenizer, is_chat=False, max_length=512)
    assert len(whole.sequences) == len(replies.sequences) + len(plain.sequences)
    assert not bool(torch.cat(whole.sequences).eq(195).any())
    (short, _) = built_in_texts(tokenizer, is_chat=True, max_length=40)
    assert max(map(len, short.sequences)) <= 40


def test_a_text_that_cannot_be_used_is_told(tmp_path):
    tokenizer = load_model("demo-chat").tokenizer
    with pytest.raises(DataError, match="cannot be read"):
        file_text(tokenizer, str(tmp_path / "none.txt"), max_length=64)
    (tmp_path / "short.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="too little text"):
        file_text(tokenizer, str(tmp_path / "short.txt"), max_length=64)


def test_only_what_is_foretold_counts(source, tmp_path, monkeypatch):
    sequences = tuple(torch.arange(200 + start, 230 + start) for start in range(6))
    given = ReportText("replies", "built-in", sequences, (20, 20, 20, 25, 25, 30))
    monkeypatch.setattr(report_module, "built_in_texts", lambda *_, **__: [given])
    target = tmp_path / "small"
    quantize_checkpoint(wanted(source, None, target=str(target), format="int8"))
    report = make_report(wanted(source, None, target=str(target)), lambda _: None)
    assert given.num_tokens == 3 * 10 + 2 * 5
    assert [row.qualities[0].num_tokens for row in report.rows] == [40, 40]
    assert report.rows[1].qualities[0].kl_margin > 0
