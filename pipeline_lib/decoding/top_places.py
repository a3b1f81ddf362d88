"""The best of a row, equal ones settled by their places: `torch.topk` promises nothing among equals.

Shapes: B rows, C candidates, k kept.
"""

import torch
from torch import Tensor


def top_places(scores: Tensor, k: int) -> Tensor:
    """Places ``(B, min(k, C))`` of the highest of ``scores (B, C)``, rising; of equal scores the first are kept."""
    best, places = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    if best.shape[1] > k:
        tied = (best[:, k - 1] == best[:, k]) & (best[:, k] > -torch.inf)
        places = places[:, :k].contiguous()
        if tied.any():
            places[tied] = scores[tied].argsort(dim=1, descending=True, stable=True)[:, :k]
    return places.sort(dim=1).values
