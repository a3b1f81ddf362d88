"""The Yelp open dataset: ``yelp_academic_dataset_review.json`` and ``yelp_academic_dataset_business.json``."""

from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.interactions.readers.json_lines import read_fields
from pipeline_lib.interactions.readers.raw_file import RawFile
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file
from pipeline_lib.interactions.readers.times import seconds_from_layout

REVIEWS = {"user_id": "user_id", "item_id": "business_id", "timestamp": "date", "rating": "stars"}
BUSINESSES = {"item_id": "business_id", "title": "name", "categories": "categories", "city": "city",
              "state": "state", "address": "address", "stars": "stars"}
TIME = "%Y-%m-%d %H:%M:%S"


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the reviews, and the businesses (the attribute ``title`` is the name) where their file is there."""
    path = find_file(folder, "*review.json")
    interactions = RawFile(path, read_fields(path, REVIEWS), REVIEWS, seconds_from_layout("timestamp", TIME),
                           "like 2020-01-02 03:04:05")
    item_path = find_optional_file(folder, "*business.json")
    if item_path is None:
        return interactions, None
    return interactions, RawFile(item_path, read_fields(item_path, BUSINESSES), BUSINESSES)
