"""Text tables for the terminal."""

import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Catalogue, Rankings
from pipeline_lib.reporting.recommendations import format_metrics, format_recommendations

CATALOGUE = Catalogue([f"B{item}" for item in range(9)],
                      ["Red comb", "", "Blue\n comb", "Soap", "Brush", "Oil", "Salt", "Tea " * 40, "Mirror"], [""] * 9)
USER_IDS = [f"u{user:02d}" for user in range(9)]
CASES = Cases(np.array([3, 8], np.int32), Ragged.from_rows([[0, 1, 2, 3, 4, 5], [6]]), Ragged.from_rows([[1], [0, 2]]),
              np.array([True, True]))
RANKINGS = Rankings(np.array([8, 3], np.int32), Ragged.from_rows([[2, 7, 6], [5, 1]]),
                    np.array([0.5, 0.25, 0.125, -1.5, -2.0], np.float32))


def metrics(users: int, value: float) -> dict[str, float]:
    return {"users": users, "recall@5": value, "hit_rate@5": value, "ndcg@5": value / 2,
            "recall@10": value * 2, "hit_rate@10": value * 2, "ndcg@10": value, "mrr": value / 4}


TREE = {"run": {"protocol": "demo | leave_one_out"}, "valid": {},
        "test": {"all": metrics(90, 0.2), "unseen": {"users": 0}, "popularity_1": metrics(70, 0.3)},
        "baseline": {"popularity": metrics(90, 0.1), "random": metrics(90, 0.01)}}


def test_a_user_with_one_target_worked_by_hand():
    lines = [line.split() for line in format_recommendations(CATALOGUE, USER_IDS, CASES, RANKINGS, [3], 2).splitlines()]
    assert lines == [["user", "u03,", "history", "of", "6,", "the", "latest:"],
                     ["B1"], ["Blue", "comb"], ["Soap"], ["Brush"], ["Oil"],  # no title: the item_id
                     ["target:"], ["B1"], ["recommended", "(*", "hit):"],
                     ["1", "Oil", "-1.5000"], ["*", "2", "B1", "-2.0000"]]


def test_users_come_in_the_order_asked_for_with_k_items_each():
    text = format_recommendations(CATALOGUE, USER_IDS, CASES, RANKINGS, [8, 3], 1)
    first, second = text.split("\n\n")
    assert first.startswith("user u08, history of 1:") and "2 targets:" in first and second.startswith("user u03")
    assert first.splitlines()[-1].split() == ["*", "1", "Blue", "comb", "0.5000"]
    assert "Tea" not in first


def test_long_titles_are_cut_so_that_scores_stay_in_one_column():
    lines = format_recommendations(CATALOGUE, USER_IDS, CASES, RANKINGS, [8], 3).splitlines()[-3:]
    assert len({len(line) for line in lines}) == 1 and "Tea Tea... " in lines[1]


def test_unknown_users_and_k_below_one_are_refused():
    with pytest.raises(ValueError, match="user u05 has no held-out .* to rank for; 2 users have, e.g. u03, u08"):
        format_recommendations(CATALOGUE, USER_IDS, CASES, RANKINGS, [5], 1)
    lists_of_one = Rankings(np.array([8], np.int32), Ragged.from_rows([[2]]), np.zeros(1, np.float32))
    with pytest.raises(ValueError, match=r"user u03 has no ranked list \(candidates=all\)"):
        format_recommendations(CATALOGUE, USER_IDS, CASES, lists_of_one, [3], 1)
    with pytest.raises(ValueError, match="k is 0"):
        format_recommendations(CATALOGUE, USER_IDS, CASES, RANKINGS, [3], 0)


def test_metrics_stand_beside_the_baselines():
    protocol, compared, _ = format_metrics(TREE).split("\n\n")
    assert protocol == "demo (synthetic) | leave_one_out"
    rows = [line.split() for line in compared.splitlines()]
    assert rows == [["test", "method", "popularity", "random"], ["users", "90", "90", "90"],
                    ["recall@5", "0.2000", "0.1000", "0.0100"], ["recall@10", "0.4000", "0.2000", "0.0200"],
                    ["ndcg@5", "0.1000", "0.0500", "0.0050"], ["ndcg@10", "0.2000", "0.1000", "0.0100"],
                    ["mrr", "0.0500", "0.0250", "0.0025"]]


def test_scored_candidates_have_one_table_beside_popularity():
    scoring = {"test": {"pairs": 12, "auc": 0.75}, "valid": {}, "baseline": {"popularity": {"pairs": 12, "auc": 0.5}}}
    protocol, table = format_metrics({"run": {"protocol": "p"}, "scoring": scoring}).split("\n\n")
    assert [line.split() for line in table.splitlines()] == [["test", "method", "popularity"], ["pairs", "12", "12"],
                                                             ["auc", "0.7500", "0.5000"]]


def test_groups_stand_below_and_empty_ones_have_no_figures():
    rows = [line.split() for line in format_metrics(TREE).split("\n\n")[2].splitlines()]
    assert rows == [["group", "users", "recall@10", "ndcg@10", "mrr"], ["all", "90", "0.4000", "0.2000", "0.0500"],
                    ["unseen", "0", "-", "-", "-"], ["popularity_1", "70", "0.6000", "0.3000", "0.0750"]]
