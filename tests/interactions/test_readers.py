"""The project's own convention (atomic files) and plain tables."""

import gzip
import random
from datetime import UTC, date, datetime

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline_lib.interactions.readers import delimited
from pipeline_lib.interactions.readers.raw_file import FAULT, ROW
from pipeline_lib.interactions.reading import READERS, read_raw
from pipeline_lib.params import IngestParams

SCHEMA = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}
INTER = ("user_id:token\titem_id:token\tdevice:token\ttimestamp:float\trating:float\n"
         "0042\tB 1\tx\t0\t5\n42\t\"B2\ty\t1.5e9\t\n42\tB 1\t\t874965478.0\t3.5\n")
ITEM = ("item_id:token\ttitle:token_seq\tcategories:token_seq\tprice:float\n"
        "B 1\t5\" pipe, \"new\"\tGarden, , Pipes \t5.99\n\"B2\t\t\t\n")


def read(folder, format="atomic", **options):
    return read_raw(folder, IngestParams(path=str(folder), format=format, **options))


def write(folder, files):
    for name, content in files.items():
        content = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def test_atomic_files_worked_by_hand(tmp_path):
    write(tmp_path, {"shop.inter": INTER, "shop.item": ITEM, "README.md": "about"})
    raw = read(tmp_path, lists={"categories": ","})
    assert raw.interactions.schema == SCHEMA
    assert raw.interactions.rows() == [("0042", "B 1", 0, 5.0), ("42", '"B2', 1_500_000_000, None),
                                       ("42", "B 1", 874_965_478, 3.5)]
    assert raw.items.rows() == [("B 1", '5" pipe, "new"', ["Garden", "Pipes"], "5.99"), ('"B2', None, None, None)]
    assert raw.bad_rows == ()


def test_gzipped_and_plain_files_give_the_same(tmp_path):
    for place, ending in (("plain", ""), ("gzipped", ".gz")):
        (tmp_path / place).mkdir()
        write(tmp_path / place, {f"a.inter{ending}": INTER, f"b.item{ending}": ITEM})
    plain, gzipped = read(tmp_path / "plain"), read(tmp_path / "gzipped")
    assert_frame_equal(plain.interactions, gzipped.interactions)
    assert_frame_equal(plain.items, gzipped.items)


@pytest.mark.parametrize("change", [lambda text: text.replace("\n", "\r\n"), lambda text: text + "\n\n",
                                    lambda text: "\ufeff" + text, lambda text: text.rstrip("\n"),
                                    lambda text: text.replace("\n42", "\n\n42", 1)])
def test_line_ends_blank_lines_and_a_byte_order_mark_change_nothing(tmp_path, change):
    write(tmp_path, {"a.inter": INTER})
    expected = read(tmp_path).interactions
    write(tmp_path, {"a.inter": change(INTER)})
    assert_frame_equal(read(tmp_path).interactions, expected)


def test_without_an_item_file_there_are_no_items(tmp_path):
    write(tmp_path, {"a.inter": INTER})
    assert read(tmp_path).items is None


def test_without_an_order_the_row_number_stands_in_for_the_time(tmp_path):
    write(tmp_path, {"a.inter": "user_id:token\titem_id:token\nu\ta\nu\tb\n"})
    raw = read(tmp_path, order="none")
    assert raw.interactions.rows() == [("u", "a", 2, None), ("u", "b", 3, None)]


def test_columns_of_a_table_are_mapped(tmp_path):
    write(tmp_path, {"interactions.csv": 'when,customer,sku,stars\n5,"Doe, ""J""",007,4\n',
                     "items.csv": 'sku,title,year\n007,"two\nlines",1999\n'})
    columns = {"user_id": "customer", "item_id": "sku", "timestamp": "when", "rating": "stars"}
    raw = read(tmp_path, "table", columns=columns)
    assert raw.interactions.rows() == [('Doe, "J"', "007", 5, 4.0)]
    assert raw.items.rows(named=True) == [{"item_id": "007", "title": "two\nlines", "year": "1999"}]


def test_the_only_table_of_a_folder_is_the_interactions(tmp_path):
    write(tmp_path, {"orders.tsv.gz": "user_id\titem_id\ttimestamp\nu\ti\t1\n", "notes.txt": "x"})
    assert read(tmp_path, "table").interactions.rows() == [("u", "i", 1, None)]


