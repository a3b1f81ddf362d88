"""Groups of users and items, and the rows of the plots."""

import numpy as np
import pytest

from pipeline_lib.evaluation.groups import (
    history_rows, lists_of, popularity_rows, restrict_targets, score_groups, score_lists, share_in_history,
)
from pipeline_lib.evaluation.ranking import mean_metrics, ranking_metrics
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Rankings

WARM = np.array([True, True, True, True, False, False])
POPULARITY = np.array([1, 1, 2, 3, 5, 5], dtype=np.int8)


def cases_of(targets: list[list[int]], seen: list[bool], history_lengths: list[int] | None = None) -> Cases:
    histories = [[0] * length for length in history_lengths or [1] * len(targets)]
    return Cases(np.arange(10, 10 + len(targets), dtype=np.int32), Ragged.from_rows(histories),
                 Ragged.from_rows(targets), np.array(seen))


@pytest.fixture
def cases():
    return cases_of([[0, 4], [2], [5]], seen=[True, True, False])


@pytest.fixture
def lists():
    return {"all": Ragged.from_rows([[0, 1, 4], [1, 2, 3], [0, 1, 2]]),
            "warm": Ragged.from_rows([[0, 1, 2], [2, 1, 3], [0, 1, 2]]),
            "cold": Ragged.from_rows([[5, 4], [5, 4], [5, 4]])}


def test_groups_worked_by_hand(cases, lists):
    means = {name: scores.means() for name, scores in score_groups(lists, cases, WARM, POPULARITY, (1, 3)).items()}
    assert list(means) == ["all", "warm", "cold", "seen", "unseen", *(f"popularity_{group}" for group in range(1, 6))]
    recalls = (means["all"]["recall@1"], means["all"]["recall@3"])
    assert (means["all"]["users"], *recalls) == (3, 0.5 / 3, pytest.approx(2 / 3))
    assert (means["warm"]["users"], means["warm"]["recall@1"]) == (2, 1.0)  # targets 0 and 2, lists of warm items
    assert (means["cold"]["users"], means["cold"]["recall@1"], means["cold"]["mrr"]) == (2, 0.5, 0.75)
    assert (means["seen"]["users"], means["seen"]["recall@3"]) == (2, 1.0)
    assert (means["unseen"]["users"], means["unseen"]["recall@3"]) == (1, 0.0)
    assert (means["popularity_1"]["users"], means["popularity_1"]["recall@1"]) == (1, 1.0)
    assert (means["popularity_2"]["users"], means["popularity_2"]["mrr"]) == (1, 0.5)
    assert (means["popularity_5"]["users"], means["popularity_5"]["recall@3"]) == (2, 0.5)
    assert means["popularity_3"] == means["popularity_4"] == {"users": 0}


def test_without_candidate_sets_there_is_no_warm_or_cold_group(cases, lists):
    groups = score_groups({"all": lists["all"]}, cases, WARM, POPULARITY, (1,))
    assert "warm" not in groups and "cold" not in groups and "all" in groups


def test_group_scores_know_which_users_they_belong_to(cases, lists):
    groups = score_groups(lists, cases, WARM, POPULARITY, (1,))
    assert groups["cold"].rows.tolist() == [0, 2]
    assert groups["cold"].metrics["recall@1"].tolist() == [0.0, 1.0]
    assert groups["unseen"].rows.tolist() == [2]


def test_popularity_groups_split_the_hits_of_all():
    rng = np.random.default_rng(0)
    targets = [rng.choice(50, size=rng.integers(1, 5), replace=False).tolist() for _ in range(80)]
    ranked = Ragged.from_rows(rng.permuted(np.tile(np.arange(50), (80, 1)), axis=1)[:, :10])
    held = cases_of(targets, seen=[True] * 80)
    popularity = rng.integers(1, 6, size=50)
    groups = score_groups({"all": ranked}, held, np.ones(50, bool), popularity, (10,))
    hits_of_all = (groups["all"].metrics["recall@10"] * held.targets.lengths).sum()
    hits_of_groups = 0.0
    for group in range(1, 6):
        scores = groups[f"popularity_{group}"]
        in_group = [sum(popularity[item] == group for item in targets[row]) for row in scores.rows]
        assert min(in_group) > 0
        hits_of_groups += (scores.metrics["recall@10"] * in_group).sum()
    assert hits_of_all > 10 and hits_of_groups == pytest.approx(hits_of_all)


