"""What every reader returns, whatever the format of the files."""

from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class RawData:
    """Raw interactions and items, ids still as the files have them.

    ``interactions``: ``user_id`` str, ``item_id`` str, ``timestamp`` Int64 or null, ``rating`` Float32 or null, in the
    order of the files. ``items``: ``item_id`` str and attributes, each str or list of str (null where unknown), or None
    where the data has no item file. ``bad_rows``: one line for each row that was left out: file, row number, reason.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame | None
    bad_rows: tuple[str, ...] = ()
