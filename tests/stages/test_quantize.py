"""The quantize stage on files of its own making."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline_lib import artifacts, plain_files
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Embedding, Split
from stages.quantize import main

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_ITEMS = 60


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(NUM_ITEMS, 6)).astype(np.float32)
    vectors[1] = vectors[0]
    artifacts.write_embedding(tmp_path / "embed" / "text", Embedding(vectors, {"source": "text"}))
    users, names = np.arange(3, dtype=np.int32), [str(item) for item in range(NUM_ITEMS)]
    items = pa.table({"item": pa.array(range(NUM_ITEMS), pa.int32()), "item_id": names, "title": names, "text": names})
    plain_files.write_table(tmp_path / "items.parquet", items, artifacts.ITEMS)
    cases = Cases(users, Ragged.from_rows([[0], [1], [2]]), Ragged.from_rows([[3], [4], [5]]), users >= 0)
    artifacts.write_split(tmp_path / "split", Split(
        users, cases.histories, cases, cases, np.ones(NUM_ITEMS, np.int32), np.ones(NUM_ITEMS, bool),
        np.ones(NUM_ITEMS, np.int8)))
    return {"vectors": tmp_path / "embed" / "text", "cf_vectors": tmp_path / "embed" / "text",
            "split": tmp_path / "split", "items": tmp_path / "items.parquet", "tokens": tmp_path / "tokens",
            "metrics": tmp_path / "reports" / "tokenizer.json", "plots": tmp_path / "reports" / "code_usage.csv",
            "timing": tmp_path / "reports" / "timing.json", "params": tmp_path / "params.yaml"}


def write_params(path: Path, **changes) -> None:
    tree = yaml.safe_load((REPOSITORY / "conf" / "config.yaml").read_text(encoding="utf-8"))
    tree.pop("defaults")
    tree["tokenizer"] |= {"rqkmeans": {"levels": 2, "codebook_size": 8, "iterations": 5}, "kind": "rqkmeans", **changes}
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")


def test_the_stage_writes_codes_metrics_usage_and_timing(paths):
    write_params(paths["params"])
    main(**paths)
    codes = artifacts.read_identifiers(paths["tokens"])
    assert codes.level_sizes[:2] == (8, 8) and len(np.unique(codes.codes, axis=0)) == NUM_ITEMS
    metrics = plain_files.read_json(paths["metrics"])
    assert metrics["collision_rate"] == 0 and metrics["before_resolution"]["collision_rate"] > 0
    assert metrics["before_resolution"]["level_sizes"] == {"level_0": 8, "level_1": 8}
    assert metrics["reconstruction_error"] > 0
    with paths["plots"].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(int(row["count"]) for row in rows) == NUM_ITEMS * codes.codes.shape[1]
    assert plain_files.read_json(paths["timing"])["quantize"]["items"] == NUM_ITEMS


def test_poor_codes_stop_the_stage_after_the_report_is_written(paths):
    write_params(paths["params"], collisions="none", max_collision_rate=0.01)
    with pytest.raises(ValueError, match="tokenizer.max_collision_rate=0.01"):
        main(**paths)
    assert plain_files.read_json(paths["metrics"])["collision_rate"] > 0.01
    assert not paths["tokens"].exists()


@pytest.mark.parametrize("kind", ["rqvae", "rqkmeans", "opq"])
def test_a_collapsed_codebook_stops_the_stage_naming_what_to_change(paths, kind):
    vectors = np.repeat(np.eye(2, 6, dtype=np.float32), NUM_ITEMS // 2, axis=0)  # two different items, 30 times each
    artifacts.write_embedding(paths["vectors"], Embedding(vectors, {"source": "text"}))
    trained = {"epochs": 2, "hidden": [8], "latent": 4} if kind == "rqvae" else {}
    write_params(paths["params"], kind=kind, min_utilisation=0.5, **{kind: {"codebook_size": 8, **trained}})
    message = (r"% of the codes are used at level_\d, below tokenizer.min_utilisation=0.5; "
               "take a smaller codebook_size, train longer, or lower min_utilisation")
    with pytest.raises(ValueError, match=message) as caught:
        main(**paths)
    assert "\n" not in str(caught.value) and not paths["tokens"].exists()
    utilisation = plain_files.read_json(paths["metrics"])["before_resolution"]["utilisation"]
    assert min(utilisation.values()) <= 2 / 8


@pytest.mark.parametrize(("kind", "options"), [
    ("sequential", {"codebook_size": 8}), ("cid", {"clusters": 2, "cluster_size": 8})])
def test_codes_come_from_training_histories_alone(paths, kind, options):
    write_params(paths["params"], kind=kind, **{kind: options})
    rng, split = np.random.default_rng(0), artifacts.read_split(paths["split"])

    def histories():
        return Ragged.from_rows(rng.permutation(NUM_ITEMS).reshape(3, -1))

    def codes(split):
        artifacts.write_split(paths["split"], split)
        main(**paths)
        return artifacts.read_identifiers(paths["tokens"]).codes

    split = replace(split, train=histories())
    first = codes(split)
    held = [replace(split.test, histories=histories(), targets=histories()) for _ in range(2)]
    assert np.array_equal(codes(replace(split, valid=held[0], test=held[1])), first)
    assert not np.array_equal(codes(replace(split, train=histories())), first)


def test_as_a_program_it_fails_with_one_line(paths):
    write_params(paths["params"], rqkmeans={"levels": 2, "codebook_size": 64, "iterations": 5})
    options = [part for name, path in paths.items() for part in (f"--{name.replace('_', '-')}", str(path))]
    done = subprocess.run([sys.executable, "-m", "stages.quantize", *options], cwd=REPOSITORY, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() == ("error: params: tokenizer.rqkmeans.codebook_size=64, but there are only 60 items to "
                                   "learn it from; set it to 60 or less")
