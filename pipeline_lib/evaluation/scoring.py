"""Figures of scored candidates: how far wanted items stand above unwanted ones, over all pairs and user by user.

Equal scores count as half won, and share the places that they stand on, so the order of rows never matters.

Shapes: n pairs of a user and a candidate, m users with candidates of both labels.
Source: Fawcett 2006, "An introduction to ROC analysis" (AUC); Liu et al. 2024 (STORE), Table 5, whose MRR is, in
the code that it names, label-ranking average precision (Schapire and Singer 2000).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NDCG_KS = (1, 5)


@dataclass(frozen=True)
class _Sorted:
    """Pairs by user, then falling score: ``row (n,)``, of the user; ``place (n,)`` from 0 within the user.

    ``tie_first``, ``tie_last (n,)``: where, among the n, the pairs of an equal score of the same user begin and end.
    ``starts (m,)``: where users begin.
    """

    labels: np.ndarray
    row: np.ndarray
    place: np.ndarray
    tie_first: np.ndarray
    tie_last: np.ndarray
    starts: np.ndarray

    def sums(self, values: np.ndarray) -> np.ndarray:
        """``(m,)``: the sum of ``values (n,)`` over each user's pairs."""
        return np.bincount(self.row, weights=values, minlength=len(self.starts))

    def tied_means(self, values: np.ndarray) -> np.ndarray:
        """``(n,)``: the mean of ``values (n,)`` over the pairs of an equal score."""
        total = np.concatenate([[0.0], np.cumsum(values)])
        return (total[self.tie_last + 1] - total[self.tie_first]) / (self.tie_last + 1 - self.tie_first)


def area_under_curve(labels: np.ndarray, scores: np.ndarray) -> float:
    """The share of pairs (wanted, unwanted) where the wanted one has the higher score; equal scores count half.

    Args:
        labels: ``(n,)``, 1 wanted and 0 not.
        scores: ``(n,)`` finite, higher is better.

    Raises:
        ValueError: if one of the labels is missing, or the two differ in n.
    """
    whole = _sorted(np.zeros(len(labels), dtype=np.int64), labels, scores)
    if not 0 < whole.labels.sum() < len(labels):
        raise ValueError(f"{int(whole.labels.sum())} of {len(labels)} candidates are wanted, so there is no AUC; it "
                         "needs candidates of both labels")
    return float(_areas(whole)[0])


def user_scoring_metrics(users: np.ndarray, labels: np.ndarray, scores: np.ndarray,
                         ks: Sequence[int] = NDCG_KS) -> dict[str, np.ndarray]:
    """Metrics of each user that has candidates of both labels; others say nothing about an order.

    ``auc`` as `area_under_curve`; ``mrr``, label-ranking average precision: the mean over wanted candidates of the
    share of wanted ones among those scored no lower; ``ndcg@k`` with gain 1 / log2(rank + 1), averaged over the orders
    that equal scores leave open.

    Args:
        users: ``(n,)`` whole numbers.
        labels: ``(n,)``, 1 wanted and 0 not.
        scores: ``(n,)`` finite.

    Returns:
        ``users (m,)``, rising, and a name -> ``(m,)`` float64.

    Raises:
        ValueError: if lengths differ, or a label or score cannot be.
    """
    pairs = _sorted(users, labels, scores)
    wanted, counts = pairs.sums(pairs.labels), pairs.sums(np.ones(len(labels)))
    both = (wanted > 0) & (wanted < counts)
    no_lower = pairs.tie_last + 1 - pairs.starts[pairs.row]
    running = np.concatenate([[0.0], np.cumsum(pairs.labels)])
    wanted_no_lower = running[pairs.tie_last + 1] - running[pairs.starts[pairs.row]]
    safe = np.maximum(wanted, 1)
    metrics = {"auc": _areas(pairs), "mrr": pairs.sums(pairs.labels * wanted_no_lower / no_lower) / safe}
    for k in ks:
        gains = np.where(pairs.place < k, 1 / np.log2(pairs.place + 2), 0.0)
        ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])[np.minimum(safe, k).astype(int)]
        metrics[f"ndcg@{k}"] = pairs.sums(pairs.labels * pairs.tied_means(gains)) / ideal
    return {"users": np.unique(users)[both], **{name: values[both] for name, values in metrics.items()}}


def scoring_figures(users: np.ndarray, labels: np.ndarray, scores: np.ndarray,
                    ks: Sequence[int] = NDCG_KS) -> dict[str, float]:
    """``pairs``, ``auc`` over all of them; ``users`` with both labels, and means over these: ``group_auc``, ``mrr``,
    ``ndcg@k``. AUC and group AUC differ, since the first also compares candidates of different users.

    Raises:
        ValueError: if no user has candidates of both labels.
    """
    measured = user_scoring_metrics(users, labels, scores, ks)
    members = measured.pop("users")
    if not len(members):
        raise ValueError(f"none of {len(np.unique(users))} users has both wanted and unwanted candidates; "
                         "raise split.candidates.negatives")
    means = {name: float(values.mean()) for name, values in measured.items()}
    return {"pairs": len(labels), "auc": area_under_curve(labels, scores), "users": len(members),
            "group_auc": means.pop("auc"), **means}


def scoring_tree(scores: Mapping[str, tuple[np.ndarray, ...]], popularity: np.ndarray) -> dict[str, dict]:
    """What metrics.json has under ``scoring``: each part, and popularity on the candidates of test.

    Args:
        scores: a part -> users, items, labels and scores ``(n,)``; ``test`` must be there.
        popularity: ``(N,)``, how often each item was trained on.
    """
    tree = {part: scoring_figures(users, labels, values) for part, (users, _, labels, values) in scores.items()}
    users, items, labels, _ = scores["test"]
    return {**tree, "baseline": {"popularity": scoring_figures(users, labels, popularity[items])}}


def _sorted(users: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> _Sorted:
    if not len(users) == len(labels) == len(scores):
        raise ValueError(f"{len(users)} users, {len(labels)} labels and {len(scores)} scores; give one each a pair")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels are {np.unique(labels).tolist()[:5]}, expected 0 and 1")
    if not np.isfinite(scores).all():
        raise ValueError(f"score of pair {int(np.argmin(np.isfinite(scores)))} is not a finite number; re-run decode")
    order = np.lexsort((-np.asarray(scores, dtype=np.float64), users))
    users, labels, scores = users[order], labels[order].astype(np.float64), scores[order]
    new_user = np.concatenate([[True], users[1:] != users[:-1]])[: len(users)]
    new_tie = new_user.copy()
    new_tie[1:] |= scores[1:] != scores[:-1]
    starts, ties = np.flatnonzero(new_user), np.flatnonzero(new_tie)
    row, tie = np.cumsum(new_user) - 1, np.cumsum(new_tie) - 1
    ends = np.append(ties[1:], len(users)) - 1
    return _Sorted(labels, row, np.arange(len(users)) - starts[row], ties[tie], ends[tie], starts)


def _areas(pairs: _Sorted) -> np.ndarray:
    """``(m,)``: the AUC of each user, by the rank-sum of wanted pairs; 0 where a label is missing."""
    wanted, counts = pairs.sums(pairs.labels), pairs.sums(np.ones(len(pairs.labels)))
    from_end = counts[pairs.row] - pairs.tied_means(pairs.place.astype(np.float64))  # rank 1: the lowest score
    won = pairs.sums(pairs.labels * from_end) - wanted * (wanted + 1) / 2
    return won / np.maximum(wanted * (counts - wanted), 1)
