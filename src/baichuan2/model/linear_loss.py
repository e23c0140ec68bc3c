"""The training loss straight from hidden states and the head's weight: logits exist for some rows at a time only.

With 125,696 words the logits of one batch take gigabytes, and the plain way to the loss holds them several times over.
Here a few hundred rows are multiplied with the head, turned into their gradient in place, and multiplied back before
the next ones come: three products in all, as in the plain way, and no tensor of rows x vocabulary. (The idea is that of
Liger Kernel, arXiv 2410.10989, §3.2.)

NormHead needs no normalised copy of its weight W. With r the lengths of the rows, logits are (h W^T) / r by column;
what flows back into W is g - W (W . g) / r^2 by row, where g is the gradient by the normalised rows, divided by r.
Places without a label need no logits at all, unless the max-z term asks for every largest logit.

Shape letters: B inputs, T places, N places that get logits, C hidden size, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from baichuan2.model.loss import IGNORED_LABEL

# Logits that exist at once, in bytes, and the part of them that is worked on in one go: on a processor what its last
# level of cache holds, elsewhere as much as keeps a device busy.
CHUNK_BYTES = {"cpu": 256 * 2**20, "other": 512 * 2**20}
BLOCK_BYTES = {"cpu": 4 * 2**20, "other": 256 * 2**20}
# places whose logits a head of another kind computes in one go
LAYER_ROWS = 256
# rows of the weight's gradient that are handled in one go
SLICE_ROWS = 8192
LEAST_LENGTH = 1e-12
"""Shorter rows of the head are divided by this instead of by their length, as `F.normalize` does."""


@dataclass(frozen=True)
class LossRequest:
    """What a head computes instead of logits.

    `labels` (B, T) integers, -100 for places without a target; place t predicts label t + 1. The loss is that of
    `baichuan2.model.loss.causal_lm_loss`, or with `as_logprobs` the sum of the log-probabilities of each row's
    targets, (B,) float32.
    """

    labels: Tensor
    z_loss_weight: float = 0.0
    num_items_in_batch: Tensor | int | None = None
    as_logprobs: bool = False


@torch.compiler.disable
def linear_loss(hidden_states: Tensor, weight: Tensor, request: LossRequest, *, is_normalized: bool) -> Tensor:
    """The loss, 0-d float32, or log-probabilities (B,), of `hidden_states` (B, T, C) under a head `weight` (V, C).

    With `is_normalized` the rows of the weight count as divided by their lengths (NormHead). Differentiable once, with
    respect to both.

    Raises:
        ValueError: a label that is neither -100 nor a row of the weight, or labels of another shape.
    """
    parts = _Parts.of(hidden_states, request)
    _check_labels(parts.wanted, weight.shape[0])
    rows, has_grad = parts.rows, torch.is_grad_enabled()
    needs_rows, needs_weight = has_grad and rows.requires_grad, has_grad and weight.requires_grad
    work = _Work(weight.shape[0], _compute_dtype(weight), is_normalized, needs_rows, needs_weight)
    if request.as_logprobs:
        return parts.per_input(_TokenLogProbs.apply(rows, weight, parts.wanted, work))  # type: ignore[no-untyped-call]
    loss: Tensor = _MeanLoss.apply(  # type: ignore[no-untyped-call]
        rows, weight, parts.wanted, parts.total, parts.z_scale, work
    )
    return loss


@torch.compiler.disable
def loss_of_layer(head: nn.Module, hidden_states: Tensor, request: LossRequest) -> Tensor:
    """`linear_loss` for a head of any kind, (n, C) to logits (n, V), which is called again for the gradients."""
    parts = _Parts.of(hidden_states, request)

    def of_chunk(states: Tensor, wanted: Tensor) -> Tensor:
        logits = head(states).float()
        _check_labels(wanted, logits.shape[1])
        losses = F.cross_entropy(logits, wanted, ignore_index=IGNORED_LABEL, reduction="none")
        if parts.z_scale is not None:
            losses = losses + parts.z_scale * logits.max(dim=1).values.square()
        return losses

    chunks = [
        checkpoint(of_chunk, states, wanted, use_reentrant=False)
        if torch.is_grad_enabled()
        else of_chunk(states, wanted)
        for states, wanted in zip(
            torch.split(parts.rows, LAYER_ROWS), torch.split(parts.wanted, LAYER_ROWS), strict=True
        )
    ]
    losses = torch.cat(chunks)
    return parts.per_input(-losses) if request.as_logprobs else losses.sum() / parts.total


@dataclass(frozen=True)
class _Parts:
    """A request taken apart: the N places that need logits, and what their losses are multiplied with."""

    rows: Tensor
    """(N, C) hidden states."""
    wanted: Tensor
    """(N,) the word each of them should predict, or -100."""
    inputs: Tensor
    """(N,) which of the B inputs they belong to."""
    num_inputs: int
    total: Tensor
    """0-d float32: the number that the sum of all losses is divided by."""
    z_scale: Tensor | None
    """0-d float32: factor of squared largest logits, before the division; None without max-z term."""

    @classmethod
    def of(cls, hidden_states: Tensor, request: LossRequest) -> Self:
        if request.labels.shape != hidden_states.shape[:2]:
            raise ValueError(
                f"labels must have the shape of the inputs, {tuple(hidden_states.shape[:2])}, "
                f"got {tuple(request.labels.shape)}"
            )
        targets = request.labels[:, 1:].to(hidden_states.device, torch.int64)  # (B, T-1)
        is_target = targets != IGNORED_LABEL
        has_z = bool(request.z_loss_weight) and not request.as_logprobs
        places = (torch.ones_like(is_target) if has_z else is_target).flatten().nonzero()[:, 0]  # (N,)
        rows = hidden_states[:, :-1].flatten(0, 1).index_select(0, places)
        count = is_target.sum()
        total = count if request.num_items_in_batch is None else request.num_items_in_batch
        # the z term of a part of a batch is shared out by targets: weight x (count / total) x mean
        z_scale = request.z_loss_weight * count / max(1, targets.numel()) if has_z else None
        total = torch.as_tensor(total, device=rows.device, dtype=torch.float32)
        wanted = targets.flatten().index_select(0, places)
        inputs = places // max(1, targets.shape[1])
        return cls(rows, wanted, inputs, targets.shape[0], total, z_scale)

    def per_input(self, values: Tensor) -> Tensor:
        """Sums (B,) float32 of `values` (N,)."""
        sums = torch.zeros(self.num_inputs, device=values.device, dtype=torch.float32)
        return sums.index_add(0, self.inputs, values)


def _check_labels(wanted: Tensor, num_words: int) -> None:
    if not wanted.numel():
        return
    low, high = torch.aminmax(torch.where(wanted == IGNORED_LABEL, 0, wanted))
    for label in (int(low), int(high)):
        if not 0 <= label < num_words:
            raise ValueError(f"labels must be {IGNORED_LABEL} or lie between 0 and {num_words - 1}, got {label}")


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


@dataclass
class _Work:
    """What one loss computes, and in which pieces."""

    num_words: int
    dtype: torch.dtype
    """Of the products."""
    is_normalized: bool
    needs_rows: bool
    """Whether hidden states get a gradient."""
    needs_weight: bool

    @property
    def needs_gradient(self) -> bool:
        return self.needs_rows or self.needs_weight

    def chunks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Slices of `rows` (N, C), each with its rows in the dtype of the products and room for its logits (n, V)."""
        per_chunk = self._rows_within(CHUNK_BYTES, rows.device, self.dtype.itemsize)
        room = torch.empty(min(per_chunk, rows.shape[0]), self.num_words, dtype=self.dtype, device=rows.device)
        for start in range(0, rows.shape[0], per_chunk):
            part = slice(start, min(start + per_chunk, rows.shape[0]))
            yield part, rows[part].to(self.dtype), room[: part.stop - part.start]

    def blocks(self, logits: Tensor) -> Iterator[slice]:
        """Slices of the rows of a chunk (n, V) that stay in a cache while they are worked on in float32."""
        per_block = self._rows_within(BLOCK_BYTES, logits.device, 4)
        for start in range(0, logits.shape[0], per_block):
            yield slice(start, min(start + per_block, logits.shape[0]))

    def _rows_within(self, budgets: dict[str, int], device: torch.device, itemsize: int) -> int:
        budget = budgets.get(device.type, budgets["other"])
        return max(1, budget // (self.num_words * itemsize))


def _inverse_lengths(weight: Tensor, work: _Work) -> Tensor | None:
    """1 / max(length, 1e-12) of each row of the weight, (V,) float32; None for a plain head."""
    if not work.is_normalized:
        return None
    lengths: Tensor = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32)
    return lengths.clamp_min_(LEAST_LENGTH).reciprocal_()


