"""Polars expressions that turn a column into Unix seconds (Float64 with their fractions, UTC), null for what is no time."""

import polars as pl

ZONED = ("%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M%#z")
PLAIN = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")


def seconds_from_number(column: str) -> pl.Expr:
    """Seconds as integers or floats, e.g. ``874965478`` or ``1.5e9``."""
    return pl.col(column).cast(pl.Float64, strict=False)


def seconds_from_milliseconds(column: str) -> pl.Expr:
    return pl.col(column).cast(pl.Float64, strict=False) / 1000


def seconds_from_iso(column: str) -> pl.Expr:
    """ISO 8601 dates and datetimes, e.g. ``2020-01-02`` or ``2020-01-02T03:04:05+02:00``; UTC if there is no zone."""
    text = pl.col(column).str.replace(r" ?(Z|UTC)$", "").str.replace("T", " ", literal=True)
    return pl.coalesce(*(_seconds(text, layout) for layout in (*PLAIN, *ZONED)))


def seconds_from_layout(column: str, layout: str) -> pl.Expr:
    """Datetimes in one strftime layout, e.g. ``%m/%d/%Y %I:%M:%S %p``."""
    return _seconds(pl.col(column), layout)


def _seconds(text: pl.Expr, layout: str) -> pl.Expr:
    return seconds_of_dates(text.str.to_datetime(layout, strict=False, time_unit="us"))


def seconds_of_dates(dates: pl.Expr) -> pl.Expr:
    """Dates are midnight UTC; times without a zone are taken as UTC."""
    return dates.dt.epoch("us") / 1_000_000
