"""The ways to train that `benchmarks/finetune.py` sets side by side: one network and batch, one step of AdamW each.

`ours`: this package, with what `baichuan2 finetune` uses. `llama`: the framework's own Llama of the same shape, with
its own loss. `official`: the official code's way of computing, written anew from its description (reference: §5, §11):
scores written out under a full mask of numbers, all logits in float32, a copy of them that is shifted, torch's cross
entropy on it, and the plain AdamW that its command line chooses.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, LAYERS, HEADS, INNER = 125_696, 512, 8, 8, 1376
BATCH, LENGTH = 8, 512
WAYS = ("ours", "llama", "official")


def config(**changes: Any) -> Any:
    """The shape of all ways: a small 7B with the whole vocabulary."""
    from baichuan2.model.configuration_baichuan import BaichuanConfig

    fields: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 4096,
        "position_embedding": "rope",
        "use_cache": False,
        **changes,
    }
    return BaichuanConfig(**fields)


class OfficialWay(nn.Module):
    """The network of a 7B, computed as the official code does in training."""

    def __init__(self, shape: Any) -> None:
        super().__init__()
        from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

        self.network = BaichuanForCausalLM(shape)  # its weights; what is computed with them stands below

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Tensor:
        """The loss of ids, mask and labels (B, T)."""
        decoder = self.network.model
        hidden = decoder.embed_tokens(input_ids)
        mask = _mask(attention_mask, hidden.dtype)
        positions = torch.arange(input_ids.shape[1])[None]
        assert decoder.rotary_emb is not None
        cosine, sine = decoder.rotary_emb(hidden, positions)
        for layer in decoder.layers:
            hidden = hidden + _attention(layer.self_attn, layer.input_layernorm(hidden), mask, cosine, sine)
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        logits = F.linear(decoder.norm(hidden), F.normalize(self.network.lm_head.weight)).float()
        shifted = logits[..., :-1, :].contiguous().view(-1, logits.shape[-1])
        return F.cross_entropy(shifted, labels[..., 1:].contiguous().view(-1))


def _mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Numbers (B, 1, T, T): the least of the dtype where a row may not see a key, twice where for two reasons."""
    length, lowest = attention_mask.shape[1], torch.finfo(dtype).min
    causal = torch.full((length, length), lowest, dtype=dtype).triu(1)[None, None]
    padding = torch.zeros(attention_mask.shape, dtype=dtype).masked_fill(attention_mask == 0, lowest)
    return causal + padding[:, None, None, :]


def _attention(module: Any, hidden: Tensor, mask: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    from baichuan2.model.rope import rotate

    batch, length, width = hidden.shape
    packed = module.W_pack(hidden).unflatten(-1, (3, width)).unsqueeze(0).transpose(0, -2).squeeze(-2)
    query, key, value = (part.view(batch, length, module.num_heads, -1).transpose(1, 2) for part in packed)
    query, key = rotate(query, cosine, sine), rotate(key, cosine, sine)
    scores = query @ key.transpose(2, 3) / module.head_dim**0.5 + mask
    weights = scores.clamp_min(torch.finfo(scores.dtype).min).softmax(dim=-1)
    mixed = (weights @ value).transpose(1, 2).reshape(batch, length, width)
    out: Tensor = module.o_proj(mixed)
    return out


def new_model(way: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model in training mode with the weights of seed 0, and its optimizer."""
    torch.manual_seed(0)
    if way == "llama":
        model = _llama()
    elif way == "official":
        model = OfficialWay(config())
    elif way == "ours":
        from baichuan2.model.modeling_baichuan import BaichuanForCausalLM

        model = BaichuanForCausalLM(config())
    else:
        raise ValueError(f"the ways are {', '.join(WAYS)}, got {way!r}")
    settings: dict[str, Any] = {"lr": 2e-5, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 1e-4}
    # fused is the default of today's framework; the official code asks for `adamw_torch`
    return model.train(), torch.optim.AdamW(model.parameters(), fused=way != "official", **settings)


def _llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = config()
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocab_size,
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.num_hidden_layers,
            num_attention_heads=shape.num_attention_heads,
            max_position_embeddings=shape.max_position_embeddings,
            rms_norm_eps=shape.rms_norm_eps,
            use_cache=False,
        )
    )


def new_batch(share: float, seed: int, batch: int = BATCH, length: int = LENGTH) -> dict[str, Tensor]:
    """Random ids (B, T), a mask of ones, and labels of which the last `share` of each row is learnt."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1345, VOCABULARY, (batch, length), generator=generator)
    labels = ids.clone()
    labels[:, : length - round(share * length)] = -100
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


def step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: dict[str, Tensor]) -> float:
    """One step of training, as the framework's trainer makes it; the loss."""
    result = model(**batch)
    loss: Tensor = result if isinstance(result, Tensor) else result.loss
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()
