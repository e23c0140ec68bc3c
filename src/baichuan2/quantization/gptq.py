"""Codes chosen by what a layer is fed: its outputs on calibration inputs change least, not its weights.

For a weight W (N, K) and inputs X (tokens, K) the squared error of the outputs is sum of (W - Q) H (W - Q)^T over rows,
with H = X^T X. GPTQ (Frantar et al. 2023, arXiv 2210.17323) rounds one input after the other and spreads each error
over the inputs that are still to come; sweeps of coordinate descent then mend codes and scales under the same error.
Pure functions on tensors: who runs the model and collects its inputs stands above.
"""

from collections.abc import Sequence
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

__all__ = ["DAMPING", "Hessian", "Problem", "gptq_int4", "gptq_int8", "problems"]

DAMPING = 0.01  # of the mean of H's diagonal, added to all of it: the value of the paper
# Products of two inputs that few tokens have shown are partly chance: codes that follow them do worse on other text
# than plain rounding. So they shrink, against the diagonal, by the chance in them: about inputs / tokens.
SHRINKAGE = 2.0
SWEEPS = 4  # of coordinate descent, of which each costs as much as the rounding before it twice
SWEEPS_OF_LARGE = 2
LARGE = 10_000_000  # weights
BLOCK = 128  # inputs whose errors reach the later ones together, as one product of matrices
WEIGHTS_AT_A_TIME = 1 << 23  # solved at once, in rows: a dozen tensors of their size exist meanwhile
PRODUCT_BLOCK = 1024  # inputs whose products with the others are summed at once
INVERTED_AT_ONCE = 256  # rows of a triangle below which it is solved, not halved
REVERSED_AT_A_TIME = 1 << 20


class Hessian:
    """H = sum of x x^T over the inputs x (K,) that a linear layer is fed, in float32.

    With the inputs of the same layer in the unquantised model beside them, it also knows how far those have drifted:
    the target then is the output of the unquantised model (GPTAQ, Li et al. 2025, arXiv 2504.02692).
    """

    def __init__(self, in_features: int, device: torch.device | str = "cpu") -> None:
        self.in_features = in_features
        self.drift: Tensor | None = None
        self.num_tokens = 0
        self._sums: Tensor | None = torch.zeros(in_features, in_features, device=device)
        self._is_symmetric = True

    @property
    def matrix(self) -> Tensor:
        """H (K, K)."""
        assert self._sums is not None, "it was taken"
        if not self._is_symmetric:
            for start in range(0, self.in_features, PRODUCT_BLOCK):
                end = start + PRODUCT_BLOCK
                self._sums[end:, start:end] = self._sums[start:end, end:].T
            self._is_symmetric = True
        return self._sums

    def add(self, inputs: Tensor, reference: Tensor | None = None) -> None:
        """Adds `inputs` (tokens, K), and what the unquantised model has in their place, `reference` (tokens, K).

        Raises:
            QuantizationError: another number of features, or inputs that are not finite.
        """
        inputs = self._checked(inputs)
        assert self._sums is not None, "it was taken"
        # H is symmetric: half of its blocks are enough, which is half of the work
        for start in range(0, self.in_features, PRODUCT_BLOCK):
            self._sums[start : start + PRODUCT_BLOCK, start:].addmm_(
                inputs[:, start : start + PRODUCT_BLOCK].T, inputs[:, start:]
            )
        self._is_symmetric = False
        self.num_tokens += len(inputs)
        if reference is not None:
            if self.drift is None:
                self.drift = torch.zeros_like(self._sums)
            self.drift.addmm_((self._checked(reference) - inputs).T, inputs)

    def take(self) -> tuple[Tensor, Tensor | None]:
        """H and the drift, which are not held here any longer: at K = 11008 each takes half a gigabyte."""
        taken = self.matrix, self.drift
        self._sums = self.drift = None
        return taken

    def _checked(self, inputs: Tensor) -> Tensor:
        if inputs.dim() != 2 or inputs.shape[1] != self.in_features:
            raise QuantizationError(f"inputs must be (tokens, {self.in_features}), got {tuple(inputs.shape)}")
        inputs = inputs.float()
        if not bool(inputs.isfinite().all()):
            raise QuantizationError("the calibration inputs of this layer hold NaN or infinity")
        return inputs


