import pytest

from pipeline_lib.interactions.detection import SIGNS, detect_format


@pytest.mark.parametrize(("name", "expected"), [
    ("shop.inter.gz", "atomic"), ("u.data", "movielens"), ("ratings.dat.gz", "movielens"), ("behaviors.tsv", "mind"),
    ("user_taggedartists-timestamps.dat", "hetrec"), ("steam_reviews.json.gz", "steam"),
    ("yelp_academic_dataset_review.json", "yelp"), ("reviews_Beauty_5.json.gz", "amazon"),
    ("All_Beauty.jsonl", "amazon"),
    ("interactions.parquet", "table"), ("interactions.parquet.gz", "table"), ("log.csv.gz", "table"), ("shop.yaml", "demo"),
])
def test_a_format_is_told_from_file_names(tmp_path, name, expected):
    (tmp_path / name).touch()
    assert detect_format(tmp_path) == expected


def test_every_reader_has_a_sign():
    from pipeline_lib.interactions.reading import READERS

    assert {name for name, _ in SIGNS} == {*READERS, "demo"}


def test_interactions_of_ones_own_go_before_other_files_beside_them(tmp_path):
    for name in ("interactions.csv", "metadata.json", "behaviors.tsv"):
        (tmp_path / name).touch()
    assert detect_format(tmp_path) == "table"


def test_an_unknown_folder_lists_what_is_looked_for(tmp_path):
    with pytest.raises(ValueError,
                       match=r"no raw format recognised; expected one of shop.yaml, \*.inter, .* or give --format"):
        detect_format(tmp_path)
