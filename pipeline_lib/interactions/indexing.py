"""Raw ids -> dense numbers, raw attributes -> title, text and ``attr_`` columns: the three tables of ingest.

The catalogue is the items with at least one interaction left. Rows of the item file without one are left out: the
papers count that way, and such an item could be neither a training item nor a target. An item that the item file lacks
stays, with empty attributes.
"""

import logging
from collections.abc import Sequence

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_lib import artifacts
from pipeline_lib.interactions.filtering import with_codes

logger = logging.getLogger(__name__)


def index_tables(raw_interactions: pl.DataFrame, items: pl.DataFrame | None, *, title: str | None = None,
                 text: Sequence[str] = ()) -> tuple[pa.Table, pa.Table, pa.Table]:
    """Number users and items by their first row, and give every table the columns of its artifact.

    Args:
        raw_interactions: ``user_id``, ``item_id``, ``timestamp``, ``rating``; ids str or categorical.
        items: ``item_id`` and attributes, each str or list of str, one row an item; or None.
        title: the attribute to show as an item's title; None leaves titles empty.
        text: the attributes that make up an item's text, joined as ``a. b. c``; unknown ones are left out.

    Returns:
        interactions: as ``artifacts.INTERACTIONS``, sorted by user, then timestamp, ties in input order.
        items: as ``artifacts.ITEMS``, then one column ``attr_<name>`` for each attribute.
        users: as ``artifacts.USERS``.

    Raises:
        ValueError: if ``title`` or ``text`` names an attribute that the item file lacks, or a timestamp is missing.
    """
    attributes = [] if items is None else [name for name in items.columns if name != "item_id"]
    _refuse_unknown_attributes(attributes, title, text)
    coded = with_codes(raw_interactions)
    users, user_ids = _number(coded["user_id"])
    item_numbers, item_ids = _number(coded["item_id"])
    interactions = pl.DataFrame({"user": users, "item": item_numbers,
                                 "timestamp": _timestamps(raw_interactions["timestamp"]),
                                 "rating": raw_interactions["rating"].cast(pl.Float32)})
    if items is not None:
        logger.info("items: %d of %d rows of the item file have an interaction",
                    items["item_id"].is_in(item_ids.implode()).sum(), len(items))
    for key in ("timestamp", "user"):  # two stable sorts by one key are faster than one sort by two
        if not interactions[key].is_sorted():
            interactions = interactions.sort(key, maintain_order=True)
    return (interactions.to_arrow().cast(artifacts.INTERACTIONS), item_table(item_ids, items, attributes, title, text),
            pa.table([np.arange(len(user_ids), dtype=np.int32), user_ids.to_arrow().cast(pa.string())],
                     schema=artifacts.USERS))


def _number(ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Numbers ``(n,)`` int32 by first appearance, and the id of each number."""
    codes = ids.to_physical().to_numpy()
    first = np.full(int(codes.max(initial=0)) + 1, len(codes))
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # of equal codes the last write stays: the first row
    rows = np.sort(first[first < len(codes)])
    number = np.empty(len(first), dtype=np.int32)
    number[codes[rows]] = np.arange(len(rows), dtype=np.int32)
    return number[codes], ids[rows].cast(pl.String)


def _timestamps(timestamps: pl.Series) -> pl.Series:
    if timestamps.null_count():
        raise ValueError(f"timestamp is missing in {timestamps.null_count()} of {len(timestamps)} interactions; give "
                         "each row one, the row number where there is no order")
    return timestamps.cast(pl.Int64)


def item_table(item_ids: pl.Series, items: pl.DataFrame | None, attributes: list[str], title: str | None,
               text: Sequence[str]) -> pa.Table:
    """The items of ``item_ids``, in this order, as ``artifacts.ITEMS`` and a column ``attr_<name>`` an attribute.

    Args:
        items: ``item_id`` and ``attributes``; one that is not among them has no title and no text.
        title, text: as `index_tables`.
    """
    table = pl.DataFrame({"item_id": item_ids})
    if items is not None:
        table = table.join(items, on="item_id", how="left", maintain_order="left", validate="m:1")
    schema = table.schema
    table = table.select(
        pl.int_range(len(item_ids), dtype=pl.Int32).alias("item"), "item_id",
        (pl.lit("") if title is None or items is None else _plain(schema[title], title).fill_null("")).alias("title"),
        (pl.concat_str([_sentence(schema[name], name) for name in text], separator=". ", ignore_nulls=True) if text
         else pl.lit("")).alias("text"),
        *(pl.col(name).fill_null([] if isinstance(schema[name], pl.List) else "").alias(f"attr_{name}")
          for name in attributes))
    arrow = table.to_arrow()
    types = [(field.name, pa.list_(pa.string()) if pa.types.is_large_list(field.type) else pa.string())
             for field in list(arrow.schema)[len(artifacts.ITEMS):]]
    return arrow.cast(pa.schema([*artifacts.ITEMS, *types]))


def _plain(kind: pl.DataType, name: str) -> pl.Expr:
    """An attribute as one line of text, null where unknown."""
    column = pl.col(name).list.join(", ") if isinstance(kind, pl.List) else pl.col(name)
    column = column.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(column != "").then(column)


def _sentence(kind: pl.DataType, name: str) -> pl.Expr:
    """The same without a full stop at its end, which the join would double."""
    column = _plain(kind, name).str.strip_chars_end(". ")
    return pl.when(column != "").then(column)


def _refuse_unknown_attributes(attributes: list[str], title: str | None, text: Sequence[str]) -> None:
    there = f"attributes there are: {', '.join(attributes)}" if attributes else "there are no item attributes"
    wanted = [("ingest.title", title)] * bool(title and attributes) + [("ingest.text", name) for name in text]
    for key, name in wanted:
        if name not in attributes:
            raise ValueError(f"{key} names the attribute {name}, which the items do not have; {there}")
