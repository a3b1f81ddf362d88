"""JSON lines, strict or "loose" (Python literals, as in the older Amazon and Steam files).

Strict files are read in pieces by polars; a piece that it refuses is read line by line, which also finds the bad lines.
"""

import ast
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipeline_lib.interactions.readers.raw_file import FAULT, ROW, require_columns
from pipeline_lib.interactions.readers.text_files import opened

BYTES_AT_ONCE = 1 << 25


def first_keys(path: Path) -> list[str]:
    """The keys of the first object of the file.

    Raises:
        ValueError: if no line can be read.
    """
    for lines in _pieces(path):
        for line in lines:
            record, _ = _parse(line)
            if record is not None:
                return list(record)
    raise ValueError(f"{path}: no line with a JSON object; expected one object a line")


def read_fields(path: Path, picked: Mapping[str, str]) -> pl.DataFrame:
    """Read some keys of every object as text.

    Args:
        path: plain or gzipped.
        picked: name in the result -> key in the file; the first object must have them all.

    Returns:
        `ROW`, `FAULT` and the picked columns, null where an object lacks the key.
    """
    require_columns(path, first_keys(path), list(picked.values()))
    schema = {name: pl.String for name in picked}
    frames, first = [], 1
    for lines in _pieces(path):
        frame = _piece_at_once(lines, picked, first)
        frames.append(frame if frame is not None else _piece_by_line(
            lines, first, lambda record: {name: text_of(record.get(key)) for name, key in picked.items()}, schema))
        first += len(lines)
    return pl.concat(frames)


def read_records(path: Path, convert: Callable[[Mapping[str, Any]], dict[str, Any]],
                 schema: Mapping[str, Any]) -> pl.DataFrame:
    """Read every object with a function, for values that are nested.

    Args:
        path: plain or gzipped.
        convert: object -> a value for each column of the schema.
        schema: column -> polars type.

    Returns:
        `ROW`, `FAULT` and the columns of the schema.
    """
    frames, first = [], 1
    for lines in _pieces(path):
        frames.append(_piece_by_line(lines, first, convert, schema))
        first += len(lines)
    return pl.concat(frames)


def text_of(value: Any) -> str | None:
    """One text of a JSON value: numbers as written, lists joined by blanks, None and empty lists null."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(filter(None, map(text_of, value))) or None
    return str(value)


def names_of(value: Any) -> list[str] | None:
    """The distinct names in a text or a (nested) list, in order; None where there are none."""
    names = list(dict.fromkeys(_flat(value)))
    return names or None


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for element in value:
            yield from _flat(element)
    elif value is not None and str(value).strip():
        yield str(value).strip()


def _pieces(path: Path) -> Iterator[list[bytes]]:
    """Lists of lines, so that a file larger than memory can be read.

    Raises:
        ValueError: if the file is empty, cut off or damaged.
    """
    with opened(path) as file:
        lines = file.readlines(BYTES_AT_ONCE)
        if not lines:
            raise ValueError(f"{path}: the file is empty; copy or download it again")
        while lines:
            yield lines
            lines = file.readlines(BYTES_AT_ONCE)


def _piece_at_once(lines: list[bytes], picked: Mapping[str, str], first: int) -> pl.DataFrame | None:
    try:
        rows = pl.read_ndjson(b"".join(lines), schema={key: pl.String for key in picked.values()})
    except pl.exceptions.PolarsError:
        return None
    if rows.height != len(lines):
        return None
    return rows.select(pl.int_range(first, first + rows.height, dtype=pl.UInt32).alias(ROW),
                       pl.lit(None, dtype=pl.String).alias(FAULT),
                       *(pl.col(key).alias(name) for name, key in picked.items()))


def _piece_by_line(lines: list[bytes], first: int, convert: Callable[[Mapping[str, Any]], dict[str, Any]],
                   schema: Mapping[str, Any]) -> pl.DataFrame:
    rows = []
    for row, line in enumerate(lines, start=first):
        if not line.strip():
            continue
        record, fault = _parse(line)
        rows.append({ROW: row, FAULT: fault, **(convert(record) if record is not None else {})})
    return pl.DataFrame(rows, schema={ROW: pl.UInt32, FAULT: pl.String, **schema})


def _parse(line: bytes) -> tuple[dict[str, Any] | None, str | None]:
    """The object of a line, or why there is none."""
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return None, f"byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8"
    try:
        record = json.loads(text)
    except ValueError:
        try:
            record = ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None, "not a JSON object"
    return (record, None) if isinstance(record, dict) else (None, "not a JSON object")
