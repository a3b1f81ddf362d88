"""A raw file as its format's reader hands it on: rows found, nothing judged yet (`checks` does that)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.times import seconds_from_number

ROW = "#row"      # 1-based line of the row in its file; a header is line 1
FAULT = "#fault"  # why a row could not be read at all, null where it could; the column is absent where all could
NO_TIMES = "without times, a preset in conf/dataset needs ingest.order: none and a split file (split.kind: given)"


@dataclass(frozen=True)
class RawFile:
    """Rows of one file, under our column names.

    ``rows``: `ROW`, perhaps `FAULT`, and for interactions ``user_id``, ``item_id``, ``timestamp`` and ``rating`` (the
    last two may be absent), for items ``item_id`` and the attributes. Values are text, or numbers where the file is
    typed; attributes are text or lists of text. ``names`` maps our names to the file's, for messages; ``seconds`` turns
    the column ``timestamp`` into Unix seconds, null where it is not a time, and ``time_form`` says
    what a time looks like.
    """

    path: Path
    rows: pl.DataFrame
    names: Mapping[str, str] = field(default_factory=dict)
    seconds: pl.Expr = seconds_from_number("timestamp")
    time_form: str = "a number"

    def named(self, column: str) -> str:
        return self.names.get(column, column)


def require_columns(path: Path, found: list[str], wanted: list[str], advice: str = "is ingest.format right?") -> None:
    """Refuse a file that lacks a column, listing those it has; ``advice`` says what to do.

    Raises:
        ValueError: naming the first missing column, or one that stands in the header twice.
    """
    for name in wanted:
        if name not in found:
            named = ", ".join(one if one == one.strip() else repr(one) for one in found)
            raise ValueError(f"{path}: column {name} is missing; found {named}; {advice}")
    for name in found:
        if found.count(name) > 1:
            raise ValueError(f"{path}: column {name} stands in the header {found.count(name)} times; rename one")
