"""The output head in its two forms: normalised in inference (Baichuan 2), or plain with rows that are unit length."""

import torch
import torch.nn.functional as F
from torch import Tensor

from baichuan2.convert.rewriting import NewTensor
from baichuan2.quantization.freed_memory import release_if_mapped

__all__ = ["HEAD_WEIGHT", "has_unit_rows", "normalized_head"]

HEAD_WEIGHT = "lm_head.weight"
ROWS_AT_A_TIME = 4096
LEAST_TOLERANCE = 1e-5  # the sum of a row's squares is rounded too, which shows in float32


def normalized_head(dtype: str = "same") -> NewTensor:
    """The head (V, C) with rows of length 1, bit for bit what inference computes with.

    `dtype`: a number format that the weight is brought into before, as a model that is loaded in it would; same: its
    own. A row of zeros stays one.
    """

    def unit(rows: Tensor) -> Tensor:
        # rows of a .bin file may lie across each other, and are summed in another order then than in a model's memory
        return F.normalize((rows if dtype == "same" else rows.to(getattr(torch, dtype))).contiguous())

    return NewTensor((HEAD_WEIGHT,), unit, by_rows=True)


def has_unit_rows(weight: Tensor) -> bool:
    """Whether each row of a head (V, C) has length 1, to the rounding of its number format, or holds nothing but zeros.

    Dividing by a length that is rounded, and rounding what comes out, leaves rows up to one unit in the last place
    too long or too short.
    """
    tolerance = max(torch.finfo(weight.dtype).eps, LEAST_TOLERANCE)
    for rows in torch.split(weight, ROWS_AT_A_TIME):
        lengths = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
        release_if_mapped(rows)
        if not bool((((lengths - 1).abs() <= tolerance) | (lengths == 0)).all()):
            return False
    return True
