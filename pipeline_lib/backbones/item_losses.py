"""Losses that tell a position's item from all others by dot product: over all items, some, or one.

Shapes: P positions, N items (or words of a vocabulary), D dimensions, k negatives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

LOGITS = {"cpu": 1 << 20, "cuda": 1 << 27}  # floats at once: on a CPU what stays in its cache
FEWEST = 64  # positions at once however many items: with fewer, reading the table again takes longer than the products


def full_softmax_loss(hidden: Tensor, table: Tensor, labels: Tensor, block: int | None = None) -> Tensor:
    """Cross-entropy of all N items, summed over positions: logits are made once, some rows at a time, and never kept.

    Args:
        hidden: ``(P, D)``.
        table: ``(N, D)``.
        labels: ``(P,)`` int64.
        block: logits held at once, at least one row; None for what suits the device. A table without a gradient costs
            two thirds.

    Returns:
        A scalar equal to ``F.cross_entropy(hidden @ table.T, labels, reduction="sum")``, as are its gradients.
    """
    chunk = max(FEWEST, LOGITS.get(hidden.device.type, LOGITS["cpu"]) // len(table))
    if block is not None:
        chunk = max(1, block // len(table))
    with torch.autocast(hidden.device.type, enabled=False):
        return _FullSoftmaxLoss.apply(hidden.float(), table.float(), labels, chunk)


class _FullSoftmaxLoss(torch.autograd.Function):
    """Gradients are computed in the forward pass, while a chunk's logits are at hand; the backward scales them."""

    @staticmethod
    def forward(ctx, hidden: Tensor, table: Tensor, labels: Tensor, chunk: int) -> Tensor:
        loss, (of_hidden, of_table, *_) = hidden.new_zeros((), dtype=torch.float64), ctx.needs_input_grad
        to_hidden = torch.empty_like(hidden) if of_hidden else None
        to_table = torch.zeros_like(table) if of_table else None
        logits = hidden.new_empty(min(chunk, len(hidden)), len(table))
        for rows in (slice(start, start + chunk) for start in range(0, len(hidden), chunk)):
            part, label = hidden[rows], labels[rows]
            scores = torch.mm(part, table.T, out=logits[: len(part)])
            scores -= scores.amax(dim=1, keepdim=True)
            loss -= scores.gather(1, label[:, None]).sum()
            total = scores.exp_().sum(dim=1, keepdim=True)  # scores are now the softmax times total
            loss += total.log().sum()
            if of_hidden:
                torch.mm(scores, table, out=to_hidden[rows]).div_(total).sub_(table[label])
            if of_table:
                to_table.addmm_(scores.T, part / total)
        if of_table:
            to_table.index_add_(0, labels, hidden, alpha=-1)
        ctx.save_for_backward(to_hidden, to_table)
        return loss.to(hidden.dtype)

    @staticmethod
    def backward(ctx, factor: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        to_hidden, to_table = (None if of_input is None else of_input * factor for of_input in ctx.saved_tensors)
        return to_hidden, to_table, None, None


def sampled_softmax_loss(hidden: Tensor, table: Tensor, labels: Tensor, negatives: Tensor) -> Tensor:
    """Cross-entropy of the label against uniform negatives that all positions share, summed over positions.

    A negative that is a position's label does not count there. With uniform negatives the correction for how often an
    item is drawn (Jean et al. 2015, "On Using Very Large Target Vocabulary for Neural Machine Translation", section
    3.1) is one constant and cancels.

    Args:
        hidden: ``(P, D)``.
        table: ``(N, D)``.
        labels: ``(P,)`` int64.
        negatives: ``(k,)`` int64.
    """
    positive = (hidden * table[labels]).sum(dim=-1, keepdim=True)
    scores = (hidden @ table[negatives].T).masked_fill(negatives == labels[:, None], -torch.inf)  # (P, k)
    return (torch.cat([positive, scores], dim=1).logsumexp(dim=1) - positive.squeeze(1)).sum()


def bce_loss(hidden: Tensor, table: Tensor, labels: Tensor, negatives: Tensor) -> Tensor:
    """Binary cross-entropy of the label and one negative ``(P,)`` a position, summed: the paper's section III-E.

    The paper draws items outside of the user's whole sequence; here a negative is any item but the label.
    """
    positive, negative = ((hidden * table[items]).sum(dim=-1) for items in (labels, negatives))
    return -(F.logsigmoid(positive) + F.logsigmoid(-negative)).sum()
