"""The tree of metrics.json."""

import dataclasses

import numpy as np
import pytest

from pipeline_lib.evaluation.metrics_tree import evaluate_predictions, metrics_tree
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Rankings, Split

RUN = {"protocol": "made up", "preset": {"paper": "none"}, "seed": 7}


@pytest.fixture
def split() -> Split:
    """Ten items, item 0 the most popular; three test users, whose histories hold item 0."""
    cases = Cases(np.array([4, 5, 6], np.int32), Ragged.from_rows([[0, 1], [0], [0, 2]]),
                  Ragged.from_rows([[1], [2], [9]]), np.array([True, True, False]))
    counts = np.arange(10, 0, -1).astype(np.int32)
    return Split(np.array([4, 5], np.int32), Ragged.from_rows([[0, 1], [0]]), cases, cases, counts, counts > 1,
                 np.repeat(np.arange(1, 6), 2).astype(np.int8))


def predictions_of(rows: list[list[int]]) -> dict[str, dict[str, Rankings]]:
    items = Ragged.from_rows(rows)
    rankings = Rankings(np.array([4, 5, 6], np.int32), items, np.zeros(len(items.values), np.float32))
    return {"test": {"all": rankings}, "valid": {"all": rankings}}


def tree_of(split: Split, rows: list[list[int]], **options) -> dict:
    options = {"ks": (1, 2), "filter_history": False, "generator": np.random.default_rng(0)} | options
    return metrics_tree(RUN, evaluate_predictions(split, predictions_of(rows), **options), {"invalid_share": 0.25})


def test_the_tree_has_the_keys_of_the_design(split):
    tree = tree_of(split, [[1, 3], [3, 2], [5, 6]], codes=np.arange(10, dtype=np.int32)[:, None])
    assert list(tree) == ["run", "test", "valid", "baseline", "decode", "collisions"]
    assert tree["run"] == RUN and tree["decode"] == {"invalid_share": 0.25}
    assert tree["test"]["all"] == {"users": 3, "recall@1": 0.333333, "hit_rate@1": 0.333333, "ndcg@1": 0.333333,
                                   "recall@2": 0.666667, "hit_rate@2": 0.666667, "ndcg@2": 0.543643, "mrr": 0.5}
    popularity = [f"popularity_{group}" for group in range(1, 6)]
    assert list(tree["test"]) == ["all", "seen", "unseen", *popularity, "code_level"]
    assert list(tree["valid"]) == list(tree["test"])[:-1]
    assert tree["test"]["popularity_3"] == {"users": 0}
    assert set(tree["baseline"]) == {"popularity", "random"}


def test_baselines_are_scored_on_the_same_users_under_the_same_history_rule(split):
    rows = [[1], [2], [3]]
    kept = tree_of(split, rows)["baseline"]["popularity"]  # everybody gets 0, 1
    assert (kept["users"], kept["recall@1"], kept["recall@2"]) == (3, 0, pytest.approx(1 / 3, abs=1e-6))
    filtered = tree_of(split, rows, filter_history=True)["baseline"]["popularity"]  # 2, 3 and 1, 2 and 1, 3
    assert (filtered["users"], filtered["recall@1"], filtered["recall@2"]) == (3, 0, pytest.approx(1 / 3, abs=1e-6))
    assert filtered["mrr"] == pytest.approx(1 / 6, abs=1e-6) and kept["mrr"] == pytest.approx(1 / 6, abs=1e-6)
    longer = {rule: tree_of(split, rows, ks=(9,), filter_history=rule)["baseline"]["popularity"]
              for rule in (True, False)}
    assert longer[False]["recall@9"] == pytest.approx(2 / 3, abs=1e-6)  # item 9 is the tenth
    assert longer[True]["recall@9"] == pytest.approx(2 / 3, abs=1e-6)   # now reached; item 1 is in its user's history


def test_random_lists_over_all_items_find_every_target_and_few_find_few(split):
    random = tree_of(split, [[1], [2], [3]], ks=(1, 10))["baseline"]["random"]
    assert random["recall@10"] == 1 and random["recall@1"] < 1


def test_code_level_and_collisions_follow_the_codes(split):
    codes = np.array([0, 1, 2, 2, 4, 5, 6, 7, 8, 9], np.int32)[:, None]  # items 2 and 3 collide
    tree = tree_of(split, [[1, 3], [3, 8], [5, 6]], codes=codes)
    assert tree["test"]["all"]["recall@1"] == pytest.approx(1 / 3, abs=1e-6)
    assert tree["test"]["code_level"]["recall@1"] == pytest.approx(2 / 3, abs=1e-6)
    assert tree["collisions"] == pytest.approx(1 / 3, abs=1e-6)


def test_identifiers_without_codes_leave_code_level_out(split):
    tree = tree_of(split, [[1, 3], [3, 2], [5, 6]])
    assert "code_level" not in tree["test"] and "collisions" not in tree


def test_scores_stay_at_hand_user_by_user(split):
    evaluation = evaluate_predictions(split, predictions_of([[1, 3], [3, 2], [5, 6]]), (1, 2), False,
                                      np.random.default_rng(0))
    method, popularity = evaluation.groups["test"]["all"], evaluation.baselines["popularity"]
    assert method.rows.tolist() == popularity.rows.tolist() == [0, 1, 2]
    assert method.metrics["recall@2"].tolist() == [1, 1, 0] and popularity.metrics["recall@2"].tolist() == [1, 0, 0]


def test_a_part_without_users_has_no_figures(split):
    nobody = Cases(np.empty(0, np.int32), Ragged.from_rows([]), Ragged.from_rows([]), np.empty(0, bool))
    predictions = {"test": predictions_of([[1], [2], [3]])["test"]}
    evaluation = evaluate_predictions(dataclasses.replace(split, valid=nobody), predictions, (1,), False,
                                      np.random.default_rng(0))
    tree = metrics_tree(RUN, evaluation, {})
    assert "valid" not in tree and tree["test"]["all"]["users"] == 3


def test_codes_of_another_catalogue_are_refused(split):
    with pytest.raises(ValueError, match="item codes have 4 rows but there are 10 items; re-run quantize"):
        tree_of(split, [[1], [2], [3]], codes=np.zeros((4, 2), np.int32))
