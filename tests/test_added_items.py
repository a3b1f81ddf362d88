import pyarrow as pa
import pytest

from pipeline_lib.added_items import catalogue_and_takers, read_added_items, with_appended, write_added_items
from pipeline_lib.ragged import Ragged


def new_items(*item_ids: str) -> pa.Table:
    """Numbered from 7, as those of a catalogue of 7 are read."""
    return pa.table({"item": pa.array(range(7, 7 + len(item_ids)), pa.int32()), "item_id": list(item_ids),
                     "title": [name.lower() for name in item_ids], "text": [""] * len(item_ids),
                     "attr_brand": ["b"] * len(item_ids)})


def test_items_of_two_files_stand_behind_each_other_with_numbers_of_their_own(tmp_path):
    path = tmp_path / "added" / "items.parquet"
    assert len(read_added_items(path, "0af")[0]) == 0
    write_added_items(path, with_appended(path, new_items("A", "B"), Ragged.from_rows([[3], []]), "0af"))
    table = with_appended(path, new_items("C"), Ragged.from_rows([[1, 2]]), "0af")
    assert table["item"].to_pylist() == [7, 8, 9]
    assert len(read_added_items(path, "0af")[0]) == 2  # not before it is written
    write_added_items(path, table)
    for catalogue, takers in (catalogue_and_takers(path, table), read_added_items(path, "0af")):
        assert catalogue.item_ids == ["A", "B", "C"] and catalogue.titles == ["a", "b", "c"]
        assert catalogue.attributes == {"brand": ["b", "b", "b"]}
        assert [row.tolist() for row in takers] == [[3], [], [1, 2]]


def test_items_of_another_catalogue_are_refused(tmp_path):
    path = tmp_path / "items.parquet"
    write_added_items(path, with_appended(path, new_items("A"), Ragged.from_rows([[]]), "0af"))
    with pytest.raises(ValueError, match="added to another catalogue, or to other users, .* run `sidflow items clear`"):
        read_added_items(path, "b1c")
