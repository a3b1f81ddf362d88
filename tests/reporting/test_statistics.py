import numpy as np
import pytest
from scipy import stats

from pipeline_lib.reporting.statistics import (
    bootstrap_interval,
    mean_and_spread,
    paired_differences,
    paired_permutation_test,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_three_equal_differences_reach_their_sum_in_two_of_eight_sign_patterns(rng):
    assert paired_permutation_test(np.array([1.0, 1.0, 1.0]), rng, flips=40_000) == pytest.approx(2 / 8, abs=0.01)
    with_zeros = np.array([0.0, 1.0, 0.0, 1.0, 1.0])
    assert paired_permutation_test(with_zeros, rng, flips=40_000) == pytest.approx(2 / 8, abs=0.01)


def test_no_difference_has_p_one_and_an_interval_of_no_width(rng):
    assert paired_permutation_test(np.zeros(50), rng) == 1.0
    assert bootstrap_interval(np.full(50, 0.25), rng) == (0.25, 0.25)


def test_the_permutation_test_agrees_with_scipy(rng):
    differences = rng.choice([-1.0, -0.37, 0.0, 0.37, 1.0], size=300, p=[0.05, 0.1, 0.65, 0.1, 0.1])
    theirs = stats.permutation_test((differences, np.zeros(300)), lambda a, b, axis: (a - b).mean(axis=axis),
                                    vectorized=True, permutation_type="samples", n_resamples=9_999,
                                    rng=np.random.default_rng(1)).pvalue
    assert paired_permutation_test(differences, rng) == pytest.approx(theirs, abs=0.015)
    assert theirs == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, abs=0.02)


def test_the_bootstrap_agrees_with_scipy(rng):
    values = rng.choice([-1.0, 0.0, 0.5, 1.0], size=400)
    theirs = stats.bootstrap((values,), np.mean, vectorized=True, method="percentile", n_resamples=5_000,
                             rng=np.random.default_rng(1)).confidence_interval
    assert bootstrap_interval(values, rng) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_a_true_zero_is_rejected_as_often_as_the_level_says(rng):
    rejected = [paired_permutation_test(rng.normal(size=30), rng, flips=400) < 0.05 for _ in range(400)]
    assert 0.02 < np.mean(rejected) < 0.09


def test_users_are_paired_by_their_number_and_averaged_over_common_seeds():
    method = {1: (np.array([5, 3, 9]), np.array([1.0, 0.5, 0.0])), 2: (np.array([3]), np.array([1.0])),
              4: (np.array([3]), np.array([99.0]))}
    reference = {1: (np.array([3, 5]), np.array([0.0, 1.0])), 2: (np.array([3, 5]), np.array([0.0, 0.0]))}
    assert paired_differences(method, reference).tolist() == [0.75, 0.0]  # user 3: 0.5 and 1.0; user 5: 0.0
    assert len(paired_differences(method, {7: reference[1]})) == 0


def test_the_spread_is_that_of_a_sample_and_absent_for_one_seed():
    assert mean_and_spread(np.array([1.0, 3.0])) == (2.0, pytest.approx(2**0.5))
    assert mean_and_spread(np.array([1.0])) == (1.0, None)


def test_nothing_to_compare_is_refused(rng):
    for function in (paired_permutation_test, bootstrap_interval):
        with pytest.raises(ValueError, match="no user has a value for both methods"):
            function(np.zeros(0), rng)
