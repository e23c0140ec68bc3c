"""Tiny models in steps, each sequence of which has a cache in one piece or in pages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from baichuan2.kernels import steps
from baichuan2.kernels.library import opened
from baichuan2.kernels.steps import LayerWeights, Rows, StepModel, StoredWeight, plain_weight
from baichuan2.model.modeling_baichuan import BaichuanForCausalLM
from baichuan2.quantization.blockwise import quantize_int4, quantize_int8
from baichuan2.quantization.nf4 import quantize_nf4
from tests.tiny import Size, tiny_model

LEVELS = {"plain": 0, "avx2": 1, "avx512": 2, "avx512_bf16": 3, "amx": 4}
"""Numbers of instruction sets."""
VBMI, AMX_INT8, LEAST_ROWS_AMX = 2, 4, 3
"""Bits of the extensions that the matrix unit's products need, and how many rows go through it at least."""
WEIGHTS = ("bfloat16", "int4", "int8", "nf4")


def stored(weight: Tensor, weights: str) -> StoredWeight:
    """A weight (N, K) of 16-bit numbers as one of WEIGHTS; "bfloat16": as it is."""
    if weights == "int4":
        four = quantize_int4(weight, group_size=32, search=False)
        return steps.int4_weight(four.codes, four.scales, four.codebook.tolist(), four.group_size, four.in_features)
    if weights == "int8":
        eight = quantize_int8(weight, group_size=0, search=False)
        return steps.int8_weight(eight.codes, eight.scales, eight.group_size)
    if weights == "nf4":
        nf4 = quantize_nf4(weight, double=False)
        return steps.nf4_weight(nf4.codes, nf4.code, nf4.absmax, None, nf4.shape)
    return plain_weight(weight)


def fewest_alike(rows: int, weights: str) -> int:
    """How few tokens a step may have whose bits are those of a step of `rows`, as the library says who multiplies."""
    library, needed = opened().library, VBMI | AMX_INT8
    assert library is not None
    has_unit = library.rows_instructions() >= LEVELS["amx"] and library.baichuan2_extensions() & needed == needed
    return LEAST_ROWS_AMX if has_unit and weights != "bfloat16" and rows >= LEAST_ROWS_AMX else 1


class Steps:
    """A tiny model in steps, its head too with weights of the kind `weights`, and caches of `batch` sequences.

    With `tables`, the pages of each sequence, `batch` is the number of all pages.
    """

    def __init__(
        self,
        model: Any,
        batch: int,
        capacity: int,
        is_int8: bool = False,
        weights: str = "bfloat16",
        tables: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.tables = tables
        decoder, config = model.model, model.config
        self.decoder, self.dtype = decoder, decoder.norm.weight.dtype
        layers = [
            LayerWeights(
                packed=stored(layer.self_attn.W_pack.weight.detach(), weights),
                output=stored(layer.self_attn.o_proj.weight.detach(), weights),
                gate=stored(layer.mlp.gate_proj.weight.detach(), weights),
                up=stored(layer.mlp.up_proj.weight.detach(), weights),
                down=stored(layer.mlp.down_proj.weight.detach(), weights),
                input_norm=layer.input_layernorm.weight.detach(),
                middle_norm=layer.post_attention_layernorm.weight.detach(),
            )
            for layer in decoder.layers
        ]
        self.step = StepModel(
            layers,
            decoder.norm.weight.detach(),
            slopes=None if decoder.alibi is None else decoder.alibi.slopes,
            num_heads=config.num_attention_heads,
            epsilon=decoder.norm.eps,
            is_int8_cache=is_int8,
        )
        self.head = stored(model.lm_head.normalized_weight().detach(), weights)
        shape = (batch, config.num_attention_heads, capacity, config.head_dim)
        # what is not yet written is no number: nobody may read it
        states = (torch.full(shape, 99, dtype=torch.int8), torch.full((*shape[:3], 1), torch.nan))
        numbers = (torch.full(shape, torch.nan, dtype=self.dtype),)
        parts = states if is_int8 else numbers
        self.caches = [[[part.clone() for part in parts] for _ in range(2)] for _ in layers]

    def parts(self) -> list[Tensor]:
        """The tensors of all layers' keys and values."""
        return [part for layer in self.caches for parts in layer for part in parts]

    def __call__(self, ids: list[Tensor], places: list[int], firsts: list[int]) -> Tensor:
        """The logits (M, V) of all new tokens: sequence b gets `ids[b]` from `places[b]` on, and sees from `firsts[b]`
        on."""
        tokens = torch.cat(ids)
        sequence = [row for row, own in enumerate(ids) for _ in own]
        place = [places[row] + at for row, own in enumerate(ids) for at in range(len(own))]
        first = [firsts[row] for row in sequence]
        with torch.inference_mode():
            embeddings, rotation = self.decoder.embed_tokens(tokens), None
            if self.decoder.rotary_emb is not None:
                positions = torch.tensor([[at - begin for at, begin in zip(place, first, strict=True)]])
                cosine, sine = self.decoder.rotary_emb(embeddings, positions)
                rotation = (cosine[0, 0].contiguous(), sine[0, 0].contiguous())
            rows = Rows(sequence, place, first, range(len(tokens)), self.tables)
            return self.step.step(embeddings, rotation, rows, self.caches, self.head)

    def of_one(self, ids: Tensor, parts: list[int], first: int = 0) -> Tensor:
        """The logits (T, V) of one sequence `ids` (T,), given in parts, from place `first` on."""
        found, start = [], 0
        for part in parts:
            found.append(self([ids[start : start + part]], [first + start], [first]))
            start += part
        return torch.cat(found)


INNER_SIZE = 1088
"""So wide that AVX2 takes inputs in two chunks, and the matrix unit in several pieces."""


def model_of(size: Size, dtype: torch.dtype = torch.bfloat16, **changes: int) -> BaichuanForCausalLM:
    length = {"max_position_embeddings": 1024} if size == "7b" else {"model_max_length": 1024}
    model: BaichuanForCausalLM = tiny_model(size, **length, **changes).to(dtype)
    return model
