"""MIND news: ``behaviors.tsv`` and ``news.tsv``. Source: Wu et al. 2020, "MIND: A Large-scale Dataset for News
Recommendation", and the data set's README.

A row of behaviors shows one impression: the user's clicks before the log began (the same on each of the user's rows, in
order, without times) and the news shown, ``-1`` clicked and ``-0`` not.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.delimited import Layout, read_columns
from pipeline_lib.interactions.readers.raw_file import FAULT, ROW, RawFile
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file, read_content
from pipeline_lib.interactions.readers.times import seconds_from_layout

LAYOUT = Layout(separator="\t", header_lines=0)
BEHAVIOURS = {"user_id": 1, "time": 2, "history": 3, "impressions": 4}
NEWS = {"item_id": 0, "category": 1, "subcategory": 2, "title": 3, "abstract": 4}
TIME = "%m/%d/%Y %I:%M:%S %p"
LABELLED = r"^\S+-[01]( \S+-[01])*\s*$"


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the clicks: a user's history once, from the first impression, then the clicked news of the impressions.

    The n clicks of a history get the n seconds before the user's first impression, so that they stay in order.
    """
    path, rows = _behaviours(folder)
    whole = rows.filter(pl.col(FAULT).is_null())
    unusable = rows.filter(pl.col(FAULT).is_not_null()).select(
        ROW, FAULT, "user_id", pl.lit(None, dtype=pl.String).alias("item_id"),
        pl.lit(None, dtype=pl.Float64).alias("timestamp"))
    clicks = pl.concat([_history_clicks(whole), _impression_clicks(whole), unusable]).sort(ROW, maintain_order=True)
    interactions = RawFile(path, clicks)

    item_path = find_optional_file(folder, "news.tsv")
    if item_path is None:
        return interactions, None
    return interactions, RawFile(item_path, read_columns(item_path, read_content(item_path), LAYOUT, 8, NEWS))


def read_impressions(folder: Path) -> pl.DataFrame:
    """What was shown: ``impression`` (its row in the file), ``user_id``, ``item_id``, ``clicked`` bool.

    Rows that ingest counts as bad are left out.
    """
    _, rows = _behaviours(folder)
    shown = _shown(rows.filter(pl.col(FAULT).is_null()))
    return shown.select(pl.col(ROW).alias("impression"), "user_id", pl.col("item_id").str.head(-2),
                        pl.col("item_id").str.ends_with("-1").alias("clicked"))


def _behaviours(folder: Path) -> tuple[Path, pl.DataFrame]:
    path = find_file(folder, "behaviors.tsv")
    return path, _judged(read_columns(path, read_content(path), LAYOUT, 5, BEHAVIOURS))


def _judged(rows: pl.DataFrame) -> pl.DataFrame:
    """With ``timestamp`` and, in `FAULT`, why a row's clicks cannot be read."""
    if FAULT not in rows.columns:
        rows = rows.with_columns(pl.lit(None, dtype=pl.String).alias(FAULT))
    rows = rows.rechunk().with_columns(seconds_from_layout("time", TIME).alias("timestamp"))
    labelled = pl.col("impressions").str.contains(LABELLED).fill_null(False)
    return rows.with_columns(pl.coalesce(
        FAULT,
        pl.when(pl.col("timestamp").is_null()).then(
            pl.format("time '{}' is not like 11/11/2019 9:05:58 AM", pl.col("time").fill_null(""))),
        pl.when(~labelled).then(pl.lit("impressions are not like 'N1-0 N2-1'; the unlabelled test part has no clicks")),
    ).alias(FAULT))


def _history_clicks(rows: pl.DataFrame) -> pl.DataFrame:
    first = rows.sort("timestamp", ROW).unique("user_id", keep="first", maintain_order=True)
    items = first.with_columns(item_id=pl.col("history").str.strip_chars().str.split(" ")).filter(
        pl.col("history").str.strip_chars() != "")
    items = items.with_columns(before=pl.int_ranges(pl.col("item_id").list.len().cast(pl.Int64), 0, -1))
    return _clicks(items.explode("item_id", "before").with_columns(pl.col("timestamp") - pl.col("before")))


def _impression_clicks(rows: pl.DataFrame) -> pl.DataFrame:
    return _clicks(_shown(rows).filter(pl.col("item_id").str.ends_with("-1")).with_columns(
        pl.col("item_id").str.strip_suffix("-1")))


def _shown(rows: pl.DataFrame) -> pl.DataFrame:
    """A row an item of an impression, its id still with the label."""
    return rows.with_columns(item_id=pl.col("impressions").str.strip_chars().str.split(" ")).explode("item_id")


def _clicks(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(ROW, FAULT, "user_id", "item_id", "timestamp")
