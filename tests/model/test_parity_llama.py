"""The 7B is a llama with joined projections and a normalised head: the framework's own Llama must give its logits.

An independent implementation on tiny weights, with and without scaling of the rotary positions.
"""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache

from baichuan2.model.modeling_baichuan import CACHE_KEYWORD, BaichuanForCausalLM
from tests.tiny import left_padded, random_ids, tiny_model

TRAINED_LENGTH = 32
SCALINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0},
    "yarn with its own settings": {
        "rope_type": "yarn",
        "factor": 3.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "attention_factor": 1.2,
    },
}


def as_llama(model: BaichuanForCausalLM, rope_parameters: dict[str, Any] | None) -> LlamaForCausalLM:
    """The same function as a Llama: `W_pack` split in three, the rows of the head divided by their length."""
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_theta": 10_000.0, **(rope_parameters or {"rope_type": "default"})},
        )
    ).eval()
    state = {}
    for name, weight in model.state_dict().items():
        if name.endswith("W_pack.weight"):
            for part, rows in zip(("q_proj", "k_proj", "v_proj"), weight.chunk(3), strict=True):
                state[name.replace("W_pack", part)] = rows
        else:
            state[name] = F.normalize(weight) if name == "lm_head.weight" else weight
    llama.load_state_dict(state)
    return llama


def pair(name: str, key: str = "rope_parameters") -> tuple[BaichuanForCausalLM, LlamaForCausalLM]:
    scaling = SCALINGS[name]
    given: dict[str, Any] = {}
    if scaling is not None:
        given = {"rope_parameters": {"rope_theta": 10_000.0, **scaling}}
        if key == "rope_scaling":  # the spelling of 2023, with its `type`
            old = {field: value for field, value in scaling.items() if field != "rope_type"}
            given = {"rope_scaling": {"type": scaling["rope_type"], **old}, "rope_theta": 10_000.0}
    model = tiny_model("7b", max_position_embeddings=TRAINED_LENGTH, model_max_length=TRAINED_LENGTH, **given)
    return model, as_llama(model, None if scaling is None else dict(scaling))


def assert_close(found: torch.Tensor, wanted: torch.Tensor, limit: float = 1e-5) -> None:
    difference = (found - wanted).abs().max().item()
    assert difference <= limit, f"differs by {difference:.3g}"


@pytest.mark.parametrize("length", [TRAINED_LENGTH - 4, 3 * TRAINED_LENGTH])
@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("name", SCALINGS)
@torch.no_grad()
def test_logits(name: str, key: str, length: int) -> None:
    model, llama = pair(name, key)
    ids = random_ids(2, length)
    assert_close(model(ids).logits, llama(ids).logits)


@pytest.mark.parametrize("name", ["linear", "dynamic", "yarn"])
@torch.no_grad()
def test_scaling_changes_something(name: str) -> None:
    ids = random_ids(1, 3 * TRAINED_LENGTH)
    assert (pair(name)[0](ids).logits - pair("none")[0](ids).logits).abs().max() > 0.1


@pytest.mark.parametrize("name", SCALINGS)
@torch.no_grad()
def test_decoding_past_the_trained_length(name: str) -> None:
    model, llama = pair(name)
    ids = random_ids(1, TRAINED_LENGTH + 8)
    ours, theirs = DynamicCache(), DynamicCache()
    for start, stop in (
        (0, TRAINED_LENGTH - 2),
        *((place, place + 1) for place in range(TRAINED_LENGTH - 2, len(ids[0]))),
    ):
        found = model(ids[:, start:stop], cache=ours).logits
        assert_close(found, llama(ids[:, start:stop], **{CACHE_KEYWORD: theirs}).logits)


def test_greedy_batches() -> None:
    model, llama = pair("none")
    ids, mask = left_padded([random_ids(1, length, seed=length)[0].tolist() for length in (9, 4, 7)])
    settings: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    assert model.generate(ids, pad_token_id=0, **settings).tolist() == llama.generate(
        ids, pad_token_id=0, **settings
    ).tolist()  # fmt: skip


def test_training_loss_and_gradient() -> None:
    model, llama = pair("none")
    ids = random_ids(2, 12)
    losses = [network(ids, labels=ids).loss for network in (model, llama)]
    assert_close(losses[0], losses[1])
    for loss in losses:
        loss.backward()
    assert_close(model.model.embed_tokens.weight.grad, llama.model.embed_tokens.weight.grad)
    packed = model.model.layers[0].self_attn.W_pack.weight.grad
    theirs = llama.model.layers[0].self_attn
    split = [projection.weight.grad for projection in (theirs.q_proj, theirs.k_proj, theirs.v_proj)]
    assert_close(packed, torch.cat(split))
