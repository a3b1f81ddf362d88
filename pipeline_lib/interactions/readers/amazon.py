"""Amazon reviews, releases 2014, 2018 and 2023: JSON lines of reviews, and of products (``meta*``).

Source: He & McAuley 2016; Ni et al. 2019; Hou et al. 2024. Which release a file is from is told by its keys. The
metadata of 2014 is "loose" JSON: Python literals.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipeline_lib.interactions.readers.json_lines import first_keys, names_of, read_fields, read_records, text_of
from pipeline_lib.interactions.readers.raw_file import RawFile
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file
from pipeline_lib.interactions.readers.times import seconds_from_milliseconds

REVIEWS_2014 = {"user_id": "reviewerID", "item_id": "asin", "timestamp": "unixReviewTime", "rating": "overall"}
REVIEWS_2023 = {"user_id": "user_id", "item_id": "parent_asin", "timestamp": "timestamp", "rating": "rating"}
ITEMS = {"item_id": pl.String, "title": pl.String, "brand": pl.String, "categories": pl.List(pl.String),
         "description": pl.String, "features": pl.List(pl.String), "price": pl.String}


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the reviews, and the products where a ``meta*`` file is there."""
    path = find_file(folder, "[!m]*.json", "[!m]*.jsonl", "m[!e]*.json", "m[!e]*.jsonl")
    if "parent_asin" in first_keys(path):
        interactions = RawFile(path, read_fields(path, REVIEWS_2023), REVIEWS_2023,
                               seconds_from_milliseconds("timestamp"), "a number of milliseconds")
    else:
        interactions = RawFile(path, read_fields(path, REVIEWS_2014), REVIEWS_2014)
    item_path = find_optional_file(folder, "meta*.json", "meta*.jsonl")
    return interactions, None if item_path is None else _products(item_path)


def _products(path: Path) -> RawFile:
    keys = first_keys(path)
    key = next((name for name in ("parent_asin", "asin") if name in keys), None)
    if key is None:
        raise ValueError(f"{path}: column parent_asin or asin is missing; found {', '.join(keys)}")

    def convert(record: Mapping[str, Any]) -> dict[str, Any]:
        return {"item_id": text_of(record.get(key)),
                "title": text_of(record.get("title")),
                "brand": text_of(record.get("brand") or record.get("store")),
                "categories": names_of(record.get("categories") or record.get("category")),
                "description": text_of(record.get("description")),
                "features": names_of(record.get("features") or record.get("feature")),
                "price": text_of(record.get("price"))}

    return RawFile(path, read_records(path, convert, ITEMS), {"item_id": key})
