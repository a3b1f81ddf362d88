"""The evaluate stage on files of its own making."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_lib import artifacts
from pipeline_lib.evaluation.baselines import rank_by_popularity
from pipeline_lib.evaluation.ranking import mean_metrics, ranking_metrics
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Rankings, Split
from stages.evaluate import main

REPOSITORY = Path(__file__).resolve().parents[2]
NUM_USERS, NUM_ITEMS = 30, 40


def make_rankings(users: np.ndarray, allowed: np.ndarray, name: str, rng: np.random.Generator) -> Rankings:
    rows = [rng.permutation(allowed)[:30] for _ in users]
    scores = np.concatenate([np.sort(rng.random(len(row)))[::-1] for row in rows]).astype(np.float32)
    return Rankings(users, Ragged.from_rows(rows), scores, name)


@pytest.fixture
def paths(tmp_path) -> dict[str, Path]:
    rng = np.random.default_rng(0)
    users = np.arange(NUM_USERS, dtype=np.int32)
    cases = [Cases(users, Ragged.from_rows([rng.integers(0, NUM_ITEMS, size=rng.integers(1, 30)) for _ in users]),
                   Ragged.from_rows(rng.integers(0, NUM_ITEMS, size=(NUM_USERS, 2))), users % 3 > 0) for _ in range(2)]
    warm = np.arange(NUM_ITEMS) < 32
    split = Split(users, cases[0].histories, *cases, rng.integers(0, 9, NUM_ITEMS).astype(np.int32), warm,
                  (np.arange(NUM_ITEMS) % 5 + 1).astype(np.int8))
    artifacts.write_split(tmp_path / "split", split)
    sets = {"all": np.ones(NUM_ITEMS, bool), "warm": warm, "cold": ~warm}
    rankings = {part: [make_rankings(users, np.flatnonzero(allowed), name, rng) for name, allowed in sets.items()]
                for part in ("valid", "test")}
    artifacts.write_decoded(tmp_path / "predictions", rankings, {"invalid_share": 0.125})
    (tmp_path / "tokens").mkdir()
    (tmp_path / "model").mkdir()
    np.save(tmp_path / "tokens" / "item_codes.npy", np.arange(NUM_ITEMS, dtype=np.int32)[:, None])
    tree = yaml.safe_load((REPOSITORY / "conf" / "config.yaml").read_text(encoding="utf-8"))
    tree.pop("defaults")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    return {"predictions": tmp_path / "predictions", "split": tmp_path / "split", "tokens": tmp_path / "tokens",
            "model": tmp_path / "model", "metrics": tmp_path / "reports" / "metrics.json",
            "popularity_plot": tmp_path / "reports" / "plots" / "recall_by_popularity.csv",
            "history_plot": tmp_path / "reports" / "plots" / "recall_by_history.csv",
            "alignment_plot": tmp_path / "reports" / "plots" / "alignment.csv",
            "figures": tmp_path / "reports" / "figures",
            "timing": tmp_path / "reports" / "timing.json", "params": tmp_path / "params.yaml"}


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_stage_writes_metrics_plots_and_timing(paths):
    main(**paths)
    tree = json.loads(paths["metrics"].read_text(encoding="utf-8"))
    assert tree["run"]["protocol"] == "demo | leave_one_out, one target | full ranking | history filtered"
    assert tree["run"]["seed"] == 42 and set(tree["run"]["preset"]) == {"dataset", "paper", "scale", "ablation"}
    for part in ("test", "valid"):
        assert {"all", "warm", "cold", "seen", "unseen", "popularity_1", "popularity_5"} <= set(tree[part])
        assert tree[part]["all"]["users"] == NUM_USERS and tree[part]["seen"]["users"] == 20
        assert {f"recall@{k}" for k in (1, 5, 10, 20, 30)} <= set(tree[part]["all"])
    assert tree["test"]["cold"]["recall@10"] == 1  # all eight cold items fit into ten places
    assert tree["decode"] == {"invalid_share": 0.125} and tree["collisions"] == 0
    assert {name: metrics["users"] for name, metrics in tree["baseline"].items()} == {"popularity": 30, "random": 30}
    assert [row["group"] for row in read_rows(paths["popularity_plot"])] == ["1", "2", "3", "4", "5"]
    assert sum(int(row["users"]) for row in read_rows(paths["history_plot"])) == NUM_USERS
    assert all(0 <= float(row["recall@10"]) <= 1 for row in read_rows(paths["history_plot"]))
    assert json.loads(paths["timing"].read_text(encoding="utf-8"))["evaluate"]["users"] == 2 * NUM_USERS


def test_targets_that_filtering_refuses_are_counted_in_a_warning(paths, caplog):
    main(**paths)
    assert "of the test targets stand in their user's history" in caplog.text
    caplog.clear()
    text = paths["params"].read_text(encoding="utf-8")
    paths["params"].write_text(text.replace("filter_history: true", "filter_history: false"), encoding="utf-8")
    main(**paths)
    assert "history" not in caplog.text


def test_equal_inputs_give_equal_files(paths):
    contents = []
    for _ in range(2):
        main(**paths)
        contents.append([paths[name].read_bytes() for name in ("metrics", "popularity_plot", "history_plot")])
    assert contents[0] == contents[1]


def test_codes_that_training_changed_win(paths):
    main(**paths)
    assert json.loads(paths["metrics"].read_text(encoding="utf-8"))["collisions"] == 0
    np.save(paths["model"] / "item_codes.npy", np.zeros((NUM_ITEMS, 1), np.int32))
    main(**paths)
    tree = json.loads(paths["metrics"].read_text(encoding="utf-8"))
    assert tree["collisions"] == 1 and tree["test"]["code_level"]["recall@1"] == 1


def test_identifiers_without_codes_are_evaluated_too(paths):
    (paths["tokens"] / "item_codes.npy").unlink()
    main(**paths)
    tree = json.loads(paths["metrics"].read_text(encoding="utf-8"))
    assert "collisions" not in tree and "code_level" not in tree["test"] and tree["test"]["all"]["users"] == NUM_USERS


def test_missing_predictions_end_the_program_in_one_line_that_names_the_stage(paths):
    (paths["predictions"] / "test.parquet").unlink()
    options = [word for name, path in paths.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    done = subprocess.run([sys.executable, "-m", "stages.evaluate", *options], capture_output=True, text=True,
                          cwd=REPOSITORY, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "test.parquet: no such file; stage decode makes it" in done.stderr
    assert not paths["metrics"].exists()


def test_the_stage_does_not_import_torch():
    code = "import sys, stages.evaluate, pipeline_lib.reporting.recommendations; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


@pytest.mark.parametrize("rule", [True, False])
def test_the_popularity_beside_the_method_leaves_histories_out_by_its_rule(paths, rule):
    text = paths["params"].read_text()
    paths["params"].write_text(text.replace("filter_history: true", f"filter_history: {str(rule).lower()}"))
    main(**paths)
    split = artifacts.read_split(paths["split"])
    lists = rank_by_popularity(split.train_count, split.test.histories, 30, rule)
    expected = mean_metrics(ranking_metrics(lists, split.test.targets, (1, 5, 10, 20, 30)))
    found = json.loads(paths["metrics"].read_text())["baseline"]["popularity"]
    assert found == pytest.approx(expected, abs=1e-6)