@dataclass(frozen=True, eq=False)
class Problem:
    """What is minimised: (target - Q) matrix (target - Q)^T, by row; target (N, K), matrix (K, K) with its damping.

    `inverse_root`: the upper triangular U with U^T U = matrix^-1, whose rows say how errors spread.
    """

    target: Tensor
    matrix: Tensor
    inverse_root: Tensor


def gptq_int4(
    weight: Tensor,
    inputs: Hessian | Problem,
    *,
    group_size: int,
    codebook: Tensor | None = None,
    damping: float = DAMPING,
    sweeps: int | None = None,
) -> Int4Tensor:
    """`weight` (N, K) in 4 bits, with the codes and scales that change the layer's outputs least.

    `inputs`: what the layer is fed, or the problem that `problems` made of this weight. `codebook`: int8 (16,), None:
    evenly spaced. `damping`: of the mean of H's diagonal. `sweeps` of coordinate descent follow GPTQ; None: 4, and 2
    where the weight is large.

    Raises:
        QuantizationError: the weight is not a finite matrix, or H has not its K.
    """
    codebook = (UNIFORM_CODEBOOK if codebook is None else codebook).to(weight.device)
    grid = int4_grid(codebook)
    problem = inputs if isinstance(inputs, Problem) else problems([weight], inputs, damping=damping)[0]
    codes, scales = _solve(problem, grid, group_size, scale_factors(4), sweeps)
    zero = int(grid.nearest(torch.zeros(1, device=weight.device)))
    return Int4Tensor(pack_int4(codes, padding=zero), scales, codebook, group_size, weight.shape[1])


def gptq_int8(
    weight: Tensor,
    inputs: Hessian | Problem,
    *,
    group_size: int,
    damping: float = DAMPING,
    sweeps: int | None = None,
) -> Int8Tensor:
    """`weight` (N, K) in 8 bits, with the codes and scales that change the layer's outputs least; see `gptq_int4`."""
    problem = inputs if isinstance(inputs, Problem) else problems([weight], inputs, damping=damping)[0]
    codes, scales = _solve(problem, int8_grid(weight.device), group_size, scale_factors(8), sweeps)
    return Int8Tensor(codes.sub_(127).view(torch.int8), scales, group_size)  # bytes wrap around


def problems(
    weights: Sequence[Tensor], hessian: Hessian, *, damping: float = DAMPING, consume: bool = False
) -> list[Problem]:
    """What is to be minimised for each of `weights` (N, K), which are fed the same inputs; they share its matrices.

    `consume`: `hessian` is emptied, so that its memory serves the problems.

    Raises:
        QuantizationError: a weight is not a finite matrix, or H has not its K, or is not finite.
    """
    for weight in weights:
        check_weight(weight)
        if hessian.in_features != weight.shape[1]:
            raise QuantizationError(f"the weight has {weight.shape[1]} inputs, its Hessian {hessian.in_features}")
    if not 0 < damping < float("inf"):
        raise QuantizationError(f"damping must be a positive number, got {damping!r}")
    matrix, drift = hessian.take() if consume else (hessian.matrix.clone(), hessian.drift)
    for name, products in (("", matrix), (" beside the unquantised ones", drift)):
        if products is not None and not _is_finite(products):
            raise QuantizationError(
                f"the calibration inputs of this layer{name} are too large: their products overflow"
            )
    targets = [weight.float() for weight in weights]
    drifted = None if drift is None else [target @ drift for target in targets]
    del drift
    mean = matrix.diagonal().mean()
    if not bool(mean > 0):  # nothing was ever fed: all inputs count the same
        mean, damping = torch.ones_like(mean), 1.0
    matrix.diagonal().mul_(1 + SHRINKAGE * hessian.in_features / max(hessian.num_tokens, 1)).add_(damping * mean)
    # with J turning the order of inputs around and R^T R = J H J, U = J R^-T J: one factorisation serves both uses
    root = _turned_root(matrix, float(mean) * damping)
    for index in range(len(targets) if drifted is not None else 0):
        assert drifted is not None
        # the minimum of |W X_reference - V X|² over V lies at V = W + W drift H^-1
        shift = torch.linalg.solve_triangular(root, drifted.pop(0).flip(1), upper=True, left=False)
        shift = torch.linalg.solve_triangular(root.mT, shift, upper=False, left=False)
        targets[index] = targets[index] + shift.flip(1)
    _invert_upper(root)
    _reverse(root)
    return [Problem(target, matrix, root.mT) for target in targets]


