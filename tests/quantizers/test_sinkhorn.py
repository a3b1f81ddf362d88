import numpy as np
import pytest

from pipeline_lib.quantizers.sinkhorn import transport_plan


def test_two_items_that_want_the_same_codeword_part_by_hand():
    plan = transport_plan(np.array([[0.0, 1.0], [0.0, 3.0]]))  # the first loses less by moving
    assert plan.argmax(axis=1).tolist() == [1, 0]
    assert plan == pytest.approx(np.array([[0, 0.5], [0.5, 0]]), abs=0.01)


def test_rows_and_columns_receive_equal_mass():
    distances = np.random.default_rng(0).random((12, 5))
    plan = transport_plan(distances, epsilon=0.3, iterations=500)
    assert plan.sum(axis=1) == pytest.approx(np.full(12, 1 / 12))
    assert plan.sum(axis=0) == pytest.approx(np.full(5, 1 / 5), rel=1e-6)


def test_the_softest_plan_is_even_and_the_scale_of_distances_does_not_matter():
    distances = np.random.default_rng(1).random((4, 6))
    assert transport_plan(distances, epsilon=1e6) == pytest.approx(np.full((4, 6), 1 / 24), rel=1e-4)
    assert transport_plan(distances * 1e-6) == pytest.approx(transport_plan(distances + 5), abs=1e-9)


def test_forbidden_pairs_get_nothing():
    distances = np.array([[0.0, 1.0, np.inf], [np.inf, 1.0, np.inf]])
    plan = transport_plan(distances, epsilon=0.5)
    assert (plan[~np.isfinite(distances)] == 0).all() and plan.sum() == pytest.approx(1)


def test_stacked_problems_equal_single_ones():
    distances = np.random.default_rng(2).random((3, 4, 7))
    distances[1, :, 2] = np.inf
    stacked = transport_plan(distances, epsilon=0.05)
    for problem in range(3):
        assert stacked[problem] == pytest.approx(transport_plan(distances[problem], epsilon=0.05))


def test_a_row_without_a_way_out_is_refused():
    with pytest.raises(ValueError, match="no finite entry"):
        transport_plan(np.array([[1.0, 2.0], [np.inf, np.inf]]))
