"""Semantic IDs with collaborative alignment and codeword diversity."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline_lib import artifacts, records
from pipeline_lib.quantizers.codeword_diversity import CodewordDiversity
from pipeline_lib.quantizers.collisions import bucket_of_item, collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.tokenizers import letter, rqvae

CONFIG = letter.Config(levels=2, codebook_size=16, hidden=(24,), latent=6, epochs=20, batch_size=32,
                       learning_rate=0.003, clusters=4)
NUM_ITEMS = 240


@pytest.fixture(scope="module")
def inputs():
    """Texts know 24 kinds, collaborative vectors the two halves of each, which the texts hardly tell apart."""
    generator = np.random.default_rng(0)
    kind, half = np.arange(NUM_ITEMS) // 10, np.arange(NUM_ITEMS) % 2
    text = generator.normal(size=(24, 10))[kind] + 0.3 * generator.normal(size=(NUM_ITEMS, 10)) + 0.3 * half[:, None]
    cf = generator.normal(size=(2, 8))[half] * 2 + 0.1 * generator.normal(size=(NUM_ITEMS, 8))
    return records.TokenizerInputs(text.astype(np.float32), cf.astype(np.float32),
                                     Ragged.from_rows([range(NUM_ITEMS - 1)]), {})


def tokenize(inputs, collisions="none", seed=3, **changes):
    return letter.tokenize_items(inputs, replace(CONFIG, **changes), collisions=collisions, seed=seed)


@pytest.fixture(scope="module")
def made(inputs):
    return tokenize(inputs)


def same_half_share(codes):
    """The share of pairs with equal first codes whose items are of one half."""
    bucket, half = bucket_of_item(codes[:, :1]), np.arange(NUM_ITEMS) % 2
    pairs = (bucket[:, None] == bucket) & ~np.eye(NUM_ITEMS, dtype=bool)
    return (half[:, None] == half)[pairs].mean()


def test_without_the_two_losses_the_codes_are_those_of_the_plain_autoencoder(inputs):
    plain = {name: value for name, value in asdict(CONFIG).items() if name in rqvae.Config.__dataclass_fields__}
    expected = rqvae.tokenize_items(inputs, rqvae.Config(**plain), collisions="none", seed=3)
    found = tokenize(inputs, cf_weight=0.0, diversity_weight=0.0)
    assert np.array_equal(found.codes, expected.codes)
    assert all(np.array_equal(found.tensors[name], value) for name, value in expected.tensors.items())
    assert found.tensors.keys() == expected.tensors.keys()


@pytest.mark.parametrize("cf_size", [8, 6])
def test_alignment_brings_what_only_collaborative_vectors_know_into_the_codes(inputs, cf_size):
    inputs = replace(inputs, cf_vectors=inputs.cf_vectors[:, :cf_size])  # 6: the latent's own size
    without, aligned = (tokenize(inputs, cf_weight=weight, epochs=30) for weight in (0.0, 3.0))
    assert same_half_share(aligned.codes) > same_half_share(without.codes) + 0.08
    assert aligned.training[-1]["cf_loss"] < 0.9 * aligned.training[0]["cf_loss"]


def test_diversity_keeps_the_codewords_of_a_cluster_closer_than_others(inputs):
    def loss(weight):
        return tokenize(inputs, cf_weight=0.0, diversity_weight=weight).training[-1]["diversity_loss"]

    assert loss(1.0) < 0.8 * loss(0.0)


def test_clusters_follow_the_codewords_at_each_epoch():
    diversity = CodewordDiversity(2, torch.Generator().manual_seed(0))
    regularisation = letter.Regularisation(None, diversity, cf_weight=0.0, diversity_weight=1.0)
    pairs = torch.tensor([[0.0], [1.0], [50.0], [51.0]])
    for second_level, partner_of_0 in ((pairs, 1), (pairs[[0, 2, 1, 3]], 2)):
        regularisation.begin_epoch(torch.stack([pairs, second_level]))
        for labels, partner in zip(diversity.labels, (1, partner_of_0)):
            assert (labels == labels[0]).nonzero().flatten().tolist() == [0, partner]


def test_codes_explain_the_vectors(made, inputs):
    assert made.codes.shape == (NUM_ITEMS, 2) and made.level_sizes == (16, 16)
    assert made.reconstruction_error < 0.6 * inputs.vectors.var()
    assert made.config["kind"] == "letter"


def test_equal_seeds_give_equal_bits(made, inputs):
    again, other = tokenize(inputs), tokenize(inputs, seed=4)
    assert np.array_equal(made.codes, again.codes) and made.training == again.training
    assert all(np.array_equal(made.tensors[name], again.tensors[name]) for name in made.tensors)
    assert not np.array_equal(made.codes, other.codes)


def test_a_written_tokenizer_encodes_the_same_items_to_the_same_codes(made, inputs, tmp_path):
    artifacts.write_identifiers(tmp_path / "tokens", made)
    read = artifacts.read_identifiers(tmp_path / "tokens")
    assert np.array_equal(letter.encode_items(inputs.vectors, read.tensors, read.config), made.codes)


def test_colliding_items_get_another_last_code(made, inputs):
    resolved = tokenize(inputs, collisions="sinkhorn")
    assert collision_rate(made.codes) > 0 and np.array_equal(resolved.codes[:, 0], made.codes[:, 0])
    assert collision_rate(resolved.codes) <= 0.5 * collision_rate(made.codes)


def test_the_vector_of_an_item_without_training_data_changes_nothing(made, inputs):
    cf_vectors = inputs.cf_vectors.copy()
    cf_vectors[-1] += 100
    assert np.array_equal(tokenize(replace(inputs, cf_vectors=cf_vectors)).codes, made.codes)
    cf_vectors[0] += 100
    assert not np.array_equal(tokenize(replace(inputs, cf_vectors=cf_vectors)).codes, made.codes)


@pytest.mark.parametrize("changes, message", [
    ({"clusters": 9}, "clusters=9, but a codebook of 16 makes from 1 to 8 clusters"),
    ({"codebook_size": 241}, "tokenizer.letter.codebook_size=241, but there are only 240 items"),
])
def test_options_out_of_range_are_refused(inputs, changes, message):
    with pytest.raises(ValueError, match=message):
        tokenize(inputs, **changes)


def test_items_without_any_training_data_cannot_be_aligned(inputs):
    nobody = replace(inputs, train=Ragged.from_rows([]))
    with pytest.raises(ValueError, match="set tokenizer.letter.cf_weight=0"):
        tokenize(nobody)
    assert tokenize(nobody, cf_weight=0.0, epochs=1).codes.shape == (NUM_ITEMS, 2)
