"""What any method must beat: the most popular items, and random ones, under the same rules as the method.

Shapes: n users, N items. Neither makes a users x items matrix: both name items by their place among those that a user
may be shown, and step over the user's history.
"""

import numpy as np

from pipeline_lib.ragged import Ragged


def rank_by_popularity(train_count: np.ndarray, histories: Ragged, length: int, filter_history: bool) -> Ragged:
    """The most interacted-with items of the training data, ties by item index.

    Args:
        train_count: ``(N,)`` training interactions of each item.
        histories: n rows; with ``filter_history`` a user is not shown items of the own history.
        length: items a list; lists are shorter where fewer may be shown.
    """
    order = np.argsort(-train_count.astype(np.int64), kind="stable")
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(order))
    taken = _taken_places(place_of, histories, len(order), filter_history)
    allowed = len(order) - taken.lengths
    wanted = _rows_of_ranges(np.minimum(allowed, length))
    return Ragged(order[_step_over(taken, wanted, len(order))].astype(np.int32), wanted.offsets)


def rank_at_random(num_items: int, histories: Ragged, length: int, filter_history: bool,
                   generator: np.random.Generator) -> Ragged:
    """Items drawn uniformly without repeats, in random order, for each user anew; arguments as above."""
    taken = _taken_places(np.arange(num_items), histories, num_items, filter_history)
    allowed = num_items - taken.lengths
    counts = np.minimum(allowed, length)
    drawn = _draw_distinct(allowed, counts, length, generator)
    wanted = Ragged(drawn[np.arange(length) < counts[:, None]], _offsets(counts))
    return Ragged(_step_over(taken, wanted, num_items).astype(np.int32), wanted.offsets)


def _draw_distinct(allowed: np.ndarray, counts: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """``(n, length)``: row i starts with ``counts[i]`` different numbers below ``allowed[i]``, in random order.

    Floyd's sampling (Bentley and Floyd 1987, "A sample of brilliance"), one column a step for all users.
    """
    drawn = np.full((len(allowed), length), -1, dtype=np.int64)
    for step in range(length):
        last = np.maximum(allowed - counts + step, 0)
        number = generator.integers(0, last + 1)
        repeated = (drawn[:, :step] == number[:, None]).any(axis=1)
        drawn[:, step] = np.where(repeated, last, number)
    keys = generator.random(drawn.shape)
    keys[np.arange(length) >= counts[:, None]] = 2.0  # columns that a short list does not use stay behind
    return np.take_along_axis(drawn, keys.argsort(axis=1), axis=1)


def _taken_places(place_of: np.ndarray, histories: Ragged, num_items: int, filter_history: bool) -> Ragged:
    """The places that each user is not shown, rising, each once."""
    if not filter_history:
        return Ragged(np.empty(0, dtype=np.int64), np.zeros(len(histories) + 1, dtype=np.int64))
    keys = np.unique(histories.row_of_value * num_items + place_of[histories.values])
    return Ragged(keys % num_items, _offsets(np.bincount(keys // num_items, minlength=len(histories))))


def _step_over(taken: Ragged, wanted: Ragged, num_items: int) -> np.ndarray:
    """The place of each row's ``wanted``-th free place.

    Before the i-th taken place t there are t - i free ones, so the j-th free place is j plus the number of taken places
    with t - i <= j.
    """
    position = np.arange(len(taken.values)) - np.repeat(taken.offsets[:-1], taken.lengths)
    span = num_items + 1
    free_before = taken.row_of_value * span + taken.values - position  # never falls
    passed = np.searchsorted(free_before, wanted.row_of_value * span + wanted.values, side="right")
    return wanted.values + passed - np.repeat(taken.offsets[:-1], wanted.lengths)


def _rows_of_ranges(lengths: np.ndarray) -> Ragged:
    offsets = _offsets(lengths)
    return Ragged(np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths), offsets)


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
