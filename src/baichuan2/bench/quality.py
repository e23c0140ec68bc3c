"""How far one model is from another on the same tokens: divergence, perplexity, agreement.

The measure of a quantised model: not whether it is good, but how much of the reference is lost. Every place of a
sequence that has a next token counts once, from the given start on. Logits are made and thrown away in blocks of rows,
as those of a whole batch at the vocabulary of 125,696 would take gigabytes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from baichuan2.devices import wide_dtype
from baichuan2.errors import DataError, QuantizationError

__all__ = ["Places", "Quality", "QualityMeter", "compare_logits", "compare_models", "token_windows"]

BLOCK_ELEMENTS = 2**24
"""Logits of one model that are alive at once: 64 MiB in float32."""

LEAST_GROUPS = 5
"""Sequences from which a spread can be told."""

Progress = Callable[[int, int], None]
"""Called with the number of places compared so far, and of all."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """One model measured beside a reference.

    `kl_mean`, `kl_median`, `kl_percentile_99`: of KL(reference || other) over the places, in nats per token.
    `agreement`: share of places where both think the same token the likeliest. `accuracy`: share where the likeliest
    token is the one that stands in the text. `perplexity`: exp of the mean negative log-probability of the text.

    Margins are half widths of 95 % intervals, over sequences, as the places of one sequence are alike; None where there
    are fewer than five. `loss_margin` is that of the difference of both log-perplexities.
    """

    num_tokens: int
    kl_mean: float
    kl_median: float
    kl_percentile_99: float
    agreement: float
    perplexity: float
    accuracy: float
    reference_perplexity: float
    reference_accuracy: float
    kl_margin: float | None = None
    agreement_margin: float | None = None
    accuracy_margin: float | None = None
    loss_margin: float | None = None


class TextEncoder(Protocol):
    """The part of a tokenizer that makes windows of a text."""

    def encode_text(self, text: str) -> list[int]:
        """Ids of `text`, without special tokens."""


class QualityMeter:
    """Collects places, in any number of pieces, and sums them up in float64."""

    def __init__(self) -> None:
        self._divergences: list[Tensor] = []
        self._losses: list[Tensor] = []  # (2, n): of the reference, of the other
        self._agreeing: list[Tensor] = []
        self._right: list[Tensor] = []  # (2, n), like the losses
        self._group_sizes: list[int] = []

    @property
    def num_tokens(self) -> int:
        """Places added so far."""
        return sum(len(part) for part in self._divergences)

    def add(self, reference: Tensor, other: Tensor, targets: Tensor) -> None:
        """Adds n places: the logits of both models (n, V), and the token ids (n,) that really came next.

        Raises:
            QuantizationError: the shapes differ, or a row of logits holds no distribution (NaN, or all minus infinity).
        """
        if reference.shape != other.shape:
            shapes = f"{tuple(reference.shape)} and {tuple(other.shape)}"
            raise QuantizationError(f"two models are compared over one vocabulary, got logits {shapes}")
        rows = max(1, BLOCK_ELEMENTS // reference.shape[1])
        for start in range(0, len(targets), rows):
            block = slice(start, start + rows)
            self._add_block(reference[block].float(), other[block].float(), targets[block].to(reference.device))

    def _add_block(self, reference: Tensor, other: Tensor, targets: Tensor) -> None:
        other = other.to(reference.device)
        log_p, log_q = reference.log_softmax(-1), other.log_softmax(-1)
        for name, values in (("reference", log_p), ("measured", log_q)):
            if bool(values.isnan().any()):
                raise QuantizationError(f"the {name} model gives logits that are no numbers")
        p = log_p.exp()
        # a token that the reference rules out costs nothing, whatever the other says: not 0 * (-inf - -inf)
        terms = torch.where(p > 0, p * (log_p - log_q), 0.0)
        self._divergences.append(terms.sum(-1, dtype=wide_dtype(terms.device)).cpu().double())
        at_targets = [values.gather(-1, targets[:, None])[:, 0].cpu().double() for values in (log_p, log_q)]
        self._losses.append(-torch.stack(at_targets))
        likeliest = [values.argmax(-1) for values in (reference, other)]
        self._agreeing.append((likeliest[0] == likeliest[1]).cpu().double())
        self._right.append(torch.stack([choices == targets for choices in likeliest]).cpu().double())

    def logprobs_of_targets(self) -> Tensor:
        """What reference and other gave to the tokens that came next: natural logarithms (2, n), float64."""
        return -torch.cat(self._losses, 1) if self._losses else torch.zeros(2, 0, dtype=torch.float64)

    def add_groups(self, sizes: Sequence[int]) -> None:
        """Says how many of the places, in the order in which they are added, belong to each sequence."""
        self._group_sizes += sizes

    def result(self) -> Quality:
        """The figures over all places added.

        Raises:
            DataError: none were.
        """
        count = self.num_tokens
        if count == 0:
            raise DataError("there is nothing to compare on: the text has no token that follows another")
        divergences = torch.cat(self._divergences)
        losses, right, agreeing = torch.cat(self._losses, 1), torch.cat(self._right, 1), torch.cat(self._agreeing)
        perplexities, accuracies = losses.mean(1).exp().tolist(), right.mean(1).tolist()
        return Quality(
            num_tokens=count,
            kl_mean=divergences.mean().item(),
            kl_median=divergences.quantile(0.5).item() if count <= 2**24 else divergences.median().item(),
            kl_percentile_99=divergences.kthvalue(max(1, round(0.99 * count))).values.item(),
            agreement=agreeing.mean().item(),
            perplexity=perplexities[1],
            accuracy=accuracies[1],
            reference_perplexity=perplexities[0],
            reference_accuracy=accuracies[0],
            kl_margin=self._margin(divergences),
            agreement_margin=self._margin(agreeing),
            accuracy_margin=self._margin(right[1]),
            loss_margin=self._margin(losses[1] - losses[0]),
        )

    def _margin(self, values: Tensor) -> float | None:
        """Half the 95 % interval of the mean of `values` (n,): sequences were drawn, not the places by themselves."""
        sizes = torch.tensor(self._group_sizes, dtype=torch.float64)
        num_groups = len(sizes)
        if num_groups < LEAST_GROUPS or int(sizes.sum()) != len(values) or not bool(torch.isfinite(values).all()):
            return None
        sums = torch.stack([part.sum() for part in torch.split(values, self._group_sizes)])
        # a mean of all places is a ratio of two sums over sequences: its error by linearisation
        rest = sums - values.mean() * sizes
        variance = rest.square().sum() * num_groups / (num_groups - 1)
        return _student_95(num_groups - 1) * variance.sqrt().item() / len(values)


@torch.inference_mode()
def compare_models(
    reference: Any,
    other: Any,
    sequences: Sequence[Tensor],
    *,
    starts: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Quality:
    """`other` measured beside `reference` on `sequences` of token ids, each (T,) int64.

    Models are anything with the framework's forward; one with a decoder `model` and a head `lm_head`, as ours, is
    projected in blocks of rows. They may lie on different devices and in different number formats. `starts`: for each
    sequence the number of tokens that are only read, such as a prompt; the places that foretell later ones are counted.

    Raises:
        DataError: no sequence has two tokens.
        QuantizationError: the vocabularies differ, or a model gives no numbers.
    """
    meter = QualityMeter()
    first = _first_places(sequences, starts)
    total = sum(max(0, len(sequence) - 1 - place) for sequence, place in zip(sequences, first, strict=True))
    for chosen in _batches(sequences, first, batch_size):
        batch, places = [sequences[index] for index in chosen], [first[index] for index in chosen]
        targets = torch.cat([sequence[place + 1 :] for sequence, place in zip(batch, places, strict=True)])
        meter.add_groups([len(sequence) - 1 - place for sequence, place in zip(batch, places, strict=True)])
        expected, measured = Places(reference, batch, places), Places(other, batch, places)
        for block in expected.blocks():
            meter.add(expected.logits(block), measured.logits(block), targets[block])
            if progress is not None:
                progress(meter.num_tokens, total)
    return meter.result()


@torch.inference_mode()
def compare_logits(
    reference: Any,
    logits: Callable[[int], Any],
    sequences: Sequence[Tensor],
    *,
    starts: Sequence[int] | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> Quality:
    """As `compare_models`, where the other side is known by its logits: `logits(i)` of sequence i, (T, V) or (T-1, V).

    Tensors or NumPy arrays, also memory-mapped ones; only those of one sequence are read at once.

    Raises:
        DataError: no sequence has two tokens, or the logits of one are of another length.
        QuantizationError: the vocabularies differ, or one side gives no numbers.
    """
    meter = QualityMeter()
    first = _first_places(sequences, starts)
    total = sum(max(0, len(sequence) - 1 - place) for sequence, place in zip(sequences, first, strict=True))
    for chosen in _batches(sequences, first, batch_size):
        expected = Places(reference, [sequences[index] for index in chosen], [first[index] for index in chosen])
        start = 0
        for index in chosen:
            sequence, given = sequences[index], logits(index)
            if len(given) not in (len(sequence), len(sequence) - 1):
                raise DataError(f"sequence {index} has {len(sequence)} tokens, but logits of {len(given)} places")
            count = len(sequence) - 1 - first[index]
            meter.add_groups([count])
            for block in expected.blocks(start, start + count):
                offset = first[index] - start
                rows = slice(block.start + offset, block.stop + offset)
                meter.add(expected.logits(block), torch.as_tensor(given[rows]), sequence[1:][rows])
            start += count
            if progress is not None:
                progress(meter.num_tokens, total)
    return meter.result()


def token_windows(tokenizer: TextEncoder, path: Path, *, length: int, limit: int | None = None) -> list[Tensor]:
    """The text of a UTF-8 file as windows of `length` token ids (T,) int64, one after the other; the last is shorter.

    `limit`: stop after so many tokens. A last window of a single token is left out: nothing follows it.

    Raises:
        DataError: the file cannot be read, is no UTF-8, or is too short to compare anything.
    """
    if length < 2:
        raise DataError(f"a window needs at least two tokens, got length={length}")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text (byte {error.start})") from error
    ids = tokenizer.encode_text(text)[:limit]
    windows = [torch.tensor(ids[start : start + length]) for start in range(0, len(ids), length)]
    windows = [window for window in windows if len(window) > 1]
    if not windows:
        raise DataError(f"{path} holds too little text: two tokens at least are needed, got {len(ids)}")
    return windows


def _student_95(degrees: int) -> float:
    """Standard errors on either side of a mean that hold 95 % of Student's distribution, to 2 % from 4 degrees on."""
    normal = 1.959964
    first = (normal**3 + normal) / (4 * degrees)
    return normal + first + (5 * normal**5 + 16 * normal**3 + 3 * normal) / (96 * degrees**2)


