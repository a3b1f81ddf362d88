import numpy as np
import pytest

from pipeline_lib.evaluation.code_quality import (
    check_code_quality, code_usage_rows, describe_codes, mean_squared_error,
)

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 0]])


def test_description_worked_by_hand():
    description = describe_codes(CODES, (2, 4), reconstruction_error=0.5)
    assert description == {
        "items": 4,
        "level_sizes": {"level_0": 2, "level_1": 4},
        "utilisation": {"level_0": 1.0, "level_1": 0.5},
        "perplexity": {"level_0": pytest.approx(4 / 27**0.25), "level_1": pytest.approx(4 / 27**0.25)},
        "prefix_entropy": {"level_0": pytest.approx(2 - 0.75 * np.log2(3)), "level_1": pytest.approx(1.5)},
        "collision_rate": 0.5,
        "distinct": 3,
        "largest_bucket": 2,
        "buckets": {"1": 2, "2": 1},
        "reconstruction_error": 0.5,
    }
    assert "reconstruction_error" not in describe_codes(CODES, (2, 4))


def test_evenly_used_codes_reach_the_bounds():
    codes = np.stack(np.unravel_index(np.arange(64), (4, 16)), axis=1)
    description = describe_codes(codes, (4, 16))
    assert description["perplexity"] == {"level_0": pytest.approx(4), "level_1": pytest.approx(16)}
    assert description["prefix_entropy"] == {"level_0": pytest.approx(2), "level_1": pytest.approx(6)}
    assert description["collision_rate"] == 0 and description["buckets"] == {"1": 64}


def test_shorter_identifiers_are_identifiers_of_their_own():
    description = describe_codes(np.array([[0, 1], [0, -1], [0, -1]]), (1, 2))
    assert description["distinct"] == 2 and description["largest_bucket"] == 2
    assert description["utilisation"]["level_1"] == 0.5


def test_buckets_count_every_identifier_once():
    codes = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 9])[:, None]
    assert describe_codes(codes, (6,))["buckets"] == {"1": 1, "2": 1, "3-4": 2, "5-8": 1, "9-16": 1}


def test_relabelling_the_codes_of_a_level_changes_nothing():
    generator = np.random.default_rng(0)
    codes = generator.integers(8, size=(100, 2))
    before, after = describe_codes(codes, (8, 8)), describe_codes(generator.permutation(8)[codes], (8, 8))
    for name, value in before.items():
        assert after[name] == pytest.approx(value)


def test_no_items_are_described_too():
    assert describe_codes(np.zeros((0, 2), dtype=np.int32), (4, 4))["collision_rate"] == 0


def test_usage_rows_are_sorted_and_add_up_to_the_items():
    rows = code_usage_rows(CODES, (2, 4))
    assert [(row["rank"], row["count"]) for row in rows if row["level"] == 1] == [(1, 3), (2, 1), (3, 0), (4, 0)]
    assert sum(row["count"] for row in rows if row["level"] == 0) == 4


def test_error_is_a_mean_over_items_and_dimensions():
    assert mean_squared_error(np.array([[1.0, 2.0]]), np.array([[1.0, 4.0]])) == 2.0


def test_good_codes_pass_and_poor_ones_are_refused_with_the_parameter():
    description = describe_codes(CODES, (2, 4))
    check_code_quality(description, max_collision_rate=0.5, min_utilisation=0.5)
    with pytest.raises(ValueError, match=r"50\.0% of the items .* tokenizer.max_collision_rate=0.4; set tok"):
        check_code_quality(description, max_collision_rate=0.4, min_utilisation=0.0)
    with pytest.raises(ValueError, match=r"50\.0% of the codes are used at level_1, below tokenizer.min_util.*=0.6"):
        check_code_quality(description, max_collision_rate=1.0, min_utilisation=0.6)


def test_utilisation_is_judged_before_collisions_are_resolved():
    raw, final = describe_codes(np.array([[0], [1]]), (2,)), describe_codes(np.array([[0, 0], [1, 0]]), (2, 9))
    check_code_quality({**final, "before_resolution": raw}, max_collision_rate=0.0, min_utilisation=1.0)
    with pytest.raises(ValueError, match="level_1"):
        check_code_quality(final, max_collision_rate=0.0, min_utilisation=1.0)
