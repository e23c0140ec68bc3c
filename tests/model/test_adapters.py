"""Adapters of the peft library: they train, save, load and merge; none ever slips onto the normalised head."""

import copy
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from packaging.version import Version
from peft import AutoPeftModelForCausalLM, LoraConfig, TaskType, get_peft_model
from torch import Tensor
from transformers.integrations.peft import MIN_PEFT_VERSION

import baichuan2  # noqa: F401  (registers the Auto classes)
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.model.norm_head import NormHead
from tests.tiny import SIZES, Size, random_ids, tiny_model

# peft 0.21 asks by the name that transformers 5.24 has replaced
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LINEARS = ["W_pack", "o_proj", "gate_proj", "up_proj", "down_proj"]
REFUSAL = "lm_head is a normalised head, on which an adapter cannot be merged exactly"


def lora(**changes: Any) -> LoraConfig:
    settings = {"task_type": TaskType.CAUSAL_LM, "r": 2, "lora_alpha": 32, "target_modules": ["W_pack"], **changes}
    return LoraConfig(**settings)


def train_a_little(model: Any) -> None:
    ids = random_ids(2, 10)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    model.eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    return model(input_ids=random_ids(2, 8, seed=5)).logits


def assert_close(found: Tensor, wanted: Tensor, limit: float = 1e-5) -> None:
    """Equal up to `limit` times the largest logit."""
    difference = ((found - wanted).abs().max() / wanted.abs().max()).item()
    assert difference <= limit, f"differs by {difference:.3g}"


@pytest.mark.parametrize("targets", [["W_pack"], LINEARS, "all-linear"], ids=["official", "named", "all-linear"])
@pytest.mark.parametrize("size", SIZES)
def test_trains_saves_loads_and_merges(size: Size, targets: Any, tmp_path: Path) -> None:
    base = tiny_model(size)
    base.save_pretrained(tmp_path / "base")
    base = BaichuanForCausalLM.from_pretrained(tmp_path / "base")  # the adapter remembers where its base came from
    before = logits(base)
    frozen = {name: weight.clone() for name, weight in base.state_dict().items()}
    model = get_peft_model(base, lora(target_modules=targets))
    adapted = {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}
    assert adapted == set(LINEARS if targets == "all-linear" else targets)
    assert type(base.lm_head) is NormHead

    assert_close(logits(model.eval()), before, 0.0)
    train_a_little(model.train())
    trained = logits(model)
    assert (trained - before).abs().max() > 0.1
    for name, weight in base.state_dict().items():
        if "lora" not in name:
            assert torch.equal(weight, frozen[name.replace(".base_layer", "")]), name

    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_close(logits(loaded), trained, 0.0)
    merged = loaded.merge_and_unload()
    assert type(merged) is BaichuanForCausalLM
    assert_close(logits(merged), trained)
    merged.save_pretrained(tmp_path / "merged")
    assert_close(logits(BaichuanForCausalLM.from_pretrained(tmp_path / "merged")), trained)


CAUSAL = {"task_type": TaskType.CAUSAL_LM}
ON_THE_HEAD = {
    "LoRA": lora(target_modules=["W_pack", "lm_head"]),
    "LoRA by a pattern": lora(target_modules=r".*(lm_head|o_proj)"),
    "LoRA on the parameter": lora(target_modules=[], target_parameters=["lm_head.weight"]),
    "DoRA": lora(target_modules=["lm_head"], use_dora=True),
    "IA3": peft.IA3Config(target_modules=["W_pack", "lm_head"], feedforward_modules=[], **CAUSAL),
    "LoHa": peft.LoHaConfig(target_modules=["lm_head"], **CAUSAL),
    "LoKr": peft.LoKrConfig(target_modules=["lm_head"], **CAUSAL),
    "AdaLoRA": peft.AdaLoraConfig(target_modules=["lm_head"], total_step=10, **CAUSAL),
    "OFT": peft.OFTConfig(target_modules=["lm_head"], r=0, oft_block_size=32, **CAUSAL),
    "VeRA": peft.VeraConfig(target_modules=["lm_head"], r=2, **CAUSAL),
    "FourierFT": peft.FourierFTConfig(target_modules=["lm_head"], n_frequency=10, **CAUSAL),
}


