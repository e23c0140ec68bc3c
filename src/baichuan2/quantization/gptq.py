"""Codes chosen by what a layer is fed: its outputs on calibration inputs change least, not its weights.

For a weight W (N, K) and inputs X (tokens, K) the squared error of the outputs is sum of (W - Q) H (W - Q)^T over rows,
with H = X^T X. GPTQ (Frantar et al. 2023, arXiv 2210.17323) rounds one input after the other and spreads each error
over the inputs that are still to come; sweeps of coordinate descent then mend codes and scales under the same error.
Pure functions on tensors: who runs the model and collects its inputs stands above.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from baichuan2.errors import QuantizationError
from baichuan2.quantization.blockwise import (
    UNIFORM_CODEBOOK,
    Int4Tensor,
    Int8Tensor,
    check_weight,
    int4_grid,
    int8_grid,
    pack_int4,
    scale_factors,
)
from baichuan2.quantization.scales import UNIT, Grid, half, scaled, search_scales

__all__ = ["DAMPING", "SWEEPS", "Hessian", "gptq_int4", "gptq_int8"]

DAMPING = 0.01  # of the mean of H's diagonal, added to all of it: the value of the paper
SWEEPS = 4  # of coordinate descent
BLOCK = 128  # inputs whose errors reach the later ones together, as one product of matrices
ROWS = 2048  # of the weight handled at once: a block of them stays in the processor's cache


class Hessian:
    """H = sum of x x^T over the inputs x (K,) that a linear layer is fed, in float32.

    With the inputs of the same layer in the unquantised model beside them, it also knows how far those have drifted:
    the target then is the output of the unquantised model (GPTAQ, Li et al. 2025, arXiv 2504.02692).
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.matrix = torch.zeros(in_features, in_features, device=device)
        self.drift: Tensor | None = None
        self.num_tokens = 0

    def add(self, inputs: Tensor, reference: Tensor | None = None) -> None:
        """Adds `inputs` (tokens, K), and what the unquantised model has in their place, `reference` (tokens, K).

        Raises:
            QuantizationError: another number of features, or inputs that are not finite.
        """
        inputs = self._checked(inputs)
        self.matrix.addmm_(inputs.T, inputs)
        self.num_tokens += len(inputs)
        if reference is not None:
            if self.drift is None:
                self.drift = torch.zeros_like(self.matrix)
            self.drift.addmm_((self._checked(reference) - inputs).T, inputs)

    def _checked(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 2 or inputs.shape[1] != len(self.matrix):
            raise QuantizationError(f"inputs must be (tokens, {len(self.matrix)}), got {tuple(inputs.shape)}")
        inputs = inputs.float()
        if not bool(inputs.isfinite().all()):
            raise QuantizationError("the calibration inputs of this layer hold NaN or infinity")
        return inputs


def gptq_int4(
    weight: Tensor,
    hessian: Hessian,
    *,
    group_size: int,
    codebook: Tensor | None = None,
    damping: float = DAMPING,
    sweeps: int = SWEEPS,
) -> Int4Tensor:
    """`weight` (N, K) in 4 bits, with the codes and scales that change the layer's outputs least.

    `codebook`: int8 (16,), None: evenly spaced. `damping`: of the mean of H's diagonal. `sweeps` of coordinate descent
    follow GPTQ.

    Raises:
        QuantizationError: the weight is not a finite matrix, or H has not its K.
    """
    codebook = (UNIFORM_CODEBOOK if codebook is None else codebook).to(weight.device)
    grid = int4_grid(codebook)
    problem = _prepare(weight, hessian, damping)
    codes, scales = _solve(problem, grid, group_size, scale_factors(4), sweeps)
    zero = int(grid.nearest(torch.zeros(1, device=weight.device)))
    return Int4Tensor(pack_int4(codes, padding=zero), scales, codebook, group_size, weight.shape[1])


def gptq_int8(
    weight: Tensor, hessian: Hessian, *, group_size: int, damping: float = DAMPING, sweeps: int = SWEEPS
) -> Int8Tensor:
    """`weight` (N, K) in 8 bits, with the codes and scales that change the layer's outputs least; see `gptq_int4`."""
    problem = _prepare(weight, hessian, damping)
    codes, scales = _solve(problem, int8_grid(weight.device), group_size, scale_factors(8), sweeps)
    return Int8Tensor((codes.short() - 127).char(), scales, group_size)


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is minimised: (target - Q) matrix (target - Q)^T, by row; target (N, K), matrix (K, K) with its damping.

    `inverse_root`: the upper triangular U with U^T U = matrix^-1, whose rows say how errors spread.
    """

    target: Tensor
    matrix: Tensor
    inverse_root: Tensor


def _prepare(weight: Tensor, hessian: Hessian, damping: float) -> _Problem:
    check_weight(weight)
    if len(hessian.matrix) != weight.shape[1]:
        raise QuantizationError(f"the weight has {weight.shape[1]} inputs, its Hessian {len(hessian.matrix)}")
    if not 0 < damping < float("inf"):
        raise QuantizationError(f"damping must be a positive number, got {damping!r}")
    for name, products in (("", hessian.matrix), (" beside the unquantised ones", hessian.drift)):
        if products is not None and not bool(products.isfinite().all()):
            raise QuantizationError(
                f"the calibration inputs of this layer{name} are too large: their products overflow"
            )
    target = weight.float()
    matrix = hessian.matrix.clone()
    mean = matrix.diagonal().mean()
    if not bool(mean > 0):  # nothing was ever fed: all inputs count the same
        mean, damping = torch.ones_like(mean), 1.0
    matrix.diagonal().add_(damping * mean)
    # with J turning the order of inputs around and L L^T = J H J, U = J L^-1 J: one factorisation serves both uses
    root = _cholesky(matrix, float(mean) * damping)
    if hessian.drift is not None:
        # the minimum of |W X_reference - V X|² over V lies at V = W + W drift H^-1
        shift = torch.cholesky_solve((target @ hessian.drift).T.flip(0), root)
        target = target + shift.flip(0).T
    inverse = torch.eye(len(matrix), device=matrix.device)
    torch.linalg.solve_triangular(root, inverse, upper=False, out=inverse)  # in place: K² numbers are half a gigabyte
    del root
    return _Problem(target, matrix, inverse.flip(0, 1))


def _cholesky(matrix: Tensor, damping: float) -> Tensor:
    """The lower triangular root of `matrix` (K, K) with its order turned around; adds to the diagonal where it must."""
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    while failed:
        damping *= 10
        matrix.diagonal().add_(damping)
        root, failed = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    return root


@dataclass(eq=False)
class _Rounded:
    """Some rows of a quantised weight, turned: `values` (K, rows) of the codes, `scales` (groups, rows)."""

    values: Tensor
    scales: Tensor
    width: int

    def weights(self) -> Tensor:
        """(K, rows)."""
        return self.values * self.scales.repeat_interleave(self.width, 0)[: len(self.values)] / UNIT


def _solve(problem: _Problem, grid: Grid, group_size: int, factors: Tensor, sweeps: int) -> tuple[Tensor, Tensor]:
    """Codes uint8 (N, K) and scales float16 (N, groups); rows are independent, and handled `ROWS` at a time."""
    width = group_size or problem.target.shape[1]
    codes, scales = [], []
    for rows in torch.split(problem.target, ROWS):
        target = rows.T.contiguous()  # (K, rows): what is done for one input then works on neighbours in memory
        rounded = _gptq(target, problem.inverse_root, grid, width, factors)
        gradient = problem.matrix @ (target - rounded.weights())
        _descend(target, problem.matrix, gradient, rounded, grid, sweeps)
        _fall_back(target, problem.matrix, gradient, rounded, grid, factors)
        codes.append(grid.nearest(rounded.values).T)
        scales.append(rounded.scales.T.half())
    return torch.cat(codes), torch.cat(scales)


def _gptq(target: Tensor, inverse_root: Tensor, grid: Grid, width: int, factors: Tensor) -> _Rounded:
    """`target` (K, rows) rounded input by input, each error spread over the inputs after it."""
    in_features = len(target)
    weights = target.clone()
    importance = inverse_root.diagonal().square().reciprocal()[:, None]  # (K, 1): an error's cost after spreading
    rounded = _Rounded(torch.empty_like(target), target.new_empty(-(-in_features // width), target.shape[1]), width)
    for start in range(0, in_features, BLOCK):
        end = min(start + BLOCK, in_features)
        errors = torch.empty_like(target[start:end])
        for k in range(start, end):
            group = k // width
            if k % width == 0:
                members = slice(k, k + width)
                rounded.scales[group] = search_scales(weights[members], grid, importance[members], factors)
            scale = rounded.scales[group]
            rounded.values[k] = grid.round(scaled(weights[k], scale))
            errors[k - start] = (weights[k] - scale * rounded.values[k] / UNIT) / inverse_root[k, k]
            weights[k + 1 : end].addr_(inverse_root[k, k + 1 : end], errors[k - start], alpha=-1)
        weights[end:].addmm_(inverse_root[start:end, end:].T, errors, alpha=-1)
    return rounded


def _descend(target: Tensor, matrix: Tensor, gradient: Tensor, rounded: _Rounded, grid: Grid, sweeps: int) -> None:
    """Coordinate descent from `rounded`: the best scale of a group for its codes, then the best code of each input.

    With E = target - Q and `gradient` = H E (K, rows), moving a row's weight by d changes its error by
    -2 d gradient + d² H_kk. The gradient is kept up to date: within a block at once, elsewhere block by block.
    """
    in_features, width = len(target), rounded.width
    for start in list(range(0, in_features, BLOCK)) * sweeps:
        end = min(start + BLOCK, in_features)
        local, within = gradient[start:end].clone(), matrix[start:end, start:end]
        changes = torch.zeros_like(local)
        for k in range(start, end):
            scale = rounded.scales[k // width]
            if k % width == 0 and width <= BLOCK:
                members = slice(k, min(k + width, end))
                moved = _refit_scale(rounded.values[members], scale, local, within, members.start - start)
                changes[members.start - start : members.stop - start] += moved
            old = scale * rounded.values[k] / UNIT
            rounded.values[k] = grid.round(scaled(old + local[k - start] / matrix[k, k], scale))
            change = scale * rounded.values[k] / UNIT - old
            changes[k - start] += change
            local.addr_(within[k - start], change, alpha=-1)
        gradient.addmm_(matrix[:, start:end], changes, alpha=-1)


def _refit_scale(values: Tensor, scale: Tensor, gradient: Tensor, within: Tensor, start: int) -> Tensor:
    """Moves `scale` (rows,) to its best for `values` (width, rows), where float16 lets it lower the error.

    The group stands at `start` of a block with `gradient` (block, rows), which is kept up to date, and with the
    square `within` of H. Returns how far the weights have moved: (width, rows).
    """
    members = slice(start, start + len(values))
    slope = (values * gradient[members]).sum(0) / UNIT
    curvature = (values * (within[members, members] @ values)).sum(0) / UNIT**2
    moved = half(torch.where(curvature > 0, scale + slope / curvature, scale))
    step = moved - scale
    step = torch.where(step * (step * curvature - 2 * slope) < 0, step, 0.0)
    scale += step
    change = values * step / UNIT
    gradient.addmm_(within[:, members], change, alpha=-1)
    return change


def _fall_back(
    target: Tensor, matrix: Tensor, gradient: Tensor, rounded: _Rounded, grid: Grid, factors: Tensor
) -> None:
    """Rows that plain rounding to nearest serves better are taken from it; `gradient` is that of `rounded`."""
    nearest = _Rounded(torch.empty_like(target), torch.empty_like(rounded.scales), rounded.width)
    for group, members in enumerate(torch.split(target, rounded.width)):
        part = slice(group * rounded.width, group * rounded.width + len(members))
        nearest.scales[group] = search_scales(members, grid, matrix.diagonal()[part, None], factors)
        nearest.values[part] = grid.round(scaled(members, nearest.scales[group]))
    loss = ((target - rounded.weights()) * gradient).sum(0)
    errors = target - nearest.weights()
    is_worse = loss > (errors * (matrix @ errors)).sum(0)
    rounded.values[:, is_worse] = nearest.values[:, is_worse]
    rounded.scales[:, is_worse] = nearest.scales[:, is_worse]
