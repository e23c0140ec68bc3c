"""What `convert to-gguf` writes, read back by the gguf package; what it refuses; what it leaves when it is stopped."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from baichuan2 import CheckpointError, ConvertSettings, MissingExtraError, SettingsError, TokenizerError
from baichuan2.checkpoints.mapped import MappedTensors
from baichuan2.checkpoints.shards import find_weight_files
from baichuan2.convert import gguf_file, gguf_types
from baichuan2.convert.gguf_layout import to_neighbours
from baichuan2.convert.ways import convert_checkpoint
from baichuan2.errors import QuantizationError
from tests.convert.gguf_models import save_tiny

gguf = pytest.importorskip("gguf", reason="the gguf package writes and reads the files of llama.cpp")
resource = pytest.importorskip("resource", reason="limits of file sizes and signals are those of POSIX")

BOUNDS = {"q8_0": 1 / 254, "q4_0": 1 / 8, "q4_1": 1 / 30, "q5_0": 1 / 16, "q5_1": 1 / 62}
"""The largest error, as a part of the largest number of a block; for those with a least value of the block's range."""
HALF_ROUNDING = 2**-10  # scales and least values are float16


def convert(source: Path | str, target: Path, type_name: str = "f32", watch: Any = None) -> Any:
    settings = ConvertSettings(way="to-gguf", source=str(source), target=str(target), type=type_name)
    return convert_checkpoint(settings, watch)


def stored(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in gguf.GGUFReader(path).fields.items()}


def expected_values(folder: Path, *, head_in_float32: bool) -> dict[str, Tensor]:
    """What llama.cpp's tensors must hold before rounding, by slow and obvious means."""
    ours = MappedTensors(find_weight_files(folder))
    config = json.loads((folder / "config.json").read_text())
    heads = config["num_attention_heads"]
    head = ours["lm_head.weight"].float() if head_in_float32 else ours["lm_head.weight"]
    values = {
        "token_embd.weight": ours["model.embed_tokens.weight"],
        "output_norm.weight": ours["model.norm.weight"],
        "output.weight": normalize(head) if config["normalized_head"] else head,
    }
    names = {"attn_output": "self_attn.o_proj", "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    names |= {f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    for layer in range(config["num_hidden_layers"]):
        query, key, value = ours[f"model.layers.{layer}.self_attn.W_pack.weight"].chunk(3)
        if config["position_embedding"] == "rope":
            query, key = to_neighbours(query, heads), to_neighbours(key, heads)
        values |= {
            f"blk.{layer}.attn_{letter}.weight": part for letter, part in zip("qkv", (query, key, value), strict=True)
        }
        values |= {f"blk.{layer}.{n}.weight": ours[f"model.layers.{layer}.{m}.weight"] for n, m in names.items()}
    return values


@pytest.fixture(scope="module")
def rope(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("rope") / "tiny", "7b", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def alibi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("alibi") / "tiny", "13b", hidden_size=160, num_hidden_layers=40)


def test_tensors_of_plain_types_hold_the_numbers_of_the_checkpoint(
    rope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_types, "BLOCK_WEIGHTS", 1000)  # many blocks, the last one smaller, and of one row
    for type_name, dtype in (("f32", torch.float32), ("f16", torch.float16), ("bf16", torch.bfloat16)):
        meant = expected_values(rope, head_in_float32=type_name != "bf16")
        path = tmp_path / f"{type_name}.gguf"
        assert convert(rope, path, type_name).path == path
        found = stored(path)
        assert found.keys() == meant.keys()
        for name, value in meant.items():
            kind = torch.float32 if value.dim() == 1 else dtype
            bits = value.to(kind).contiguous().view(torch.uint8).numpy().tobytes()
            assert found[name].data.tobytes() == bits, (type_name, name)
            assert tuple(reversed(found[name].shape)) == value.shape


@pytest.mark.parametrize("type_name", sorted(BOUNDS))
def test_tensors_in_few_bits_are_near(rope: Path, tmp_path: Path, type_name: str) -> None:
    path = tmp_path / "model.gguf"
    convert(rope, path, type_name)
    meant = expected_values(rope, head_in_float32=True)
    for name, tensor in stored(path).items():
        value = meant[name].float()
        if value.dim() == 1:
            assert tensor.tensor_type.name == "F32"
            continue
        kind = "q8_0" if name == "output.weight" else type_name
        assert tensor.tensor_type.name == kind.upper()
        found = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type)))
        blocks = value.unflatten(-1, (-1, 32))
        largest = blocks.abs().amax(-1)
        span = blocks.amax(-1) - blocks.amin(-1) if kind.endswith("1") else largest
        error = (found - value).abs().unflatten(-1, (-1, 32)).amax(-1)
        assert bool((error <= span * BOUNDS[kind] + largest * HALF_ROUNDING).all()), name


