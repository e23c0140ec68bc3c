"""The parts of the vLLM plugin that need no vLLM; `scripts/check_vllm` tests the rest in an environment of its own."""

import itertools
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from baichuan2.errors import CheckpointError, SettingsError
from baichuan2.integrations.vllm.alibi import ALIBI_BACKENDS, FALLBACK_BACKEND, needs_other_backend, slopes_of_rank
from baichuan2.integrations.vllm.folders import check_served, generation_fields, prepared_weights, weight_shapes
from tests.engine.golden_cases import GOLDEN
from tests.tiny import SIZES, tiny_config, tiny_model

ROOT = Path(__file__).parents[2]
OFFICIAL_SLOPES = json.loads((GOLDEN / "alibi_slopes_1_to_64.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("num_heads", "num_ranks"), [(40, 1), (40, 2), (40, 4), (40, 8), (8, 8), (6, 3), (5, 5)])
def test_ranks_share_the_official_slopes_in_order(num_heads: int, num_ranks: int) -> None:
    parts = [slopes_of_rank(num_heads, rank, num_ranks) for rank in range(num_ranks)]
    assert {len(part) for part in parts} == {num_heads // num_ranks}
    assert list(itertools.chain(*parts)) == pytest.approx(OFFICIAL_SLOPES[str(num_heads)], rel=1e-6)


def test_backends_that_forget_the_slopes_give_way_or_are_refused() -> None:
    assert FALLBACK_BACKEND in ALIBI_BACKENDS
    for name in ALIBI_BACKENDS:
        assert not needs_other_backend(name, by_user=True)
    assert needs_other_backend("FLASHINFER", by_user=False)
    with pytest.raises(SettingsError, match=r"FLASHINFER computes no ALiBi.*TRITON_ATTN"):
        needs_other_backend("FLASHINFER", by_user=True)


@pytest.mark.parametrize("size", SIZES)
def test_sixteen_bit_folders_are_served(size: str) -> None:
    check_served("folder", tiny_config(size))
    check_served("folder", tiny_config(size, normalized_head=False))


@pytest.mark.parametrize(
    ("quantization", "name"),
    [
        ({"quant_method": "baichuan2", "format": "int4", "group_size": 32}, r"baichuan2 int4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "official 4bits"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ("int4", "'int4'"),
    ],
)
def test_quantised_folders_are_refused_in_one_line(quantization: object, name: str) -> None:
    config = tiny_config("7b")
    config.quantization_config = quantization
    with pytest.raises(CheckpointError, match=rf"^here: vLLM cannot read.*\({name}\).*baichuan2 serve") as caught:
        check_served("here", config)
    assert "\n" not in str(caught.value)


def test_scaling_that_vllm_computes_otherwise_is_refused() -> None:
    dynamic = tiny_config("7b", rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(CheckpointError, match="dynamic RoPE"):
        check_served("here", dynamic)
    check_served("here", tiny_config("7b", rope_scaling={"type": "linear", "factor": 2.0}))


@pytest.mark.parametrize("size", SIZES)
def test_the_shapes_are_those_of_the_model(size: str) -> None:
    model = tiny_model(size)
    assert weight_shapes(model.config) == {name: tuple(weight.shape) for name, weight in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_head_rows_get_unit_length_in_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    model = tiny_model("13b").to(torch.bfloat16)
    stored = model.state_dict()
    prepared = dict(prepared_weights(stored.items(), model.config, dtype))
    head = prepared.pop("lm_head.weight")
    assert head.dtype == dtype
    assert torch.equal(head, F.normalize(stored["lm_head.weight"].to(dtype)))
    assert torch.equal(head, model.to(dtype).lm_head.normalized_weight())
    assert all(weight is stored[name] for name, weight in prepared.items())
    assert len(prepared) == len(stored) - 1


def test_the_head_of_baichuan_1_stays_as_it_is() -> None:
    model = tiny_model("7b", normalized_head=False)
    stored = model.state_dict()
    prepared = dict(prepared_weights(stored.items(), model.config, torch.float32))
    assert prepared["lm_head.weight"] is stored["lm_head.weight"]


def test_tables_that_no_model_uses_are_left_out() -> None:
    unused = [("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(16)), ("decoder.version", torch.ones(1))]
    assert list(prepared_weights(unused, tiny_config("7b"), torch.float32)) == []


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.0.self_attn.W_pack.weight", (4 * 128, 128), r"has the shape \(512, 128\).*wants \(384, 128\)"),
        ("lm_head.weight", (513, 128), "belong to different models"),
        ("model.layers.2.mlp.up_proj.weight", (192, 128), "unexpected tensor 'model.layers.2"),
        ("model.layers.0.self_attn.W_pack.weight.quant_state", (1,), "unexpected tensor"),
    ],
)
def test_foreign_tensors_are_refused(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        list(prepared_weights([(name, torch.zeros(shape))], tiny_config("7b"), torch.float32))


def test_replies_end_at_the_user_token_too() -> None:
    chat = {"eos_token_id": 2, "user_token_id": 195, "top_k": 5, "do_sample": True}
    assert generation_fields(chat, {}) == {**chat, "eos_token_id": [2, 195]}
    assert generation_fields({**chat, "eos_token_id": [2, 7]}, {})["eos_token_id"] == [2, 7, 195]


def test_without_do_sample_the_default_is_greedy() -> None:
    base_model = {"eos_token_id": 2}
    assert generation_fields(base_model, {}) == {"eos_token_id": 2, "temperature": 0.0}
    assert generation_fields(base_model, {"do_sample": True}) == base_model
    sampled = {"do_sample": True, "temperature": 0.3}
    assert generation_fields(sampled, {}) == sampled
    assert generation_fields(sampled, {"do_sample": False})["temperature"] == 0.0


def test_the_plugin_is_declared_and_imports_no_vllm() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, function = project["entry-points"]["vllm.general_plugins"]["baichuan2"].split(":")
    code = f"import sys, {module}; assert 'vllm' not in sys.modules; print(callable({module}.{function}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_another_vllm_goes_on_without_baichuan(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from baichuan2.integrations.vllm import register

    monkeypatch.setitem(sys.modules, "vllm", None)  # as where a module of it has gone
    register()
    assert "cannot serve Baichuan models with this vLLM" in caplog.text
