"""MovieLens as GroupLens ships it: 100K (``u.data``, ``u.item``) and 1M (``ratings.dat``, ``movies.dat``).

Source: Harper & Konstan 2015, "The MovieLens Datasets", and the README of each release. Titles are Latin-1.
"""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from pipeline_lib.interactions.readers.delimited import Layout, read_columns
from pipeline_lib.interactions.readers.raw_file import FAULT, ROW, RawFile
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file, read_content

RATINGS = {"user_id": 0, "item_id": 1, "rating": 2, "timestamp": 3}
FLAGS_FROM = 5  # in u.item; flag 0 is "unknown", which is no genre
GENRES = ("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
          "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western")
TITLE_AND_YEAR = r"^(.*?)\s*\((\d{4})\)\s*$"
FIELD = "\x1f"  # stands in for the two-character separator "::"


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the ratings, and the movies with title, year and genres where their file is there."""
    small = find_optional_file(folder, "u.data")
    path = small or find_file(folder, "u.data", "ratings.dat")
    item_path = find_optional_file(folder, "u.item" if small else "movies.dat")
    interactions = RawFile(path, _fields(path, "\t" if small else "::", 4, RATINGS))
    if item_path is None:
        return interactions, None
    rows = _movies_100k(item_path) if small else _movies_1m(item_path)
    title = pl.col("title").str.extract_groups(TITLE_AND_YEAR)
    rows = rows.with_columns(pl.coalesce(title.struct[0], "title").alias("title"), title.struct[1].alias("year"))
    order = [name for name in (ROW, FAULT, "item_id", "title", "year", "genres") if name in rows.columns]
    return interactions, RawFile(item_path, rows.select(order))


def _movies_100k(path: Path) -> pl.DataFrame:
    flags = {f"flag_{genre}": FLAGS_FROM + place for place, genre in enumerate(GENRES)}
    rows = _fields(path, "|", FLAGS_FROM + len(GENRES), {"item_id": 0, "title": 1, **flags})
    set_flags = [pl.when(pl.col(f"flag_{genre}") == "1").then(pl.lit(genre)) for genre in GENRES[1:]]
    return rows.with_columns(_known(pl.concat_list(set_flags).list.drop_nulls()))


def _movies_1m(path: Path) -> pl.DataFrame:
    rows = _fields(path, "::", 3, {"item_id": 0, "title": 1, "genres": 2})
    return rows.with_columns(_known(pl.col("genres").str.split("|")))


def _known(genres: pl.Expr) -> pl.Expr:
    return pl.when(genres.list.len() > 0).then(genres).alias("genres")


def _fields(path: Path, separator: str, width: int, picked: Mapping[str, int]) -> pl.DataFrame:
    content = read_content(path, otherwise="latin-1")
    if len(separator) > 1:
        content, separator = content.replace(separator.encode(), FIELD.encode()), FIELD
    return read_columns(path, content, Layout(separator, header_lines=0), width, picked)
