"""What is wrong with raw files is said in one line: file, row, column, reason."""

import gzip
import json
from pathlib import Path

import polars as pl
import pytest

from pipeline_lib.interactions.reading import read_raw
from pipeline_lib.params import IngestParams

HEADER = b"user_id:token\titem_id:token\ttimestamp:float\trating:float\n"
GOOD = b"u\ta\t1\t5\nu\tb\t2\t\n"
ITEMS = b"item_id:token\ttitle:token_seq\na\tA\nb\tB\n"


def read(folder, format="atomic", **options):
    return read_raw(folder, IngestParams(path=str(folder), format=format, **options))


def refusal(folder, format="atomic", error=ValueError, **options):
    with pytest.raises(error) as caught:
        read(folder, format, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


ROWS = {
    "user_id is empty, expected an id": b"\ta\t3\t5",
    "item_id is empty, expected an id": b"u\t\t3\t5",
    "timestamp is empty, expected a number; or set ingest.order=none": b"u\ta\t\t5",
    "timestamp 'soon' is not a number": b"u\ta\tsoon\t5",
    "timestamp 'inf' is not a number": b"u\ta\tinf\t5",
    "timestamp -7 is negative, expected a time": b"u\ta\t-7\t5",
    "timestamp -0.5 is negative, expected a time": b"u\ta\t-0.5\t5",
    "rating 'nan' is not a finite number": b"u\ta\t3\tnan",
    "rating '1e99' is not a finite number": b"u\ta\t3\t1e99",
    "rating 'five' is not a finite number": b"u\ta\t3\tfive",
    "item c has no row in the item file": b"u\tc\t3\t5",
    "byte 0xff is not UTF-8; save the file as UTF-8": b"u\xff\ta\t3\t5",
    "3 columns, expected 4": b"u\ta\t3",
    "5 columns, expected 4": b"u\ta\t3\t5\tx",
}


@pytest.mark.parametrize("reason", ROWS)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_bad_row_is_named_with_file_row_and_reason(tmp_path, reason, ending):
    path, content = tmp_path / f"a.inter{ending}", HEADER + GOOD + ROWS[reason] + b"\n" + GOOD
    path.write_bytes(gzip.compress(content) if ending else content)
    (tmp_path / "a.item").write_bytes(ITEMS)
    assert refusal(tmp_path).startswith(f"{path}, row 4: {reason} (bad rows: 1, allowed by ingest.max_bad_rows: 0; ")
    raw = read(tmp_path, max_bad_rows=1)
    assert raw.bad_rows == (f"{path}, row 4: {reason}",)
    assert raw.interactions["timestamp"].to_list() == [1, 2, 1, 2]


def test_the_number_of_bad_rows_and_the_first_of_them_are_named(tmp_path):
    rows = list(ROWS.values())
    (tmp_path / "a.inter").write_bytes(HEADER + GOOD + b"\n".join(rows) + b"\n")
    (tmp_path / "a.item").write_bytes(ITEMS)
    message = refusal(tmp_path, max_bad_rows=3)
    assert f"row 4: {next(iter(ROWS))} (bad rows: {len(ROWS)}, allowed by ingest.max_bad_rows: 3" in message
    assert [line.split("row ")[1].split(":")[0] for line in read(tmp_path, max_bad_rows=99).bad_rows] == [
        str(row) for row in range(4, 4 + len(ROWS))]


def test_rows_after_a_blank_line_keep_their_line_numbers(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + b"\n" + GOOD + b"u\ta\tx\t\n")
    assert "row 5: timestamp 'x'" in refusal(tmp_path)


def test_rows_after_a_field_of_two_lines_keep_their_line_numbers(tmp_path):
    (tmp_path / "a.csv").write_text('user_id,item_id,timestamp\n"u\nv",a,1\nu,,2\n')
    assert "row 4: item_id is empty" in refusal(tmp_path, "table")


def test_an_empty_time_is_fine_where_there_is_no_order(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + GOOD + b"u\ta\t\t\n")
    assert read(tmp_path, order="none").interactions["timestamp"].to_list() == [1, 2, 4]


def test_a_duplicate_item_is_named_with_both_rows(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + GOOD)
    (tmp_path / "a.item").write_bytes(ITEMS + b"a\tAgain\n")
    assert f"{tmp_path / 'a.item'}, row 4: item_id a is already in row 2" in refusal(tmp_path)
    raw = read(tmp_path, max_bad_rows=1)
    assert raw.items.rows() == [("a", "A"), ("b", "B")]


def test_an_item_without_an_id_is_named(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + GOOD)
    (tmp_path / "a.item").write_bytes(ITEMS + b"\tNameless\n")
    assert f"{tmp_path / 'a.item'}, row 4: item_id is empty" in refusal(tmp_path)


@pytest.mark.parametrize(("order", "header", "missing"), [
    ("time", b"user_id:token\ttimestamp:float\n",
     "column item_id is missing; found user_id, timestamp; without times, a preset in conf/dataset needs ingest.order: none"),
    ("none", b"item_id:token\n", "column user_id is missing; found item_id"),
    ("position", b"user_id:token\titem_id:token\n", "column timestamp is missing; found user_id, item_id"),
    ("time", b"user_id:token\tuser_id:token\titem_id:token\ttimestamp:float\n",
     "column user_id stands in the header 2 times"),
    ("time", b"user_id\titem_id:token\n", "row 1: header cell 'user_id' has no known type"),
    ("time", b"user_id:text\titem_id:token\n", "row 1: header cell 'user_id:text' has no known type"),
    ("time", b"user\xff_id:token\titem_id:token\n", "row 1: byte 0xff is not UTF-8"),
])
def test_a_wrong_header_is_refused_however_many_rows_may_be_bad(tmp_path, order, header, missing):
    (tmp_path / "a.inter").write_bytes(header + b"u\ta\n")
    message = refusal(tmp_path, order=order, max_bad_rows=99)
    assert message.startswith(str(tmp_path / "a.inter"))
    assert missing in message


@pytest.mark.parametrize(("format", "name"), [
    ("atomic", "a.inter"), ("table", "a.csv"), ("movielens", "u.data"), ("amazon", "a.json"),
    ("yelp", "yelp_review.json"),
    ("mind", "behaviors.tsv"), ("steam", "steam_reviews.json"), ("hetrec", "user_taggedartists-timestamps.dat")])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_an_empty_file_is_refused_by_every_reader(tmp_path, format, name, ending):
    (tmp_path / f"{name}{ending}").write_bytes(gzip.compress(b"") if ending else b"")
    assert refusal(tmp_path, format, max_bad_rows=9).startswith(f"{tmp_path / name}{ending}: the file is empty")


@pytest.mark.parametrize("files", [{"a.inter": HEADER},
                                   {"a.inter": HEADER + GOOD, "a.item": ITEMS[:ITEMS.find(b"\n") + 1]}])
def test_a_file_with_only_a_header_is_refused(tmp_path, files):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    assert f"{tmp_path / list(files)[-1]}: no rows below the header" in refusal(tmp_path)


@pytest.mark.parametrize(("format", "name", "line"), [
    ("atomic", "a.inter.gz", GOOD), ("table", "a.csv.gz", b"u,a,1\n"),
    ("amazon", "a.json.gz", b'{"reviewerID": "u", "asin": "a", "overall": 1, "unixReviewTime": 1}\n')])
@pytest.mark.parametrize("damage", [lambda whole: whole[:-20], lambda whole: whole[:40],
                                    lambda whole: b"not gzip at all",
                                    lambda whole: whole[:60] + b"\0\0\0\0\0\0\0\0" + whole[68:]])
def test_a_truncated_or_damaged_gzip_file_is_refused(tmp_path, format, name, line, damage):
    (tmp_path / name).write_bytes(damage(gzip.compress(line * 500 + bytes(range(33, 126)) + b"\n")))
    assert f"{tmp_path / name}: cut off or damaged" in refusal(tmp_path, format, max_bad_rows=9)


def test_a_truncated_parquet_file_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user_id": ["u"], "item_id": ["a"], "timestamp": [1]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:-30])
    assert f"{path}: not a whole Parquet file" in refusal(tmp_path, "table")


def test_no_such_folder_is_refused(tmp_path):
    message = refusal(tmp_path / "none", error=FileNotFoundError)
    assert message == f"{tmp_path / 'none'}: no such folder; run `sidflow data add` with the folder of your raw files"


def test_no_matching_file_lists_what_is_there(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"x")
    message = refusal(tmp_path, error=FileNotFoundError)
    assert message == (f"{tmp_path}: no file named *.inter (or the same with .gz); found a.csv; "
                       "is ingest.format right?")


@pytest.mark.parametrize(("format", "names"), [("atomic", ["a.inter", "b.inter.gz"]),
                                               ("table", ["a.csv", "b.parquet"])])
def test_two_files_that_fit_are_refused(tmp_path, format, names):
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    assert f"{tmp_path}: 2 files match" in refusal(tmp_path, format)


@pytest.mark.parametrize(("options", "message"), [
    ({"format": "pickle"}, "ingest.format is pickle; known: atomic, table, .*demo"),
    ({"order": "alphabet"}, "ingest.order is alphabet; known: time, position, none"),
    ({"columns": {"user_id": "u"}}, "ingest.columns is for format table, but ingest.format is atomic"),
    ({"format": "table", "columns": {"user": "u"}}, "ingest.columns.user is not known; known: user_id, item_id"),
    ({"format": "table", "columns": {"user_id": "u", "item_id": "u"}}, "maps two names to one column"),
])
def test_impossible_parameters_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, **options)


