from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.columns import LIST, list_array, ragged_column, refuse, table_of
from pipeline_lib.ragged import Ragged

SCHEMA = pa.schema([("user", pa.int32()), ("items", LIST)])
ROWS = [[3, 1], [], [2, 0, 3]]


@pytest.fixture
def table() -> pa.Table:
    return table_of(SCHEMA, np.array([4, 5, 6]), Ragged.from_rows(ROWS))


def test_rows_come_back_from_a_column_of_lists(table):
    assert table.to_pydict() == {"user": [4, 5, 6], "items": ROWS}
    assert [row.tolist() for row in ragged_column(table["items"], Path("t.parquet"), "items", 4)] == ROWS


def test_rows_of_several_chunks_and_of_a_slice_begin_at_offset_0(table):
    """An Arrow slice keeps the offsets of what it is a slice of."""
    for column, rows in ((pa.concat_tables([table, table])["items"], ROWS + ROWS), (table["items"].slice(1), ROWS[1:])):
        found = ragged_column(column, Path("t.parquet"), "items", None)
        assert found.offsets[0] == 0 and [row.tolist() for row in found] == rows


def test_the_row_of_an_item_that_does_not_exist_is_named(table):
    with pytest.raises(ValueError, match="t.parquet: column items, row 0: item 3 does not exist; there are 3 items"):
        ragged_column(table["items"], Path("t.parquet"), "items", 3)


def test_the_first_wrong_row_is_named():
    refuse(Path("t.parquet"), np.array([False, False]), "user", "0 or more")
    with pytest.raises(ValueError, match="t.parquet: user of row 1 is not 0 or more"):
        refuse(Path("t.parquet"), np.array([False, True, True]), "user", "0 or more")


def test_more_values_than_a_column_can_hold_are_refused_in_one_line():
    rows = Ragged(np.zeros(0, np.int32), np.array([0, 2**31]))
    with pytest.raises(ValueError, match="^1 rows with 2147483648 values in all, but a column holds 2147483647 at most; .*lower"):
        list_array(rows)
