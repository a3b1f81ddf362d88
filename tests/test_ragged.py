import numpy as np
import pytest

from pipeline_lib.ragged import Ragged

ROWS = [[3, 1, 4], [], [1, 5], [9, 2, 6, 5]]


@pytest.fixture
def ragged():
    return Ragged.from_rows(ROWS)


def test_rows_come_back_as_they_went_in(ragged):
    assert [row.tolist() for row in ragged] == ROWS
    assert ragged.lengths.tolist() == [3, 0, 2, 4]
    assert ragged.row_of_value.tolist() == [0, 0, 0, 2, 2, 3, 3, 3, 3]


def test_take_repeats_and_reorders_rows(ragged):
    assert [row.tolist() for row in ragged.take(np.array([3, 1, 0, 3]))] == [ROWS[3], [], ROWS[0], ROWS[3]]
    assert len(ragged.take(np.array([], dtype=int))) == 0


def test_last_keeps_the_ends_of_rows(ragged):
    assert [row.tolist() for row in ragged.last(2)] == [[1, 4], [], [1, 5], [6, 5]]


def test_padding_fills_behind_each_row(ragged):
    assert ragged.padded(-1).tolist() == [[3, 1, 4, -1], [-1, -1, -1, -1], [1, 5, -1, -1], [9, 2, 6, 5]]
