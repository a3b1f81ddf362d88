"""Ranking metrics: by hand, laws, scikit-learn, and a slow plain reference."""

import math

import numpy as np
import pytest
from sklearn.metrics import label_ranking_average_precision_score, ndcg_score, recall_score, top_k_accuracy_score

from pipeline_lib.evaluation.ranking import hit_matrix, mean_metrics, ranking_metrics
from pipeline_lib.ragged import Ragged

KS = (1, 5, 10, 20)


def random_lists(seed: int, num_users: int = 200, num_items: int = 60, length: int = 20,
                 max_targets: int = 1) -> tuple[np.ndarray, Ragged]:
    """Full permutations ``(n, N)``, whose first places are the list, and targets."""
    rng = np.random.default_rng(seed)
    order = rng.permuted(np.tile(np.arange(num_items), (num_users, 1)), axis=1)
    targets = [rng.choice(num_items, size=rng.integers(1, max_targets + 1), replace=False) for _ in range(num_users)]
    return order, Ragged.from_rows(targets)


def plain_metrics(ranked: list[int], targets: list[int], ks: tuple[int, ...]) -> dict[str, float]:
    wanted, values = set(targets), {"mrr": 0.0}
    for rank, item in enumerate(ranked[: max(ks)], start=1):
        if item in wanted:
            values["mrr"] = 1 / rank
            break
    for k in ks:
        ranks = [rank for rank, item in enumerate(ranked[:k], start=1) if item in wanted]
        ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(wanted), k) + 1))
        values[f"recall@{k}"] = len(ranks) / len(wanted)
        values[f"hit_rate@{k}"] = float(len(ranks) > 0)
        values[f"ndcg@{k}"] = sum(1 / math.log2(rank + 1) for rank in ranks) / ideal
    return values


def test_hits_worked_by_hand():
    ranked = Ragged.from_rows([[4, 2, 9], [], [7], [1, 2, 3]])
    targets = Ragged.from_rows([[9, 4, 9], [1], [7], [4]])
    assert hit_matrix(ranked, targets, 2).tolist() == [[True, False], [False, False], [True, False], [False, False]]
    assert hit_matrix(ranked, targets, 4).tolist()[0] == [True, False, True, False]


def test_metrics_worked_by_hand():
    ranked, targets = Ragged.from_rows([[5, 3, 8, 1], [2, 6]]), Ragged.from_rows([[3, 1, 7], [9]])
    metrics = ranking_metrics(ranked, targets, (1, 2, 4))
    assert metrics["recall@1"].tolist() == [0, 0]
    assert metrics["recall@2"].tolist() == [1 / 3, 0]
    assert metrics["recall@4"].tolist() == [2 / 3, 0]
    assert metrics["hit_rate@4"].tolist() == [1, 0]
    assert metrics["mrr"].tolist() == [1 / 2, 0]
    gain = 1 / math.log2(3)
    assert metrics["ndcg@2"] == pytest.approx([gain / (1 + gain), 0])
    assert metrics["ndcg@4"] == pytest.approx([(gain + 1 / math.log2(5)) / (1 + gain + 1 / 2), 0])


def test_a_repeated_target_counts_once():
    once = ranking_metrics(Ragged.from_rows([[1, 2, 3]]), Ragged.from_rows([[3, 8]]), (1, 3))
    twice = ranking_metrics(Ragged.from_rows([[1, 2, 3]]), Ragged.from_rows([[3, 8, 3, 3]]), (1, 3))
    assert {name: values.tolist() for name, values in once.items()} == \
        {name: values.tolist() for name, values in twice.items()}
    assert twice["recall@3"].tolist() == [0.5]


def test_with_one_target_ndcg_is_at_most_recall_which_is_hit_rate():
    order, targets = random_lists(0)
    metrics = ranking_metrics(Ragged.from_rows(order[:, :20]), targets, KS)
    for k in KS:
        assert (metrics[f"ndcg@{k}"] <= metrics[f"recall@{k}"]).all()
        np.testing.assert_array_equal(metrics[f"recall@{k}"], metrics[f"hit_rate@{k}"])
    np.testing.assert_array_equal(metrics["recall@1"], metrics["ndcg@1"])


