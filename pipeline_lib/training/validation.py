"""What an epoch is chosen by: the loss on validation users' targets, and the ten best items of each.

Shapes: U users, N items, D dimensions.
"""

from collections.abc import Iterable

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from pipeline_lib.decoding.grounding import ground
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.ragged import Ragged
from pipeline_lib.seeding import numpy_generator

VALIDATION_K = 10
EPOCH_FIGURE = f"ndcg@{VALIDATION_K}"  # what epochs are chosen by, where no parameter says
RANKED_TOGETHER = 256  # users


def validation_rows(rows: np.ndarray, users: int | None, seed: int) -> np.ndarray:
    """A fixed sample of ``users`` of the ``rows`` that can be validated on, in order; None for all of them."""
    if users is None or users >= len(rows):
        return rows
    return np.sort(numpy_generator(seed, "validation users").permutation(rows)[:users])


@torch.inference_mode()
def mean_loss(network: nn.Module, batches: Iterable[dict[str, Tensor]], accelerator: Accelerator) -> float:
    """The mean over all terms of a ``network`` that gives ``(loss_sum, count)`` for a batch, as `training.loop` has it."""
    sums = torch.zeros(2, dtype=torch.float64)
    for batch in batches:
        with accelerator.autocast():
            loss, count = network({name: value.to(accelerator.device) for name, value in batch.items()})
        sums += torch.tensor([loss.item(), count.item()], dtype=torch.float64)
    return float(sums[0] / sums[1])


def best_items(users: Tensor, items: Tensor, histories: Ragged | None) -> Ragged:
    """The ``VALIDATION_K`` items of each user with the largest dot product, best first, in blocks of users.

    Args:
        users: ``(U, D)`` float, on any device.
        items: ``(N, D)`` float.
        histories: U rows of items that a list leaves out; None where it may show them again.
    """
    found = []
    for start in range(0, max(1, len(users)), RANKED_TOGETHER):
        block = users[start : start + RANKED_TOGETHER]
        excluded = None if histories is None else histories.take(np.arange(start, start + len(block)))
        found.append(ground(block.to(items.device), items, VALIDATION_K, excluded=excluded)[0].cpu().numpy())
    best = np.concatenate(found)
    offsets = np.concatenate([[0], np.cumsum((best >= 0).sum(axis=1))])
    return Ragged(best[best >= 0].astype(np.int32), offsets)


def ranking_figures(lists: Ragged, targets: Ragged) -> dict[str, float]:
    """NDCG and recall of the first ``VALIDATION_K`` items of lists, means over users."""
    measured = ranking_metrics(lists, targets, (VALIDATION_K,))
    return {name: float(np.mean(measured[name])) for name in (f"ndcg@{VALIDATION_K}", f"recall@{VALIDATION_K}")}
