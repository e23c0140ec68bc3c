"""The training loss: next-token cross entropy plus the max-z term (arXiv 2309.10305, §2.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED_LABEL = -100


def causal_lm_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    z_loss_weight: float = 0.0,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    """Cross entropy of each next token, plus `z_loss_weight` times the mean squared largest logit.

    `logits` (B, T, V), `labels` (B, T) integers with -100 for places without a target; place t predicts label t + 1.
    The cross entropy is the mean over targets; the z term is the mean over all shifted places, padding included, as in
    the released code (reference: §5). No target at all gives NaN.

    `num_items_in_batch` is the number of targets of a whole accumulated batch: the sum over its micro-batches of this
    loss is then exactly the mean over that batch; the z term is shared out in proportion to the targets.
    """
    shifted_logits = logits[:, :-1].float()  # (B, T-1, V)
    targets = labels[:, 1:].to(logits.device, torch.int64)  # (B, T-1)
    flat = shifted_logits.reshape(-1, shifted_logits.shape[-1])
    if num_items_in_batch is None:
        loss = F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED_LABEL)
        share: Tensor | float = 1.0
    else:
        total = torch.as_tensor(num_items_in_batch, device=logits.device)
        loss = F.cross_entropy(flat, targets.reshape(-1), ignore_index=IGNORED_LABEL, reduction="sum") / total
        share = (targets != IGNORED_LABEL).sum() / total
    if z_loss_weight:
        loss = loss + z_loss_weight * share * shifted_logits.max(dim=-1).values.pow(2).mean()
    return loss
