"""Impressions: what a user was shown together, and what of it was clicked, under the numbers of ingest."""

from pathlib import Path

import polars as pl
import pyarrow as pa

from pipeline_lib.interactions.candidates import Impressions
from pipeline_lib.interactions.readers import mind

READERS = {"mind": mind.read_impressions}


def read_impressions(folder: Path, file_format: str, users: pa.Table, items: pa.Table) -> Impressions | None:
    """The impressions of a raw folder; users and items that ingest did not keep are left out.

    Args:
        file_format: ``ingest.format``.
        users, items: the tables of ingest, whose numbers the result uses.

    Returns:
        None for formats that keep no impressions.
    """
    if file_format not in READERS:
        return None
    rows = READERS[file_format](folder)
    for name, table in (("user", users), ("item", items)):
        known = pl.DataFrame({f"{name}_id": pl.from_arrow(table[f"{name}_id"]), name: pl.from_arrow(table[name])})
        rows = rows.join(known, on=f"{name}_id", how="inner", maintain_order="left")
    return Impressions(*(rows[name].to_numpy() for name in ("impression", "user", "item", "clicked")))