def test_longer_lists_never_lower_recall_and_mrr_lies_between_hit_rates():
    order, targets = random_lists(1, max_targets=6)
    metrics = ranking_metrics(Ragged.from_rows(order[:, :20]), targets, KS)
    for shorter, longer in zip(KS, KS[1:]):
        assert (metrics[f"recall@{shorter}"] <= metrics[f"recall@{longer}"]).all()
        assert (metrics[f"hit_rate@{shorter}"] <= metrics[f"hit_rate@{longer}"]).all()
    assert (metrics["hit_rate@1"] <= metrics["mrr"]).all() and (metrics["mrr"] <= metrics["hit_rate@20"]).all()
    assert metrics["recall@20"].min() == 0 and metrics["recall@20"].max() == 1  # both ends were looked at


def test_targets_in_front_score_one_everywhere():
    targets = Ragged.from_rows([[3, 4], [5], [6, 7, 8]])
    metrics = ranking_metrics(targets, targets, (3, 10))
    assert all((values == 1).all() for values in metrics.values())


@pytest.mark.parametrize("max_targets", [1, 8])
def test_ndcg_and_recall_agree_with_scikit_learn(max_targets):
    order, targets = random_lists(2, max_targets=max_targets)
    metrics = ranking_metrics(Ragged.from_rows(order[:, :20]), targets, KS)
    relevant = np.zeros(order.shape, dtype=int)
    relevant[targets.row_of_value, targets.values] = 1
    scores = np.zeros(order.shape)
    np.put_along_axis(scores, order, np.arange(order.shape[1], 0, -1), axis=1)
    for k in KS:
        listed = np.zeros(order.shape, dtype=int)
        np.put_along_axis(listed, order[:, :k], 1, axis=1)
        assert metrics[f"ndcg@{k}"].mean() == pytest.approx(ndcg_score(relevant, scores, k=k), abs=1e-12)
        assert metrics[f"recall@{k}"].mean() == pytest.approx(recall_score(relevant, listed, average="samples"))


def test_hit_rate_and_mrr_agree_with_scikit_learn_for_one_target():
    order, targets = random_lists(3, num_items=25)
    metrics = ranking_metrics(Ragged.from_rows(order), targets, (1, 5, 25))
    scores = np.zeros(order.shape)
    np.put_along_axis(scores, order, np.arange(order.shape[1], 0, -1), axis=1)
    relevant = np.zeros(order.shape, dtype=int)
    relevant[np.arange(len(order)), targets.values] = 1
    for k in (1, 5):
        expected = top_k_accuracy_score(targets.values, scores, k=k, labels=np.arange(25))
        assert metrics[f"hit_rate@{k}"].mean() == pytest.approx(expected)
    assert metrics["mrr"].mean() == pytest.approx(label_ranking_average_precision_score(relevant, scores))


def test_metrics_agree_with_a_plain_reference_on_lists_of_all_lengths():
    rng = np.random.default_rng(4)
    ranked = [rng.permutation(30)[: rng.integers(0, 25)].tolist() for _ in range(150)]
    targets = [rng.integers(0, 30, size=rng.integers(1, 7)).tolist() for _ in range(150)]  # with repeats
    metrics = ranking_metrics(Ragged.from_rows(ranked), Ragged.from_rows(targets), KS)
    for row, (items, wanted) in enumerate(zip(ranked, targets)):
        found = {name: values[row] for name, values in metrics.items()}
        assert found == pytest.approx(plain_metrics(items, wanted, KS))


def test_means_count_the_users_and_say_nothing_else_without_any():
    metrics = ranking_metrics(Ragged.from_rows([[1], [2]]), Ragged.from_rows([[1], [3]]), (1,))
    assert mean_metrics(metrics) == {"users": 2, "recall@1": 0.5, "hit_rate@1": 0.5, "ndcg@1": 0.5, "mrr": 0.5}
    nobody = ranking_metrics(Ragged.from_rows([]), Ragged.from_rows([]), (1, 5))
    assert mean_metrics(nobody) == {"users": 0}


def test_users_without_targets_wrong_counts_and_wrong_ks_are_refused():
    lists = Ragged.from_rows([[1], [2]])
    with pytest.raises(ValueError, match="row 1 has no target"):
        ranking_metrics(lists, Ragged.from_rows([[1], []]), (1,))
    with pytest.raises(ValueError, match="2 ranked lists but 1 rows of targets"):
        ranking_metrics(lists, Ragged.from_rows([[1]]), (1,))
    for ks in ((), (0, 5)):
        with pytest.raises(ValueError, match="set evaluate.ks"):
            ranking_metrics(lists, lists, ks)
