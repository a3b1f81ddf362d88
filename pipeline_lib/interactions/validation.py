"""What a raw data set looks like, in figures: for ``sidflow data validate`` and the report."""

import datetime
from typing import Any

import polars as pl

from pipeline_lib.interactions.raw import RawData


def describe_raw(raw: RawData) -> dict[str, Any]:
    """Count users, items and interactions.

    Returns:
        ``users``, ``items`` (with at least one interaction), ``interactions``, ``density`` (interactions / (users *
        items)), ``repeats`` (interactions beyond the first of a user and item), ``duplicates`` (those of them at the
        same time as another), ``first`` and ``last`` (their Unix seconds, and the day that this is),
        ``history_length`` and ``item_frequency`` (each ``min``, ``mean``, ``max``), ``bad_rows``; with an item file
        also ``item_rows``, ``items_without_interactions`` and ``filled``: attribute -> share of the item rows that have
        a value.
    """
    interactions = raw.interactions
    histories, frequencies = _counts(interactions, "user_id"), _counts(interactions, "item_id")
    timed = interactions.select("user_id", "item_id", "timestamp").drop_nulls("timestamp")
    possible = len(histories) * len(frequencies)
    described = {
        "users": len(histories),
        "items": len(frequencies),
        "interactions": interactions.height,
        "density": interactions.height / possible if possible else 0.0,
        "repeats": interactions.height - interactions.select("user_id", "item_id").n_unique(),
        "duplicates": timed.height - timed.n_unique(),
        **{name: _day(seconds) for name, seconds in (("first", interactions["timestamp"].min()),
                                                     ("last", interactions["timestamp"].max()))},
        "history_length": _spread(histories),
        "item_frequency": _spread(frequencies),
        "bad_rows": len(raw.bad_rows),
    }
    if raw.items is None:
        return described
    unused = raw.items.join(interactions.select("item_id").unique(), on="item_id", how="anti")
    attributes = [name for name in raw.items.columns if name != "item_id"]
    return described | {"item_rows": raw.items.height, "items_without_interactions": unused.height,
                        "filled": {name: _filled(raw.items[name]) for name in attributes}}


def _day(seconds: int | None) -> str:
    written = _date_as_number(seconds)
    if written is not None:
        return f"{seconds} (the date {written}? Write it so: as Unix seconds this is in 1970)"
    try:
        day = datetime.datetime.fromtimestamp(seconds, datetime.UTC).date() if seconds is not None else "none"
    except (ValueError, OverflowError, OSError):
        day = "no day: are these seconds?"
    return f"{seconds} ({day})"


def _date_as_number(seconds: int | None) -> datetime.date | None:
    """The day that a number such as 20200913 spells, which would be a time in August 1970."""
    try:
        day = datetime.datetime.strptime(str(seconds), "%Y%m%d").date()
    except ValueError:
        return None
    return day if 1900 <= day.year < 2100 and len(str(seconds)) == 8 else None


def _counts(interactions: pl.DataFrame, column: str) -> pl.Series:
    return interactions.group_by(column).len()["len"]


def _spread(counts: pl.Series) -> dict[str, float]:
    if counts.is_empty():
        return {"min": 0, "mean": 0.0, "max": 0}
    return {"min": counts.min(), "mean": counts.mean(), "max": counts.max()}


def _filled(values: pl.Series) -> float:
    """Share of values that are neither null nor empty."""
    if values.is_empty():
        return 0.0
    has_value = values.list.len() > 0 if values.dtype == pl.List else values != ""
    return float(has_value.fill_null(False).mean())