def test_a_list_separator_for_an_unknown_attribute_is_refused(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + GOOD)
    (tmp_path / "a.item").write_bytes(ITEMS)
    assert "ingest.lists names the attribute tags; found title" in refusal(tmp_path, lists={"tags": ","})


def test_no_interaction_left_is_refused(tmp_path):
    (tmp_path / "a.inter").write_bytes(HEADER + b"u\ta\tx\t\n")
    assert "no interaction is left, 1 rows are bad" in refusal(tmp_path, max_bad_rows=1)


def test_a_mapped_column_that_is_missing_is_named_as_the_file_would_have_it(tmp_path):
    (tmp_path / "a.csv").write_text("client,sku,timestamp\n1,2,3\n")
    assert refusal(tmp_path, "table", columns={"user_id": "customer"}).startswith(
        f"{tmp_path / 'a.csv'}: column customer is missing; found client, sku, timestamp; name the file's own column in "
        "ingest.columns")
    assert "order: none" not in refusal(tmp_path, "table", columns={"user_id": "client"})  # there are times


@pytest.mark.parametrize("separator", [";", "|", "\t"])
def test_another_separator_than_the_ending_says_is_named(tmp_path, separator):
    (tmp_path / "a.csv").write_text(f"user_id{separator}item_id\n1{separator}2\n")
    assert f"seems to be several, separated by {separator!r}: write .csv with commas" in refusal(tmp_path, "table")