@pytest.mark.parametrize(("written", "seconds"), [
    ("1577926984", 1577926984), ("1577926984.9", 1577926984), ("2020-01-02", 1577923200),
    ("2020-01-02 01:03:04", 1577926984), ("2020-01-02T01:03:04", 1577926984), ("2020-01-02T01:03:04.25Z", 1577926984),
    ("2020-01-02T03:03:04+02:00", 1577926984), ("2020-01-02 01:03", 1577926980),
    ("2020-01-02 01:03:04 UTC", 1577926984), ("2020-01-02T03:03+02:00", 1577926980),
])
def test_times_in_text_become_unix_seconds(tmp_path, written, seconds):
    write(tmp_path, {"interactions.csv": f"user_id,item_id,timestamp\nu,i,{written}\n"})
    assert read(tmp_path, "table").interactions["timestamp"].to_list() == [seconds]


@pytest.mark.parametrize("times", [
    ("2020-01-02T03:04:05.900Z", "2020-01-02T03:04:05.100Z", "2020-01-02T03:04:05.500Z"), ("100.9", "100.1", "100.5"),
    ("1.0", "0.0", "0.3")])
def test_interactions_within_a_second_keep_their_order_in_time(tmp_path, times):
    rows = [f"u,i{place},{time}\n" for place, time in enumerate(times)]
    write(tmp_path, {"interactions.csv": "user_id,item_id,timestamp\n" + "".join(rows)})
    assert read(tmp_path, "table").interactions["item_id"].to_list() == ["i1", "i2", "i0"]
    dates = [datetime(2020, 1, 2, 3, 4, 5, micro * 100_000) for micro in (9, 1, 5)]
    (tmp_path / "parquet").mkdir()
    pl.DataFrame({"user_id": "u", "item_id": ["i0", "i1", "i2"], "timestamp": dates}).write_parquet(
        tmp_path / "parquet/interactions.parquet")
    found = read(tmp_path / "parquet", "table").interactions
    assert found["item_id"].to_list() == ["i1", "i2", "i0"] and found["timestamp"].unique().to_list() == [1577934245]


def test_a_null_in_a_list_of_attributes_is_none_of_them(tmp_path):
    write(tmp_path, {"interactions.csv": "user_id,item_id,timestamp\nu,a,1\n"})
    pl.DataFrame({"item_id": ["a"], "tags": [["x", None]]}).write_parquet(tmp_path / "items.parquet")
    assert read(tmp_path, "table").items.rows() == [("a", ["x"])]


@pytest.mark.parametrize(("value", "seconds"), [
    (date(2020, 1, 2), 1577923200), (datetime(2020, 1, 2, 1, 3, 4), 1577926984),
    (datetime(2020, 1, 2, 1, 3, 4, tzinfo=UTC), 1577926984), (1577926984.9, 1577926984), ("2020-01-02", 1577923200),
])
def test_times_in_parquet_become_unix_seconds(tmp_path, value, seconds):
    pl.DataFrame({"user_id": [1], "item_id": ["i"], "timestamp": [value]}).write_parquet(tmp_path / "a.parquet")
    assert read(tmp_path, "table").interactions.rows() == [("1", "i", seconds, None)]


def test_parquet_attributes_become_text_or_lists_of_text(tmp_path):
    log = pl.DataFrame({"user_id": ["u"], "item_id": pl.Series(["i"], dtype=pl.Categorical), "timestamp": [1]})
    log.write_parquet(tmp_path / "interactions.parquet")
    items = pl.DataFrame({"item_id": ["i"], "tags": [["a", "b"]], "rating": [4.5], "timestamp": [date(2020, 1, 2)],
                          "new": [True], "codes": [[1, 2]]})
    items.write_parquet(tmp_path / "items.parquet")
    raw = read(tmp_path, "table")
    assert raw.items.rows() == [("i", ["a", "b"], "4.5", "2020-01-02", "true", ["1", "2"])]


@pytest.mark.parametrize(("ratings", "read_as"), [
    (pl.Series([None], dtype=pl.Null), None), (pl.Series([True]), 1.0), (pl.Series(["4"], dtype=pl.Categorical), 4.0)])
