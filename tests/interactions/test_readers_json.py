"""Amazon, Yelp and Steam: JSON lines, strict and loose."""

import gzip
import json

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline_lib.interactions.readers import json_lines
from tests.interactions.both_forms import read


def write_lines(path, records, form=json.dumps):
    content = "".join(f"{form(record)}\n" for record in records).encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


REVIEW_2014 = {"reviewerID": "A2", "asin": "0042", "reviewerName": "J.\n\"Q\"", "helpful": [1, 2],
               "reviewText": "Good…", "overall": 5.0, "unixReviewTime": 1370000000, "reviewTime": "05 31, 2013"}


def test_amazon_2014_with_loose_metadata(tmp_path):
    write_lines(tmp_path / "reviews_Beauty_5.json.gz", [REVIEW_2014, REVIEW_2014 | {"asin": "B1", "overall": 1}])
    write_lines(tmp_path / "meta_Beauty.json.gz", [
        {"asin": "0042", "title": "It's \"new\"", "brand": "OPI", "price": 5.99, "description": "Red.",
         "categories": [["Beauty", "Nails"], ["Beauty", "Makeup"]], "related": {"bought_together": ["B1"]}},
        {"asin": "B1", "categories": [[]]}], form=repr)
    raw = read(tmp_path, "amazon")
    assert raw.interactions.rows() == [("A2", "0042", 1370000000, 5.0), ("A2", "B1", 1370000000, 1.0)]
    assert raw.items.rows(named=True) == [
        {"item_id": "0042", "title": "It's \"new\"", "brand": "OPI", "categories": ["Beauty", "Nails", "Makeup"],
         "description": "Red.", "features": None, "price": "5.99"},
        {"item_id": "B1", "title": None, "brand": None, "categories": None, "description": None, "features": None,
         "price": None}]


def test_amazon_2018(tmp_path):
    review = {"overall": 4.0, "verified": True, "reviewerID": "A1", "asin": "B1", "unixReviewTime": 1514764800,
              "style": {"Size:": " 5"}}
    write_lines(tmp_path / "Luxury.json", [review])
    write_lines(tmp_path / "meta_Luxury.json", [
        {"category": ["Beauty", "", "Skin "], "description": ["One.", "", "Two."], "title": "Cream", "brand": "B",
         "feature": ["soft"], "price": "$5", "asin": "B1"}])
    raw = read(tmp_path, "amazon")
    assert raw.interactions.rows() == [("A1", "B1", 1514764800, 4.0)]
    assert raw.items.row(0) == ("B1", "Cream", "B", ["Beauty", "Skin"], "One. Two.", ["soft"], "$5")


def test_amazon_2023_counts_milliseconds_and_knows_products_by_their_parent(tmp_path):
    write_lines(tmp_path / "All_Beauty.jsonl.gz", [
        {"rating": 5.0, "title": "t", "asin": "CHILD", "parent_asin": "PARENT", "user_id": "AE",
         "timestamp": 1588615855999, "images": []}])
    write_lines(tmp_path / "meta_All_Beauty.jsonl.gz", [
        {"main_category": "x", "title": "Brush", "store": "Yes", "price": None, "features": ["a", "b"],
         "description": [], "categories": [], "parent_asin": "PARENT"}])
    raw = read(tmp_path, "amazon")
    assert raw.interactions.rows() == [("AE", "PARENT", 1588615855, 5.0)]
    assert raw.items.row(0) == ("PARENT", "Brush", "Yes", None, None, ["a", "b"], None)


def test_yelp(tmp_path):
    write_lines(tmp_path / "yelp_academic_dataset_review.json", [
        {"review_id": "r", "user_id": "u", "business_id": "b", "stars": 3.0, "text": "ok",
         "date": "2018-07-07 22:09:11"}])
    write_lines(tmp_path / "yelp_academic_dataset_business.json", [
        {"business_id": "b", "name": "Sal's", "address": "1 Main St", "city": "Reno", "state": "NV", "stars": 4.5, "hours": None,
         "categories": "Pizza, Food", "attributes": {"WiFi": "u'no'"}},
        {"business_id": "c", "name": "X", "address": "", "city": "Reno", "state": None, "stars": 1,
         "categories": None}])
    raw = read(tmp_path, "yelp", lists={"categories": ", "})
    assert raw.interactions.rows() == [("u", "b", 1531001351, 3.0)]
    assert raw.items.select("item_id", "title", "categories", "city", "state", "address").rows() == [
        ("b", "Sal's", ["Pizza", "Food"], "Reno", "NV", "1 Main St"), ("c", "X", None, "Reno", None, None)]


def test_steam_lines_are_python_literals(tmp_path):
    write_lines(tmp_path / "steam_reviews.json.gz", [
        {"username": "Chaos Syren", "hours": 0.1, "products": 41, "product_id": "725280", "date": "2017-12-17",
         "text": "It's fun", "early_access": False},
        {"username": "x", "product_id": "1", "date": "2017-12-18"}], form=repr)
    write_lines(tmp_path / "steam_games.json.gz", [
        {"publisher": "K", "genres": ["Action"], "app_name": "Lost", "title": "Lost!", "id": "725280", "price": 4.99},
        {"app_name": "Other", "id": "1", "tags": ["Indie", "Free"], "price": "Free"}], form=repr)
    raw = read(tmp_path, "steam")
    assert raw.interactions["rating"].to_list() == [pytest.approx(0.1), None]
    assert raw.interactions.drop("rating").rows() == [("Chaos Syren", "725280", 1513468800), ("x", "1", 1513555200)]
    assert raw.items.select("item_id", "title", "genres", "tags", "publisher", "price").rows() == [
        ("725280", "Lost!", ["Action"], None, "K", "4.99"), ("1", "Other", None, ["Indie", "Free"], None, "Free")]


def test_pieces_of_a_file_give_what_the_whole_gives(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_lines(path, [{"id": f"{number:04d}", "stars": number / 2, "text": "é" * (number % 7)}
                       for number in range(200)])
    picked = {"item_id": "id", "rating": "stars"}
    whole = json_lines.read_fields(path, picked)
    monkeypatch.setattr(json_lines, "BYTES_AT_ONCE", 300)
    assert_frame_equal(json_lines.read_fields(path, picked), whole)
    assert whole["item_id"].to_list() == [f"{number:04d}" for number in range(200)]


def test_strict_lines_read_as_loose_ones(tmp_path):
    records = [{"id": f"x{number}", "stars": number / 2 + 0.25, "no": None} for number in range(50)]
    write_lines(tmp_path / "strict.json", records)
    write_lines(tmp_path / "loose.json", records, form=repr)
    picked = {"item_id": "id", "rating": "stars", "nothing": "no"}
    strict, loose = (json_lines.read_fields(tmp_path / name, picked) for name in ("strict.json", "loose.json"))
    assert_frame_equal(strict, loose)
    assert strict["rating"].cast(pl.Float64).to_list() == [number / 2 + 0.25 for number in range(50)]
