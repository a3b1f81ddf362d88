"""Grounding: score all items by vector and keep each user's best, exactly, a block of items at a time.

Shapes: B users, N items, D dimensions.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline_lib.decoding.top_places import top_places
from pipeline_lib.ragged import Ragged

BLOCK = 65536  # items scored together: a batch of 256 users needs 64 MiB for them
SIMILARITIES = ("dot", "cosine")


def ground(users: Tensor, items: Tensor, top_k: int, *, similarity: str = "dot", allowed: Tensor | None = None,
           excluded: Ragged | None = None, block: int = BLOCK) -> tuple[Tensor, Tensor]:
    """The ``top_k`` items of each user with the highest similarity, best first, equal ones by index.

    Args:
        users: ``(B, D)`` float.
        items: ``(N, D)`` float.
        top_k: items wanted; fewer come where fewer are allowed.
        similarity: ``dot`` or ``cosine``.
        allowed: ``(N,)`` bool, the items that may be ranked; None for all.
        excluded: B rows, the items that a user must not get.
        block: items scored at once; memory is ``B * block`` floats whatever N is.

    Returns:
        items: ``(B, k)`` int64, -1 where a user has no item left.
        scores: ``(B, k)`` float32, -inf there.

    Raises:
        ValueError: for an unknown similarity, or vectors that differ in D.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(f"similarity is {similarity}; known: {', '.join(SIMILARITIES)}")
    if users.shape[-1] != items.shape[-1]:
        raise ValueError(f"users have {users.shape[-1]} dimensions but items have {items.shape[-1]}; "
                         "were they embedded by the same source?")
    if similarity == "cosine":
        users, items = F.normalize(users, dim=-1), F.normalize(items, dim=-1)
    top_k = min(top_k, len(items))
    best_scores = users.new_full((len(users), 0), -torch.inf, dtype=torch.float32)
    best_items = torch.empty((len(users), 0), dtype=torch.int64, device=users.device)
    for start in range(0, len(items), block):
        part = items[start : start + block]
        with torch.autocast(users.device.type, enabled=False):  # scores of bf16's 8 bits tie
            scores = users.float() @ part.float().T
        if allowed is not None:
            scores.masked_fill_(~allowed[start : start + block], -torch.inf)
        if excluded is not None:
            inside = (excluded.values >= start) & (excluded.values < start + len(part))
            rows = torch.from_numpy(excluded.row_of_value[inside]).to(users.device)
            columns = torch.from_numpy(excluded.values[inside].astype(np.int64) - start).to(users.device)
            scores[rows, columns] = -torch.inf
        places = top_places(scores, top_k)  # rising, and so are blocks: equal scores stay in the order of the items
        best_scores = torch.cat([best_scores, scores.gather(1, places)], 1)
        best_items = torch.cat([best_items, places + start], 1)
        kept = top_places(best_scores, top_k)
        best_scores, best_items = best_scores.gather(1, kept), best_items.gather(1, kept)
    best_scores, order = best_scores.sort(dim=1, descending=True, stable=True)
    best_items = best_items.gather(1, order)
    return best_items.masked_fill(best_scores == -torch.inf, -1), best_scores
