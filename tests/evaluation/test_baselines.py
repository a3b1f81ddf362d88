"""Popularity and random lists: by hand, laws, and plain loops."""

import numpy as np
import pytest

from pipeline_lib.evaluation.baselines import rank_at_random, rank_by_popularity
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.interactions.given_split import read_given_split
from pipeline_lib.interactions.splitting import split_interactions
from pipeline_lib.params import SplitParams
from pipeline_lib.ragged import Ragged
from tests.interactions.test_splitting import DATASETS, read_real


def random_histories(seed: int, num_users: int, num_items: int, max_length: int) -> Ragged:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, max_length + 1, size=num_users)
    return Ragged.from_rows([rng.integers(0, num_items, size=length) for length in lengths])


def rows_of(lists: Ragged) -> list[list[int]]:
    return [row.tolist() for row in lists]


def test_popularity_worked_by_hand():
    train_count = np.array([3, 9, 0, 9, 5], dtype=np.int32)  # order 1, 3, 4, 0, 2: ties by item index
    histories = Ragged.from_rows([[], [3, 1, 3], [0, 1, 2, 3, 4], [4]])
    assert rows_of(rank_by_popularity(train_count, histories, 3, filter_history=False)) == [[1, 3, 4]] * 4
    assert rows_of(rank_by_popularity(train_count, histories, 3, filter_history=True)) == \
        [[1, 3, 4], [4, 0, 2], [], [1, 3, 0]]


@pytest.mark.parametrize("length", [1, 7, 40])
def test_popularity_agrees_with_a_plain_loop(length):
    train_count = np.random.default_rng(0).integers(0, 12, size=35)
    histories = random_histories(1, 100, 35, 50)
    order = sorted(range(35), key=lambda item: (-train_count[item], item))
    plain = [[item for item in order if item not in set(history.tolist())][:length] for history in histories]
    assert rows_of(rank_by_popularity(train_count, histories, length, filter_history=True)) == plain


@pytest.mark.parametrize("filter_history", [True, False])
def test_random_lists_are_full_distinct_and_keep_to_the_rule(filter_history):
    histories = random_histories(2, 300, 40, 80)
    lists = rank_at_random(40, histories, 30, filter_history, np.random.default_rng(3))
    for history, items in zip(histories, lists, strict=True):
        allowed = set(range(40)) - (set(history.tolist()) if filter_history else set())
        assert len(items) == min(30, len(allowed)) == len(set(items.tolist()))
        assert set(items.tolist()) <= allowed


def test_random_lists_hold_every_item_equally_often_at_every_place():
    lists = rank_at_random(6, Ragged.from_rows([[2]] * 20_000), 3, True, np.random.default_rng(4))
    for place in range(3):
        counts = np.bincount(lists.padded(-1)[:, place], minlength=6)
        assert counts[2] == 0
        np.testing.assert_allclose(counts[[0, 1, 3, 4, 5]] / 20_000, 0.2, atol=0.015)  # 5 standard errors


def test_random_lists_depend_on_the_generator_alone():
    histories = random_histories(5, 50, 30, 10)
    first, again, other = (rows_of(rank_at_random(30, histories, 5, True, np.random.default_rng(seed)))
                           for seed in (1, 1, 2))
    assert first == again and first != other


@pytest.mark.parametrize(("name", "expected"), [("beauty", 0.0076), ("toys", 0.0078)])
def test_popularity_on_the_released_splits_is_as_measured_elsewhere(name, expected):
    log, items, users = read_real(name)
    given = read_given_split(DATASETS / name / "setrec_split.tsv.gz", users, items)
    split = split_interactions(log, len(items), SplitParams("given"), order="position", given=given, seed=0)
    lists = rank_by_popularity(split.train_count, split.test.histories, 10, filter_history=False)
    assert ranking_metrics(lists, split.test.targets, (10,))["recall@10"].mean() == pytest.approx(expected, abs=5e-5)


def test_popularity_on_lastfm_is_as_measured_elsewhere_where_validation_is_trained_on():
    log, items, _ = read_real("lastfm")
    split = split_interactions(log, len(items), SplitParams("leave_one_out", refit=True), order="position", seed=0)
    lists = rank_by_popularity(split.train_count, split.test.histories, 20, filter_history=True)
    measured = ranking_metrics(lists, split.test.targets, (10, 20))
    found = [measured[name].mean() for name in ("recall@10", "recall@20")]
    assert found == pytest.approx([0.0440, 0.0606], abs=5e-5)
