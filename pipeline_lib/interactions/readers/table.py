"""Plain tables: CSV, TSV or Parquet, with a mapping from our column names to the file's."""

import io
from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.delimited import Layout, read_columns, read_header
from pipeline_lib.interactions.readers.raw_file import NO_TIMES, ROW, RawFile, require_columns
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file, opened, read_content
from pipeline_lib.interactions.readers.times import seconds_from_iso, seconds_from_number, seconds_of_dates

ENDINGS = ("csv", "tsv", "parquet")
TEXT = (pl.String, pl.Categorical, pl.Enum)
OURS = ("user_id", "item_id", "timestamp", "rating")


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read ``interactions.*``, or the only table of the folder, and ``items.*`` where it is there."""
    for name in columns:
        if name not in OURS:
            raise ValueError(f"params: ingest.columns.{name} is not known; known: {', '.join(OURS)}")
    if len(set(columns.values())) < len(columns):
        raise ValueError(f"params: ingest.columns maps two names to one column: {dict(columns)}")
    names = {name: columns.get(name, name) for name in OURS}
    path = find_optional_file(folder, *_named("interactions")) or _only_table(folder)
    required = ["user_id", "item_id", *(["timestamp"] if ordered or "timestamp" in columns else []),
                *(["rating"] if "rating" in columns else [])]
    ours = {name: name for name in OURS if name not in columns} | {theirs: name for name, theirs in columns.items()}
    rows = _read_table(path, ours, [names[name] for name in required], others=False)
    is_text = rows.schema.get("timestamp") == pl.String
    interactions = RawFile(path, rows, names, **(_time_form(rows["timestamp"]) if is_text else {}))

    item_path = find_optional_file(folder, *_named("items"))
    if item_path is None or item_path == path:
        return interactions, None
    return interactions, read_items(item_path, names["item_id"])


def read_items(path: Path, item_id: str = "item_id") -> RawFile:
    """One table of items: the column ``item_id`` and attributes."""
    return RawFile(path, _read_table(path, {item_id: "item_id"}, [item_id], others=True), {"item_id": item_id})


def read_pairs(path: Path, names: Mapping[str, str]) -> RawFile:
    """One table of interactions, of which ``user_id`` and ``item_id`` are read, whatever ``names`` calls them."""
    ours = {theirs: name for name, theirs in names.items()}
    return RawFile(path, _read_table(path, ours, list(ours), others=False), names)


def _named(stem: str) -> list[str]:
    return [f"{stem}.{ending}" for ending in ENDINGS]


def _only_table(folder: Path) -> Path:
    try:
        return find_file(folder, *_named("*"))
    except ValueError as error:
        raise ValueError(f"{error}, or name the interactions interactions.csv and the items items.csv") from error


def _read_table(path: Path, ours: Mapping[str, str], required: list[str], others: bool) -> pl.DataFrame:
    """`ROW` and the columns under our names; with ``others`` also those that have none of our names."""
    ending = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if ending == "parquet":
        return _read_parquet(path, ours, required, others)
    layout = Layout(separator="\t" if ending == "tsv" else ",", quoted=True)
    content = read_content(path)
    header = read_header(path, content, layout)
    return read_columns(path, content, layout, len(header), _picked(path, header, ours, required, others))


def _read_parquet(path: Path, ours: Mapping[str, str], required: list[str], others: bool) -> pl.DataFrame:
    with opened(path) as file:
        source = path if path.suffix != ".gz" else io.BytesIO(file.read())
    try:
        header = list(pl.read_parquet_schema(source))
        picked = _picked(path, header, ours, required, others)
        table = pl.read_parquet(source, columns=[header[place] for place in picked.values()])
    except pl.exceptions.PolarsError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a whole Parquet file ({reason}); copy or download it again") from error
    table = table.rename({header[place]: name for name, place in picked.items()})
    values = (_plain(path, name, table.schema[name], header[place], others) for name, place in picked.items())
    return table.select(pl.int_range(1, table.height + 1, dtype=pl.UInt32).alias(ROW), *values)


def _picked(path: Path, header: list[str], ours: Mapping[str, str], required: list[str],
            others: bool) -> dict[str, int]:
    missing = next((name for name in required if name not in header), None)
    require_columns(path, header, required, _advice(ours, header, missing, others))
    picked = {ours[name]: place for place, name in enumerate(header) if name in ours}
    for place, name in enumerate(header if others else []):
        if name in ours:
            continue
        if name in picked:
            taken = header[picked[name]]
            raise ValueError(f"{path}: column {name} stands beside {taken}, which ingest.columns takes as {name}; "
                             "rename one")
        picked[name] = place
    return picked


def _advice(ours: Mapping[str, str], header: list[str], missing: str | None, is_item: bool) -> str:
    """What to do about a missing column."""
    separator = next((one for one in ";\t|," if len(header) == 1 and one in header[0]), None)
    if separator is not None:
        return f"the one column seems to be several, separated by {separator!r}: write .csv with commas, .tsv with tabs"
    if is_item and "item_id" not in ours:
        return f"items have their ids in the column that ingest.columns names for interactions: call it {next(iter(ours))}"
    advice = "name the file's own column in ingest.columns, e.g. item_id: sku, or by --column item_id=sku of `sidflow data`"
    return f"{advice}; {NO_TIMES}" if ours.get(missing) == "timestamp" else advice


def _plain(path: Path, name: str, kind: pl.DataType, column: str, is_item: bool) -> pl.Expr:
    """Ids and attributes as text, times as Unix seconds or text, ratings as numbers or text."""
    if name in ("user_id", "item_id"):
        fits, expected, value = kind.is_integer() or kind in TEXT, "text or integers", pl.col(name).cast(pl.String)
    elif is_item:
        inner = kind.inner if kind == pl.List else kind
        fits = (inner.is_numeric() or inner.is_temporal() and inner != pl.Duration
                or inner in (*TEXT, pl.Boolean, pl.Null))
        expected, value = "text, numbers or lists of these", _text(name, kind)
    elif name == "timestamp":
        fits, expected = kind.is_numeric() or kind in (pl.Datetime, pl.Date, *TEXT), "numbers, dates or text"
        value = seconds_of_dates(pl.col(name)) if kind.is_temporal() else _number_or_text(name, kind)
    else:
        fits, expected = kind.is_numeric() or kind in (pl.Boolean, pl.Null, *TEXT), "numbers or text"
        value = _number_or_text(name, kind)
    if not fits:
        raise ValueError(f"{path}: column {column} is {kind}, expected {expected}; convert it before adding the file")
    return value


def _number_or_text(name: str, kind: pl.DataType) -> pl.Expr:
    if kind.is_numeric():
        return pl.col(name)
    return pl.col(name).cast(pl.Float32 if kind in (pl.Boolean, pl.Null) else pl.String)


def _text(name: str, kind: pl.DataType) -> pl.Expr:
    return pl.col(name).cast(pl.List(pl.String)).list.drop_nulls() if kind == pl.List else pl.col(name).cast(pl.String)


def _time_form(timestamps: pl.Series) -> dict:
    """Numbers or ISO times, as the first value that is not empty has it."""
    first = timestamps.filter((timestamps != "").fill_null(False)).head(1)
    if first.is_empty() or first.cast(pl.Float64, strict=False).is_not_null().all():
        return {"seconds": seconds_from_number("timestamp"), "time_form": "a number, as in the rows above it"}
    return {"seconds": seconds_from_iso("timestamp"),
            "time_form": "an ISO date or time (2020-01-02, 2020-01-02 03:04:05)"}
