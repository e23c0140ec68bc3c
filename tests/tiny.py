"""Tiny 7B-like and 13B-like models for tests: seeded, in memory, built without touching the global random state.

Widths are multiples of 64, as quantised layers want them, and the 13B-like one has five heads, so that its slopes are
those of a count that is no power of two. The rows of the head have very different lengths: a head that forgot to
normalise them shows at once.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

Size = Literal["7b", "13b"]
SIZES: tuple[Size, ...] = ("7b", "13b")

VOCAB_SIZE = 512
FIRST_TEXT_ID = 200  # below lie the special ids of the real vocabulary, among them 195 and 196

_SHAPES: dict[Size, dict[str, Any]] = {
    "7b": {"hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 128, "position_embedding": "rope"},
    "13b": {"hidden_size": 320, "num_attention_heads": 5, "model_max_length": 128, "position_embedding": "alibi"},
}


def tiny_config(size: Size, **changes: Any) -> BaichuanConfig:
    """The config of a tiny model of that kind, with some fields changed."""
    fields: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "intermediate_size": 192,
        "num_hidden_layers": 2,
        "architectures": ["BaichuanForCausalLM"],
        **_SHAPES[size],
        **changes,
    }
    return BaichuanConfig(**fields)


def tiny_model(size: Size, *, seed: int = 0, **changes: Any) -> BaichuanForCausalLM:
    """A float32 model in eval mode; `changes` are config fields.

    Weights are wider than freshly initialised ones, so that attention is far from uniform and greedy choices are
    far apart.
    """
    model = BaichuanForCausalLM(tiny_config(size, **changes)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            values = torch.randn(weight.shape, generator=generator)
            if name.endswith("norm.weight"):
                weight.copy_(1.0 + 0.2 * values)
            elif name == "lm_head.weight":
                weight.copy_(values * torch.linspace(0.05, 3.0, weight.shape[0])[:, None])
            elif name == "model.embed_tokens.weight":
                weight.copy_(values)
            else:
                weight.copy_(values * 1.5 * weight.shape[1] ** -0.5)
    return model


def random_ids(batch: int, length: int, *, seed: int = 0) -> Tensor:
    """Text ids, (batch, length) int64."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randint(FIRST_TEXT_ID, VOCAB_SIZE, (batch, length), generator=generator)


def left_padded(prompts: list[list[int]], pad_token_id: int = 0) -> tuple[Tensor, Tensor]:
    """The ids and the attention mask, both (B, T) int64, of prompts padded on the left to one length."""
    length = max(map(len, prompts))
    ids = torch.tensor([[pad_token_id] * (length - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (length - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask
