"""Histories and targets cut out of users' item sequences."""

import numpy as np

from pipeline_lib.ragged import Ragged


def next_item_examples(items: Ragged, max_items: int, every_position: bool) -> tuple[np.ndarray, Ragged, Ragged]:
    """Pairs (what came before, the item that came next).

    Args:
        items: one row a user, oldest first.
        max_items: how many of the most recent items of a history to keep.
        every_position: each item after a user's first is a target; else only the last one.

    Returns:
        rows: ``(n,)`` int64, the row of ``items`` that each example stems from.
        histories: n rows of 1 to ``max_items`` items.
        targets: n rows of one item.
    """
    position = np.arange(len(items.values)) - np.repeat(items.offsets[:-1], items.lengths)
    remaining = np.repeat(items.lengths, items.lengths) - position
    chosen = (position > 0) & (every_position | (remaining == 1))
    ends = np.flatnonzero(chosen)
    lengths = np.minimum(position[chosen], max_items)
    offsets = np.zeros(len(ends) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    source = np.arange(offsets[-1]) + np.repeat(ends - lengths - offsets[:-1], lengths)
    targets = Ragged(items.values[ends], np.arange(len(ends) + 1, dtype=np.int64))
    return items.row_of_value[ends], Ragged(items.values[source], offsets), targets
