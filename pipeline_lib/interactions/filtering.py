"""Which interactions count: a rating threshold, a time window, and a core of users and items that meet often enough.

Shapes: n interactions.
"""

import logging

import numpy as np
import polars as pl

logger = logging.getLogger(__name__)

ID_CODES = {name: pl.Categorical(pl.Categories(f"sidflow_{name}")) for name in ("user_id", "item_id")}


def filter_interactions(interactions: pl.DataFrame, *, min_rating: float | None = None, after: float | None = None,
                        before: float | None = None, user_core: int = 0, item_core: int = 0) -> pl.DataFrame:
    """Leave out what is rated too low, lies outside the time window, or belongs to too rare a user or item.

    Args:
        interactions: columns ``user_id``, ``item_id``, ``timestamp``, ``rating`` of ``RawData``.
        min_rating: lowest rating that counts; rows without a rating go.
        after, before: the window ``[after, before)``; rows without a timestamp go.
        user_core, item_core: interactions that every user and item must have in the end; repeats count.

    Returns:
        The rows that stay, in their order. After a core filter the ids are categorical (`with_codes`).

    Raises:
        ValueError: where a filter leaves nothing, naming it, and what each filter before it left.
    """
    trail = [f"{len(interactions)} read"]
    if not len(interactions):
        raise ValueError("there is no interaction; the raw files hold no usable row")
    for name, value, column, keeps in (("min_rating", min_rating, "rating", pl.Expr.ge),
                                       ("after", after, "timestamp", pl.Expr.ge),
                                       ("before", before, "timestamp", pl.Expr.lt)):
        if value is not None:
            found = interactions[column]
            interactions = interactions.filter(keeps(pl.col(column), value))
            trail.append(f"{len(interactions)} after {name}")
            if not len(interactions):
                raise ValueError(f"ingest.{name}={value} leaves no interactions ({', '.join(trail)}); {_range(found)}")
    if max(user_core, item_core) > 1:
        interactions = with_codes(interactions)
        rows = rows_of_core(*(interactions[name].to_physical().to_numpy() for name in ID_CODES), user_core, item_core)
        trail.append(f"{len(rows)} after k_core")
        if not len(rows):
            raise ValueError(f"ingest.k_core={{user: {user_core}, item: {item_core}}} leaves no interactions "
                             f"({', '.join(trail)}); lower it")
        interactions = interactions if len(rows) == len(interactions) else interactions[rows]
    logger.info("interactions: %s", ", ".join(trail))
    return interactions


def with_codes(interactions: pl.DataFrame) -> pl.DataFrame:
    """Make ``user_id`` and ``item_id`` categorical: each id hashed once, counting then is an array lookup.

    Hashing ten million ids costs more than all else here. One column after the other takes less time and memory than
    both in one expression, whose threads wait for each other.
    """
    for name, codes in ID_CODES.items():
        interactions = interactions.with_columns(interactions[name].cast(codes))
    return interactions


def rows_of_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """The largest set of rows in which every user has ``user_core`` and every item ``item_core`` rows.

    Dropping all that is too rare at once, again and again, ends at the same rows as dropping in any other order.

    Args:
        users, items: ``(n,)`` whole numbers from 0.

    Returns:
        ``(m,)`` int64, rising: the rows that stay.
    """
    kept = np.ones(len(users), dtype=bool)
    user_count, item_count = np.bincount(users), np.bincount(items)
    while True:
        dropped = np.flatnonzero(kept & ~((user_count >= user_core)[users] & (item_count >= item_core)[items]))
        if not len(dropped):
            return np.flatnonzero(kept)
        kept[dropped] = False
        user_count -= np.bincount(users[dropped], minlength=len(user_count))
        item_count -= np.bincount(items[dropped], minlength=len(item_count))


def _range(found: pl.Series) -> str:
    if found.null_count() == len(found):
        return f"this data has no {found.name}: set it to null"
    return f"what is there has {found.name} from {found.min():g} to {found.max():g}"
