"""Checkpoints written in fewer bits: every format is loaded again, and near to what it was made from."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from baichuan2.checkpoints.load import load_model
from baichuan2.convert import output, quantize
from baichuan2.convert.output import read_shard
from baichuan2.convert.quantize import QuantizedFolder, Step, quantize_checkpoint
from baichuan2.errors import BaichuanError, CheckpointError, QuantizationError, SettingsError
from baichuan2.model.quantizer import QUANTIZED_LINEARS
from baichuan2.quantization.bnb_layout import read_nf4
from baichuan2.quantization.nf4 import dequantize_nf4
from baichuan2.quantization.official_4bits import read_quant_state
from baichuan2.settings import LoadSettings, QuantizeSettings
from tests.checkpoints.folders import FORMS, change_json, weights, write_folder, write_weights
from tests.tiny import random_ids

LINEARS = [f"model.layers.{layer}.{part}" for layer in range(2) for part in QUANTIZED_LINEARS]
METHODS = [
    ("7b", "int8", "nearest"),
    ("7b", "int8", "search"),
    ("7b", "int8", "gptq"),
    ("7b", "int4", "nearest"),
    ("7b", "int4", "search"),
    ("13b", "int4", "gptq"),
    ("7b", "nf4", "nearest"),
    ("13b", "official-4bits", "nearest"),
]
# root mean square difference of logits relative to their own size, on the tiny models: far below what a wrong layout
# gives (1.4), above what rounding gives
NEAR = {"int8": 0.04, "int4": 0.5, "nf4": 0.5, "official-4bits": 0.5}


@pytest.fixture(scope="module", params=["7b", "13b"])
def source(request, tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / request.param, request.param, "safetensors", "sharded")


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source") / "7b", "7b", "safetensors")


def written(source: Path, target: Path, **choices) -> QuantizedFolder:
    choices.setdefault("calibration_tokens", 400)
    return quantize_checkpoint(QuantizeSettings(source=str(source), target=str(target), **choices))


def logits(folder: Path) -> Tensor:
    with torch.no_grad():
        return load_model(folder, LoadSettings(device="cpu")).model(random_ids(2, 24)).logits.float()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("source", "format", "method"), METHODS, indirect=["source"])
def test_every_format_and_method_loads_and_answers_nearly_the_same(format, method, source, tmp_path):
    result = written(source, tmp_path / "out", format=format, method=method)
    expected, found = logits(source), logits(result.folder)
    distance = (found - expected).norm() / expected.norm()
    assert 0 < distance < NEAR[format]
    assert set(result.errors) == set(LINEARS)
    assert (result.num_tokens > 0) == (method == "gptq")


@pytest.mark.filterwarnings("ignore:.* tokens of calibration text")
@pytest.mark.parametrize("num_tokens", [100, 400])
@pytest.mark.parametrize(("format", "group_size"), [("int8", 0), ("int4", 32)])
def test_a_short_calibration_text_is_not_learnt_by_heart(format, group_size, num_tokens, small, tmp_path):
    found = {}
    for method in ("search", "gptq"):
        folder = written(
            small,
            tmp_path / method,
            format=format,
            group_size=group_size,
            method=method,
            calibration_tokens=num_tokens,
        ).folder
        found[method] = logits(folder)
    expected = logits(small)
    # random tokens are nothing like the text: what is gained on it may cost a little here, not more
    assert (found["gptq"] - expected).norm() < 1.1 * (found["search"] - expected).norm()


@pytest.mark.filterwarnings("error")
def test_less_text_than_inputs_is_warned_of(small, tmp_path):
    with pytest.raises(UserWarning, match="100 tokens of calibration text are few for layers of 192 inputs"):
        written(small, tmp_path / "out", calibration_tokens=100)


@pytest.mark.parametrize(("kind", "layout"), FORMS)
def test_every_form_of_source_gives_the_same_bytes(kind, layout, small, tmp_path):
    written(small, tmp_path / "expected", method="nearest")
    folder = write_folder(tmp_path / "source", "7b", kind, layout)
    written(folder, tmp_path / "out", method="nearest")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_only_the_five_linear_layers_of_each_block_change(source, tmp_path):
    folder = written(source, tmp_path / "out", format="int8").folder
    tensors = {name: value for path in folder.glob("*.safetensors") for name, value in read_shard(path).items()}
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    assert all(name in read_shard(folder / shard) for name, shard in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    original = weights("7b" if source.name == "7b" else "13b")
    quantized = {f"{name}.weight" for name in LINEARS}
    assert {name for name in original if name in tensors} == set(original) - quantized
    for name in set(original) - quantized:
        assert torch.equal(tensors[name], original[name])
    assert len(list(folder.glob("*.safetensors"))) == 3  # one a layer, one for the rest


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_bits_per_weight_count_everything_that_is_stored(group_size, small, tmp_path):
    result = written(small, tmp_path / "out", format="int4", method="nearest", group_size=group_size)
    # 192 inputs of down_proj are one and a half groups of 128
    assert result.bits_per_weight == pytest.approx(4 + 16 / group_size, abs=0.03)
    spec = json.loads((result.folder / "config.json").read_text())["quantization_config"]
    assert (spec["quant_method"], spec["format"], spec["group_size"]) == ("baichuan2", "int4", group_size)


@pytest.mark.parametrize("source", ["13b"], indirect=True)
def test_calibrated_codes_keep_the_outputs_better_than_nearest_ones(source, tmp_path):
    expected = logits(source)
    text = tmp_path / "text.txt"
    text.write_text("中国的首都是北京。The capital of France is Paris.\n\n" * 40, encoding="utf-8")
    choices = {"format": "int4", "codebook": "uniform", "group_size": 64}
    distances = {}
    for method in ("nearest", "gptq"):
        calibration = str(text) if method == "gptq" else None
        folder = written(source, tmp_path / method, method=method, calibration=calibration, **choices).folder
        tokens = load_model(folder).tokenizer.encode_text(text.read_text(encoding="utf-8")[:60])
        ids = torch.tensor([tokens])
        with torch.no_grad():
            expected = load_model(source).model(ids).logits.float()
            distances[method] = float((load_model(folder).model(ids).logits.float() - expected).norm())
    assert distances["gptq"] < 0.8 * distances["nearest"]


@pytest.mark.parametrize("has_normalized_head", [True, False])
def test_head_and_embedding_in_8_bits(has_normalized_head, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    change_json(folder / "config.json", normalized_head=has_normalized_head)
    result = written(folder, tmp_path / "out", format="int8", head="int8", embedding="int8")
    expected, found = logits(folder), logits(result.folder)
    assert (found - expected).norm() / expected.norm() < 0.05
    rest = read_shard(result.folder / "model-00003-of-00003.safetensors")
    assert set(rest) == {
        "lm_head.weight_codes",
        "lm_head.weight_scales",
        "model.embed_tokens.weight_codes",
        "model.embed_tokens.weight_scales",
        "model.norm.weight",
    }
    assert {"lm_head", "model.embed_tokens"} < set(result.errors)


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize("has_normalized_head", [True, False])
def test_head_in_4_bits(has_normalized_head, format, small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    change_json(folder / "config.json", normalized_head=has_normalized_head)
    result = written(folder, tmp_path / "out", format=format, head="int4")
    expected, found = logits(folder), logits(result.folder)
    assert (found - expected).norm() / expected.norm() < (0.15 if format == "int8" else NEAR["int4"])
    assert 0.01 < result.errors["lm_head"] < 0.15
    rest = read_shard(result.folder / "model-00003-of-00003.safetensors")
    assert {name for name in rest if "lm_head" in name} == {"lm_head.weight_codes", "lm_head.weight_scales"}
    vocabulary, hidden = weights("7b")["lm_head.weight"].shape
    assert rest["lm_head.weight_codes"].shape == (vocabulary, hidden // 2)
    assert rest["lm_head.weight_scales"].shape == (vocabulary, hidden // 32)


def test_a_calibrated_head_keeps_the_logits_better_than_a_searched_one(small, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("中国的首都是北京。The capital of France is Paris.\n\n" * 40, encoding="utf-8")
    ids = torch.tensor([load_model(small).tokenizer.encode_text(text.read_text(encoding="utf-8")[:60])])
    distances = {}
    for method in ("search", "gptq"):
        calibration = str(text) if method == "gptq" else None
        folder = written(
            small, tmp_path / method, format="int8", method=method, calibration=calibration, head="int4"
        ).folder
        with torch.no_grad():
            expected = load_model(small).model(ids).logits.float()
            distances[method] = float((load_model(folder).model(ids).logits.float() - expected).norm())
    assert distances["gptq"] < 0.7 * distances["search"]


@pytest.mark.parametrize("num_done", [1, 2])
def test_a_run_with_a_calibrated_head_goes_on_to_the_same_bytes(num_done, small, tmp_path):
    settings = QuantizeSettings(source=str(small), target=str(tmp_path / "out"), head="int4", calibration_tokens=400)
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, stop_after(num_done))
    quantize_checkpoint(settings)
    assert contents(tmp_path / "out") == contents(written(small, tmp_path / "whole", head="int4").folder)
    assert not list((tmp_path / "out").glob("*states*"))


def test_a_head_that_is_not_the_weight_is_noticed(small, tmp_path, monkeypatch):
    real = quantize.round_table
    monkeypatch.setattr(quantize, "round_table", lambda table, *args, **options: real(table.flip(1), *args, **options))
    with pytest.raises(CheckpointError, match=r"lm_head: what was written is not the weight"):
        written(small, tmp_path / "out", head="int4")


def test_nf4_values_are_those_of_bitsandbytes(small, tmp_path):
    functional = pytest.importorskip("bitsandbytes.functional")
    original = weights("7b")
    nf4 = written(small, tmp_path / "nf4", format="nf4").folder
    official = written(small, tmp_path / "official", format="official-4bits").folder
    tensors = {name: value for path in nf4.glob("*.safetensors") for name, value in read_shard(path).items()}
    content = torch.load(official / "pytorch_model.bin", weights_only=True)
    for name in [f"{name}.weight" for name in LINEARS]:
        for dtype, found in (
            (torch.bfloat16, read_nf4(tensors, name)),
            (torch.float16, read_quant_state(content[f"{name}.quant_state"], content[f"{name}.data"], name)),
        ):
            codes, state = functional.quantize_4bit(
                original[name].to(dtype), blocksize=64, compress_statistics=True, quant_type="nf4"
            )
            assert torch.equal(found.codes, codes.reshape(-1))
            assert torch.equal(dequantize_nf4(found, dtype), functional.dequantize_4bit(codes, state))


def test_nf4_folder_runs_in_the_library_as_it_does_here(small, tmp_path):
    pytest.importorskip("bitsandbytes")
    from transformers import AutoModelForCausalLM

    folder = written(small, tmp_path / "out", format="nf4").folder
    model = AutoModelForCausalLM.from_pretrained(folder)
    library = sys.modules["bitsandbytes"]
    assert isinstance(model.model.layers[0].mlp.up_proj, library.nn.Linear4bit)
    name = "model.layers.1.mlp.down_proj"
    tensors = read_shard(folder / "model-00002-of-00003.safetensors")
    stored = model.get_submodule(name).weight
    found = library.functional.dequantize_4bit(stored.data, stored.quant_state)
    assert torch.equal(found, dequantize_nf4(read_nf4(tensors, f"{name}.weight"), torch.bfloat16))


def test_official_file_has_the_layout_of_the_official_folders(small, tmp_path):
    folder = written(small, tmp_path / "out", format="official-4bits").folder
    golden = Path(__file__).resolve().parent.parent / "golden" / "quant" / "official_4bits_layout_rope_h4"
    found = torch.load(folder / "pytorch_model.bin", weights_only=True)
    expected = torch.load(golden / "pytorch_model.bin", weights_only=True)
    assert not list(folder.glob("*.safetensors*"))
    kept = [name for name in expected if "layers.2." not in name]
    assert list(found) == sorted(kept)  # two layers here, three there
    for name in kept:
        assert kinds(found[name]) == kinds(expected[name]), name
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (folder, golden))
    assert ours["quantization_config"] == theirs["quantization_config"]
    assert ours["torch_dtype"] == "float16"


def kinds(value: object) -> object:
    """Types and number formats, all the way down; a float16 parameter is what it is, whatever its size."""
    if isinstance(value, Tensor):
        return type(value).__name__, value.dtype, value.dim()
    if isinstance(value, list):
        return [kinds(item) for item in value]
    return (type(value).__name__, value if not isinstance(value, torch.Size) else len(value))


def test_float16_weights_that_official_folders_cannot_hold_are_told(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    state = weights("7b")
    state["model.norm.weight"][3] = 70_000
    write_weights(folder, state, "safetensors", "whole")
    with pytest.raises(QuantizationError, match=r"model\.norm\.weight holds numbers beyond 65504"):
        written(folder, tmp_path / "out", format="official-4bits")


def test_digests_hold_for_every_file_and_code_stays_behind(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    (folder / "modeling_baichuan.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("# a model")
    target = written(folder, tmp_path / "out", method="nearest").folder
    lines = (target / "SHA256SUMS").read_text().splitlines()
    digests = {line[66:]: line[:64] for line in lines}
    names = {path.name for path in target.iterdir()} - {"SHA256SUMS"}
    assert set(digests) == names
    assert names >= {"config.json", "tokenizer.model", "tokenizer_config.json", "generation_config.json", "README.md"}
    assert "modeling_baichuan.py" not in names
    assert "auto_map" not in json.loads((target / "config.json").read_text())
    for name, digest in digests.items():
        assert hashlib.sha256((target / name).read_bytes()).hexdigest() == digest
    assert not (tmp_path / "out.partial").exists()


def stop_after(layer: int):
    def watch(step: Step) -> None:
        if step.done == layer:
            raise KeyboardInterrupt

    return watch


@pytest.mark.parametrize(
    ("source", "format", "method"),
    [("13b", "int4", "nearest"), ("7b", "int4", "gptq"), ("7b", "official-4bits", "nearest")],
    indirect=["source"],
)
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(format, method, source, tmp_path):
    written(source, tmp_path / "whole", format=format, method=method)
    settings = QuantizeSettings(
        source=str(source), target=str(tmp_path / "out"), format=format, method=method, calibration_tokens=400
    )
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, stop_after(1))
    assert not (tmp_path / "out").exists()
    first = (tmp_path / "out.partial" / "model-00001-of-00003.safetensors").stat().st_mtime_ns
    steps: list[Step] = []
    quantize_checkpoint(settings, steps.append)
    assert steps == [Step(0, 2, 0), Step(1, 2, 1), Step(2, 2, 1)]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    if format == "int4":
        assert (tmp_path / "out" / "model-00001-of-00003.safetensors").stat().st_mtime_ns == first


KILLED = """
import os, signal, sys
from baichuan2.convert.quantize import quantize_checkpoint
from baichuan2.settings import QuantizeSettings

