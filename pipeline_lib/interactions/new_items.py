"""Items that came after ingest: read from a table of their own, with the known users who took them.

Shapes: n new items, N items of ingest.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from pipeline_lib.interactions.indexing import item_table
from pipeline_lib.interactions.readers.checks import check_interactions, check_items
from pipeline_lib.interactions.readers.table import read_items, read_pairs
from pipeline_lib.ragged import Ragged


def read_new_items(path: Path, taken: Path | None, known_items: Sequence[str], user_ids: Sequence[str], *,
                   columns: Mapping[str, str], lists: Mapping[str, str], title: str | None, text: Sequence[str],
                   attributes: Mapping[str, bool]) -> tuple[pa.Table, Ragged]:
    """Read what `sidflow items add` is given.

    Args:
        path: CSV, TSV or Parquet with ``item_id`` and the attributes of the items of ingest, some of which may be
            absent.
        taken: the same with ``user_id`` and ``item_id``; None where nobody has taken them yet.
        known_items: ids of ingest, none of which may come again.
        user_ids: of ingest, in index order; others cannot say anything of an item and are left out.
        columns: as ``ingest.columns``: what the files call ``user_id`` and ``item_id``.
        lists: as ``ingest.lists``.
        title, text: as ``ingest.title`` and ``ingest.text``.
        attributes: of ingest, and whether their values are lists.

    Returns:
        items: columns as ``artifacts.ITEMS`` and ``attr_``, numbered from N.
        takers: n rows of users.

    Raises:
        ValueError: for a row that cannot be used, an id that is known already, an attribute that is not.
    """
    names = {name: columns.get(name, name) for name in ("user_id", "item_id")}
    file = read_items(path, names["item_id"])
    there = [name for name in lists if name in file.rows.columns]
    items, bad = check_items(file, {name: lists[name] for name in there})
    _refuse(bad)
    known = set(known_items)
    again = [item_id for item_id in items["item_id"] if item_id in known]
    if again:
        raise ValueError(f"{path}: item {again[0]} is known already; new items need new ids")
    unknown = [name for name in items.columns if name != "item_id" and name not in attributes]
    if unknown:
        raise ValueError(f"{path}: column {unknown[0]} is no attribute of the items of ingest; they have "
                         f"{', '.join(attributes) or 'none'}")
    kinds = items.schema
    items = items.select("item_id", *(_attribute(kinds.get(name), name, is_list) for name, is_list in attributes.items()))
    table = item_table(items["item_id"], items, list(attributes), title, text)
    numbers = pa.array(np.arange(len(table), dtype=np.int32) + len(known_items))
    return table.set_column(0, "item", numbers), _takers(taken, names, items["item_id"], user_ids)


def _attribute(found: pl.DataType | None, name: str, is_list: bool) -> pl.Expr:
    """An attribute as that of ingest is, a list or text, whatever the file has."""
    if found is None:
        return pl.lit(None, dtype=pl.List(pl.String) if is_list else pl.String).alias(name)
    if (found == pl.List) == is_list:
        return pl.col(name)
    if is_list:
        return pl.when(pl.col(name).is_not_null()).then(pl.concat_list(name)).alias(name)
    return pl.col(name).list.join(", ")


def _takers(taken: Path | None, names: Mapping[str, str], item_ids: pl.Series, user_ids: Sequence[str]) -> Ragged:
    rows: list[list[int]] = [[] for _ in item_ids]
    if taken is not None:
        pairs, bad = check_interactions(read_pairs(taken, names), None, ordered=False)
        _refuse(bad)
        users, places = ({name: place for place, name in enumerate(names)} for names in (user_ids, item_ids))
        for user_id, item_id in pairs.select("user_id", "item_id").iter_rows():
            if item_id not in places:
                raise ValueError(f"{taken}: item {item_id} is none of the new items; nothing was added")
            if user_id in users:
                rows[places[item_id]].append(users[user_id])
    return Ragged.from_rows([list(dict.fromkeys(row)) for row in rows])


def _refuse(bad: Sequence[str]) -> None:
    if bad:
        raise ValueError(f"{bad[0]} (bad rows: {len(bad)}); correct the file, of which nothing was added")

