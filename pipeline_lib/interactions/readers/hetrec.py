"""HetRec 2011 Last.fm: who tagged (or listened to) which artist. Source: Cantador et al. 2011, and the set's readme."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.delimited import Layout, read_columns, read_header
from pipeline_lib.interactions.readers.raw_file import FAULT, ROW, RawFile, require_columns
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file, read_content
from pipeline_lib.interactions.readers.times import seconds_from_milliseconds

LAYOUT = Layout(separator="\t")
TAGGED = {"user_id": "userID", "item_id": "artistID", "timestamp": "timestamp"}
LISTENED = {"user_id": "userID", "item_id": "artistID", "rating": "weight"}
TAGGINGS = "user_taggedartists-timestamps.dat"


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the first tagging of each user and artist, by time; without an order, the listening counts as ratings.

    Items are ``artists.dat``: ``title`` is the name, ``tags`` the artist's tags, the most frequent first.
    """
    listened = None if ordered else find_optional_file(folder, "user_artists.dat")
    if listened is not None:
        interactions = RawFile(listened, _columns(listened, LISTENED), LISTENED)
    else:
        path = find_file(folder, TAGGINGS)
        seconds = seconds_from_milliseconds("timestamp")
        interactions = RawFile(path, _first_taggings(_columns(path, TAGGED), seconds), TAGGED, seconds,
                               "a number of milliseconds")
    item_path = find_optional_file(folder, "artists.dat")
    return interactions, None if item_path is None else _artists(folder, item_path)


def _first_taggings(rows: pl.DataFrame, seconds: pl.Expr) -> pl.DataFrame:
    """Rows with a time, one a pair of user and artist, by time; then the rows that the checks will refuse."""
    usable = (seconds >= 0).fill_null(False)
    by_time = rows.filter(usable).sort(seconds, ROW)
    return pl.concat([by_time.unique(["user_id", "item_id"], keep="first", maintain_order=True), rows.filter(~usable)])


def _artists(folder: Path, path: Path) -> RawFile:
    artists = _columns(path, {"item_id": "id", "title": "name"})
    tag_path = find_optional_file(folder, "tags.dat")
    tagged_path = find_optional_file(folder, TAGGINGS) or find_optional_file(folder, "user_taggedartists.dat")
    if tag_path is not None and tagged_path is not None:
        tags = _tags(_columns(tagged_path, {"item_id": "artistID", "tag": "tagID"}),
                     _columns(tag_path, {"tag": "tagID", "value": "tagValue"}))
        artists = artists.join(tags, on="item_id", how="left", maintain_order="left")
    return RawFile(path, artists, {"item_id": "id"})


def _tags(taggings: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Each artist's tag names, by how often they were given; ties in the order of the file."""
    counts = taggings.group_by("item_id", "tag").agg(pl.len().alias("times"), pl.col(ROW).min().alias("first"))
    named = counts.join(names.drop(ROW, FAULT, strict=False).unique("tag", keep="first", maintain_order=True), on="tag")
    return named.sort("times", "first", descending=[True, False]).group_by("item_id").agg(pl.col("value").alias("tags"))


def _columns(path: Path, wanted: Mapping[str, str]) -> pl.DataFrame:
    content = read_content(path, otherwise="latin-1")
    header = read_header(path, content, LAYOUT)
    require_columns(path, header, list(wanted.values()))
    picked = {name: header.index(column) for name, column in wanted.items()}
    return read_columns(path, content, LAYOUT, len(header), picked)
