"""Identifiers and recommendations under the raw ids, as tables for serving and for other frameworks.

Shapes: N items, L levels, n test users.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from pipeline_lib import plain_files
from pipeline_lib.records import Rankings

FORMATS = (".csv", ".parquet")


def codes_table(item_ids: list[str], codes: np.ndarray) -> pa.Table:
    """``item_id, level_0 ... level_<L-1>``: N rows; levels that a shorter identifier lacks are empty.

    Args:
        codes: ``(N, L)`` int32, padded with -1.

    Raises:
        ValueError: if there are not as many codes as items.
    """
    if len(item_ids) != len(codes):
        raise ValueError(f"{len(codes)} rows of codes but {len(item_ids)} items; re-run quantize")
    levels = {f"level_{level}": pa.array(column, pa.int32(), mask=column < 0) for level, column in enumerate(codes.T)}
    return pa.table({"item_id": item_ids, **levels})


def recommendations_table(user_ids: list[str], item_ids: list[str], rankings: Rankings, k: int) -> pa.Table:
    """``user_id, rank, item_id, score``: the first ``k`` items of every list, best first, rank from 1.

    Raises:
        ValueError: if ``k`` is below 1 or longer than every list.
    """
    longest = int(rankings.items.lengths.max(initial=0))
    if not 1 <= k <= longest:
        raise ValueError(f"k is {k}, but lists have up to {longest} items; give 1 to {longest}, or raise decode.top_k")
    place = np.arange(len(rankings.items.values)) - np.repeat(rankings.items.offsets[:-1], rankings.items.lengths)
    kept = place < k
    users = rankings.users[rankings.items.row_of_value[kept]]
    return pa.table({"user_id": pa.array(user_ids).take(pa.array(users)),
                     "rank": pa.array(place[kept] + 1, pa.int32()),
                     "item_id": pa.array(item_ids).take(pa.array(rankings.items.values[kept])),
                     "score": pa.array(rankings.scores[kept], pa.float32())})


def check_format(path: Path) -> None:
    """Refuse a path that nothing can be written to.

    Raises:
        ValueError: for a folder, or another ending than those of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: ends in {path.suffix or 'nothing'}, expected {' or '.join(FORMATS)}")
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, expected a file to write")


def write_export(path: Path, table: pa.Table) -> None:
    """Write CSV or Parquet, by the ending of ``path``.

    Raises:
        ValueError: as `check_format`.
    """
    check_format(path)
    with plain_files.writing_file(path) as place:
        if path.suffix == ".csv":
            pa.csv.write_csv(table, place)
        else:
            pa.parquet.write_table(table, place, compression="zstd")