class _Gradients:
    """The gradients of rows and weight, filled chunk by chunk for an upstream gradient of 1."""

    def __init__(self, rows: Tensor, weight: Tensor, work: _Work) -> None:
        self.rows = torch.empty_like(rows) if work.needs_rows else None
        self.weight: Tensor | None = None
        self._weight = weight
        self._work = work

    def add(self, part: slice, states: Tensor, words: Tensor, by_logits: Tensor) -> None:
        """One chunk: its `states` (n, C), the weight `words` (V, C), the gradient `by_logits` (n, V) of products."""
        if self.rows is not None:
            if self.rows.dtype == by_logits.dtype:
                torch.mm(by_logits, words, out=self.rows[part])
            else:
                self.rows[part] = by_logits @ words
        if not self._work.needs_weight:
            return
        if self.weight is None and by_logits.dtype == torch.float32:
            self.weight = torch.mm(by_logits.t(), states)
        elif self.weight is None:
            self.weight = torch.zeros(words.shape, dtype=torch.float32, device=words.device)
            self._add_rounded(states, by_logits)
        elif by_logits.dtype == torch.float32:
            self.weight.addmm_(by_logits.t(), states)
        else:
            self._add_rounded(states, by_logits)

    def _add_rounded(self, states: Tensor, by_logits: Tensor) -> None:
        """Sums products of half precision in float32: rounded at every chunk, they would lose what is small."""
        assert self.weight is not None
        for start in range(0, by_logits.shape[1], SLICE_ROWS):
            part = slice(start, start + SLICE_ROWS)
            self.weight[part] += by_logits[:, part].t() @ states

    def finish(self, inverse: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Both gradients, that of the weight through its normalisation and in its dtype."""
        if not self._work.needs_weight:
            return self.rows, None
        if self.weight is None:  # there was no row
            return self.rows, torch.zeros_like(self._weight)
        if inverse is not None:
            for start in range(0, self.weight.shape[0], SLICE_ROWS):
                part = slice(start, start + SLICE_ROWS)
                words, gradient, scale = self._weight[part].float(), self.weight[part], inverse[part, None]
                # rows below the least length are divided by a constant
                along = torch.linalg.vecdot(words, gradient)[:, None] * scale.square()
                gradient.addcmul_(words, along.masked_fill_(scale >= 1 / LEAST_LENGTH, 0.0), value=-1.0)
        return self.rows, self.weight.to(self._weight.dtype)


class _MeanLoss(torch.autograd.Function):
    """(sum of cross entropies + z_scale * sum of squared largest logits) / total; computes its gradients at once."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, wanted: Tensor, total: Tensor, z_scale: Tensor | None, work: _Work
    ) -> Tensor:
        with torch.autocast(rows.device.type, enabled=False):
            loss, *gradients = _mean_loss(rows, weight, wanted, z_scale, work)
        ctx.gradients, ctx.work, ctx.total = gradients, work, total
        return loss / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the loss without logits can be differentiated once: pass skip_logits=False to keep its graph"
            )
        # handed over, not kept: what has one owner becomes `weight.grad` without a copy
        gradients, ctx.gradients = ctx.gradients, None
        scale = upstream / ctx.total
        for gradient in gradients:
            if gradient is not None:
                gradient.mul_(scale)
        return (*gradients, None, None, None, None)


