import gzip

import polars as pl
import pyarrow as pa
import pytest

from pipeline_lib import artifacts
from pipeline_lib.interactions.given_split import places_in_time, read_given_split

USERS = pa.table({"user": [0, 1], "user_id": ["u42", "0042"]}).cast(artifacts.USERS)
ITEMS = pa.table({"item": [0, 1], "item_id": ["x", 'a "b"']})
TEXT = 'user_id\titem_id\tposition\tsplit\n0042\tx\t0\ttrain\n0042\ta "b"\t1\ttest\nu42\tx\t0\tvalid\n'


def write(folder, text, name="split.tsv"):
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["split.tsv", "split.tsv.gz"])
def test_ids_become_numbers_and_stay_text_before(tmp_path, name):
    table = read_given_split(write(tmp_path, TEXT, name), USERS, ITEMS)
    assert table.to_dict(as_series=False) == {"user": [1, 1, 0], "item": [0, 1, 0], "part": [0, 2, 1],
                                              "position": [0, 1, 0]}


def test_csv_parquet_and_typed_headers_read_the_same(tmp_path):
    rows = pl.DataFrame({"user_id": ["u42", "0042"], "item_id": ["x", 'a "b"'], "split": ["train", "test"]})
    rows.write_csv(tmp_path / "split.csv")
    rows.write_parquet(tmp_path / "split.parquet")
    typed = write(tmp_path, 'user_id:token\titem_id:token\tsplit:token\nu42\tx\ttrain\n0042\ta "b"\ttest\n')
    for path in (tmp_path / "split.csv", tmp_path / "split.parquet", typed):
        table = read_given_split(path, USERS, ITEMS)
        assert table.to_dict(as_series=False) == {"user": [0, 1], "item": [0, 1], "part": [0, 2]}


@pytest.mark.parametrize("old, new, message", [
    ("u42\tx", "nobody\tx", "user_id is 'nobody' in row 3 below the header, expected one of the 2 users"),
    ("u42\tx", "u42\tnothing", "item_id is 'nothing' in row 3"),
    ("\ttest", "\tholdout", "split is 'holdout' in row 2 .*expected one of train, valid, test"),
    ("\t1\t", "\tone\t", "position is 'one' in row 2"),
    ("\tsplit", "\tpart", "column split is missing; found user_id, item_id, position, part"),
    ("\tvalid", "\tvalid\tmore", "cannot be read as a table"),
])
def test_what_does_not_fit_is_named_with_its_row(tmp_path, old, new, message):
    path = write(tmp_path, TEXT.replace(old, new))
    with pytest.raises(ValueError, match=f"split.tsv: {message}"):
        read_given_split(path, USERS, ITEMS)


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="correct split.file"):
        read_given_split(tmp_path / "split.tsv", USERS, ITEMS)


def test_rows_of_a_pair_stand_for_its_interactions_in_the_order_of_the_parts():
    log = pa.table({"user": [0, 0, 0, 0, 1], "item": [2, 1, 2, 2, 2]})
    given = pl.DataFrame({"user": [0, 0, 1, 0], "item": [2, 2, 2, 1], "part": [2, 0, 0, 0]})
    assert places_in_time(log, 3, given).tolist() == [2, 0, 4, 1]


@pytest.mark.parametrize("item", [1, 0, 2])  # once in the log; never; in the last row, once
def test_a_pair_that_the_interactions_have_less_often_is_refused(item):
    log = pa.table({"user": [0, 0, 0], "item": [1, 1, 2]})
    given = pl.DataFrame({"user": [0, 0, 0], "item": [1, item, item], "part": [0, 0, 2]})
    with pytest.raises(ValueError, match=r"not among the interactions, or not as often.*add a column position"):
        places_in_time(log, 3, given)
