"""Training on train and validation, after another run has chosen the epochs: every stage on a tiny demo shop."""

import csv
import json
from pathlib import Path

import pytest

from pipeline_lib import artifacts
from tests.conftest import tiny, write_shop
from tests.stages.whole_run import run_stages

VARIANTS = {"tiger": ["paper=tiger"], "lightgcn": ["paper=lightgcn"]}


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, users=60, items=50)
    return folder


@pytest.mark.parametrize("name", VARIANTS)
def test_it_ranks_test_users_alone_and_says_that_it_was_refitted(raw, tmp_path, name):
    run_stages(tmp_path, tiny(*VARIANTS[name], "split.refit=true", "training.patience=1",
                              "embed.lightgcn.patience=1"), raw)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert "valid" not in metrics and metrics["test"]["all"]["users"] > 30
    assert ", refitted on validation | " in metrics["run"]["protocol"]
    assert sorted(path.name for path in (tmp_path / "data/predictions").iterdir()) == ["decode.json", "test.parquet"]
    split = artifacts.read_split(tmp_path / "data/split")
    trained = dict(zip(split.train_users.tolist(), (items.tolist() for items in split.train), strict=True))
    for user, history, seen in zip(split.test.users, split.test.histories, split.test.seen, strict=True):
        assert not seen or trained[user] == history.tolist()
    if name == "tiger":
        rows = list(csv.DictReader((tmp_path / "data/model/training.csv").open()))
        assert list(rows[0]) == ["epoch", "step", "learning_rate", "train_loss"] and len(rows) == 2
    else:
        meta = json.loads((tmp_path / "data/embed/lightgcn/meta.json").read_text())
        assert meta["best_epoch"] == len(meta["training"]) == 10
