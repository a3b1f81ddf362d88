import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline_lib import artifacts
from pipeline_lib.interactions.filtering import filter_interactions
from pipeline_lib.interactions.indexing import index_tables

SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}


def raw(*rows):
    return pl.DataFrame([(*row, None) for row in rows], schema=SCHEMA, orient="row")


@pytest.fixture
def items():
    return pl.DataFrame({"item_id": ["x", "y", "unbought"], "name": ["Red  Tent.", None, "Lamp"],
                         "brand": ["", "Acme", "B"], "tags": [["camp", "red"], None, []]})


def test_tables_worked_by_hand(items):
    log = raw(("u2", "y", 5), ("u1", "x", 9), ("u2", "x", 3), ("u1", "y", 1), ("u1", "lost", 9))
    interactions, catalogue, users = index_tables(log, items, title="name", text=["name", "tags", "brand"])
    assert users.to_pydict() == {"user": [0, 1], "user_id": ["u2", "u1"]}
    assert catalogue.to_pydict() == {
        "item": [0, 1, 2], "item_id": ["y", "x", "lost"], "title": ["", "Red Tent.", ""],
        "text": ["Acme", "Red Tent. camp, red", ""], "attr_name": ["", "Red  Tent.", ""],
        "attr_brand": ["Acme", "", ""], "attr_tags": [[], ["camp", "red"], []]}
    assert interactions.select(["user", "item", "timestamp"]).to_pydict() == {
        "user": [0, 0, 1, 1, 1], "item": [1, 0, 0, 1, 2], "timestamp": [3, 5, 1, 9, 9]}
    assert interactions["rating"].null_count == 5


def test_types_are_those_of_the_artifacts(items, tmp_path):
    tables = index_tables(raw(("a", "x", 1)), items)
    assert tables[0].schema == artifacts.INTERACTIONS and tables[2].schema == artifacts.USERS
    assert tables[1].schema.field("attr_tags").type == pa.list_(pa.string())
    paths = [tmp_path / f"{name}.parquet" for name in ("interactions", "items", "users")]
    artifacts.write_ingest(*paths, *tables)
    catalogue = artifacts.read_catalogue(paths[1])
    assert catalogue.attributes == {"name": ["Red  Tent."], "brand": [""], "tags": [["camp", "red"]]}
    assert artifacts.read_interactions(paths[0]).equals(tables[0])


def test_without_an_item_file_items_come_from_the_interactions():
    _, catalogue, _ = index_tables(raw(("a", "y", 1), ("a", "x", 0)), None, title="title")
    assert catalogue.to_pydict() == {"item": [0, 1], "item_id": ["y", "x"], "title": ["", ""], "text": ["", ""]}


def test_sorting_and_numbering_equal_a_plain_stable_sort():
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}", int(time)) for user, item, time
            in zip(rng.integers(20, size=400), rng.integers(50, size=400), rng.integers(9, size=400), strict=True)]
    interactions, catalogue, users = index_tables(raw(*rows), None)
    user_ids = list(dict.fromkeys(user for user, _, _ in rows))
    item_ids = list(dict.fromkeys(item for _, item, _ in rows))
    assert users["user_id"].to_pylist() == user_ids and catalogue["item_id"].to_pylist() == item_ids
    expected = sorted(((user_ids.index(user), item_ids.index(item), time) for user, item, time in rows),
                      key=lambda row: (row[0], row[2]))
    found = zip(*(interactions[name].to_pylist() for name in ("user", "item", "timestamp")), strict=True)
    assert list(found) == expected


def test_filtered_and_plain_ids_give_the_same_tables(items):
    log = raw(("rare", "x", 7), *[(f"u{row % 3}", "yx"[row % 2], 100 - row) for row in range(12)])
    coded = filter_interactions(log, user_core=2, item_core=2)
    assert coded["user_id"].to_physical().n_unique() <= coded["user_id"].to_physical().max()  # "rare" left a gap
    for plain, from_codes in zip(index_tables(log[1:], items), index_tables(coded, items), strict=True):
        assert plain.equals(from_codes)


def test_an_unknown_attribute_lists_those_there_are(items):
    with pytest.raises(ValueError, match="ingest.text names the attribute colour.*: name, brand, tags"):
        index_tables(raw(("a", "x", 1)), items, text=["name", "colour"])
    with pytest.raises(ValueError, match="ingest.title names the attribute title"):
        index_tables(raw(("a", "x", 1)), items, title="title")
    with pytest.raises(ValueError, match="there are no item attributes"):
        index_tables(raw(("a", "x", 1)), None, text=["name"])


def test_a_missing_timestamp_is_counted():
    with pytest.raises(ValueError, match="timestamp is missing in 1 of 2 interactions"):
        index_tables(raw(("a", "x", 1), ("a", "y", None)), None)
