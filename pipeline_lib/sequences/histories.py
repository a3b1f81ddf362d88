"""Histories and targets cut out of users' item sequences."""

import numpy as np

from pipeline_lib.ragged import Ragged


TRAIN_TARGETS = ("prefixes", "last", "windows")


def next_item_examples(items: Ragged, max_items: int, train_targets: str) -> tuple[np.ndarray, Ragged, Ragged]:
    """Pairs (what came before, the item that came next).

    Args:
        items: one row a user, oldest first.
        max_items: how many of the most recent items of a history to keep.
        train_targets: ``prefixes``, each item after a user's first is a target; ``last``, the last one alone;
            ``windows``, the last one and every ``max_items``-th before it, so that each item after the first is in
            one example that shows what came before it: as the target, or in the history behind another.

    Returns:
        rows: ``(n,)`` int64, the row of ``items`` that each example stems from.
        histories: n rows of 1 to ``max_items`` items.
        targets: n rows of one item.

    Raises:
        ValueError: for unknown ``train_targets``.
    """
    if train_targets not in TRAIN_TARGETS:
        raise ValueError(f"params: sequences.train_targets is {train_targets}; known: {', '.join(TRAIN_TARGETS)}")
    position = np.arange(len(items.values)) - np.repeat(items.offsets[:-1], items.lengths)
    behind = np.repeat(items.lengths, items.lengths) - position - 1
    wanted = {"prefixes": behind >= 0, "last": behind == 0, "windows": behind % max_items == 0}[train_targets]
    chosen = (position > 0) & wanted
    ends = np.flatnonzero(chosen)
    lengths = np.minimum(position[chosen], max_items)
    offsets = np.zeros(len(ends) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    source = np.arange(offsets[-1]) + np.repeat(ends - lengths - offsets[:-1], lengths)
    targets = Ragged(items.values[ends], np.arange(len(ends) + 1, dtype=np.int64))
    return items.row_of_value[ends], Ragged(items.values[source], offsets), targets
