"""Items that share their codes, and ways to tell them apart.

Shapes: N items, L levels, K codewords of the last level.
Sources: Rajput et al. 2023 (TIGER), section 3.1 (``suffix``); Zheng et al. 2024 (LC-Rec), section 3.1 (``sinkhorn``).
"""

import logging

import numpy as np

KINDS = ("suffix", "sinkhorn", "none")

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
            bucket; ``sinkhorn``, called as LC-Rec solves it, gives colliding items other codes of the last level, the
            nearest that tell them all apart; ``none`` changes nothing.
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


def spread_full_buckets(codes: np.ndarray, last_level_distances: np.ndarray, room: int) -> np.ndarray:
    """Keep the first ``room`` items of each bucket; those behind take the nearest codeword of the last level with room.

    Args:
        codes: ``(N, L)`` int.
        last_level_distances: ``(N, K)``, as for `resolve_collisions`.
        room: how many items may share their codes.

    Returns:
        ``(N, L)`` int, a new array.

    Raises:
        ValueError: if a prefix has more items than there is room under it.
    """
    late, spread, prefix = place_in_bucket(codes) >= room, codes.copy(), bucket_of_item(codes[:, :-1])
    for crowded in np.unique(prefix[late]):
        below = prefix == crowded
        held = np.minimum(np.bincount(codes[below, -1], minlength=last_level_distances.shape[1]), room)
        if below.sum() > room * len(held):
            raise ValueError(f"{below.sum()} items share all codes but the last, which has {len(held)} codewords of "
                             f"{room} items each")
        for item in np.flatnonzero(below & late):
            spread[item, -1] = np.where(held < room, last_level_distances[item], np.inf).argmin()
            held[spread[item, -1]] += 1
    return spread


def _reassign_last_level(codes: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Assign the colliding items under each prefix to codewords that no other item holds there, one each.

    The sum of distances is the smallest there is. LC-Rec and LETTER take the largest entry of each row of Sinkhorn's
    plan for the same problem, but that gives every codeword an equal share, so that a few items are spread over all of
    them and the entries nearly tie: codes come out as far from their items as any. They also solve a problem for each
    bucket over all codewords, which can put an item on the code of one that did not collide.
    """
    from scipy.optimize import linear_sum_assignment  # not at hand on a worker that only trains

    resolved, prefix = codes.copy(), bucket_of_item(codes[:, :-1])
    colliding = np.flatnonzero(shares_bucket(codes))
    colliding = colliding[np.argsort(prefix[colliding], kind="stable")]
    prefixes, starts = np.unique(prefix[colliding], return_index=True)
    taken = _taken(codes, prefix, prefixes, colliding, distances.shape[1])
    for items, held in zip(np.split(colliding, starts[1:]), taken, strict=True):
        free = np.flatnonzero(~held)
        rows, columns = linear_sum_assignment(distances[np.ix_(items, free)])
        resolved[items[rows], -1] = free[columns]  # what is left without a codeword keeps its code
    left = int(shares_bucket(resolved).sum())
    if left:
        log.warning("%d items still share their identifier: their prefix has more items than the last level has "
                    "codewords (%d)", left, distances.shape[1])
    return resolved


def _taken(codes: np.ndarray, prefix: np.ndarray, prefixes: np.ndarray, items: np.ndarray, size: int) -> np.ndarray:
    """``(len(prefixes), size)`` bool: last codes that items other than ``items`` hold under each prefix."""
    settled = np.isin(prefix, prefixes)
    settled[items] = False
    taken = np.zeros((len(prefixes), size), dtype=bool)
    taken[np.searchsorted(prefixes, prefix[settled]), codes[settled, -1]] = True
    return taken
