import logging
from pathlib import Path

import pytest
import yaml

from pipeline_lib import artifacts, plain_files
from stages import ingest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    def run(raw, **options):
        tree = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
        del tree["defaults"]
        tree["ingest"] |= options
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
        paths = [tmp_path / "ingest" / f"{name}.parquet" for name in ("interactions", "items", "users")]
        ingest.main(raw, *paths, timing=tmp_path / "timing.json", params=tmp_path / "params.yaml")
        return (artifacts.read_interactions(paths[0]), artifacts.read_catalogue(paths[1]),
                artifacts.read_user_ids(paths[2]))
    return run


@pytest.fixture
def small_table(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp,rating\n"
                                             "a,x,3,5\na,y,1,4\nb,x,2,1\n,x,9,5\nb,y,4,5\na,z,5,5\n")
    return folder


def test_a_csv_becomes_the_tables_worked_by_hand(run, small_table, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        log, catalogue, user_ids = run(small_table, format="table", min_rating=4, k_core={"user": 2, "item": 0},
                                       max_bad_rows=1)
    assert user_ids == ["a"] and catalogue.item_ids == ["x", "y", "z"]  # b keeps one good rating only
    assert log.to_pydict() == {"user": [0, 0, 0], "item": [1, 0, 2], "timestamp": [1, 3, 5], "rating": [4.0, 5.0, 5.0]}
    assert [record.message for record in caplog.records if "interactions.csv, row 5" in record.message]
    timing = plain_files.read_json(tmp_path / "timing.json")["ingest"]
    assert timing["interactions"] == 5 and timing["interactions_per_second"] > 0


def test_the_demo_shop_passes_through(run):
    log, catalogue, user_ids = run(ROOT / "data" / "raw" / "demo", text=["title", "brand", "categories", "description"])
    assert len(user_ids) == 2000 and 480 <= len(catalogue) <= 500
    assert all(catalogue.titles) and all(title in text for title, text in
                                         zip(catalogue.titles, catalogue.texts, strict=True))
    assert set(catalogue.attributes) == {"title", "brand", "categories", "description"}
    assert len(log) > 20_000


def test_equal_runs_write_equal_bytes(run, small_table, tmp_path):
    written = []
    for _ in range(2):
        run(small_table, format="table", max_bad_rows=1)
        written.append({path.name: path.read_bytes() for path in (tmp_path / "ingest").iterdir()})
    assert written[0] == written[1] and len(written[0]) == 3


def test_nothing_is_written_where_everything_is_filtered_out(run, small_table, tmp_path):
    with pytest.raises(ValueError, match="ingest.min_rating=9.0 leaves no interactions"):
        run(small_table, format="table", min_rating=9, max_bad_rows=1)
    assert not (tmp_path / "ingest").exists()
