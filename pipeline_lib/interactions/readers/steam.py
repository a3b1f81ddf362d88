"""Steam reviews and games as the McAuley lab ships them: Python literals, one a line.

Source: Kang & McAuley 2018; Pathak et al. 2017. Hours played take the place of a rating; times are days.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from pipeline_lib.interactions.readers.json_lines import names_of, read_fields, read_records, text_of
from pipeline_lib.interactions.readers.raw_file import RawFile
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file
from pipeline_lib.interactions.readers.times import seconds_from_layout

REVIEWS = {"user_id": "username", "item_id": "product_id", "timestamp": "date", "rating": "hours"}
GAMES = {"item_id": pl.String, "title": pl.String, "genres": pl.List(pl.String), "tags": pl.List(pl.String),
         "specs": pl.List(pl.String), "developer": pl.String, "publisher": pl.String, "price": pl.String,
         "release_date": pl.String}


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the reviews, and the games where their file is there."""
    path = find_file(folder, "*reviews*.json")
    interactions = RawFile(path, read_fields(path, REVIEWS), REVIEWS, seconds_from_layout("timestamp", "%Y-%m-%d"),
                           "a day like 2017-12-17")
    item_path = find_optional_file(folder, "*games*.json")
    if item_path is None:
        return interactions, None
    return interactions, RawFile(item_path, read_records(item_path, _game, GAMES), {"item_id": "id"})


def _game(record: Mapping[str, Any]) -> dict[str, Any]:
    return {"item_id": text_of(record.get("id")),
            "title": text_of(record.get("title") or record.get("app_name")),
            **{name: names_of(record.get(name)) for name in ("genres", "tags", "specs")},
            **{name: text_of(record.get(name)) for name in ("developer", "publisher", "price", "release_date")}}