def test_seen_and_unseen_average_to_all():
    rng = np.random.default_rng(1)
    ranked = Ragged.from_rows(rng.permuted(np.tile(np.arange(20), (60, 1)), axis=1)[:, :5])
    held = cases_of(rng.integers(0, 20, size=(60, 1)).tolist(), seen=(rng.random(60) < 0.7).tolist())
    groups = score_groups({"all": ranked}, held, np.ones(20, bool), np.ones(20, int), (5,))
    means = {name: scores.means() for name, scores in groups.items()}
    both = sum(means[name]["users"] * means[name]["ndcg@5"] for name in ("seen", "unseen"))
    assert means["all"]["ndcg@5"] > 0 and both / 60 == pytest.approx(means["all"]["ndcg@5"])


def test_restricting_targets_to_all_items_changes_nothing():
    targets = Ragged.from_rows([[3, 1], [0], [2, 2]])
    rows, kept = restrict_targets(targets, np.ones(4, bool))
    assert rows.tolist() == [0, 1, 2] and [row.tolist() for row in kept] == [[3, 1], [0], [2, 2]]


def test_restricting_targets_drops_items_and_empty_rows():
    rows, kept = restrict_targets(Ragged.from_rows([[3, 1], [0], [2, 1]]), np.array([False, True, False, True]))
    assert rows.tolist() == [0, 2] and [row.tolist() for row in kept] == [[3, 1], [1]]
    rows, kept = restrict_targets(Ragged.from_rows([[3], [0]]), np.zeros(4, bool))
    assert rows.tolist() == [] and len(kept) == 0


def test_lists_are_brought_into_the_order_of_the_cases(cases):
    rankings = Rankings(np.array([12, 10, 11], np.int32), Ragged.from_rows([[5, 4], [0], [1, 2, 3]]),
                        np.zeros(6, np.float32))
    assert [row.tolist() for row in lists_of(rankings, cases, "test")] == [[0], [1, 2, 3], [5, 4]]


@pytest.mark.parametrize(("users", "message"), [
    ([10, 11], "user 12 has no list"),
    ([10, 11, 12, 13], "user 13 is not a user of the test split"),
    ([10, 11, 12, 11], "user 11 has several lists"),
])
def test_lists_of_other_users_are_refused(cases, users, message):
    items = Ragged.from_rows([[0]] * len(users))
    rankings = Rankings(np.array(users, np.int32), items, np.zeros(len(users), np.float32))
    with pytest.raises(ValueError, match=message + ".*re-run decode"):
        lists_of(rankings, cases, "test")


def test_a_restricted_list_with_a_foreign_item_is_refused(cases, lists):
    with pytest.raises(ValueError, match="candidates=cold holds item 3, which is not cold"):
        score_groups({**lists, "cold": Ragged.from_rows([[5, 3], [5], [4]])}, cases, WARM, POPULARITY, (1,))
    with pytest.raises(ValueError, match="candidates warm, expected all"):
        score_groups({"warm": lists["warm"]}, cases, WARM, POPULARITY, (1,))


def test_rows_of_the_popularity_plot_leave_out_groups_without_users(cases, lists):
    rows = popularity_rows(score_groups(lists, cases, WARM, POPULARITY, (3,)))
    assert [(row["group"], row["users"], row["recall@3"]) for row in rows] == [(1, 1, 1.0), (2, 1, 1.0), (5, 2, 0.5)]


def test_rows_of_the_history_plot_hold_every_user_once():
    lengths = [0, 1, 2, 3, 4, 9, 10, 49, 50, 400]
    targets, ranked = Ragged.from_rows([[1]] * 10), Ragged.from_rows([[1]] * 5 + [[2]] * 5)
    rows = history_rows(score_lists(ranked, targets, (1,)), np.array(lengths))
    assert [(row["history"], row["users"], row["recall@1"]) for row in rows] == \
        [(0, 1, 1.0), (1, 2, 1.0), (3, 2, 1.0), (5, 1, 0.0), (10, 1, 0.0), (20, 1, 0.0), (50, 2, 0.0)]
    assert mean_metrics(ranking_metrics(ranked, targets, (1,)))["recall@1"] == \
        sum(row["users"] * row["recall@1"] for row in rows) / 10


def test_targets_that_their_user_had_before_are_counted():
    histories = Ragged.from_rows([[1, 2, 9], [2], [], [0, 0]])
    targets = Ragged.from_rows([[9, 3], [1], [5], [0]])  # 9 and 0 of five; 1 is known to another user only
    cases = Cases(np.arange(4), histories, targets, np.ones(4, dtype=bool))
    assert share_in_history(cases) == pytest.approx(2 / 5)
    assert share_in_history(cases.take(np.array([], dtype=int))) == 0