def test_a_bad_row_of_a_mapped_table_names_the_files_column(tmp_path):
    (tmp_path / "a.csv").write_text("customer,item_id,timestamp\nu,i,2020-01-02\n,i,2020-01-02\nu,i,5\n")
    lines = read(tmp_path, "table", columns={"user_id": "customer"}, max_bad_rows=2).bad_rows
    assert lines[0].endswith("row 3: customer is empty, expected an id")
    assert "row 4: timestamp '5' is not an ISO date or time" in lines[1]


def test_a_quote_left_open_is_refused_with_its_row(tmp_path):
    (tmp_path / "a.csv").write_text('user_id,item_id,timestamp\nu,i,1\nu,"i,2\nu,i,3\n')
    assert "row 3: not valid CSV" in refusal(tmp_path, "table", max_bad_rows=9)


@pytest.mark.parametrize(("column", "values", "expected"), [
    ("user_id", [1.0], "is Float64, expected text or integers"), ("rating", [[1]], "expected numbers or text"),
    ("timestamp", [True], "is Boolean, expected numbers, dates or text")])
def test_a_parquet_column_of_a_type_that_cannot_be_used_is_refused(tmp_path, column, values, expected):
    table = {"user_id": ["u"], "item_id": ["i"], "timestamp": [1], "rating": [1.0]} | {column: values}
    pl.DataFrame(table).write_parquet(tmp_path / "a.parquet")
    assert f"column {column} is " in (message := refusal(tmp_path, "table"))
    assert expected in message


def test_bad_rows_of_a_parquet_file_are_counted_from_one(tmp_path):
    table = pl.DataFrame({"user_id": ["u", None], "item_id": ["i", "i"], "timestamp": [1, 2]})
    table.write_parquet(tmp_path / "a.parquet")
    assert "row 2: user_id is empty" in refusal(tmp_path, "table")


def review(**changes):
    return json.dumps({"reviewerID": "u", "asin": "a", "overall": 1.0, "unixReviewTime": 5} | changes)


@pytest.mark.parametrize(("line", "reason"), [
    ("{broken", "not a JSON object"), ("[1]", "not a JSON object"), (b'{"asin": "\xff"}', "byte 0xff is not UTF-8"),
    (review(reviewerID=None), "reviewerID is empty"), (review(asin=""), "asin is empty"),
    (review(overall="NaN"), "overall 'NaN' is not a finite number"),
    (review(overall="five"), "overall 'five' is not a finite"),
    (review(unixReviewTime="now"), "unixReviewTime 'now' is not a number"), ('{"asin": "a"}', "reviewerID is empty"),
    (review(unixReviewTime=-5), "unixReviewTime -5 is negative")])
