"""Judging rows: good ones get their types, bad ones become one line each with file, row number, column and reason."""

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline_lib.interactions.readers.raw_file import FAULT, ROW, RawFile

Rule = tuple[pl.Expr, pl.Expr]  # which rows are bad, and what to say of them


def check_items(file: RawFile, lists: Mapping[str, str]) -> tuple[pl.DataFrame, list[str]]:
    """Keep the rows with a new, non-empty id.

    Args:
        file: ``item_id`` and attributes.
        lists: attribute -> separator; these become lists of str, parts stripped, blank parts dropped.

    Returns:
        items: ``item_id`` and the attributes, null where unknown.
        bad: one line for each row left out.

    Raises:
        ValueError: if there are no rows, or ``lists`` names an attribute that the file does not have.
    """
    _require_rows(file)
    attributes = [name for name in file.rows.columns if name not in (ROW, FAULT, "item_id")]
    for name in lists:
        if name not in attributes:
            raise ValueError(f"{file.path}: ingest.lists names the attribute {name}; found {', '.join(attributes)}")
    good, bad = _separate(file, [_fault(file), _blank_id(file, "item_id")])
    repeated = ~pl.col("item_id").is_first_distinct()
    firsts = good.filter(~repeated).select("item_id", first=pl.col(ROW))
    twice = good.filter(repeated).join(firsts, on="item_id", maintain_order="left")
    bad.extend(_lines(file, twice, pl.format("{} {} is already in row {}", pl.lit(file.named("item_id")),
                                             "item_id", "first")))
    kinds = good.schema
    items = good.filter(~repeated).select("item_id",
                                          *(_attribute(kinds[name], name, lists.get(name)) for name in attributes))
    return items, bad


def check_interactions(file: RawFile, known_items: pl.Series | None, ordered: bool) -> tuple[pl.DataFrame, list[str]]:
    """Keep the rows with ids, a time and a rating that can be used, and give them their types.

    Args:
        file: ``user_id``, ``item_id`` and perhaps ``timestamp`` and ``rating``.
        known_items: ids of the item file, None where there is none.
        ordered: whether each row needs a time; otherwise the row number stands in for one that is absent.

    Returns:
        interactions: ``user_id`` str, ``item_id`` str, ``timestamp`` Int64, ``rating`` Float32 or null; rows as in the
            file, or by time where times have fractions of a second, which are cut off.
        bad: one line for each row left out.

    Raises:
        ValueError: if there are no rows.
    """
    _require_rows(file)
    absent = [name for name in ("timestamp", "rating") if name not in file.rows.columns]
    rows = file.rows.with_columns(pl.lit(None, dtype=pl.Int64).alias(name) for name in absent)
    rows = rows.with_columns(file.seconds.alias("#seconds") if "timestamp" not in absent else
                             pl.lit(None, dtype=pl.Float64).alias("#seconds"),
                             pl.col("rating").cast(pl.Float32, strict=False).alias("#rating"))
    file = RawFile(file.path, rows, file.names, file.seconds, file.time_form)
    good, bad = _separate(file, [_fault(file), _blank_id(file, "user_id"), _blank_id(file, "item_id"),
                                 *_time_faults(file, ordered), _rating_fault(file), _unknown_item(known_items)])
    whole = pl.col("#seconds").floor()
    if good.select((whole != pl.col("#seconds")).any()).item():  # their order within a second would be lost
        good = good.sort("#seconds", maintain_order=True)
    return good.select("user_id", "item_id",
                       pl.coalesce(whole.cast(pl.Int64), pl.col(ROW).cast(pl.Int64)).alias("timestamp"),
                       pl.col("#rating").alias("rating")), bad


def refuse_bad_rows(bad: Sequence[str], allowed: int) -> None:
    """Raise if more rows are bad than ``ingest.max_bad_rows`` allows."""
    if len(bad) > allowed:
        raise ValueError(f"{bad[0]} (bad rows: {len(bad)}, allowed by ingest.max_bad_rows: {allowed}; correct the file "
                         "or raise ingest.max_bad_rows to leave such rows out)")


def _separate(file: RawFile, rules: Sequence[Rule | None]) -> tuple[pl.DataFrame, list[str]]:
    """Rows that no rule refuses, and a line for each of the others in file order: its first rule speaks."""
    rules = [rule for rule in rules if rule is not None]
    is_bad = file.rows.select(pl.any_horizontal(*(condition for condition, _ in rules)).alias("bad"))["bad"]
    if not is_bad.any():
        return file.rows, []
    reason = pl.coalesce(*(pl.when(condition).then(message) for condition, message in rules))
    return file.rows.filter(~is_bad), _lines(file, file.rows.filter(is_bad), reason)


def _lines(file: RawFile, rows: pl.DataFrame, reason: pl.Expr) -> list[str]:
    whole = rows.sort(ROW, maintain_order=True).rechunk()  # polars 2.1: pl.format panics on columns with empty chunks
    return [f"{file.path}, row {row}: {text}" for row, text in whole.select(ROW, reason.alias("reason")).iter_rows()]


def _fault(file: RawFile) -> Rule | None:
    return (pl.col(FAULT).is_not_null(), pl.col(FAULT)) if FAULT in file.rows.columns else None


def _blank_id(file: RawFile, name: str) -> Rule:
    return _is_blank(file, name), pl.lit(f"{file.named(name)} is empty, expected an id")


def _time_faults(file: RawFile, ordered: bool) -> list[Rule]:
    column, blank = file.named("timestamp"), _is_blank(file, "timestamp")
    value = pl.col("timestamp").cast(pl.String)
    is_time = pl.col("#seconds").is_finite() & (pl.col("#seconds").abs() < 2**63)
    rules = [(~blank & ~is_time.fill_null(False), pl.format(f"{column} '{{}}' is not {file.time_form}", value)),
             ((pl.col("#seconds") < 0).fill_null(False),
              pl.format(f"{column} {{}} is negative, expected a time", value))]
    missing = pl.lit(f"{column} is empty, expected {file.time_form}; or set ingest.order=none")
    return [(blank, missing), *rules] if ordered else rules


def _rating_fault(file: RawFile) -> Rule:
    finite = pl.col("#rating").is_finite().fill_null(False)
    return (~_is_blank(file, "rating") & ~finite,
            pl.format(f"{file.named('rating')} '{{}}' is not a finite number", pl.col("rating").cast(pl.String)))


def _unknown_item(known_items: pl.Series | None) -> Rule | None:
    if known_items is None:
        return None
    return (~pl.col("item_id").is_in(known_items.implode()).fill_null(False),
            pl.format("item {} has no row in the item file", "item_id"))


def _is_blank(file: RawFile, name: str) -> pl.Expr:
    null = pl.col(name).is_null()
    return null | (pl.col(name) == "").fill_null(False) if file.rows.schema[name] == pl.String else null


def _attribute(kind: pl.DataType, name: str, separator: str | None) -> pl.Expr:
    if kind != pl.String:
        return pl.col(name)
    known = pl.when(pl.col(name) != "").then(pl.col(name))
    if separator is None:
        return known.alias(name)
    parts = known.str.split(separator).list.eval(pl.element().str.strip_chars()).list.eval(
        pl.element().filter(pl.element() != ""))
    return pl.when(parts.list.len() > 0).then(parts).alias(name)


def _require_rows(file: RawFile) -> None:
    if file.rows.is_empty():
        raise ValueError(f"{file.path}: no rows below the header; is this the right file?")
