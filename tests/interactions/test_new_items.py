from collections.abc import Mapping
from types import MappingProxyType

import polars as pl
import pytest

from pipeline_lib.interactions.new_items import read_new_items

KNOWN, USERS = ["a", "b"], ["ann", "bob", "cat"]


@pytest.fixture
def read(tmp_path):
    def read_files(items: str, taken: str | None = None, columns: Mapping[str, str] = MappingProxyType({})):
        (tmp_path / "items.csv").write_text(items)
        if taken is not None:
            (tmp_path / "taken.csv").write_text(taken)
        return read_new_items(tmp_path / "items.csv", taken and tmp_path / "taken.csv", KNOWN, USERS,
                              columns=columns, lists={"tags": "|"}, title="name", text=["name", "tags"],
                              attributes={"name": False, "brand": False, "tags": True, "genres": True})

    return read_files


def test_new_items_are_numbered_behind_the_known_ones_and_get_title_and_text(read):
    items, takers = read("item_id,name,tags\nc,Red pen,red|pen\nd,Ink,\n", "user_id,item_id\nbob,d\nann,d\nnobody,c\n")
    assert items["item"].to_pylist() == [2, 3] and items["item_id"].to_pylist() == ["c", "d"]
    assert items["title"].to_pylist() == ["Red pen", "Ink"]
    assert items["text"].to_pylist() == ["Red pen. red, pen", "Ink"]
    assert items["attr_tags"].to_pylist() == [["red", "pen"], []] and items["attr_brand"].to_pylist() == ["", ""]
    assert [list(row) for row in takers] == [[], [1, 0]]


def test_columns_are_named_as_in_the_raw_data(read):
    columns = {"user_id": "customer", "item_id": "sku", "timestamp": "bought"}
    items, takers = read("sku,name\nc,Red pen\n", "customer,sku\nbob,c\n", columns)
    assert items["item_id"].to_pylist() == ["c"] and [list(row) for row in takers] == [[1]]
    with pytest.raises(ValueError, match="items.csv: column sku is missing; found item_id, name; .* call it sku"):
        read("item_id,name\nc,Red pen\n", None, columns)


def test_attributes_are_of_the_types_of_the_catalogue_whatever_the_file_has(read, tmp_path):
    items, _ = read("item_id,genres\nc,crime\nd,\n")
    assert items["attr_genres"].to_pylist() == [["crime"], []]
    pl.DataFrame({"item_id": ["e"], "brand": [["x", "y"]], "tags": [["t"]]}).write_parquet(tmp_path / "items.parquet")
    typed, _ = read_new_items(tmp_path / "items.parquet", None, KNOWN, USERS, columns={}, lists={}, title=None, text=[],
                              attributes={"brand": False, "tags": True, "genres": True})
    assert typed["attr_brand"].to_pylist() == ["x, y"] and typed["attr_genres"].to_pylist() == [[]]
    assert typed.schema.field("attr_tags").type == items.schema.field("attr_tags").type


def test_who_took_an_item_twice_is_one_user(read):
    assert [list(row) for row in read("item_id,name\nc,Ink\n", "user_id,item_id\nbob,c\nann,c\nbob,c\n")[1]] == [[1, 0]]


def test_without_a_second_file_nobody_has_taken_them(read):
    assert [list(row) for row in read("item_id,name\nc,Red pen\n")[1]] == [[]]


@pytest.mark.parametrize(("items", "taken", "message"), [
    ("item_id,name\nb,Ink\n", None, "items.csv: item b is known already; new items need new ids"),
    ("item_id,name\nc,Ink\nc,Pen\n", None, "items.csv, row 3: item_id c is already in row 2"),
    ("item_id,colour\nc,red\n", None,
     "column colour is no attribute of the items of ingest; they have name, brand, tags, genres"),
    ("name\nInk\n", None, "items.csv: column item_id is missing; found name"),
    ("item_id,name\nc,Ink\n", "user_id,item_id\nann,z\n", "taken.csv: item z is none of the new items"),
    ("item_id,name\nc,Ink\n", "user_id,item_id\nann,\n", r"taken.csv, row 2: item_id is empty.* \(bad rows: 1\); correct the file"),
])
def test_what_cannot_be_added_is_refused_in_one_line(read, items, taken, message):
    with pytest.raises(ValueError, match=message) as caught:
        read(items, taken)
    assert "\n" not in str(caught.value)
