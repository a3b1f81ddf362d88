import numpy as np
import pytest

from pipeline_lib.quantizers.collisions import bucket_of_item, collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.random import Config, draw_codes, tokenize_items


@pytest.mark.parametrize("num_items, levels, codebook_size", [(500, 2, 256), (64, 3, 4), (60, 3, 4), (1000, 20, 512)])
def test_codes_are_unique_while_there_are_enough(num_items, levels, codebook_size):
    codes = draw_codes(num_items, levels, codebook_size, np.random.default_rng(0))
    assert codes.shape == (num_items, levels) and codes.min() >= 0 and codes.max() < codebook_size
    assert collision_rate(codes) == 0


def test_too_few_codes_are_shared_evenly():
    sizes = np.bincount(bucket_of_item(draw_codes(22, 2, 3, np.random.default_rng(0))))
    assert sorted(sizes) == [2] * 5 + [3] * 4


def test_codes_are_uniform():
    codes = draw_codes(20000, 2, 512, np.random.default_rng(1))[:, 0]
    counts = np.bincount(codes, minlength=512)
    assert ((counts - 20000 / 512) ** 2 / (20000 / 512)).sum() < 512 + 5 * np.sqrt(2 * 512)  # chi-squared, 5 sigma


def test_seeds_decide_and_vectors_do_not():
    def codes(seed, fill):
        vectors = np.full((50, 4), fill, dtype=np.float32)
        inputs = TokenizerInputs(vectors, vectors, Ragged.from_rows([]), {})
        return tokenize_items(inputs, Config(levels=2, codebook_size=16), collisions="suffix", seed=seed).codes

    assert np.array_equal(codes(1, 0.0), codes(1, 1.0)) and not np.array_equal(codes(1, 0.0), codes(2, 0.0))
