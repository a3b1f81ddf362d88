"""Arrow columns made of arrays and ragged rows, and back, with checks of what they hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_lib.ragged import Ragged

LIST = pa.list_(pa.int32())
MOST_VALUES = 2**31 - 1  # in the lists of a column


def table_of(schema: pa.Schema, *columns: Any) -> pa.Table:
    """``columns``: arrays or `Ragged`, in the order of the schema."""
    arrays = [list_array(column) if isinstance(column, Ragged) else pa.array(column, kind.type)
              for column, kind in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


def list_array(rows: Ragged) -> pa.Array:
    """A column of lists.

    Raises:
        ValueError: for more values than it can hold.
    """
    if rows.offsets[-1] > MOST_VALUES:
        raise ValueError(f"{len(rows)} rows with {rows.offsets[-1]} values in all, but a column holds {MOST_VALUES} at most; "
                         "of sequences, lower sequences.max_items, or set sequences.train_targets=last")
    return pa.ListArray.from_arrays(pa.array(rows.offsets, pa.int32()), pa.array(rows.values, pa.int32()))


def ragged_column(column: pa.ChunkedArray, path: Path, name: str, limit: int | None) -> Ragged:
    """Rows of a column of lists.

    Args:
        path, name: of the file and the column, for errors.
        limit: values are items from 0 to below it; None where they are not items.

    Raises:
        ValueError: if there is no such item.
    """
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    offsets = array.offsets.to_numpy().astype(np.int64)
    rows = Ragged(array.values.to_numpy()[offsets[0] : offsets[-1]], offsets - offsets[0])
    if limit is not None:
        wrong = np.flatnonzero((rows.values < 0) | (rows.values >= limit))
        if len(wrong):
            raise ValueError(f"{path}: column {name}, row {rows.row_of_value[wrong[0]]}: item {rows.values[wrong[0]]} "
                             f"does not exist; there are {limit} items")
    return rows


def refuse(path: Path, wrong: np.ndarray, column: str, expected: str) -> None:
    """Raise ValueError with the first row that is ``wrong``, ``(n,)`` bool."""
    if wrong.any():
        raise ValueError(f"{path}: {column} of row {int(np.argmax(wrong))} is not {expected}")
