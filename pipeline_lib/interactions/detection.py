"""Which raw format a folder holds, told from file names."""

from pathlib import Path

SIGNS = (  # format, and names one of which must be there
    ("demo", ("shop.yaml",)),
    ("atomic", ("*.inter", "*.inter.gz")),
    ("table", tuple(f"interactions.{ending}" for ending in ("csv", "csv.gz", "tsv", "tsv.gz", "parquet", "parquet.gz"))),
    ("movielens", ("u.data", "u.data.gz", "ratings.dat", "ratings.dat.gz")),
    ("hetrec", ("user_taggedartists-timestamps.dat", "user_taggedartists-timestamps.dat.gz")),
    ("mind", ("behaviors.tsv", "behaviors.tsv.gz")),
    ("steam", ("steam_reviews.json", "steam_reviews.json.gz")),
    ("yelp", ("yelp_academic_dataset_review.json", "yelp_academic_dataset_review.json.gz")),
    ("amazon", ("*.json", "*.json.gz", "*.jsonl", "*.jsonl.gz")),
    ("table", ("*.csv", "*.csv.gz", "*.tsv", "*.tsv.gz", "*.parquet", "*.parquet.gz")),
)


def detect_format(folder: Path) -> str:
    """The first format whose sign is there.

    Raises:
        ValueError: if the folder holds none of them.
    """
    for name, patterns in SIGNS:
        if any(any(folder.glob(pattern)) for pattern in patterns):
            return name
    raise ValueError(f"{folder}: no raw format recognised; expected one of "
                     f"{', '.join(patterns[0] for _, patterns in SIGNS)}, or give --format")
