"""Items that share their codes, and ways to tell them apart.

Shapes: N items, L levels, K codewords of the last level.
Sources: Rajput et al. 2023 (TIGER), section 3.1 (``suffix``); Zheng et al. 2024 (LC-Rec), section 3.1 (``sinkhorn``).
"""

import logging

import numpy as np

from pipeline_lib.quantizers.sinkhorn import transport_plan

KINDS = ("suffix", "sinkhorn", "none")
ROUNDS = 20  # as LC-Rec's and LETTER's code

log = logging.getLogger(__name__)


def bucket_of_item(codes: np.ndarray) -> np.ndarray:
    """``(N,)`` int64, dense from 0: items with equal rows of ``codes (N, L)`` share a number."""
    bucket = np.zeros(len(codes), dtype=np.int64)
    for column in codes.T.astype(np.int64):
        bucket = np.unique(bucket * (column.max(initial=0) + 2) + column + 1, return_inverse=True)[1]
    return bucket


def shares_bucket(codes: np.ndarray) -> np.ndarray:
    """``(N,)`` bool: whether another item has the same codes ``(N, L)``."""
    bucket = bucket_of_item(codes)
    return np.bincount(bucket, minlength=1)[bucket] > 1


def collision_rate(codes: np.ndarray) -> float:
    """The share of items that have the same codes ``(N, L)`` as another item."""
    return float(shares_bucket(codes).mean()) if len(codes) else 0.0


def resolve_collisions(codes: np.ndarray, level_sizes: tuple[int, ...], kind: str,
                       last_level_distances: np.ndarray | None = None) -> tuple[np.ndarray, tuple[int, ...]]:
    """Make identifiers unique, or as unique as ``kind`` can.

    Args:
        codes: ``(N, L)`` int.
        level_sizes: codewords of each level.
        kind: ``suffix`` adds a level that counts 0, 1, 2 ... within each bucket in item order, its size the largest
            bucket; ``sinkhorn`` gives colliding items another code of the last level; ``none`` changes nothing.
        last_level_distances: ``(N, K)``, needed by ``sinkhorn`` where items collide: what was left of each item
            before the last level, to the last level's codewords.

    Returns:
        codes: ``(N, L)`` or, with ``suffix``, ``(N, L + 1)``, int32. Items that did not collide keep theirs.
        level_sizes: of these codes.

    Raises:
        ValueError: for an unknown kind, missing distances, or codes that are shorter for some items.
    """
    if kind not in KINDS:
        raise ValueError(f"tokenizer.collisions is {kind}; known: {', '.join(KINDS)}")
    codes = codes.astype(np.int32)
    if kind == "none" or (kind == "sinkhorn" and not shares_bucket(codes).any()):
        return codes, tuple(level_sizes)
    if (codes < 0).any():
        raise ValueError(f"collisions={kind} needs all levels of every item, but item "
                         f"{int(np.argmax((codes < 0).any(axis=1)))} has fewer; set tokenizer.collisions=none")
    if kind == "suffix":
        suffix = place_in_bucket(codes)
        return np.column_stack([codes, suffix]).astype(np.int32), (*level_sizes, int(suffix.max(initial=0)) + 1)
    if last_level_distances is None:
        raise ValueError("collisions=sinkhorn needs distances to the codewords of the last level, which this tokenizer "
                         "does not have; set tokenizer.collisions=suffix")
    return _reassign_last_level(codes, last_level_distances), tuple(level_sizes)


def place_in_bucket(codes: np.ndarray) -> np.ndarray:
    """``(N,)`` int64: how many earlier items have the same codes ``(N, L)``."""
    bucket = bucket_of_item(codes)
    order = np.argsort(bucket, kind="stable")
    counts = np.bincount(bucket, minlength=1)
    place = np.empty(len(codes), dtype=np.int64)
    place[order] = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    return place


def _reassign_last_level(codes: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Rounds of optimal transport, then nearest free codewords; what no free codeword is left for keeps its code.

    A problem holds all colliding items under one prefix and the codewords that no other item holds there. LC-Rec
    solves one for each bucket over all codewords, which can put an item on the code of one that did not collide.
    """
    resolved, prefix = codes.copy(), bucket_of_item(codes[:, :-1])
    remaining = np.flatnonzero(shares_bucket(codes))
    for _ in range(ROUNDS):
        before = len(remaining)
        _transport_once(resolved, prefix, remaining, distances)
        remaining = np.flatnonzero(shares_bucket(resolved))
        if len(remaining) in (0, before):
            break
    _take_nearest_free(resolved, codes, prefix, remaining, distances)
    left = int(shares_bucket(resolved).sum())
    if left:
        log.warning("%d items still share their identifier: their prefix has more items than the last level has "
                    "codewords (%d)", left, distances.shape[1])
    return resolved


def _transport_once(codes: np.ndarray, prefix: np.ndarray, items: np.ndarray, distances: np.ndarray) -> None:
    """Give ``items`` new last codes in ``codes``; problems of equal size are solved together."""
    items = items[np.argsort(prefix[items], kind="stable")]
    prefixes, starts, sizes = np.unique(prefix[items], return_index=True, return_counts=True)
    taken = _taken(codes, prefix, prefixes, items, distances.shape[1])
    open_problems = ~taken.all(axis=1)
    for size in np.unique(sizes[open_problems]):
        problems = np.flatnonzero((sizes == size) & open_problems)
        rows = items[starts[problems][:, None] + np.arange(size)]  # (problems, size)
        costs = np.where(taken[problems][:, None, :], np.inf, distances[rows])
        codes[rows, -1] = transport_plan(costs).argmax(axis=-1)


def _take_nearest_free(codes: np.ndarray, original: np.ndarray, prefix: np.ndarray, items: np.ndarray,
                       distances: np.ndarray) -> None:
    """In item order, each of ``items`` takes the nearest codeword that nobody under its prefix holds."""
    prefixes, problem = np.unique(prefix[items], return_inverse=True)
    taken = _taken(codes, prefix, prefixes, items, distances.shape[1])
    for item, row in zip(items, problem):
        if taken[row].all():
            codes[item, -1] = original[item, -1]
        else:
            codes[item, -1] = np.where(taken[row], np.inf, distances[item]).argmin()
            taken[row, codes[item, -1]] = True


def _taken(codes: np.ndarray, prefix: np.ndarray, prefixes: np.ndarray, items: np.ndarray, size: int) -> np.ndarray:
    """``(len(prefixes), size)`` bool: last codes that items other than ``items`` hold under each prefix."""
    settled = np.isin(prefix, prefixes)
    settled[items] = False
    taken = np.zeros((len(prefixes), size), dtype=bool)
    taken[np.searchsorted(prefixes, prefix[settled]), codes[settled, -1]] = True
    return taken