def _mean_loss(
    rows: Tensor, weight: Tensor, wanted: Tensor, z_scale: Tensor | None, work: _Work
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Sum of the losses, 0-d float32, and its gradients with respect to `rows` and `weight` where they are needed."""
    words, inverse = weight.to(work.dtype), _inverse_lengths(weight, work)
    gradients = _Gradients(rows, weight, work)
    loss = torch.zeros((), dtype=torch.float32, device=rows.device)
    for part, states, logits in work.chunks(rows):
        torch.mm(states, words.t(), out=logits)
        for block in work.blocks(logits):
            loss += _block_loss(logits[block], inverse, wanted[part][block], z_scale, work)
        if work.needs_gradient:
            gradients.add(part, states, words, logits)
    return loss, *gradients.finish(inverse)


def _block_loss(logits: Tensor, inverse: Tensor | None, wanted: Tensor, z_scale: Tensor | None, work: _Work) -> Tensor:
    """The loss of a block of products (n, V), which are overwritten by their gradient where one is needed."""
    is_target = (wanted != IGNORED_LABEL)[:, None]  # (n, 1)
    index = wanted.clamp_min(0)[:, None]
    wide = logits.float()  # the same memory where it is float32
    if inverse is not None:
        wide.mul_(inverse)
    largest = wide.amax(dim=1, keepdim=True)
    picked = wide.gather(1, index)
    top = wide.argmax(dim=1, keepdim=True) if z_scale is not None and work.needs_gradient else None
    sums = wide.sub_(largest).exp_().sum(dim=1, keepdim=True)
    loss = torch.where(is_target, sums.log() + largest - picked, 0.0).sum()
    if z_scale is not None:
        loss += z_scale * largest.square().sum()
    if work.needs_gradient:
        share = is_target.float()
        wide.mul_(share / sums).scatter_add_(1, index, -share)
        if z_scale is not None and top is not None:
            wide.scatter_add_(1, top, 2.0 * z_scale * largest)
        _give_back(logits, wide, inverse)
    return loss


def _give_back(logits: Tensor, wide: Tensor, inverse: Tensor | None) -> None:
    if inverse is not None:
        wide.mul_(inverse)
    if wide.dtype != logits.dtype:
        logits.copy_(wide)


class _TokenLogProbs(torch.autograd.Function):
    """The log-probability of each wanted word, (N,) float32; logits are computed again for the gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, wanted: Tensor, work: _Work) -> Tensor:
        ctx.work = work
        result = torch.empty(rows.shape[0], dtype=torch.float32, device=rows.device)
        totals = torch.empty(2, rows.shape[0], dtype=torch.float32, device=rows.device)  # largest logits, sums
        with torch.autocast(rows.device.type, enabled=False):
            words, inverse = weight.to(work.dtype), _inverse_lengths(weight, work)
            for part, states, logits in work.chunks(rows):
                torch.mm(states, words.t(), out=logits)
                for block in work.blocks(logits):
                    wide = logits[block].float()
                    if inverse is not None:
                        wide.mul_(inverse)
                    largest = wide.amax(dim=1, keepdim=True)
                    picked = wide.gather(1, wanted[part][block, None])
                    sums = wide.sub_(largest).exp_().sum(dim=1, keepdim=True)
                    totals[:, part][:, block] = torch.cat((largest, sums), dim=1).T
                    result[part][block] = (picked - largest - sums.log())[:, 0]
        ctx.save_for_backward(rows, weight, wanted, totals)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, wanted, totals = ctx.saved_tensors
        work: _Work = ctx.work
        with torch.autocast(rows.device.type, enabled=False):
            words, inverse = weight.to(work.dtype), _inverse_lengths(weight, work)
            gradients = _Gradients(rows, weight, work)
            for part, states, logits in work.chunks(rows):
                torch.mm(states, words.t(), out=logits)
                for block in work.blocks(logits):
                    wide, share = logits[block].float(), upstream[part][block, None]
                    largest, sums = totals[:, part][:, block, None]
                    if inverse is not None:
                        wide.mul_(inverse)
                    wide.sub_(largest).exp_().mul_(-share / sums)
                    wide.scatter_add_(1, wanted[part][block, None], share)
                    _give_back(logits[block], wide, inverse)
                gradients.add(part, states, words, logits)
        return (*gradients.finish(inverse), None, None)
