"""Tab- or comma-separated text, whole columns at a time; a file that is not quite regular is read again row by row.

Every value stays text, so that ``0042`` is not ``42``; an empty field is null or an empty string.
"""

import csv
import io
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.raw_file import FAULT, ROW

ROWS_AT_ONCE = 20_000


@dataclass(frozen=True)
class Layout:
    """How fields are told apart: the separator, whether quotes wrap fields, and how many header lines there are."""

    separator: str
    quoted: bool = False
    header_lines: int = 1


def read_header(path: Path, content: bytes, layout: Layout) -> list[str]:
    """The column names in the first line.

    Raises:
        ValueError: if the line is not UTF-8, or not valid CSV.
    """
    line = content[:content.find(b"\n")] if b"\n" in content else content
    try:
        text = line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, row 1: {_not_utf8(error)}") from error
    if not layout.quoted:
        return text.split(layout.separator)
    try:
        return next(csv.reader([text], delimiter=layout.separator, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, row 1: not valid CSV ({error})") from error


def read_columns(path: Path, content: bytes, layout: Layout, width: int, picked: Mapping[str, int]) -> pl.DataFrame:
    """Read some columns of a delimited file as text.

    Args:
        path: where the content is from, for messages.
        content: the file's bytes, header included.
        layout: separator, quoting, header.
        width: the number of columns that each row must have.
        picked: name in the result -> place in the file.

    Returns:
        `ROW`, the picked columns, and `FAULT` where at least one row could not be taken apart.
    """
    rows = _all_at_once(content, layout, width, picked)
    return _row_by_row(path, content, layout, width, picked) if rows is None else rows


def _all_at_once(content: bytes, layout: Layout, width: int, picked: Mapping[str, int]) -> pl.DataFrame | None:
    """None if any row is irregular, or if rows and lines are not one to one: then the row numbers would be wrong."""
    if content.endswith((b"\n\n", b"\n\r\n")):
        content = content.rstrip(b"\r\n")
    try:  # all columns, since of some alone a row may have too many
        columns = pl.read_csv(content, separator=layout.separator, quote_char='"' if layout.quoted else None,
                              has_header=False, skip_lines=layout.header_lines,
                              schema={f"field_{place}": pl.String for place in range(width)})
    except pl.exceptions.PolarsError:
        return None
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    if columns.height + layout.header_lines != lines or b"\n\n" in content or b"\n\r\n" in content:
        return None
    if layout.quoted and b'"' in content:  # a quoted separator is none, and a row that is too short ends in a null
        short = columns[f"field_{width - 1}"].is_null().arg_true()
        if len(short) and not _are_whole(content, layout, width, short + layout.header_lines):
            return None
    elif content.count(layout.separator.encode()) != lines * (width - 1):
        return None
    first = layout.header_lines + 1
    return columns.select(pl.int_range(first, first + columns.height, dtype=pl.UInt32).alias(ROW),
                          *(pl.col(f"field_{place}").alias(name) for name, place in picked.items()))


def _are_whole(content: bytes, layout: Layout, width: int, numbers: pl.Series) -> bool:
    lines = content.split(b"\n")
    texts = (lines[number].decode("utf-8") for number in numbers)
    return all(len(fields) == width for fields in csv.reader(texts, delimiter=layout.separator))


def _row_by_row(path: Path, content: bytes, layout: Layout, width: int, picked: Mapping[str, int]) -> pl.DataFrame:
    schema = {ROW: pl.UInt32, FAULT: pl.String, **{name: pl.String for name in picked}}
    frames = [pl.DataFrame(schema=schema)]
    remaining = _rows(path, content, layout)
    while rows := list(islice(remaining, ROWS_AT_ONCE)):
        numbers, fields, faults = zip(*rows, strict=True)
        faults = [fault or (None if len(row) == width else f"{len(row)} columns, expected {width}")
                  for row, fault in zip(fields, faults, strict=True)]
        whole = [row if fault is None else [None] * width for row, fault in zip(fields, faults, strict=True)]
        values = {name: [row[place] for row in whole] for name, place in picked.items()}
        frames.append(pl.DataFrame({ROW: numbers, FAULT: faults, **values}, schema=schema))
    return pl.concat(frames, rechunk=True)


def _rows(path: Path, content: bytes, layout: Layout) -> Iterator[tuple[int, list[str], str | None]]:
    """Row number, fields and fault of each row that is not blank, header excluded."""
    if layout.quoted:
        yield from _quoted_rows(path, content, layout)
        return
    for row, line in enumerate(io.BytesIO(content), start=1):
        line = line.rstrip(b"\r\n")
        if row <= layout.header_lines or not line:
            continue
        try:
            yield row, line.decode("utf-8").split(layout.separator), None
        except UnicodeDecodeError as error:
            yield row, [], _not_utf8(error)


def _quoted_rows(path: Path, content: bytes, layout: Layout) -> Iterator[tuple[int, list[str], str | None]]:
    csv.field_size_limit(sys.maxsize)  # a description may be longer than the default 128 KiB
    lines = (line.decode("utf-8", errors="surrogateescape") for line in io.BytesIO(content))
    reader = csv.reader(lines, delimiter=layout.separator, strict=True)
    row = 1
    try:
        for fields in reader:
            if row > layout.header_lines and fields:
                yield row, fields, _not_text(fields)
            row = reader.line_num + 1  # a quoted field may span lines
    except csv.Error as error:
        raise ValueError(f"{path}, row {row}: not valid CSV ({error}); is a quote left open?") from error


def _not_text(fields: list[str]) -> str | None:
    joined = "".join(fields)
    try:
        joined.encode("utf-8")
    except UnicodeEncodeError:
        try:
            joined.encode("utf-8", errors="surrogateescape").decode("utf-8")
        except UnicodeDecodeError as error:
            return _not_utf8(error)
    return None


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8"
