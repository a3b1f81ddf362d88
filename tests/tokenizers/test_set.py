"""The set tokenizer: checked inputs and initial weights; training is the recommender's."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline_lib.artifacts import read_identifiers, write_identifiers
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.set import Config, tokenize_items, tokens_of_items

GENERATOR = np.random.default_rng(0)
INPUTS = TokenizerInputs(0.01 * GENERATOR.normal(size=(20, 6)).astype(np.float32),
                         GENERATOR.normal(size=(20, 3)).astype(np.float32), Ragged.from_rows([]), {})
CONFIG = Config(tokens=2, width=8, hidden=(5, 4))


def tokenize(inputs=INPUTS, config=CONFIG, seed=0):
    return tokenize_items(inputs, config, collisions="suffix", seed=seed)


def test_identifiers_have_no_codes_and_survive_their_files(tmp_path):
    made = tokenize()
    write_identifiers(tmp_path / "tokens", made)
    read = read_identifiers(tmp_path / "tokens")
    assert read.codes is None
    assert read.config == made.config
    one, two = (tokens_of_items(INPUTS.vectors, INPUTS.cf_vectors, part.tensors, part.config) for part in (made, read))
    assert np.array_equal(one, two)
    assert one.shape == (20, 3, 8)


def test_a_row_is_the_tokens_of_that_item_alone():
    made = tokenize()
    whole = tokens_of_items(INPUTS.vectors, INPUTS.cf_vectors, made.tensors, made.config)
    alone = tokens_of_items(INPUTS.vectors[4:5], INPUTS.cf_vectors[4:5], made.tensors, made.config)
    np.testing.assert_allclose(whole[4:5], alone, rtol=1e-5, atol=1e-6)


def test_tokens_do_not_depend_on_how_long_vectors_are():
    longer = replace(INPUTS, vectors=100 * INPUTS.vectors)
    one, two = (tokens_of_items(inputs.vectors, inputs.cf_vectors, tokenize(inputs).tensors, tokenize(inputs).config)
                for inputs in (INPUTS, longer))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert 0.1 < one[:, 1:].std() < 10


def test_seeds_make_the_weights():
    weights = [tokenize(seed=seed).tensors["encoder.0.weight"] for seed in (0, 0, 1)]
    assert np.array_equal(weights[0], weights[1])
    assert not np.array_equal(weights[0], weights[2])


def test_vectors_that_are_all_equal_are_refused():
    with pytest.raises(ValueError, match="cf_source: the vectors of all 20 items are equal"):
        tokenize(replace(INPUTS, cf_vectors=np.ones((20, 3), dtype=np.float32)))


def test_vectors_of_another_size_are_refused():
    made = tokenize()
    with pytest.raises(ValueError, match="4 dimensions, but the tokenizer was made for dimensions=6"):
        tokens_of_items(INPUTS.vectors[:, :4], INPUTS.cf_vectors, made.tensors, made.config)