@pytest.mark.parametrize("kind", ON_THE_HEAD)
def test_no_adapter_on_the_head(kind: str) -> None:
    model = tiny_model("7b")
    before = logits(model)
    with pytest.raises(ValueError, match=REFUSAL) as caught:
        get_peft_model(model, copy.deepcopy(ON_THE_HEAD[kind]))
    assert 'modules_to_save=["lm_head"]' in str(caught.value)
    assert type(model.lm_head) is NormHead
    assert_close(logits(model.eval()), before)


def test_no_second_adapter_on_the_head_either() -> None:
    model = get_peft_model(tiny_model("7b"), lora())
    with pytest.raises(ValueError, match=REFUSAL):
        model.add_adapter("second", lora(target_modules=["lm_head"]))


@pytest.mark.skipif(
    Version(peft.__version__) < Version(MIN_PEFT_VERSION),
    reason=f"this transformers asks for peft {MIN_PEFT_VERSION}, installed is {peft.__version__}",
)
def test_no_adapter_injected_into_the_head() -> None:
    model = tiny_model("7b")
    with pytest.raises(ValueError, match=REFUSAL):
        peft.inject_adapter_in_model(lora(target_modules=["lm_head"]), model)


def test_a_plain_head_may_be_adapted() -> None:
    """Baichuan 1 has an ordinary head; nothing stands in the way there."""
    base = tiny_model("7b", normalized_head=False)
    model = get_peft_model(base, lora(target_modules=["lm_head"]))
    train_a_little(model.train())
    trained = logits(model)
    assert_close(logits(model.merge_and_unload()), trained)


@pytest.mark.parametrize("size", SIZES)
def test_the_head_can_be_trained_whole(size: Size, tmp_path: Path) -> None:
    tiny_model(size).save_pretrained(tmp_path / "base")
    base = BaichuanForCausalLM.from_pretrained(tmp_path / "base")
    before = base.lm_head.weight.detach().clone()
    model = get_peft_model(base, lora(modules_to_save=["lm_head"]))
    train_a_little(model.train())
    trained = logits(model)
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert_close(logits(loaded), trained, 0.0)
    merged = loaded.merge_and_unload()
    assert type(merged.lm_head) is NormHead
    assert (merged.lm_head.weight - before).abs().max() > 0.01
    assert_close(logits(merged), trained)


def test_switching_merging_and_weighing_adapters() -> None:
    base = tiny_model("13b")
    before = logits(base)
    model = get_peft_model(base, lora(target_modules=LINEARS))
    train_a_little(model.train())
    trained = logits(model)
    with model.disable_adapter():
        assert_close(logits(model), before, 0.0)
    model.merge_adapter()
    assert_close(logits(model), trained)
    model.unmerge_adapter()
    assert_close(logits(model), trained)
    model.add_weighted_adapter(["default"], [1.0], "same", combination_type="linear")
    model.set_adapter("same")
    assert_close(logits(model), trained)


OTHER_METHODS = {
    "prompt": peft.PromptTuningConfig(num_virtual_tokens=3, **CAUSAL),
    "prefix": peft.PrefixTuningConfig(num_virtual_tokens=3, **CAUSAL),
    "IA3": peft.IA3Config(target_modules=["W_pack", "down_proj"], feedforward_modules=["down_proj"], **CAUSAL),
    "DoRA": lora(use_dora=True),
}


@pytest.mark.filterwarnings("ignore:Position ids are not supported for parameter efficient tuning:UserWarning")
@pytest.mark.parametrize("kind", OTHER_METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_other_methods_train(size: Size, kind: str) -> None:
    model = get_peft_model(tiny_model(size), copy.deepcopy(OTHER_METHODS[kind]))
    ids = random_ids(2, 10)
    model.train()
    first = model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss
    train_a_little(model)
    with torch.no_grad():
        assert model(input_ids=ids, labels=ids, attention_mask=torch.ones_like(ids)).loss < first
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert out.shape[1] <= 14