def test_the_13b_has_its_own_architecture_and_rows_in_our_order(alibi: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    convert(alibi, path, "f32")
    found = stored(path)
    for name, value in expected_values(alibi, head_in_float32=True).items():
        assert found[name].data.tobytes() == value.numpy().tobytes(), name
    header = fields(path)
    assert header["general.architecture"] == "baichuan"
    assert header["baichuan.block_count"] == 40
    assert header["baichuan.attention.max_alibi_bias"] == 8.0
    assert not any("rope" in name for name in header)


def test_the_header_says_what_llama_cpp_must_know(rope: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models--owner--Some-7B" / "snapshots" / "abc"
    shutil.copytree(rope, folder)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: 'community'\n---\n# card\nlicense: no\n")
    path = tmp_path / "model.gguf"
    convert(folder, path, "q4_0")
    header = fields(path)
    assert header["general.architecture"] == "llama"
    assert header["general.name"] == "Some-7B"
    assert header["general.source.url"] == "https://huggingface.co/owner/Some-7B"
    assert (header["general.license"], header["general.license.name"]) == ("other", "community")
    assert header["general.file_type"] == gguf.LlamaFileType.MOSTLY_Q4_0
    assert header["llama.context_length"] == 128
    assert header["llama.rope.dimension_count"] == 32
    assert header["llama.rope.freq_base"] == 10_000
    kinds, pieces = header["tokenizer.ggml.token_type"], header["tokenizer.ggml.tokens"]
    assert len(kinds) == len(pieces) == len(header["tokenizer.ggml.scores"]) == 768
    assert kinds[:4] == [2, 3, 3, 3]  # unknown, begin, end, a reserved one
    assert kinds[195] == kinds[196] == 3
    assert pieces[195] == "<reserved_106>"
    assert kinds[pieces.index("<0x00>")] == 6
    ids = {name: header[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "eot", "unknown", "padding")}
    assert ids == {"bos": 1, "eos": 2, "eot": 195, "unknown": 0, "padding": 0}
    assert not header["tokenizer.ggml.add_bos_token"]
    assert not header["tokenizer.ggml.add_space_prefix"]
    assert "generation" not in header["tokenizer.chat_template"].replace("add_generation_prompt", "")
    line = path.with_name("model.gguf.sha256").read_text()
    assert subprocess.run(["sha256sum", "-c"], cwd=tmp_path, input=line, text=True, check=True, capture_output=True)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "model.gguf", "model.gguf.sha256", "models--owner--Some-7B"
    ]  # fmt: skip


def test_rows_that_are_no_whole_blocks_keep_16_bits_and_it_is_said(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "tiny", "7b", intermediate_size=176)
    with pytest.warns(UserWarning, match="2 of 21 tensors are stored as f16: their rows of 176 numbers"):
        convert(folder, tmp_path / "model.gguf", "q4_0")
    types = {name: tensor.tensor_type.name for name, tensor in stored(tmp_path / "model.gguf").items()}
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q4_0"


def test_what_cannot_be_done_is_refused_in_one_line(
    rope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(source: Path, error: type[Exception], match: str, name: str = "m.gguf", type_name: str = "f16") -> None:
        with pytest.raises(error, match=match) as caught:
            convert(source, tmp_path / "out" / name, type_name)
        assert "\n" not in str(caught.value)

    def changed(name: str, **changes: Any) -> Path:
        return save_tiny(tmp_path / name, "13b" if name.startswith("alibi") else "7b", **changes)

    (tmp_path / "out").mkdir()
    refused(rope, SettingsError, "must be a file that ends in .gguf", name="model.bin")
    refused(rope, SettingsError, "'q4' is none that to-gguf writes", type_name="q4")
    monkeypatch.setenv("BAICHUAN2_LLAMA_PYTHON", sys.executable)
    refused(rope, MissingExtraError, "pip install llama-cpp-python", type_name="q4_k_m")
    refused(changed("alibi", num_hidden_layers=2), CheckpointError, "ALiBi positions to Baichuan models of 40 layers")
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    refused(changed("dynamic", rope_parameters=scaled), CheckpointError, "dynamic scaling")
    (bare := changed("bare")).joinpath("tokenizer.model").unlink()
    refused(bare, TokenizerError, "holds no tokenizer.model")
    model = changed("broken")
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    weights["lm_head.weight"][5, 5] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    refused(model, QuantizationError, "lm_head.weight holds numbers that are none", type_name="q8_0")
    shutil.rmtree(tmp_path / "out" / "m.gguf.partial")
    (tmp_path / "out" / "m.gguf.sha256").write_text("someone's")
    refused(rope, SettingsError, "m.gguf.sha256 exists")
    (tmp_path / "out" / "m.gguf").write_text("someone's")
    refused(rope, SettingsError, "exists, and nothing is overwritten")
    assert {path.read_text() for path in (tmp_path / "out").iterdir()} == {"someone's"}


KILLED = """
import os, signal, sys
from baichuan2 import ConvertSettings
from baichuan2.convert.to_gguf import to_gguf
def watch(done, total):
    if done == 7:
        os.kill(os.getpid(), signal.SIGKILL)
to_gguf(ConvertSettings(way="to-gguf", source=sys.argv[1], target=sys.argv[2], type="q8_0"), watch)
"""


def test_a_killed_run_goes_on_and_gives_the_same_file(rope: Path, tmp_path: Path) -> None:
    target, whole = tmp_path / "model.gguf", tmp_path / "whole.gguf"
    done = subprocess.run([sys.executable, "-c", KILLED, str(rope), str(target)], check=False, capture_output=True)
    assert done.returncode == -9, done.stderr
    assert not target.exists()
    partial = tmp_path / "model.gguf.partial"
    with (partial / "tensors.sha256").open("a") as journal:
        journal.write("0123  blk.1.attn_q.w")  # a line that was cut off
    with (partial / "weights.gguf").open("r+b") as file:  # a tensor that the disk has damaged
        file.seek(stored(partial / "weights.gguf")["blk.0.attn_k.weight"].data_offset)
        file.write(b"damage")
    with pytest.raises(SettingsError, match="begun with type q8_0, not f16"):
        convert(rope, target, "f16")
    assert convert(rope, target, "q8_0").resumed == 6
    convert(rope, whole, "q8_0")
    assert target.read_bytes() == whole.read_bytes()
    assert not partial.exists()


def test_a_full_disk_ends_in_one_line_and_the_next_run_goes_on(rope: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.gguf"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="cannot be written: File too large"):
            convert(rope, target)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not target.exists()
    convert(rope, target)
    assert stored(target)


def test_a_folder_for_temporary_files_that_takes_nothing_is_told_as_such(
    rope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(CheckpointError, match=r"gone cannot take the header of the file.*No such file.*TMPDIR"):
        convert(rope, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())


def test_a_source_that_changes_while_it_is_read_gives_no_file(rope: Path, tmp_path: Path) -> None:
    source = shutil.copytree(rope, tmp_path / "source")

    def change(done: int, total: int) -> None:
        if done == 3:
            os.utime(source / "model.safetensors", ns=(1, 1))

    with pytest.raises(CheckpointError, match=r"source was changed while it was read"):
        convert(source, tmp_path / "model.gguf", watch=change)
    assert not (tmp_path / "model.gguf").exists()


def test_rows_that_lie_across_each_other_are_summed_as_a_model_does() -> None:
    head = torch.randn(64, 96, generator=torch.Generator().manual_seed(0))
    across = head.t().contiguous().t()
    assert torch.equal(gguf_types.normalized_rows(across, "F32"), normalize(head))


def test_a_disk_without_room_is_told_to_the_hundredth(
    rope: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 40_000))  # type: ignore[attr-defined]
    with pytest.raises(CheckpointError, match=r"has 0\.00 GB free, 0\.\d\d GB are needed"):
        convert(rope, tmp_path / "model.gguf")
    assert not list(tmp_path.iterdir())