def test_a_bad_line_of_json_is_named(tmp_path, line, reason):
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "a.json").write_bytes(b"\n".join([review().encode(), line, review().encode()]) + b"\n")
    raw = read(tmp_path, "amazon", max_bad_rows=1)
    assert raw.interactions.height == 2
    assert raw.bad_rows[0].startswith(f"{tmp_path / 'a.json'}, row 2: {reason}")


@pytest.mark.parametrize(("format", "name", "message"), [
    ("amazon", "a.json", "column reviewerID is missing; found x"),
    ("yelp", "yelp_review.json", "column user_id is missing; found x"),
    ("steam", "steam_reviews.json", "column username is missing; found x")])
def test_json_of_another_kind_is_refused(tmp_path, format, name, message):
    (tmp_path / name).write_text('{"x": 1}\n')
    assert message in refusal(tmp_path, format, max_bad_rows=9)


def test_a_bad_line_of_product_metadata_is_named(tmp_path):
    (tmp_path / "a.json").write_text(review() + "\n")
    (tmp_path / "meta_a.json").write_text("{'asin': 'a'}\n{'asin':\n{'title': 'x'}\n")
    lines = read(tmp_path, "amazon", max_bad_rows=2).bad_rows
    assert [Path(line.split(",")[0]).name for line in lines] == ["meta_a.json", "meta_a.json"]
    assert [line.split(": ")[1] for line in lines] == ["not a JSON object", "asin is empty, expected an id"]


@pytest.mark.parametrize(("row", "reason"), [
    ("1\tU\t2019-11-11\t\tN1-1", "time '2019-11-11' is not like 11/11/2019 9:05:58 AM"),
    ("1\tU\t11/11/2019 9:05:58 AM\t\tN1 N2", "impressions are not like 'N1-0 N2-1'"),
    ("1\tU\t11/11/2019 9:05:58 AM\t\tN9-1", "item N9 has no row in the item file"),
    ("1\t\t11/11/2019 9:05:58 AM\t\tN1-1", "user_id is empty"), ("1\tU", "2 columns, expected 5")])
def test_a_bad_row_of_mind_is_named(tmp_path, row, reason):
    (tmp_path / "behaviors.tsv").write_text(f"1\tU\t11/11/2019 9:05:58 AM\tN1\tN1-1\n{row}\n")
    (tmp_path / "news.tsv").write_text("N1\tc\ts\tt\ta\tu\t[]\t[]\n")
    assert f"{tmp_path / 'behaviors.tsv'}, row 2: {reason}" in refusal(tmp_path, "mind")


def test_bad_rows_of_several_kinds_are_named_in_the_order_of_the_file(tmp_path):
    shown = ["N1-1 N1-0", "N9-1 N1-0", "N1-1 N1-0", "N1- N1-0", "N8-1"]
    (tmp_path / "behaviors.tsv").write_text("".join(f"1\tU\t11/11/2019 9:05:58 AM\tN1\t{row}\n" for row in shown))
    (tmp_path / "news.tsv").write_text("N1\tc\ts\tt\ta\tu\t[]\t[]\n")
    reasons = [line.split(", row ")[1][:14] for line in read(tmp_path, "mind", max_bad_rows=3).bad_rows]
    assert reasons == ["2: item N9 has", "4: impressions", "5: item N8 has"]


@pytest.mark.parametrize("last", ["N1- N1-0", "N1-1"])
def test_one_bad_row_among_good_ones_is_named_whatever_follows(tmp_path, last):
    shown = ["N1-1 N1-0", "N9-1 N1-0", "N1-1 N1-0", last]
    (tmp_path / "behaviors.tsv").write_text("".join(f"1\tU\t11/11/2019 9:05:58 AM\tN1\t{row}\n" for row in shown))
    (tmp_path / "news.tsv").write_text("N1\tc\ts\tt\ta\tu\t[]\t[]\n")
    assert "row 2: item N9 has no row" in read(tmp_path, "mind", max_bad_rows=2).bad_rows[0]


def test_a_movie_with_too_few_fields_is_named(tmp_path):
    (tmp_path / "ratings.dat").write_text("1::1::5::978300760\n")
    (tmp_path / "movies.dat").write_text("1::A (1990)::Drama\n2::B (1991)\n")
    assert f"{tmp_path / 'movies.dat'}, row 2: 2 columns, expected 3" in refusal(tmp_path, "movielens")
