from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline_lib import artifacts, plain_files
from pipeline_lib.interactions.indexing import index_tables
from stages import split

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(tmp_path):
    """Three users with the items a b c d, b c d and c a b; split with the given options."""
    log = pl.DataFrame([(user, item, time, None) for user, items in (("u", "abcd"), ("v", "bcd"), ("w", "cab"))
                        for time, item in enumerate(items)],
                       schema={"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float32},
                       orient="row")
    paths = [tmp_path / f"{name}.parquet" for name in ("interactions", "items", "users")]
    artifacts.write_ingest(*paths, *index_tables(log, None))

    def run(order="position", **options):
        tree = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())
        del tree["defaults"]
        tree["ingest"]["order"] = order
        tree["split"] |= options
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree))
        split.main(*paths, raw=tmp_path, out=tmp_path / "split", timing=tmp_path / "timing.json",
                   params=tmp_path / "params.yaml")
        return artifacts.read_split(tmp_path / "split")
    return run


def test_leave_one_out_is_written_as_the_artifact_says(run, tmp_path):
    written = run()
    assert [items.tolist() for items in written.train] == [[0, 1], [1], [2]]
    assert [items.tolist() for items in written.test.targets] == [[3], [3], [1]]
    assert [items.tolist() for items in written.test.histories] == [[0, 1, 2], [1, 2], [2, 0]]
    assert written.train_count.tolist() == [1, 2, 1, 0] and written.popularity_group.tolist() == [2, 1, 4, 5]
    assert plain_files.read_json(tmp_path / "timing.json")["split"]["interactions"] == 10


def test_a_split_file_in_the_raw_folder_is_used(run, tmp_path):
    (tmp_path / "mine.tsv").write_text("user_id\titem_id\tsplit\nu\ta\ttrain\nu\tb\tvalid\nu\td\ttest\nw\tc\ttrain\n")
    written = run(kind="given", file="mine.tsv", order="none")
    assert written.train_users.tolist() == [0, 2]
    assert [sorted(items.tolist()) for items in written.test.histories] == [[0, 1]]
    assert written.num_items == 4


def test_equal_runs_write_equal_bytes(run, tmp_path):
    written = []
    for _ in range(2):
        run(kind="by_user", test_users=0.34, valid_users=0.34)
        written.append({path.name: path.read_bytes() for path in (tmp_path / "split").iterdir()})
    assert written[0] == written[1] and len(written[0]) == 4


def test_a_kind_that_does_not_fit_the_data_writes_nothing(run, tmp_path):
    with pytest.raises(ValueError, match="use split.by=history"):
        run(kind="ratio")
    with pytest.raises(ValueError, match="set split.file"):
        run(kind="given")
    assert not (tmp_path / "split").exists()
