"""Recall, hit rate, NDCG and MRR of ranked lists: one value a user, then means.

Shapes: n users, W the number of places that are looked at.
Source: docs/design.md, section 6; NDCG after Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR
techniques", with binary gains.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline_lib.ragged import Ragged


def hit_matrix(ranked: Ragged, targets: Ragged, width: int) -> np.ndarray:
    """Which of the first ``width`` places of each list hold a target.

    Args:
        ranked: n lists, best first, no item twice in a list; a list may be shorter than ``width``.
        targets: n rows; an item that stands twice in a row counts once.

    Returns:
        ``(n, width)`` bool; places behind the end of a short list are False.

    Raises:
        ValueError: if the two differ in n.
    """
    if len(ranked) != len(targets):
        raise ValueError(f"{len(ranked)} ranked lists but {len(targets)} rows of targets; give one list a user")
    place = np.arange(len(ranked.values)) - np.repeat(ranked.offsets[:-1], ranked.lengths)
    looked_at = place < width
    rows, items, place = ranked.row_of_value[looked_at], ranked.values[looked_at], place[looked_at]
    span = 1 + max(int(items.max(initial=0)), int(targets.values.max(initial=0)))
    wanted = np.unique(targets.row_of_value * span + targets.values)
    found = rows * span + items
    nearest = np.searchsorted(wanted, found)
    hit = np.zeros(len(found), dtype=bool)
    inside = nearest < len(wanted)
    hit[inside] = wanted[nearest[inside]] == found[inside]

    hits = np.zeros((len(ranked), width), dtype=bool)
    hits[rows[hit], place[hit]] = True
    return hits


def distinct_lengths(rows: Ragged) -> np.ndarray:
    """``(n,)`` int64: how many different values each row holds."""
    span = 1 + int(rows.values.max(initial=0))
    pairs = np.unique(rows.row_of_value * span + rows.values)
    return np.bincount(pairs // span, minlength=len(rows))


def ranking_metrics(ranked: Ragged, targets: Ragged, ks: Sequence[int]) -> dict[str, np.ndarray]:
    """Metrics of every user, which means and paired tests are made of.

    recall@k = hits / different targets; hit_rate@k = any hit; ndcg@k has gain 1 / log2(rank + 1) and the ideal of
    min(different targets, k) hits; mrr = 1 / rank of the first hit among the first ``max(ks)`` places, 0 without one.

    Args:
        ranked: n lists, best first, no item twice in a list; shorter ones than k miss at the places they lack.
        targets: n rows, none empty; repeats count once.
        ks: list lengths, 1 or more each.

    Returns:
        ``recall@k``, ``hit_rate@k`` and ``ndcg@k`` for each k, and ``mrr``: ``(n,)`` float64 each.

    Raises:
        ValueError: if a user has no target, n differs, or there is no k or one below 1.
    """
    if not ks or min(ks) < 1:
        raise ValueError(f"list lengths are {list(ks)}; set evaluate.ks to one or more whole numbers from 1")
    num_targets = distinct_lengths(targets)
    if (num_targets == 0).any():
        raise ValueError(f"row {int(np.argmin(num_targets))} has no target; leave users without one out of the group")
    width = max(ks)
    hits = hit_matrix(ranked, targets, width)
    gains = 1.0 / np.log2(np.arange(2, width + 2))
    hits_within, gain_within, ideal = hits.cumsum(axis=1), (hits * gains).cumsum(axis=1), gains.cumsum()

    metrics = {}
    for k in ks:
        metrics[f"recall@{k}"] = hits_within[:, k - 1] / num_targets
        metrics[f"hit_rate@{k}"] = (hits_within[:, k - 1] > 0).astype(np.float64)
        metrics[f"ndcg@{k}"] = gain_within[:, k - 1] / ideal[np.minimum(num_targets, k) - 1]
    metrics["mrr"] = hits.any(axis=1) / (hits.argmax(axis=1) + 1)
    return metrics


def mean_metrics(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """``users`` and the mean of each metric over them; without users, ``{"users": 0}`` and nothing else."""
    num_users = len(next(iter(metrics.values())))
    if num_users == 0:
        return {"users": 0}
    return {"users": num_users, **{name: float(values.mean()) for name, values in metrics.items()}}
