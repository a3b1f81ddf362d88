import numpy as np
import pytest

from pipeline_lib.sequences.batches import in_order_batches, length_bucketed_batches


@pytest.fixture
def lengths():
    return np.random.default_rng(0).integers(1, 80, size=1003)


def test_every_example_is_in_one_batch(lengths):
    for batches in (length_bucketed_batches(lengths, 32, 5, np.random.default_rng(1)), in_order_batches(lengths, 32)):
        assert sorted(np.concatenate(batches).tolist()) == list(range(1003))
        assert max(len(batch) for batch in batches) == 32


def test_buckets_leave_less_padding_than_random_batches(lengths):
    def padding(batches):
        return sum(lengths[batch].max() * len(batch) for batch in batches) / lengths.sum() - 1

    bucketed = padding(length_bucketed_batches(lengths, 32, 10, np.random.default_rng(1)))
    random = padding(length_bucketed_batches(lengths, 32, 1, np.random.default_rng(1)))
    assert bucketed < random / 4


def test_the_order_depends_on_the_generator_alone(lengths):
    first, again, other = (length_bucketed_batches(lengths, 32, 5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))
