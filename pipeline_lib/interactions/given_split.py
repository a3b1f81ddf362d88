"""A split that somebody released: one row an interaction, and the part that it belongs to."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

PARTS = {"train": 0, "valid": 1, "test": 2}


def read_given_split(path: Path, users: pa.Table, items: pa.Table) -> pl.DataFrame:
    """Read a released split: ``user_id``, ``item_id``, ``split`` (train, valid or test) and, maybe, ``position``.

    Args:
        path: tab-separated text (``.tsv``, ``.tsv.gz``), ``.csv``, ``.csv.gz`` or ``.parquet``.
        users, items: the tables of ingest, whose numbers the result uses.

    Returns:
        ``user``, ``item`` Int32, ``part`` Int8 and, where the file has it, ``position`` Int64; rows as in the file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: naming the file, the row and what is unknown in it.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; put the split file into ingest.path, or correct split.file")
    comma = ".csv" in path.suffixes
    try:
        table = pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(
            path, separator="," if comma else "\t", quote_char='"' if comma else None, infer_schema=False)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"{path}: cannot be read as a table ({error}); expected user_id, item_id, split") from error
    table = table.rename({name: name.split(":")[0] for name in table.columns})  # RecBole types its headers
    absent = [name for name in ("user_id", "item_id", "split") if name not in table.columns]
    if absent:
        raise ValueError(f"{path}: column {absent[0]} is missing; found {', '.join(table.columns)}")
    columns = [_lookup(path, table["user_id"], users["user_id"], "user").cast(pl.Int32),
               _lookup(path, table["item_id"], items["item_id"], "item").cast(pl.Int32),
               _lookup(path, table["split"], pa.array(list(PARTS)), "part").cast(pl.Int8)]
    if "position" in table.columns:
        positions = table["position"].cast(pl.Int64, strict=False).alias("position")
        _refuse_null(path, table["position"], positions, "a whole number")
        columns.append(positions)
    return pl.DataFrame(columns)


def places_in_time(interactions: pa.Table, num_items: int, given: pl.DataFrame) -> np.ndarray:
    """The row of the interactions, which are sorted by user, then time, that each row of a split stands for.

    Of rows with one user and item, those of earlier parts (train, valid, test) stand for earlier interactions.

    Args:
        interactions: as ``artifacts.INTERACTIONS``.
        given: as `read_given_split` returns it.

    Returns:
        ``(m,)`` int64 rows, none twice.

    Raises:
        ValueError: if a pair of user and item is among the interactions less often than in ``given``.
    """
    there = interactions["user"].to_numpy().astype(np.int64) * num_items + interactions["item"].to_numpy()
    by_pair = np.argsort(there, kind="stable")
    wanted = given["user"].to_numpy().astype(np.int64) * num_items + given["item"].to_numpy()
    order = np.lexsort((given["part"].to_numpy(), wanted))
    _, first, counts = np.unique(wanted[order], return_index=True, return_counts=True)
    which = np.empty(len(wanted), dtype=np.int64)  # of the interactions of its pair: 0 is the first
    which[order] = np.arange(len(wanted)) - np.repeat(first, counts)
    place = np.searchsorted(there[by_pair], wanted) + which
    rows = by_pair[place.clip(max=len(there) - 1)]
    absent = (place >= len(there)) | (there[rows] != wanted)
    if absent.any():
        raise ValueError(f"split.file has {absent.sum()} rows whose user and item are not among the interactions, or not as "
                         f"often, so their time is not known (first: row {absent.argmax() + 1} below the header); add a "
                         "column position")
    return rows


def _lookup(path: Path, found: pl.Series, known: pa.ChunkedArray | pa.Array, name: str) -> pl.Series:
    """The number of each id, its place among the known ones."""
    numbers = pc.index_in(found.cast(pl.String).to_arrow().cast(pa.string()), value_set=known)
    numbers = pl.from_arrow(numbers).alias(name)
    _refuse_null(path, found, numbers, f"one of the {len(known)} {name}s that ingest kept (was it filtered out there?)"
                 if name != "part" else f"one of {', '.join(PARTS)}")
    return numbers


def _refuse_null(path: Path, found: pl.Series, numbers: pl.Series, expected: str) -> None:
    if numbers.null_count():
        row = int(numbers.is_null().arg_max())
        raise ValueError(f"{path}: {found.name} is {found[row]!r} in row {row + 1} below the header, expected "
                         f"{expected} ({numbers.null_count()} rows are like it)")
