"""Candidates that are scored: sampled ones, and those of impressions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib.interactions.candidates import (
    Impressions, draw_candidates, sample_candidates, shown_candidates, training_cases,
)
from pipeline_lib.interactions.impressions import read_impressions
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split

NUM_ITEMS = 12


def cases_of(users, histories, targets):
    return Cases(np.array(users, dtype=np.int32), Ragged.from_rows(histories), Ragged.from_rows(targets),
                 np.ones(len(users), dtype=bool))


def rows_of(drawn):
    return [tuple(map(int, row)) for row in zip(*drawn, strict=True)]


def shown_of(rows):
    """Impressions of rows ``(impression, user, item, clicked)``."""
    columns = np.array(rows).T
    return Impressions(*columns[:3], columns[3].astype(bool))


@pytest.fixture
def split():
    rng = np.random.default_rng(0)
    users = np.arange(0, 120, 3, dtype=np.int32)
    rows = [rng.permutation(NUM_ITEMS)[: rng.integers(4, 8)] for _ in users]
    train = Ragged.from_rows([row[:-2][: 1 + place % 4] for place, row in enumerate(rows)])
    return Split(users, train, cases_of(users, [row[:-2] for row in rows], [row[-2:-1] for row in rows]),
                 cases_of(users, [row[:-1] for row in rows], [row[-1:] for row in rows]),
                 np.ones(NUM_ITEMS, np.int32), np.ones(NUM_ITEMS, bool), np.ones(NUM_ITEMS, np.int8))


def test_a_case_with_few_free_items_gets_all_of_them_worked_by_hand():
    cases = cases_of([9, 4], [[0, 2, 0], [5, 4, 3, 2, 1]], [[5, 1], [0]])
    drawn = sample_candidates(cases, 6, 3, np.random.default_rng(0))
    assert rows_of(drawn) == [(4, 0, 1), (9, 1, 1), (9, 3, 0), (9, 4, 0), (9, 5, 1)]
    assert [values.dtype for values in drawn] == [np.int32, np.int32, np.int8]


def test_sampled_negatives_are_different_and_in_neither_history_nor_targets(split):
    users, items, labels = sample_candidates(split.test, NUM_ITEMS, 3, np.random.default_rng(0))
    assert (np.lexsort((items, users)) == np.arange(len(users))).all()
    for user, history, targets in zip(split.test.users, split.test.histories, split.test.targets, strict=True):
        own = items[users == user]
        wanted, unwanted = (own[labels[users == user] == label] for label in (1, 0))
        assert set(wanted) == set(targets)
        assert len(set(unwanted)) == len(unwanted) == 3 and not set(unwanted) & {*history, *targets}


def test_every_set_of_free_items_is_equally_likely():
    users = 6000
    cases = cases_of(range(users), [[1]] * users, [[3]] * users)
    _, items, labels = sample_candidates(cases, 6, 2, np.random.default_rng(0))
    pairs = items[labels == 0].reshape(users, 2)
    sets, counts = np.unique(pairs, axis=0, return_counts=True)
    assert sets.tolist() == [[0, 2], [0, 4], [0, 5], [2, 4], [2, 5], [4, 5]]
    assert np.abs(counts - users / 6).max() < 5 * np.sqrt(users / 6)


def test_the_last_training_item_is_the_target_and_nothing_held_out_is_read(split):
    cases = training_cases(split)
    expected = [(user, row[:-1].tolist(), [row[-1]]) for user, row in zip(split.train_users, split.train, strict=True)
                if len(row) > 1]
    assert [(user, history.tolist(), target.tolist()) for user, history, target in zip(
        cases.users, cases.histories, cases.targets, strict=True)] == expected
    blind = replace(split, valid=split.test, test=split.valid)
    train = [draw_candidates(which, "sampled", negatives=4, users=None, seed=0)["train"] for which in (split, blind)]
    assert rows_of(train[0]) == rows_of(train[1])


def test_equal_seeds_draw_equal_candidates_of_as_many_users_as_wanted(split):
    one, two, other = (draw_candidates(split, "sampled", negatives=2, users=7, seed=seed) for seed in (0, 0, 1))
    assert set(one) == {"train", "valid", "test"}
    for part in one:
        assert len(set(one[part][0])) == 7 and rows_of(one[part]) == rows_of(two[part]) != rows_of(other[part])


def test_shown_candidates_worked_by_hand():
    cases = cases_of([3, 5, 8], [[0, 1], [2], [4]], [[6], [7], [9]])
    shown = shown_of([(1, 3, 6, 1), (1, 3, 0, 0), (1, 3, 8, 1), (1, 3, 10, 0), (1, 3, 11, 0),  # 0 is in the history
                      (2, 3, 5, 0), (2, 3, 1, 1),  # another impression of the user
                      (3, 5, 7, 0), (3, 5, 4, 0), (4, 5, 3, 1),  # the target was shown, but not clicked
                      (5, 8, 9, 1), (5, 8, 4, 1),  # nothing unwanted beside it
                      (6, 7, 9, 1), (6, 7, 2, 0)])  # of another user
    assert rows_of(shown_candidates(cases, shown, NUM_ITEMS, 5, np.random.default_rng(0))) == [
        (3, 6, 1), (3, 10, 0), (3, 11, 0)]


def test_what_is_shown_twice_counts_once_and_unwanted_ones_are_capped():
    cases = cases_of([0, 1], [[0], [0]], [[1], [1]])
    shown = shown_of([(number, user, item, item == 1) for number in (0, 1) for user in (0, 1) for item in range(1, 9)])
    shown = replace(shown, impressions=shown.impressions * 2 + shown.users)
    users, items, labels = shown_candidates(cases, shown, NUM_ITEMS, 3, np.random.default_rng(0))
    assert users.tolist() == [0] * 4 + [1] * 4 and labels.tolist() == [1, 0, 0, 0] * 2
    assert len(set(items[:4])) == len(set(items[4:])) == 4 and set(items) <= set(range(1, 9))


def test_impressions_are_read_under_the_numbers_of_ingest(tmp_path):
    (tmp_path / "behaviors.tsv").write_text("1\tU1\t11/15/2019 12:05:58 PM\tN1 N2\tN4-1 N5-0 N-9-1\n"
                                            "2\tU2\tno time\tN1\tN1-0\n3\tU3\t11/15/2019 12:05:58 PM\t\tN4-1\n"
                                            "4\tU2\t11/11/2019 9:05:58 AM\t\tN-9-0 N4-1 \n")
    users = pa.table({"user": pa.array([0, 1], pa.int32()), "user_id": ["U2", "U1"]})
    items = pa.table({"item": pa.array([0, 1], pa.int32()), "item_id": ["N-9", "N4"]})
    shown = read_impressions(tmp_path, "mind", users, items)
    rows = zip(shown.impressions, shown.users, shown.items, shown.clicked, strict=True)
    assert list(rows) == [(1, 1, 1, True), (1, 1, 0, True), (4, 0, 0, False), (4, 0, 1, True)]
    assert read_impressions(tmp_path, "demo", users, items) is None


@pytest.mark.parametrize(("changes", "message"), [
    ({"source": "all"}, "candidates.source is all; known: sampled, impressions, or null"),
    ({"source": "impressions"}, "needs data with impressions"),
    ({"negatives": 0}, "negatives is 0 and users None"),
    ({"users": 0}, "negatives is 1 and users 0"),
    ({"source": "impressions", "shown": shown_of([(0, 0, 1, 0)])}, "gives 0 candidates for train"),
])
def test_impossible_options_are_refused(split, changes, message):
    options = {"source": "sampled", "negatives": 1, "users": None, "seed": 0} | changes
    with pytest.raises(ValueError, match=message):
        draw_candidates(split, options.pop("source"), **options)


@pytest.mark.parametrize("source", ["sampled", "impressions"])
def test_nothing_is_asked_of_a_validation_part_that_was_refitted_on(split, source):
    rows = [(user, user, item, item == target[0]) for user, target in zip(split.test.users, split.test.targets)
            for item in range(NUM_ITEMS)]
    train = [(1000 + user, user, item, item == last[-1]) for user, last in zip(split.train_users, split.train)
             for item in range(NUM_ITEMS)]
    refitted = replace(split, valid=split.valid.take(np.arange(0)))
    drawn, whole = (draw_candidates(part, source, negatives=3, users=None, shown=shown_of(rows + train), seed=0)
                    for part in (refitted, replace(split, valid=split.test)))
    assert rows_of(drawn["valid"]) == []
    assert rows_of(drawn["test"]) == rows_of(whole["test"]) != []
