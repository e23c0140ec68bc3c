"""NF4 rows that are no whole number of blocks, as the released stack computes them on a processor.

The file format counts blocks of 64 weights through the whole matrix, so a block may span two rows. bitsandbytes 0.50.2
on processors with AVX-512 counts the blocks of each row from row · (K // 64) instead, where K is a multiple of 16, and
so takes the scales of other blocks. The numbers of the released code for such sizes (tests/golden/quant) hold this.
No published model has them: 4096, 11008, 5120 and 13696 are multiples of 64. See docs/decisions/0003.
"""

import torch
from torch import Tensor

from baichuan2.quantization.nf4 import NF4Tensor, dequantize_nf4

__all__ = ["dequantize_as_released", "has_ragged_rows"]

KERNEL_WIDTH = 16  # the library's processor kernel takes such widths; others go through its plain and right version


def has_ragged_rows(in_features: int, block_size: int = 64) -> bool:
    """Whether the released stack takes other scales than the format says for rows of `in_features` weights."""
    return in_features % block_size != 0 and in_features % KERNEL_WIDTH == 0


def dequantize_as_released(tensor: NF4Tensor, dtype: torch.dtype) -> Tensor:
    """The weight (N, K) in `dtype` with the scales that bitsandbytes 0.50.2 takes for it on a processor."""
    num_rows, width = tensor.shape
    if not has_ragged_rows(width, tensor.block_size):
        return dequantize_nf4(tensor, dtype)
    pairs = torch.stack((tensor.codes >> 4, tensor.codes & 15), dim=1).reshape(num_rows, width)
    columns = torch.arange(width, device=pairs.device) // tensor.block_size
    starts = torch.arange(num_rows, device=pairs.device) * (width // tensor.block_size)
    scales = tensor.scales()[starts[:, None] + columns]  # (N, K)
    return (tensor.code[pairs.int()] * scales).to(dtype)