def watch(step):
    if step.done == 1:
        os.kill(os.getpid(), signal.SIGKILL)

quantize_checkpoint(QuantizeSettings(source=sys.argv[1], target=sys.argv[2], method="nearest"), watch)
"""


def test_a_killed_run_goes_on_even_behind_a_half_written_file(small, tmp_path):
    target = tmp_path / "out"
    done = subprocess.run([sys.executable, "-c", KILLED, str(small), str(target)], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    partial = tmp_path / "out.partial"
    (partial / "model-00002-of-00003.safetensors.partial").write_bytes(b"half")
    written(small, target, method="nearest")
    written(small, tmp_path / "whole", method="nearest")
    assert contents(target) == contents(tmp_path / "whole")


def test_a_finished_file_that_was_damaged_is_written_again(small, tmp_path):
    settings = QuantizeSettings(source=str(small), target=str(tmp_path / "out"), method="nearest")
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, stop_after(2))
    shard = tmp_path / "out.partial" / "model-00002-of-00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    steps: list[Step] = []
    quantize_checkpoint(settings, steps.append)
    assert [step.resumed for step in steps] == [0, 1, 1]
    written(small, tmp_path / "whole", method="nearest")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "int8"}, "begun with format int4, not int8"),
        ({"group_size": 64}, "begun with group size 32, not 64"),
        ({"head": "int8"}, "begun with head none, not int8"),
        ({"head": "int4"}, "begun with head none, not int4"),
    ],
)
def test_another_job_does_not_go_on_with_the_leftovers(changes, message, small, tmp_path):
    settings = {"source": str(small), "target": str(tmp_path / "out"), "method": "nearest"}
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(QuantizeSettings(**settings), stop_after(1))
    with pytest.raises(SettingsError, match=message):
        quantize_checkpoint(QuantizeSettings(**settings | changes))


def test_a_changed_source_does_not_go_on(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    settings = QuantizeSettings(source=str(folder), target=str(tmp_path / "out"), method="nearest")
    with pytest.raises(KeyboardInterrupt):
        quantize_checkpoint(settings, stop_after(1))
    os.utime(folder / "model.safetensors", ns=(1, 1))
    with pytest.raises(SettingsError, match="begun with another source"):
        quantize_checkpoint(settings)


def test_what_was_written_wrongly_is_noticed(small, tmp_path, monkeypatch):
    real = output.save_shard

    def damaged(tensors: dict[str, Tensor], path: Path) -> None:
        name = next(name for name in tensors if name.endswith("weight_codes"))
        real({**tensors, name: tensors[name] ^ 1}, path)

    monkeypatch.setattr(output, "save_shard", damaged)
    with pytest.raises(CheckpointError, match=r"weight_codes differs from what was written"):
        written(small, tmp_path / "out", method="nearest")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial" / "model-00001-of-00003.safetensors").exists()


def test_codes_that_are_not_the_weight_are_noticed(small, tmp_path, monkeypatch):
    real = quantize.round_weight
    monkeypatch.setattr(quantize, "round_weight", lambda rounding, weight: real(rounding, weight.flip(1)))
    with pytest.raises(CheckpointError, match=r"W_pack: what was written is not the weight"):
        written(small, tmp_path / "out", method="nearest")


def test_not_a_number_is_told_with_its_place(small, tmp_path):
    folder = shutil.copytree(small, tmp_path / "source")
    state = weights("7b")
    state["model.layers.1.mlp.up_proj.weight"][5, 7] = float("nan")
    write_weights(folder, state, "safetensors", "whole")
    for method in ("nearest", "gptq"):
        with pytest.raises(QuantizationError, match=r"^model\.layers\.1\.mlp\.up_proj\.weight: .*NaN"):
            written(folder, tmp_path / method, method=method)


def test_hostile_sources_and_targets_end_in_one_line(small, tmp_path):
    done = written(small, tmp_path / "done", method="nearest").folder
    (tmp_path / "strange.partial").mkdir()
    (tmp_path / "strange.partial" / "thesis.txt").write_text("years of work")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(small)
    (tmp_path / "file").write_text("")
    cases = {
        (None, "x"): "SOURCE is missing",
        (small, None): "TARGET is missing",
        (tmp_path / "absent", tmp_path / "out"): "there is no folder",
        (tmp_path / "empty", tmp_path / "out"): "is empty",
        (done, tmp_path / "out"): "is quantised already",
        (small, done): "exists, and nothing is overwritten",
        (small, tmp_path / "file"): "exists, and nothing is overwritten",
        (small, small): "exists, and nothing is overwritten",
        (small, small / "inside"): "lies inside SOURCE",
        (small, tmp_path / "link" / "inside"): "lies inside SOURCE",
        (small, tmp_path / "no" / "parent"): "there is no folder .*no: make it first",
        (small, tmp_path / "strange"): "thesis.txt, which no unfinished run left",
        (small, tmp_path / ("x" * 300)): "TARGET cannot be a folder",
        (small, "nul\0byte"): "TARGET cannot be a folder",
    }
    for (source, target), message in cases.items():
        values = {"source": source and str(source), "target": target and str(target)}
        with pytest.raises(BaichuanError, match=message) as caught:
            quantize_checkpoint(QuantizeSettings(method="nearest", **values))
        assert "\n" not in str(caught.value)
    assert (tmp_path / "strange.partial" / "thesis.txt").read_text() == "years of work"


def test_two_runs_at_once_are_kept_apart(small, tmp_path):
    settings = QuantizeSettings(source=str(small), target=str(tmp_path / "out"), method="nearest")

    def second(step: Step) -> None:
        if step.done == 1:
            with pytest.raises(SettingsError, match="another run is writing"):
                quantize_checkpoint(settings)

    quantize_checkpoint(settings, second)
    assert logits(tmp_path / "out").isfinite().all()


def test_a_full_disk_is_told_before_anything_is_written(small, tmp_path, monkeypatch):
    monkeypatch.setattr(quantize.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**6))
    with pytest.raises(CheckpointError, match=r"has 0\.0 GB free, .* GB are needed"):
        written(small, tmp_path / "out", method="nearest")


def test_calibration_without_a_calibrated_method_is_refused(small, tmp_path):
    with pytest.raises(SettingsError, match="--calibration works with --method gptq only"):
        written(small, tmp_path / "out", method="search", calibration="text.txt")