def _is_finite(matrix: Tensor) -> bool:
    """Without a mask of its size."""
    low, high = matrix.aminmax()
    return bool(low.isfinite()) and bool(high.isfinite())


def _turned_root(matrix: Tensor, damping: float) -> Tensor:
    """The upper triangular R with R^T R = `matrix` (K, K) in the other order; adds to its diagonal where it must."""
    while True:
        root = matrix.clone()
        _reverse(root)
        # in place, as it is symmetric and LAPACK counts by columns: the lower root there is the upper one here
        _, failed = torch.linalg.cholesky_ex(
            root.mT, out=(root.mT, torch.empty(0, dtype=torch.int32, device=matrix.device))
        )
        if not failed:
            return root
        damping *= 10
        matrix.diagonal().add_(damping)


def _reverse(matrix: Tensor) -> None:
    """Turns the order of rows and of columns around, in place."""
    flat = matrix.view(-1)
    count = len(flat)
    for start in range(0, count // 2, REVERSED_AT_A_TIME):
        end = min(start + REVERSED_AT_A_TIME, count // 2)
        front = flat[start:end].flip(0)
        flat[start:end] = flat[count - end : count - start].flip(0)
        flat[count - end : count - start] = front


def _invert_upper(matrix: Tensor) -> None:
    """Inverts an upper triangular matrix (n, n) in place, by halves: [[A, B], [0, C]] has -A^-1 B C^-1 for B."""
    size = len(matrix)
    if size <= INVERTED_AT_ONCE:
        identity = torch.eye(size, device=matrix.device)
        matrix.copy_(torch.linalg.solve_triangular(matrix, identity, upper=True))
        return
    half_size = size // 2
    first, second = matrix[:half_size, :half_size], matrix[half_size:, half_size:]
    _invert_upper(first)
    _invert_upper(second)
    corner = first @ matrix[:half_size, half_size:]
    matrix[:half_size, half_size:] = corner.neg_() @ second


@dataclass(eq=False)
class _Rounded:
    """Some rows of a quantised weight, turned: `values` (K, rows) of the codes, `scales` (groups, rows)."""

    values: Tensor
    scales: Tensor
    width: int

    def weights(self) -> Tensor:
        """(K, rows)."""
        return self.values * self.scales.repeat_interleave(self.width, 0)[: len(self.values)] / UNIT


def _solve(problem: Problem, grid: Grid, group_size: int, factors: Tensor, sweeps: int | None) -> tuple[Tensor, Tensor]:
    """Codes uint8 (N, K) and scales float16 (N, groups); rows are independent, and handled some at a time."""
    num_rows, in_features = problem.target.shape
    width = group_size or in_features
    if sweeps is None:
        sweeps = SWEEPS if problem.target.numel() <= LARGE else SWEEPS_OF_LARGE
    codes = torch.empty(num_rows, in_features, dtype=torch.uint8, device=problem.target.device)
    scales = torch.empty(num_rows, -(-in_features // width), dtype=torch.float16, device=problem.target.device)
    step = max(WEIGHTS_AT_A_TIME // in_features, 1)
    for start in range(0, num_rows, step):
        rows = slice(start, start + step)
        target = problem.target[rows].T.contiguous()  # (K, rows): work on one input is on neighbours in memory
        rounded = _gptq(target, problem.inverse_root, grid, width, factors)
        gradient = problem.matrix @ (target - rounded.weights())
        _descend(target, problem.matrix, gradient, rounded, grid, sweeps)
        _fall_back(target, problem.matrix, gradient, rounded, grid, factors)
        codes[rows] = grid.nearest(rounded.values).T
        scales[rows] = rounded.scales.T.half()
    return codes, scales


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