def test_ratings_and_times_of_other_types_that_say_a_number_are_taken(tmp_path, ratings, read_as):
    log = pl.DataFrame({"user_id": ["u"], "item_id": ["i"], "timestamp": pl.Series(["2020-01-02"], dtype=pl.Categorical),
                        "rating": ratings})
    log.write_parquet(tmp_path / "interactions.parquet")
    assert read(tmp_path, "table").interactions.rows() == [("u", "i", 1577923200, read_as)]


def test_csv_tsv_parquet_and_atomic_files_give_the_same(tmp_path):
    rng = random.Random(0)
    log = pl.DataFrame({"user_id": [f"{rng.randrange(50):03d}" for _ in range(500)],
                        "item_id": [f"i {rng.randrange(50)}" for _ in range(500)],
                        "timestamp": [rng.randrange(10**9) for _ in range(500)],
                        "rating": [rng.choice([None, 1.0, 2.5]) for _ in range(500)]}, schema=SCHEMA)
    for name in ("csv", "tsv", "parquet", "atomic"):
        (tmp_path / name).mkdir()
    log.write_csv(tmp_path / "csv" / "log.csv")
    log.write_csv(tmp_path / "tsv" / "log.tsv", separator="\t")
    log.write_parquet(tmp_path / "parquet" / "log.parquet")
    typed = log.rename({"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float",
                        "rating": "rating:float"})
    typed.write_csv(tmp_path / "atomic" / "log.inter", separator="\t")
    for name in ("csv", "tsv", "parquet", "atomic"):
        assert_frame_equal(read(tmp_path / name, "atomic" if name == "atomic" else "table").interactions, log)


@pytest.mark.parametrize("quoted", [False, True])
def test_whole_columns_and_row_by_row_give_the_same(tmp_path, quoted):
    rng = random.Random(1)
    layout = delimited.Layout("," if quoted else "\t", quoted)
    fields = ["a", "0042", " x ", "é", "", 'say "x"' if not quoted else '"say ""x"", twice"']
    lines = [layout.separator.join(rng.choice(fields) for _ in range(3)) for _ in range(300)]
    content = "\n".join(["h1,h2,h3", *lines]).encode()
    if not quoted:
        content = content.replace(b"h1,h2,h3", b"h1\th2\th3")
    arguments = (content, layout, 3, {"last": 2, "first": 0})
    fast, slow = delimited._all_at_once(*arguments), delimited._row_by_row(tmp_path, *arguments)
    assert fast is not None
    empty_is_empty = pl.col("last", "first").fill_null("")
    assert_frame_equal(fast.with_columns(empty_is_empty), slow.drop(FAULT).with_columns(empty_is_empty))
    assert fast[ROW].to_list() == list(range(2, 302))


@pytest.mark.parametrize("quote", ["", '"'])
@pytest.mark.parametrize("fields", [("a", "b"), ("a", "b", "c", "d"), ("a", "b", "c", "")])
@pytest.mark.parametrize("layout", [delimited.Layout("\t"), delimited.Layout(",", quoted=True)])
def test_a_row_with_too_few_or_too_many_columns_is_taken_apart_by_itself(layout, fields, quote):
    rows = [("h1", "h2", "h3"), ("a", "b", "c"), fields, ("a", "b", ""), ("a", "b", "c", "d")[: 6 - len(fields)]]
    content = "\n".join(layout.separator.join(f"{quote}{field}{quote}" if field else "" for field in row) for row in rows)
    columns = delimited.read_columns("f", content.encode() + b"\n", layout, 3, {"first": 0})
    assert columns[FAULT].to_list()[:2] == [None, f"{len(fields)} columns, expected 3"]
    assert columns["first"].null_count() == 2


def test_the_demo_needs_no_raw_files_beyond_its_recipe(tmp_path, monkeypatch):
    from pipeline_lib.interactions import demo_shop

    monkeypatch.setattr(demo_shop, "generate", lambda path: ("generated from", path))
    assert read(tmp_path, "demo") == ("generated from", tmp_path)


def test_every_reader_but_the_demo_names_the_file_it_misses(tmp_path):
    write(tmp_path, {"notes.txt": "x"})
    for name in READERS:
        with pytest.raises(FileNotFoundError, match="no file named .*; found notes.txt; is ingest.format right"):
            read(tmp_path, name)
