import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Rankings
from pipeline_lib.reporting.export import codes_table, recommendations_table, write_export

RANKINGS = Rankings(np.array([2, 0], np.int32), Ragged.from_rows([[1, 0, 2], [2]]), np.array([3, 2, 1, 9], np.float32))


def test_codes_stand_under_the_raw_ids_and_padding_is_empty():
    table = codes_table(["B1", "B2"], np.array([[3, 0], [5, -1]], np.int32))
    assert table.to_pylist() == [{"item_id": "B1", "level_0": 3, "level_1": 0},
                                 {"item_id": "B2", "level_0": 5, "level_1": None}]
    with pytest.raises(ValueError, match="2 rows of codes but 1 items"):
        codes_table(["B1"], np.zeros((2, 1), np.int32))


def test_each_user_has_the_first_k_items_in_order():
    rows = recommendations_table(["a", "b", "c"], ["x", "y", "z"], RANKINGS, 2).to_pylist()
    assert [tuple(row.values()) for row in rows] == [("c", 1, "y", 3.0), ("c", 2, "x", 2.0), ("a", 1, "z", 9.0)]
    with pytest.raises(ValueError, match="k is 4, but lists have up to 3 items"):
        recommendations_table(["a", "b", "c"], ["x", "y", "z"], RANKINGS, 4)


def test_both_formats_read_back_and_others_are_refused(tmp_path):
    table = pa.table({"item_id": ["a, b", "ü"], "level_0": pa.array([1, None], pa.int32())})
    for name, read in (("t.csv", pyarrow.csv.read_csv), ("t.parquet", pyarrow.parquet.read_table)):
        write_export(tmp_path / name, table)
        assert read(tmp_path / name).to_pylist() == table.to_pylist()
    with pytest.raises(ValueError, match=r"t\.json: ends in \.json, expected \.csv or \.parquet"):
        write_export(tmp_path / "t.json", table)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.parquet"]
