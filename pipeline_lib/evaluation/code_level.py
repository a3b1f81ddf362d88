"""The same lists read as identifiers: a hit on a code tuple that several items may share.

An item-level figure drops where items share an identifier and the right one of them stands behind others; the
code-level figure beside it shows how much the identifiers cost. It is never the result of a method.
Shapes: n users, N items, L levels.
"""

from collections.abc import Sequence

import numpy as np

from pipeline_lib.evaluation.groups import GroupScores, score_lists
from pipeline_lib.ragged import Ragged


def identifier_numbers(codes: np.ndarray) -> np.ndarray:
    """``(N,)``: a number an item, equal where two rows of ``codes (N, L)`` are."""
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)


def distinct_identifiers(lists: Ragged, identifier_of: np.ndarray) -> Ragged:
    """Lists of identifiers instead of items, each at its first place; shorter where items share one.

    Args:
        lists: n lists of items.
        identifier_of: ``(N,)`` from `identifier_numbers`.
    """
    identifiers = identifier_of[lists.values]
    keys = lists.row_of_value * (int(identifier_of.max(initial=0)) + 1) + identifiers
    first = np.sort(np.unique(keys, return_index=True)[1])
    counts = np.bincount(lists.row_of_value[first], minlength=len(lists))
    return Ragged(identifiers[first], np.concatenate([[0], counts.cumsum()]))


def score_identifiers(lists: Ragged, targets: Ragged, codes: np.ndarray, ks: Sequence[int]) -> GroupScores:
    """Metrics where a place is an identifier and a hit is the identifier of a target.

    Args:
        lists: n lists of items; ``k`` counts identifiers, so a list of k items may be shorter than k here.
        targets: n rows of items; two targets with one identifier count once.
        codes: ``(N, L)`` int32, the codes that the lists were decoded with.
    """
    identifier_of = identifier_numbers(codes)
    identifiers = Ragged(identifier_of[targets.values], targets.offsets)
    return score_lists(distinct_identifiers(lists, identifier_of), identifiers, ks)


def collision_share(targets: Ragged, codes: np.ndarray) -> float:
    """Share of targets whose identifier belongs to another item too; 0 without targets."""
    identifier_of = identifier_numbers(codes)
    shared = np.bincount(identifier_of)[identifier_of] > 1
    return float(shared[targets.values].mean()) if len(targets.values) else 0.0
