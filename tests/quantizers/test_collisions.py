import itertools
from collections import Counter

import numpy as np
import pytest

from pipeline_lib.quantizers.collisions import (
    bucket_of_item, collision_rate, place_in_bucket, resolve_collisions, shares_bucket, spread_full_buckets,
)

CODES = np.array([[1, 2], [0, 0], [1, 2], [1, 3], [1, 2]])


@pytest.fixture
def crowded():
    """``(300, 3)`` codes of 4 x 4 x 16 with collisions, and distances that the last codes follow from."""
    generator = np.random.default_rng(0)
    distances = generator.random((300, 16))
    prefixes = generator.permuted(np.tile(np.arange(16), 19))[:300]  # at most 19 of 300 under each of 16
    return np.column_stack([prefixes // 4, prefixes % 4, distances.argmin(axis=1)]), distances


def test_places_and_rate_worked_by_hand():
    assert place_in_bucket(CODES).tolist() == [0, 0, 1, 0, 2]
    assert shares_bucket(CODES).tolist() == [True, False, True, False, True]
    assert collision_rate(CODES) == 0.6
    assert collision_rate(np.zeros((0, 2), dtype=int)) == 0.0


def test_suffix_worked_by_hand():
    codes, sizes = resolve_collisions(CODES, (2, 4), "suffix")
    assert codes.tolist() == [[1, 2, 0], [0, 0, 0], [1, 2, 1], [1, 3, 0], [1, 2, 2]]
    assert sizes == (2, 4, 3) and codes.dtype == np.int32


def test_sinkhorn_worked_by_hand():
    codes = np.array([[0, 0], [0, 0], [0, 2], [1, 0]])
    distances = np.array([[0.0, 1.0, 0.5], [0.0, 5.0, 0.5], [9.0, 9.0, 0.0], [0.0, 9.0, 9.0]])
    resolved, sizes = resolve_collisions(codes, (2, 3), "sinkhorn", distances)
    assert resolved.tolist() == [[0, 1], [0, 0], [0, 2], [1, 0]] and sizes == (2, 3)  # code 2 is held: not on offer


def test_a_reassignment_is_the_cheapest_there_is():
    generator = np.random.default_rng(3)
    codes, distances = np.array([[0, 5], *[[0, 0]] * 4]), generator.random((5, 6))
    resolved, _ = resolve_collisions(codes, (1, 6), "sinkhorn", distances)
    cheapest = min(sum(distances[1 + row, code] for row, code in enumerate(choice))
                   for choice in itertools.permutations(range(5), 4))  # code 5 is held
    assert distances[np.arange(1, 5), resolved[1:, 1]].sum() == pytest.approx(cheapest)


def test_buckets_are_those_of_whole_rows():
    codes = np.random.default_rng(1).integers(-1, 5, size=(200, 3))
    bucket, rows = bucket_of_item(codes), [tuple(row) for row in codes.tolist()]
    assert len(set(bucket.tolist())) == len(set(rows)) == bucket.max() + 1
    assert len(set(zip(bucket.tolist(), rows))) == len(set(rows))


def test_places_equal_a_running_count():
    codes = np.random.default_rng(2).integers(4, size=(500, 3))
    seen, expected = Counter(), []
    for row in map(tuple, codes.tolist()):
        expected.append(seen[row])
        seen[row] += 1
    assert place_in_bucket(codes).tolist() == expected


def test_suffix_makes_all_identifiers_unique_and_keeps_the_codes(crowded):
    codes, sizes = resolve_collisions(crowded[0], (4, 4, 16), "suffix")
    assert collision_rate(codes) == 0 and np.array_equal(codes[:, :3], crowded[0])
    assert sizes[3] == Counter(map(tuple, crowded[0].tolist())).most_common(1)[0][1]


def test_a_suffix_is_added_even_where_nothing_collides():
    assert resolve_collisions(np.array([[0], [1]]), (2,), "suffix")[0].tolist() == [[0, 0], [1, 0]]


def test_sinkhorn_leaves_other_items_and_all_prefixes_alone(crowded):
    codes, distances = crowded
    resolved, sizes = resolve_collisions(codes, (4, 4, 16), "sinkhorn", distances)
    alone = ~shares_bucket(codes)
    assert np.array_equal(resolved[alone], codes[alone]) and np.array_equal(resolved[:, :2], codes[:, :2])
    assert sizes == (4, 4, 16) and resolved.max() < 16


def test_sinkhorn_separates_whatever_the_last_level_has_codewords_for(crowded):
    codes, distances = crowded
    resolved, _ = resolve_collisions(codes, (4, 4, 16), "sinkhorn", distances)
    for prefix in {tuple(row) for row in codes[:, :2].tolist()}:
        under = (codes[:, :2] == prefix).all(axis=1)
        assert len(set(resolved[under, 2].tolist())) == min(under.sum(), 16)


def test_items_that_are_equal_in_every_way_are_separated_too():
    codes, distances = np.zeros((5, 2), dtype=int), np.tile([0.0, 1.0, 2.0, 3.0, 4.0], (5, 1))
    resolved, _ = resolve_collisions(codes, (1, 5), "sinkhorn", distances)
    assert sorted(resolved[:, 1].tolist()) == [0, 1, 2, 3, 4]


def test_what_cannot_be_separated_is_logged(caplog):
    resolved, _ = resolve_collisions(np.zeros((4, 1), dtype=int), (3,), "sinkhorn", np.tile([0.0, 1.0, 2.0], (4, 1)))
    assert len(set(resolved[:, 0].tolist())) == 3
    assert "2 items still share their identifier" in caplog.text


def test_none_changes_nothing():
    codes, sizes = resolve_collisions(CODES, (2, 4), "none")
    assert np.array_equal(codes, CODES) and sizes == (2, 4)


def test_refusals_say_what_to_do():
    with pytest.raises(ValueError, match="collisions is prefix; known: suffix, sinkhorn, none"):
        resolve_collisions(CODES, (2, 4), "prefix")
    with pytest.raises(ValueError, match="set tokenizer.collisions=suffix"):
        resolve_collisions(CODES, (2, 4), "sinkhorn")
    with pytest.raises(ValueError, match="item 1 has fewer"):
        resolve_collisions(np.array([[0, 1], [0, -1]]), (1, 2), "suffix")


def test_a_full_bucket_is_spread_as_worked_by_hand():
    codes = np.array([[0, 0], [0, 0], [0, 0], [0, 2], [0, 0], [1, 0]])
    distances = np.array([[0, 5, 1], [0, 5, 1], [0, 5, 1], [5, 5, 0], [0, 2, 1], [0, 1, 2]], dtype=float)
    assert spread_full_buckets(codes, distances, 2).tolist() == [[0, 0], [0, 0], [0, 2], [0, 2], [0, 1], [1, 0]]
    assert codes[2].tolist() == [0, 0]  # untouched
    with pytest.raises(ValueError, match="5 items share all codes but the last, which has 3 codewords of 1 items each"):
        spread_full_buckets(codes, distances, 1)


def test_spreading_moves_the_last_code_of_the_items_behind_alone(crowded):
    codes, distances = crowded
    spread, late = spread_full_buckets(codes, distances, 2), place_in_bucket(codes) >= 2
    assert late.sum() > 20 and place_in_bucket(spread).max() == 1
    assert np.array_equal(spread[~late], codes[~late]) and np.array_equal(spread[:, :2], codes[:, :2])
    assert (spread[late, 2] != codes[late, 2]).all()
    assert np.array_equal(spread_full_buckets(codes, distances, 300), codes)