def _first_places(sequences: Sequence[Tensor], starts: Sequence[int] | None) -> list[int]:
    """The first counted place of each sequence; len - 1, which is after the last one, where there is none."""
    lengths = [max(1, len(sequence)) for sequence in sequences]
    if starts is None:
        return [0 if length > 1 else length - 1 for length in lengths]
    if len(starts) != len(sequences) or any(start < 0 for start in starts):
        raise DataError(f"starts must be a count for each of the {len(sequences)} sequences, got {len(starts)}")
    # the last token that is only read is the place that foretells the first counted one
    return [min(max(0, start - 1), length - 1) for start, length in zip(starts, lengths, strict=True)]


def _batches(sequences: Sequence[Tensor], first: Sequence[int], size: int) -> Iterator[list[int]]:
    """Indices of sequences with a counted place, those of similar length together."""
    usable = [index for index, sequence in enumerate(sequences) if len(sequence) - 1 > first[index]]
    usable.sort(key=lambda index: len(sequences[index]))
    for start in range(0, len(usable), size):
        yield usable[start : start + size]


class Places:
    """The counted places of a batch, in order, and their logits on demand."""

    def __init__(self, model: Any, batch: Sequence[Tensor], first: Sequence[int]) -> None:
        device = next(iter(model.parameters())).device
        # Padding stands on the right, where no earlier place sees it: no mask is needed.
        ids = torch.nn.utils.rnn.pad_sequence(list(batch), batch_first=True).to(device)  # (B, T)
        lengths = torch.tensor([len(sequence) for sequence in batch], device=device)
        position = torch.arange(ids.shape[1], device=device)
        begins = torch.tensor(list(first), device=device)
        is_place = (position >= begins[:, None]) & (position < lengths[:, None] - 1)
        decoder, head = getattr(model, "model", None), getattr(model, "lm_head", None)
        self._project: Callable[[Tensor], Tensor] | None = head if decoder is not None else None
        if self._project is not None and decoder is not None:
            states = decoder(input_ids=ids, use_cache=False).last_hidden_state  # (B, T, C)
        else:
            states = model(input_ids=ids).logits  # (B, T, V)
        self._rows = states[is_place]
        self._width = int(getattr(head, "out_features", states.shape[-1]))

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[slice]:
        """Slices of places whose logits together are few enough."""
        stop = len(self._rows) if stop is None else stop
        size = max(1, BLOCK_ELEMENTS // self._width)
        for first in range(start, stop, size):
            yield slice(first, min(first + size, stop))

    def logits(self, block: slice) -> Tensor:
        """The logits (n, V) of a block of places."""
        rows = self._rows[block]
        return rows if self._project is None else self._project(rows)
