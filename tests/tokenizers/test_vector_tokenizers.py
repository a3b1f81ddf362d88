"""What holds for every tokenizer that quantizes item vectors: rqvae, rqkmeans, opq."""

from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline_lib import artifacts, records
from pipeline_lib.parsing import parse
from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.tokenizers import letter, opq, random, rqkmeans, rqvae

CONFIGS = {
    rqvae: rqvae.Config(levels=2, codebook_size=16, hidden=(24,), latent=6, epochs=20, batch_size=32,
                        learning_rate=0.003),
    letter: letter.Config(levels=2, codebook_size=16, hidden=(24,), latent=6, epochs=20, batch_size=32,
                          learning_rate=0.003, clusters=4),
    rqkmeans: rqkmeans.Config(levels=2, codebook_size=16, iterations=5),
    opq: opq.Config(levels=3, codebook_size=16, iterations=3),
}
EVERY = pytest.mark.parametrize("tokenizer", CONFIGS, ids=lambda module: module.__name__.rsplit(".", 1)[1])


def inputs_of(vectors):
    return records.TokenizerInputs(vectors, vectors, Ragged.from_rows([range(len(vectors))]), {})


@pytest.fixture(scope="module")
def vectors():
    """``(240, 10)`` of unit length: 24 kinds of 10 items, of which two are equal."""
    generator = np.random.default_rng(0)
    rows = np.repeat(generator.normal(size=(24, 10)), 10, axis=0) + 0.2 * generator.normal(size=(240, 10))
    rows[1::10] = rows[0::10]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def tokenize(tokenizer, vectors, collisions="none", seed=3, **changes):
    config = type(CONFIGS[tokenizer])(**{**asdict(CONFIGS[tokenizer]), **changes})
    return tokenizer.tokenize_items(inputs_of(vectors), config, collisions=collisions, seed=seed)


@EVERY
def test_codes_tell_kinds_apart_and_explain_the_vectors(tokenizer, vectors):
    identifiers = tokenize(tokenizer, vectors)
    assert identifiers.codes.shape == (240, len(identifiers.level_sizes)) and set(identifiers.level_sizes) == {16}
    assert np.array_equal(identifiers.codes[1::10], identifiers.codes[0::10])
    kinds = identifiers.codes.reshape(24, 10, -1)
    same = (kinds[:, 2:3] == kinds[:, 3:]).mean()
    others = (kinds[:-1, 2:3] == kinds[1:, 3:]).mean()
    assert same > others + 0.3
    assert identifiers.reconstruction_error < 0.6 * np.square(vectors).mean()


@EVERY
def test_equal_seeds_give_equal_bits(tokenizer, vectors):
    first, second, other = (tokenize(tokenizer, vectors, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.codes, second.codes) and first.config == second.config
    assert all(np.array_equal(first.tensors[name], second.tensors[name]) for name in first.tensors)
    assert not np.array_equal(first.codes, other.codes)


@EVERY
def test_a_written_tokenizer_encodes_the_same_items_to_the_same_codes(tokenizer, vectors, tmp_path):
    identifiers = tokenize(tokenizer, vectors)
    artifacts.write_identifiers(tmp_path / "tokens", identifiers)
    read = artifacts.read_identifiers(tmp_path / "tokens")
    assert np.array_equal(tokenizer.encode_items(vectors, read.tensors, read.config), identifiers.codes)
    assert read.config["kind"] == tokenizer.__name__.rsplit(".", 1)[1]
    with pytest.raises(ValueError, match="dimensions"):
        tokenizer.encode_items(vectors[:, :9], read.tensors, read.config)


@EVERY
def test_several_vectors_an_item_are_read_as_one(tokenizer, vectors):
    flat, deep = tokenize(tokenizer, vectors), tokenize(tokenizer, vectors.reshape(240, 2, 5))
    assert np.array_equal(flat.codes, deep.codes)


@EVERY
@pytest.mark.parametrize("collisions, added", [("suffix", 1), ("sinkhorn", 0)])
def test_resolved_identifiers_are_unique_or_better(tokenizer, vectors, collisions, added):
    raw, resolved = tokenize(tokenizer, vectors), tokenize(tokenizer, vectors, collisions)
    levels = raw.codes.shape[1]
    assert resolved.codes.shape[1] == levels + added
    assert np.array_equal(resolved.codes[:, : levels - 1], raw.codes[:, : levels - 1])
    assert collision_rate(resolved.codes) <= (0 if added else 0.5 * collision_rate(raw.codes))
    assert resolved.config["before_resolution"] == raw.config["before_resolution"]


@EVERY
def test_more_codewords_than_items_are_refused(tokenizer, vectors):
    with pytest.raises(ValueError, match="codebook_size=16, but there are only 15 items to learn it from; set it to"):
        tokenize(tokenizer, vectors[:15])


@pytest.mark.parametrize("tokenizer", [*CONFIGS, random], ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_the_config_is_the_block_of_config_yaml(tokenizer):
    path = Path(__file__).resolve().parents[2] / "conf" / "config.yaml"
    kind = tokenizer.__name__.rsplit(".", 1)[1]
    block = yaml.safe_load(path.read_text(encoding="utf-8"))["tokenizer"][kind]
    assert set(block) == {field.name for field in fields(tokenizer.Config)}
    parse(tokenizer.Config, block, f"tokenizer.{kind}")


@pytest.mark.parametrize("tokenizer", [rqvae, letter], ids=lambda module: module.__name__.rsplit(".", 1)[1])
def test_the_commitment_loss_is_trained_on_with_its_weight(tokenizer, vectors):
    without, heavy = (tokenize(tokenizer, vectors, commitment=weight, epochs=2, batch_size=240).training
                      for weight in (0.0, 3.0))
    # before the first step it is as large as the codebook loss, only its gradient is another
    assert heavy[0]["quantization_loss"] == pytest.approx(4 * without[0]["quantization_loss"], rel=1e-4)
    assert heavy[1]["reconstruction_loss"] != without[1]["reconstruction_loss"]


def test_rqvae_training_rows_have_the_measured_figures(vectors):
    training = tokenize(rqvae, vectors).training
    assert [row["epoch"] for row in training] == list(range(1, 21))
    assert {"loss", "utilisation", "unexplained", "collision_rate"} <= set(training[4])


def test_rqkmeans_with_one_codeword_a_vector_is_exact(vectors):
    distinct = np.unique(vectors, axis=0)
    identifiers = tokenize(rqkmeans, distinct, levels=1, codebook_size=len(distinct), iterations=10)
    assert collision_rate(identifiers.codes) == 0
    assert identifiers.reconstruction_error == pytest.approx(0, abs=1e-10)


def test_opq_rotates_without_stretching_and_pads_what_does_not_divide(vectors):
    rotation = tokenize(opq, vectors).tensors["rotation"]
    assert rotation.shape == (12, 12)  # 10 dimensions, 3 levels
    assert rotation @ rotation.T == pytest.approx(np.eye(12), abs=1e-4)


def test_opq_counts_codes_in_bits(vectors):
    with pytest.raises(ValueError, match="tokenizer.opq.codebook_size=12 is not a power of two"):
        tokenize(opq, vectors, codebook_size=12)
