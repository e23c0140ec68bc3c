"""Rotary positions of the 7B (Su et al. 2021, arXiv 2104.09864): angles, and the rotation in halves.

The angles are computed from the positions at each forward pass, in float32: positions above 256 are not exact in
bfloat16. Scaling beyond the trained length (linear, dynamic, yarn) is the framework's, by the config's usual keys.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

from baichuan2.model.configuration_baichuan import BaichuanConfig
from baichuan2.quantization.uncast_buffers import UncastBuffers


class BaichuanRotaryEmbedding(UncastBuffers):
    """Cosines and sines of the rotation angles. The buffer names are those that the framework's scaling updates."""

    inv_freq: Tensor  # (D/2,) float32

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        assert config.rope_parameters is not None  # the base class of the config fills it in
        assert config.max_position_embeddings is not None
        self.config = config
        self.rope_type = config.rope_parameters["rope_type"]
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_init_fn = self.compute_default_rope_parameters
        if self.rope_type != "default":
            self.rope_init_fn = ROPE_INIT_FUNCTIONS[self.rope_type]
        inv_freq, self.attention_scaling = self.rope_init_fn(config)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    @staticmethod
    def compute_default_rope_parameters(config: BaichuanConfig, **_: Any) -> tuple[Tensor, float]:
        """Inverse frequencies base^(-2j/D), (D/2,) float32, and the factor 1 for cosines and sines (paper: eq. 15)."""
        assert config.rope_parameters is not None
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponent), 1.0

    @torch.no_grad()
    @dynamic_rope_update
    def forward(self, hidden_states: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each position: two float32 tensors (B, 1, T, D), the second half repeating the first.

        `hidden_states` only tells the device; `position_ids` is (B, T), int64.
        """
        frequencies = self.inv_freq.to(hidden_states.device)
        angles = position_ids[:, None, :, None].float() * frequencies  # (B, 1, T, D/2)
        angles = torch.cat((angles, angles), dim=-1)  # (B, 1, T, D)
        return angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling


def rotate(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`states` (B, H, T, D) turned by the given angles, in float32, returned in the dtype that came in.

    Pairs are (x_j, x_{j + D/2}), the halves of a head, as in the released weights; not neighbours.
    """
    wide = states.float()
    first, second = wide.chunk(2, dim=-1)  # each (B, H, T, D/2)
    turned = torch.cat((-second, first), dim=-1)  # (B, H, T, D)
    return (wide * cosine + turned * sine).to(states.dtype)
