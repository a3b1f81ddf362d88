import numpy as np
import pytest

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.sequential import Config, digits_of, numbers_by_appearance, tokenize_items


def tokenize(rows, num_items, base, seed=0):
    vectors = np.zeros((num_items, 2), dtype=np.float32)
    inputs = TokenizerInputs(vectors, vectors, Ragged.from_rows(rows), {})
    return tokenize_items(inputs, Config(codebook_size=base), collisions="suffix", seed=seed)


def test_numbers_worked_by_hand():
    train = Ragged.from_rows([[4, 2, 4], [2, 0], [3, 4]])
    assert numbers_by_appearance(train, 5, np.random.default_rng(0))[[4, 2, 0, 3, 1]].tolist() == [0, 1, 2, 3, 4]


def test_digits_worked_by_hand():
    assert digits_of(np.array([0, 9, 10, 123]), 10).tolist() == [[0, 0, 0], [0, 0, 9], [0, 1, 0], [1, 2, 3]]
    assert digits_of(np.array([0, 1, 2, 3]), 2).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert digits_of(np.array([4, 0]), 5).tolist() == [[4], [0]]


@pytest.mark.parametrize("num_items, base", [(5, 5), (6, 5), (25, 5), (26, 5), (200, 3), (1, 2)])
def test_identifiers_are_unique_and_every_level_is_as_small_as_it_can_be(num_items, base):
    generator = np.random.default_rng(0)
    identifiers = tokenize([generator.integers(0, num_items, size=4) for _ in range(20)], num_items, base)
    assert collision_rate(identifiers.codes) == 0 and identifiers.codes.min() >= 0
    assert (identifiers.codes.max(axis=0) + 1).tolist() == list(identifiers.level_sizes)
    assert base ** (len(identifiers.level_sizes) - 1) < max(num_items, 2) <= base ** len(identifiers.level_sizes)


def test_items_of_one_user_share_a_prefix():
    identifiers = tokenize([[3, 9, 6], [1, 3, 8], [0, 2, 4]], 10, 3)
    assert len(np.unique(identifiers.codes[[3, 9, 6], :-1], axis=0)) == 1
    assert len(np.unique(identifiers.codes[[0, 2, 4], :-1], axis=0)) == 2  # numbers 5, 6 and 7, across the border at 6


def test_items_without_training_come_last_in_an_order_that_only_the_seed_knows():
    first, second = (tokenize([[7, 11]], 40, 40, seed).codes[:, 0] for seed in (0, 1))
    assert first[[7, 11]].tolist() == second[[7, 11]].tolist() == [0, 1]
    unseen = np.delete(np.arange(40), [7, 11])
    assert not np.array_equal(first[unseen], second[unseen])
    assert abs(np.corrcoef(unseen, first[unseen])[0, 1]) < 0.5  # not the order of the catalogue
