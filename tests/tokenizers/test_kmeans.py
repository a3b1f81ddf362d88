"""Of STORE's checklist: 7 (codes in range, recomputed by the nearest centroid, equal for equal seeds)."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.decomposition import PCA

from pipeline_lib.artifacts import read_identifiers, write_identifiers
from pipeline_lib.evaluation.code_quality import describe_codes
from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers import kmeans
from pipeline_lib.tokenizers.kmeans import by_position, encode_items

CONFIG = kmeans.Config(codebook_size=8, dimensions=4, iterations=20)


def tokenize(vectors, collisions="none", seed=3, **changes):
    inputs = TokenizerInputs(vectors, vectors, Ragged.from_rows([]), {})
    return kmeans.tokenize_items(inputs, replace(CONFIG, **changes), collisions=collisions, seed=seed)


@pytest.fixture(scope="module")
def vectors():
    """``(160, 3, 6)``: at each position, items fall into 8 groups, other ones at other positions; far from 0."""
    generator = np.random.default_rng(0)
    groups = generator.integers(8, size=(160, 3))
    centres = 5 * generator.normal(size=(3, 8, 6)) + 20
    rows = centres[np.arange(3), groups] + 0.05 * generator.normal(size=(160, 3, 6))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def identifiers(vectors):
    return tokenize(vectors)


def test_groups_of_a_line_worked_by_hand():
    near_two_points = np.array([[[0.0], [5.0]], [[0.2], [9.0]], [[10.0], [5.1]], [[10.2], [9.1]]], dtype=np.float32)
    found = tokenize(near_two_points, codebook_size=2, dimensions=1)
    first, second = found.codes.T.tolist()
    assert first[0] == first[1] != first[2] == first[3]
    assert second[0] == second[2] != second[1] == second[3]
    assert found.reconstruction_error == pytest.approx((0.1**2 + 0.05**2) / 2, rel=1e-3)
    assert found.level_sizes == (2, 2)


def test_codes_are_of_the_nearest_centroid_in_the_projection_of_their_position(identifiers, vectors):
    codes, tensors = identifiers.codes, identifiers.tensors
    assert codes.shape == (160, 3) and codes.dtype == np.int32 and codes.min() >= 0 and codes.max() < 8
    for position in range(3):
        projected = PCA(4, svd_solver="full").fit_transform(vectors[:, position])
        centroids = tensors["codebooks"][position]
        expected = [int(np.argmin([np.sum((row - centroid) ** 2) for centroid in centroids])) for row in projected]
        assert codes[:, position].tolist() == expected


def test_a_position_is_coded_by_itself(identifiers, vectors):
    changed = vectors.copy()
    changed[:, 1] = changed[::-1, 1]
    other = tokenize(changed).codes
    assert np.array_equal(other[:, [0, 2]], identifiers.codes[:, [0, 2]])
    assert not np.array_equal(other[:, 1], identifiers.codes[:, 1])


def test_moving_all_vectors_changes_no_code(identifiers, vectors):
    assert (tokenize(vectors + 100).codes == identifiers.codes).mean() > 0.99


def test_the_error_falls_with_more_dimensions_and_codewords(identifiers, vectors):
    assert identifiers.reconstruction_error < 0.5 * np.var(vectors - vectors.mean(axis=0))
    assert tokenize(vectors, dimensions=1).reconstruction_error > identifiers.reconstruction_error
    assert tokenize(vectors, codebook_size=32).reconstruction_error < identifiers.reconstruction_error


def test_equal_seeds_give_equal_codes(identifiers, vectors):
    again = tokenize(vectors)
    assert np.array_equal(again.codes, identifiers.codes)
    assert all(np.array_equal(again.tensors[name], value) for name, value in identifiers.tensors.items())
    assert not np.array_equal(tokenize(vectors, seed=4).tensors["codebooks"], identifiers.tensors["codebooks"])


def test_written_tokenizers_encode_new_items(identifiers, vectors, tmp_path):
    write_identifiers(tmp_path / "tokens", identifiers)
    read = read_identifiers(tmp_path / "tokens")
    assert np.array_equal(encode_items(vectors[5:7], read.tensors, read.config), identifiers.codes[5:7])
    flat = vectors[5:7].reshape(2, -1)  # as all other tokenizers take several vectors an item
    assert np.array_equal(encode_items(flat, read.tensors, read.config), identifiers.codes[5:7])
    with pytest.raises(ValueError, match=r"shape \(3, 5\), but the tokenizer was trained on \(3, 6\)"):
        encode_items(vectors[..., :5], read.tensors, read.config)


def test_one_vector_an_item_is_cut_into_the_parts_asked_for(identifiers, vectors):
    flat = vectors.reshape(160, 18)
    cut = tokenize(flat, positions=3)
    assert np.array_equal(cut.codes, identifiers.codes)
    assert np.array_equal(encode_items(flat, cut.tensors, cut.config), cut.codes)


@pytest.mark.parametrize("shape, positions, message", [
    ((9, 18), 1, "these items have one vector each; set tokenizer.kmeans.positions above 1"),
    ((9, 18), 4, "positions=4 does not divide the 18 dimensions"),
    ((9, 3, 6), 2, "positions=2, but items have 3 vectors each"),
    ((9,), 1, r"shape \(9,\), expected"),
])
def test_vectors_that_are_no_positions_are_refused(shape, positions, message):
    with pytest.raises(ValueError, match=message):
        by_position(np.zeros(shape, dtype=np.float32), positions)


def test_options_and_quality_are_kept_and_bad_ones_named(identifiers, vectors):
    assert identifiers.config["kind"] == "kmeans" and identifiers.config["shape"] == [3, 6]
    assert {name: identifiers.config[name] for name in asdict(CONFIG)} == asdict(CONFIG)
    assert identifiers.config["before_resolution"] == describe_codes(identifiers.codes, (8, 8, 8))
    with pytest.raises(ValueError, match="tokenizer.kmeans.codebook_size=161, but there are only 160 items"):
        tokenize(vectors, codebook_size=161)


def test_more_dimensions_than_there_are_become_all_there_are(vectors, caplog):
    assert tokenize(vectors, dimensions=50).tensors["components"].shape == (3, 6, 6)
    assert "dimensions=50 is more than the vectors have; taking 6" in caplog.text


@pytest.mark.parametrize("collisions, added", [("suffix", 1), ("sinkhorn", 0)])
def test_equal_items_collide_until_they_are_told_apart(vectors, collisions, added):
    twins = vectors.copy()
    twins[1::2] = twins[0::2]
    plain = tokenize(twins)
    assert np.array_equal(plain.codes[1::2], plain.codes[0::2])
    resolved = tokenize(twins, collisions)
    assert resolved.codes.shape[1] == 3 + added
    assert collision_rate(resolved.codes) < 0.5 * collision_rate(plain.codes)
