"""Figures of scored candidates, by hand and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, roc_auc_score

from pipeline_lib.evaluation.scoring import area_under_curve, scoring_figures, scoring_tree, user_scoring_metrics


@pytest.fixture
def pairs():
    """Users of 2 to 12 candidates, scores with many ties, in no order."""
    rng = np.random.default_rng(0)
    users = rng.permutation(np.repeat(np.arange(40) * 3, rng.integers(2, 13, size=40)))
    return users, (rng.random(len(users)) < 0.4).astype(np.int8), rng.integers(0, 6, len(users)) / 5


def test_all_figures_worked_by_hand():
    users = np.array([7, 7, 7, 2, 2, 2])
    labels = np.array([0, 1, 0, 1, 0, 1])
    scores = np.array([0.9, 0.5, 0.1, 0.8, 0.4, 0.3])
    measured = user_scoring_metrics(users, labels, scores)
    assert measured["users"].tolist() == [2, 7]
    assert measured["auc"].tolist() == [0.5, 0.5]
    assert measured["mrr"] == pytest.approx([(1 + 2 / 3) / 2, 1 / 2])
    assert measured["ndcg@1"].tolist() == [1, 0]
    assert measured["ndcg@5"] == pytest.approx([(1 + 1 / 2) / (1 + 1 / np.log2(3)), 1 / np.log2(3)])
    figures = scoring_figures(users, labels, scores)
    assert figures["auc"] == pytest.approx((2 + 2 + 1) / 9)  # .5 also beats .4, of the other user
    assert (figures["pairs"], figures["users"], figures["group_auc"], figures["ndcg@1"]) == (6, 2, 0.5, 0.5)


def test_constant_scores_have_an_auc_of_one_half_and_the_ndcg_of_a_random_order():
    users, labels = np.repeat([0, 1], 4), np.array([1, 0, 0, 0, 0, 0, 1, 1])
    figures = scoring_figures(users, labels, np.full(8, 0.3))
    assert (figures["auc"], figures["group_auc"]) == (0.5, 0.5)
    assert figures["ndcg@1"] == pytest.approx((1 / 4 + 2 / 4) / 2) == figures["mrr"]


def test_figures_equal_those_of_scikit_learn(pairs):
    users, labels, scores = pairs
    assert area_under_curve(labels, scores) == pytest.approx(roc_auc_score(labels, scores))
    measured = user_scoring_metrics(users, labels, scores)
    members = [user for user in np.unique(users) if len(set(labels[users == user])) == 2]
    assert measured["users"].tolist() == members and 20 < len(members) < 40
    for place, user in enumerate(members):
        own, given = labels[users == user], scores[users == user]
        expected = {"auc": roc_auc_score(own, given), "ndcg@1": ndcg_score([own], [given], k=1),
                    "ndcg@5": ndcg_score([own], [given], k=5),
                    "mrr": label_ranking_average_precision_score([own], [given])}
        assert {name: measured[name][place] for name in expected} == pytest.approx(expected)


def test_neither_the_order_of_rows_nor_a_rising_transform_changes_a_figure(pairs):
    users, labels, scores = pairs
    order = np.random.default_rng(1).permutation(len(users))
    assert scoring_figures(users[order], labels[order], np.exp(scores[order])) == pytest.approx(
        scoring_figures(users, labels, scores))


def test_turning_scores_round_turns_the_auc_round(pairs):
    users, labels, scores = pairs
    one, other = scoring_figures(users, labels, scores), scoring_figures(users, labels, -scores)
    assert one["auc"] + other["auc"] == pytest.approx(1) == one["group_auc"] + other["group_auc"]


def test_a_score_of_each_user_alone_separates_nothing_within_users_but_something_over_all():
    users, labels = np.repeat([0, 1], 4), np.array([1, 0, 0, 0, 1, 1, 1, 0])
    figures = scoring_figures(users, labels, users.astype(float))
    assert figures["group_auc"] == 0.5 and figures["auc"] == pytest.approx((3 * 3 + 0.5 * (3 + 3)) / 16)


def test_perfect_scores_have_all_figures_at_one(pairs):
    users, labels, _ = pairs
    figures = scoring_figures(users, labels, labels * 1.0)
    assert [figures[name] for name in ("auc", "group_auc", "mrr", "ndcg@1", "ndcg@5")] == pytest.approx([1.0] * 5)


def test_the_tree_has_popularity_beside_each_part(pairs):
    users, labels, scores = pairs
    items = np.arange(len(users)) % 5
    popularity = np.array([3, 0, 9, 1, 1])
    tree = scoring_tree({"test": (users, items, labels, scores), "valid": (users, items, labels, -scores)}, popularity)
    assert tree["test"] == scoring_figures(users, labels, scores)
    assert tree["valid"]["auc"] == pytest.approx(1 - tree["test"]["auc"])
    assert tree["baseline"]["popularity"] == scoring_figures(users, labels, popularity[items])


@pytest.mark.parametrize(("labels", "scores", "message"), [
    ([1, 1], [0.1, 0.2], "none of 2 users has both"),
    ([1, 2], [0.1, 0.2], r"labels are \[1, 2\], expected 0 and 1"),
    ([1, 0], [0.1, np.nan], "score of pair 1 is not a finite number"),
    ([1, 0, 1], [0.1, 0.2], "2 users, 3 labels and 2 scores"),
])
def test_what_cannot_be_scored_is_refused(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        scoring_figures(np.array([0, 1]), np.array(labels), np.array(scores))


def test_candidates_of_one_label_have_no_auc():
    with pytest.raises(ValueError, match="2 of 2 candidates are wanted, so there is no AUC"):
        area_under_curve(np.array([1, 1]), np.array([0.1, 0.2]))
