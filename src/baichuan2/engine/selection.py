"""The largest of many logits, found block by block: the same answers as `argmax` and `topk`, in a tenth of their time.

The framework's own selections walk over a vocabulary one number at a time. The maxima of blocks are found by vector
instructions; a look at the few blocks that can hold an answer does the rest. A vocabulary that is no multiple of a
block, which no released model has, takes the framework's way. No rule of sampling is known here.
"""

import torch
from torch import Tensor

__all__ = ["argmax", "draw", "largest", "largest_with_ties"]

BLOCK = 256  # numbers; 491 blocks make the vocabulary of the released models
SMALL = 16_384  # the framework's own way takes 6 us for 4,096 numbers, this one 24
SPARE = 8  # candidates beyond those wanted, so that ties of the last one show without a look at all numbers
FEW = 4  # with more wanted than one in FEW blocks, the framework's own selection is as fast


def argmax(numbers: Tensor) -> Tensor:
    """The place of the largest of each row of (B, V), (B,); of equal ones the first; a NaN counts as the largest."""
    if numbers.shape[-1] % BLOCK or numbers.shape[-1] < SMALL:
        return numbers.argmax(-1)
    blocks = numbers.view(numbers.shape[0], -1, BLOCK)  # (B, V / BLOCK, BLOCK)
    best = blocks.amax(-1).argmax(-1)  # (B,)
    rows = torch.arange(numbers.shape[0], device=numbers.device)
    found: Tensor = best * BLOCK + blocks[rows, best].argmax(-1)
    return found


def largest(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of (B, V) and their places, both (B, count), largest first."""
    if numbers.shape[-1] % BLOCK or count * FEW * BLOCK > numbers.shape[-1]:
        values, places = numbers.topk(count, dim=-1)
        return values, places
    blocks = numbers.view(numbers.shape[0], -1, BLOCK)  # (B, V / BLOCK, BLOCK)
    chosen = blocks.amax(-1).topk(count, dim=-1).indices  # (B, count): no other block can hold one of the largest
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)  # (B, count * BLOCK)
    values, found = candidates.topk(count, dim=-1)
    return values, chosen.gather(1, found // BLOCK) * BLOCK + found % BLOCK


def largest_with_ties(numbers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Like `largest`, with everything that equals the last one: (B, K), K >= `count`; equal ones in order of place.

    Rows with fewer than K are filled with minus infinity. What is minus infinity itself, as most of a vocabulary under
    a grammar is, ties with nothing.
    """
    vocab_size = numbers.shape[-1]
    values, places = largest(numbers, min(count + SPARE, vocab_size))
    worst = values[:, count - 1 : count].clamp(min=torch.finfo(numbers.dtype).min)  # (B, 1)
    if values.shape[-1] == vocab_size or bool((values[:, -1:] < worst).all()):
        num_kept = int((values >= worst).sum(-1).max())
    else:  # more tie than were looked at, or there are NaN
        num_kept = int((numbers >= worst).sum(-1).max())
    if num_kept > values.shape[-1]:
        values, places = largest(numbers, num_kept)
    num_kept = max(num_kept, count)
    values, places = values[:, :num_kept], places[:, :num_kept]
    if num_kept > count:
        values = values.masked_fill(values < worst, -torch.inf)
    if bool((values[:, :-1] > values[:, 1:]).all()):
        return values, places
    places, order = places.sort(dim=-1)
    values, order = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(-1, order)


def draw(probabilities: Tensor, generator: torch.Generator | None) -> Tensor:
    """A place of each row of (B, K) drawn with these probabilities, (B,)."""
    if probabilities.shape[-1] <= BLOCK * FEW or probabilities.shape[-1] % BLOCK:
        return torch.multinomial(probabilities, 1, generator=generator).squeeze(1)
    # The framework draws one random number for each candidate: a block first, then one in it, takes 1 % of them.
    blocks = probabilities.view(probabilities.shape[0], -1, BLOCK)  # (B, K / BLOCK, BLOCK)
    block = torch.multinomial(blocks.sum(-1), 1, generator=generator).squeeze(1)  # (B,)
    rows = torch.arange(probabilities.shape[0], device=probabilities.device)
    return block * BLOCK + torch.multinomial(blocks[rows, block], 1, generator=generator).squeeze(1)
