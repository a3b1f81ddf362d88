"""Hits on identifiers beside hits on items."""

import numpy as np
import pytest

from pipeline_lib.evaluation.code_level import (collision_share, distinct_identifiers, identifier_numbers,
                                                score_identifiers)
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.ragged import Ragged

CODES = np.array([[0, 1], [0, 1], [2, -1], [2, 2], [0, 1]], dtype=np.int32)  # items 0, 1 and 4 share one


def test_identifier_hits_worked_by_hand():
    lists, targets = Ragged.from_rows([[3, 0, 1, 2], [1, 4]]), Ragged.from_rows([[4], [2]])
    scores = score_identifiers(lists, targets, CODES, (1, 2, 3)).metrics
    assert scores["recall@1"].tolist() == [0, 0]
    assert scores["recall@2"].tolist() == [1, 0]  # item 0 stands at place 2 and has the target's codes
    assert scores["mrr"].tolist() == [0.5, 0]


def test_each_identifier_is_listed_once_at_its_first_place():
    numbers = identifier_numbers(CODES)
    lists = distinct_identifiers(Ragged.from_rows([[3, 0, 1, 2], [4, 1], []]), numbers)
    assert [row.tolist() for row in lists] == [[numbers[3], numbers[0], numbers[2]], [numbers[0]], []]


def test_without_collisions_identifier_hits_are_item_hits():
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.stack(np.unravel_index(np.arange(60), (8, 8)), axis=1)).astype(np.int32)
    lists = Ragged.from_rows(rng.permuted(np.tile(np.arange(60), (90, 1)), axis=1)[:, :20])
    targets = Ragged.from_rows(rng.integers(0, 60, size=(90, 3)))
    by_item = ranking_metrics(lists, targets, (5, 20))
    by_code = score_identifiers(lists, targets, codes, (5, 20)).metrics
    assert by_item["recall@20"].mean() > 0.1
    for name, values in by_item.items():
        np.testing.assert_array_equal(by_code[name], values)
    assert collision_share(targets, codes) == 0


def test_with_collisions_a_single_target_is_never_harder_to_hit_by_its_identifier():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 4, size=(60, 2), dtype=np.int32)
    lists = Ragged.from_rows(rng.permuted(np.tile(np.arange(60), (200, 1)), axis=1)[:, :20])
    targets = Ragged.from_rows(rng.integers(0, 60, size=(200, 1)))
    by_item = ranking_metrics(lists, targets, (5, 20))
    by_code = score_identifiers(lists, targets, codes, (5, 20)).metrics
    assert all((by_code[name] >= by_item[name]).all() for name in by_item)
    assert by_code["recall@5"].mean() > by_item["recall@5"].mean()


def test_the_share_of_colliding_targets_counts_targets_not_items():
    assert collision_share(Ragged.from_rows([[0, 2], [1], [3]]), CODES) == pytest.approx(2 / 4)
    assert collision_share(Ragged.from_rows([]), CODES) == 0
