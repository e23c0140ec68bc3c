"""One config class for every released folder, from its fields alone; what is ambiguous or impossible is an error."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

import baichuan2  # noqa: F401  (registers the Auto classes)
from baichuan2.errors import CheckpointError
from baichuan2.model.configuration_baichuan import BaichuanConfig

COMMON = {
    "_from_model_config": True,
    "architectures": ["BaichuanForCausalLM"],
    "auto_map": {
        "AutoConfig": "configuration_baichuan.BaichuanConfig",
        "AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM",
    },
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "baichuan",
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.29.2",
    "use_cache": True,
    "vocab_size": 125696,
}
SHAPE_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPE_13B = {"hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40, "num_attention_heads": 40}
FOUR_BITS = {
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_enable_fp32_cpu_offload": False,
    "llm_int8_has_fp16_weight": False,
    "llm_int8_skip_modules": None,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
}
BASE_7B = {**COMMON, **SHAPE_7B, "max_position_embeddings": 4096, "model_max_length": 4096, "z_loss_weight": 0}
CHAT_13B = {
    **COMMON,
    **SHAPE_13B,
    "gradient_checkpointing": False,
    "model_max_length": 4096,
    "tokenizer_class": "BaichuanTokenizer",
}
V1 = {"vocab_size": 64000}

# folder -> (its config.json, position scheme, whether its head is normalised)
RELEASED: dict[str, tuple[dict[str, Any], str, bool]] = {
    "Baichuan2-7B-Base": (BASE_7B, "rope", True),
    "Baichuan2-7B-Chat": ({**BASE_7B, "tokenizer_class": "BaichuanTokenizer"}, "rope", True),
    "Baichuan2-7B-Chat-4bits": ({**BASE_7B, "quantization_config": FOUR_BITS}, "rope", True),
    "Baichuan2-7B-Intermediate-Checkpoints": (BASE_7B, "rope", True),
    "Baichuan2-13B-Base": (CHAT_13B, "alibi", True),
    "Baichuan2-13B-Chat": (CHAT_13B, "alibi", True),
    "Baichuan2-13B-Chat v2.0": ({**CHAT_13B, "transformers_version": "4.36.2"}, "alibi", True),
    "Baichuan2-13B-Chat-4bits": ({**CHAT_13B, "quantization_config": FOUR_BITS}, "alibi", True),
    "Baichuan-7B": ({**BASE_7B, **V1, "architectures": ["BaiChuanForCausalLM"]}, "rope", False),
    "Baichuan-13B-Chat": ({**CHAT_13B, **V1}, "alibi", False),
}


def written(folder: Path, fields: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), "utf-8")
    return folder


@pytest.mark.parametrize("name", RELEASED)
def test_released_folders(name: str, tmp_path: Path) -> None:
    fields, scheme, is_normalized = RELEASED[name]
    # the name of the folder must not matter: it says the opposite
    folder = written(tmp_path / ("Baichuan2-13B-Chat" if scheme == "rope" else "Baichuan-7B"), fields)
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is BaichuanConfig
    assert config.position_embedding == scheme
    assert config.normalized_head is is_normalized
    assert config.model_max_length == 4096
    assert config.max_position_embeddings == (4096 if scheme == "rope" else None)
    assert config.head_dim == 128
    assert config.alibi_numerics == "exact"
    assert getattr(config, "quantization_config", None) == fields.get("quantization_config")
    for field in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"):
        assert getattr(config, field) == fields[field]


@pytest.mark.parametrize("name", RELEASED)
def test_saving_keeps_what_was_derived(name: str, tmp_path: Path) -> None:
    fields, scheme, is_normalized = RELEASED[name]
    config = BaichuanConfig.from_pretrained(written(tmp_path / "first", fields))
    config.save_pretrained(tmp_path / "second")
    saved = json.loads((tmp_path / "second" / "config.json").read_text("utf-8"))
    assert saved["position_embedding"] == scheme
    assert saved["normalized_head"] is is_normalized
    assert saved["model_type"] == "baichuan"
    for gone in ("auto_map", "gradient_checkpointing", "_from_model_config"):
        assert gone not in saved
    again = BaichuanConfig.from_pretrained(tmp_path / "second")
    assert again.to_diff_dict() == config.to_diff_dict()


def test_derived_fields_survive_a_change_of_vocabulary() -> None:
    """64,000 pieces mean Baichuan 1 only as long as nothing was derived."""
    config = BaichuanConfig(**{**BASE_7B, **V1, "architectures": ["BaiChuanForCausalLM"]})
    fields = config.to_diff_dict()
    fields["vocab_size"] = 64_010
    assert BaichuanConfig.from_dict(fields).normalized_head is False
    assert BaichuanConfig(**{**BASE_7B, **V1}, normalized_head=True).normalized_head is True


def test_defaults_make_a_config() -> None:
    """The framework calls the class without arguments to see which fields were changed."""
    config = BaichuanConfig()
    assert (config.position_embedding, config.normalized_head) == ("rope", True)
    assert config.to_diff_dict()["position_embedding"] == "rope"
    assert BaichuanConfig(**CHAT_13B).to_diff_dict()["hidden_size"] == 5120
    assert "auto_map" not in BaichuanConfig(**CHAT_13B).to_dict()
    assert not hasattr(BaichuanConfig(**BASE_7B), "auto_map")


def test_shape_alone_tells_for_released_sizes() -> None:
    """Official tools drop one length field or the other; the shape of the release still tells."""
    without = {name: value for name, value in CHAT_13B.items() if name != "model_max_length"}
    assert BaichuanConfig(**without).position_embedding == "alibi"
    without = {name: value for name, value in BASE_7B.items() if not name.endswith(("_embeddings", "max_length"))}
    assert BaichuanConfig(**without).position_embedding == "rope"


SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}


def test_small_models_are_told_apart_by_their_length_fields() -> None:
    assert BaichuanConfig(**SMALL, max_position_embeddings=96).position_embedding == "rope"
    assert BaichuanConfig(**SMALL, max_position_embeddings=96, model_max_length=96).position_embedding == "rope"
    assert BaichuanConfig(**SMALL, model_max_length=96).position_embedding == "alibi"
    assert BaichuanConfig(**SMALL, max_position_embeddings=96).model_max_length == 96


AMBIGUOUS = {
    "13B with rotary length": (
        {**SHAPE_13B, "max_position_embeddings": 4096},
        ["max_position_embeddings is present (so rope)", "hidden_size, num_hidden_layers, num_attention_heads"],
    ),
    "7B without it": (
        {**SHAPE_7B, "model_max_length": 4096},
        ["model_max_length is present without max_position_embeddings (so alibi)", "those of the 7B (so rope)"],
    ),
    "version 1 name on a 13B": (
        {**SHAPE_13B, "model_max_length": 4096, "architectures": ["BaiChuanForCausalLM"]},
        ["architectures is that of Baichuan 1 7B (so rope)"],
    ),
    "nothing at all": (SMALL, ["neither max_position_embeddings nor model_max_length is present"]),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous_positions_are_an_error_that_names_the_fields(name: str) -> None:
    fields, parts = AMBIGUOUS[name]
    with pytest.raises(CheckpointError) as caught:
        BaichuanConfig(**fields)
    for part in [*parts, 'Add "position_embedding": "rope" (7B) or "alibi" (13B)']:
        assert part in str(caught.value)
    assert BaichuanConfig(**fields, position_embedding="alibi").position_embedding == "alibi"
    assert BaichuanConfig(**fields, position_embedding="rope").position_embedding == "rope"


@pytest.mark.parametrize("chosen", [{"max_position_embeddings": 96}, {"position_embedding": "rope"}])
def test_rotary_heads_of_an_odd_width(chosen: dict[str, Any]) -> None:
    odd = {**SMALL, "hidden_size": 60}
    with pytest.raises(CheckpointError, match=r"heads of an even width, hidden_size \(60\) / .* \(4\) is 15"):
        BaichuanConfig(**odd, **chosen)
    assert BaichuanConfig(**odd, position_embedding="alibi").head_dim == 15


def test_ambiguous_head_is_an_error_that_names_the_field() -> None:
    fields = {**BASE_7B, "vocab_size": 64_003}
    with pytest.raises(CheckpointError, match=r"vocab_size is 64003.*Add \"normalized_head\": false"):
        BaichuanConfig(**fields)
    assert BaichuanConfig(**fields, normalized_head=False).normalized_head is False


BAD = [
    ({"vocab_size": 0}, "vocab_size"),
    ({"hidden_size": -64}, "hidden_size"),
    ({"hidden_size": "64"}, "hidden_size"),
    ({"hidden_size": 64.5}, "hidden_size"),
    ({"num_hidden_layers": True}, "num_hidden_layers"),
    ({"num_hidden_layers": 10**9}, "larger than that of any model"),
    ({"num_attention_heads": None}, "num_attention_heads"),
    ({"num_attention_heads": 5}, "must be a multiple of num_attention_heads"),
    ({"intermediate_size": [128]}, "intermediate_size"),
    ({"max_position_embeddings": 0}, "max_position_embeddings"),
    ({"model_max_length": "long"}, "model_max_length"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"hidden_act": ["silu"]}, "hidden_act"),
    ({"position_embedding": "relative"}, "position_embedding"),
    ({"normalized_head": "yes"}, "normalized_head"),
    ({"alibi_numerics": "fast"}, "alibi_numerics"),
    ({"tie_word_embeddings": True}, "tie_word_embeddings"),
    ({"num_key_value_heads": 2}, "num_key_value_heads"),
    ({"rms_norm_eps": "small"}, "rms_norm_eps"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
    ({"initializer_range": -0.02}, "initializer_range"),
    ({"z_loss_weight": -1}, "z_loss_weight"),
    ({"z_loss_weight": "2e-4"}, "z_loss_weight"),
    ({"pad_token_id": 125_696}, "pad_token_id"),
    ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "spiral"),
    ({"rope_scaling": {"type": "linear"}}, "factor"),
    ({"rope_scaling": {"type": "linear", "factor": 0.5}}, "factor"),
    ({"rope_scaling": "linear"}, "rope_scaling"),
    ({"rope_theta": 0}, "rope_theta"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=[str(change) for change, _ in BAD])
def test_impossible_values(change: dict[str, Any], named: str, tmp_path: Path) -> None:
    fields = {**COMMON, **SMALL, "max_position_embeddings": 96, **change}
    with pytest.raises(CheckpointError, match=named):
        BaichuanConfig(**fields)
    with pytest.raises(CheckpointError, match=named):
        BaichuanConfig.from_dict(fields)
    with pytest.raises(CheckpointError, match=named):
        AutoConfig.from_pretrained(written(tmp_path, fields))
