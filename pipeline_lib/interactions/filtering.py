"""Which interactions count: a rating threshold, a time window, and a core of users and items that meet often enough.

Shapes: n interactions.
"""

import logging

import numpy as np
import polars as pl

logger = logging.getLogger(__name__)

# Ids as whole numbers, a code space each, so that counting is an array lookup and not a group-by over strings.
USER_CODES = pl.Categorical(pl.Categories("sidflow_user_id"))
ITEM_CODES = pl.Categorical(pl.Categories("sidflow_item_id"))


def filter_interactions(interactions: pl.DataFrame, *, min_rating: float | None = None, after: float | None = None,
                        before: float | None = None, user_core: int = 0, item_core: int = 0) -> pl.DataFrame:
    """Leave out what is rated too low, lies outside the time window, or belongs to too rare a user or item.

    Args:
        interactions: columns ``user_id``, ``item_id``, ``timestamp``, ``rating`` of ``RawData``.
        min_rating: lowest rating that counts; rows without a rating go.
        after, before: the window ``[after, before)``; rows without a timestamp go.
        user_core, item_core: interactions that every user and item must have in the end; repeats count.

    Returns:
        The rows that stay, in their order. After a core filter the two id columns are categorical (as
        ``index_tables`` would make them), otherwise as they came.

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
        interactions = interactions.with_columns(pl.col("user_id").cast(USER_CODES), pl.col("item_id").cast(ITEM_CODES))
        rows = rows_of_core(interactions["user_id"].to_physical().to_numpy(),
                            interactions["item_id"].to_physical().to_numpy(), user_core, item_core)
        trail.append(f"{len(rows)} after k_core")
        if not len(rows):
            raise ValueError(f"ingest.k_core={{user: {user_core}, item: {item_core}}} leaves no interactions "
                             f"({', '.join(trail)}); lower it")
        interactions = interactions if len(rows) == len(interactions) else interactions[rows]
    logger.info("interactions: %s", ", ".join(trail))
    return interactions


def rows_of_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """The largest set of rows in which every user has ``user_core`` and every item ``item_core`` rows.

    Dropping all that is too rare at once, again and again, ends at the same rows as dropping in any other order.

    Args:
        users, items: ``(n,)`` whole numbers from 0.

    Returns:
        ``(m,)`` int64, rising: the rows that stay.
    """
    rows = np.arange(len(users))
    while len(rows):
        keep = np.ones(len(rows), dtype=bool)
        for codes, core in ((users, user_core), (items, item_core)):
            if core > 1:
                keep &= (np.bincount(codes) >= core)[codes]
        if keep.all():
            break
        users, items, rows = users[keep], items[keep], rows[keep]
    return rows


def _range(found: pl.Series) -> str:
    if found.null_count() == len(found):
        return f"this data has no {found.name}: set it to null"
    return f"what is there has {found.name} from {found.min():g} to {found.max():g}"
