"""Items that came after the last run, and the known users who took them: a table that no stage reads.

Its metadata holds a digest of the items and users of ingest that it was made for, so that it is refused beside others.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_lib.artifacts import ITEMS, catalogue_of
from pipeline_lib.columns import LIST, list_array, ragged_column
from pipeline_lib.plain_files import read_table, writing_file
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Catalogue

ADDED_ITEMS = pa.schema([*ITEMS, ("takers", LIST)])
INGEST = b"ingest"  # what the metadata calls the digest


def with_appended(path: Path, items: pa.Table, takers: Ragged, ingest: str) -> pa.Table:
    """New items behind those of ``path``: columns as items.parquet, and ``takers``, the users who took each.

    ``ingest``: a digest of the items and users that all of this is said of.
    """
    items = items.append_column("takers", list_array(takers))
    if path.exists():
        before = pq.read_table(path)
        numbers = np.arange(len(items), dtype=np.int32) + before["item"][-1].as_py() + 1
        items = items.set_column(0, "item", pa.array(numbers))
        items = pa.concat_tables([before, items])
    return items.replace_schema_metadata({INGEST: ingest})


def write_added_items(path: Path, items: pa.Table) -> None:
    with writing_file(path) as place:
        pq.write_table(items, place, compression="zstd")


def read_added_items(path: Path, ingest: str) -> tuple[Catalogue, Ragged]:
    """Items that came after ingest, and the users who took them; none where there is no such file.

    Raises:
        ValueError: if they were added to other items and users than those of the digest ``ingest``.
    """
    if not path.exists():
        return Catalogue([], [], []), Ragged.from_rows([])
    table = read_table(path, ADDED_ITEMS)
    if (table.schema.metadata or {}).get(INGEST) != ingest.encode():
        raise ValueError(f"{path}: items were added to another catalogue, or to other users, than ingest has now; run "
                         "`sidflow items clear` and add them again")
    return catalogue_and_takers(path, table)


def catalogue_and_takers(path: Path, table: pa.Table) -> tuple[Catalogue, Ragged]:
    """A table of `with_appended`, which ``path`` has or is to have, as `read_added_items` gives it."""
    return catalogue_of(table), ragged_column(table["takers"], path, "takers", None)
