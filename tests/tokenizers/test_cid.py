import numpy as np
import pytest
from scipy.sparse import csr_matrix

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.cid import Config, cluster_paths, cooccurrences, tokenize_items

TASTES, SIZE = 6, 15  # items 0-14 are of one taste, 15-29 of the next, ...


@pytest.fixture(scope="module")
def train():
    """Users have items of one taste and one item of any other; the last 5 of 95 items nobody has."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(400):
        taste = user % TASTES * SIZE
        rows.append([*(taste + generator.permutation(SIZE)[:5]), generator.integers(0, TASTES * SIZE)])
    return Ragged.from_rows(rows)


def tokenize(train, num_items=95, seed=0, **options):
    vectors = np.zeros((num_items, 2), dtype=np.float32)
    inputs = TokenizerInputs(vectors, vectors, train, {})
    return tokenize_items(inputs, Config(**options), collisions="suffix", seed=seed)


def test_cooccurrences_equal_a_plain_count(train):
    pairs = cooccurrences(train, 95).toarray()
    expected = np.zeros((95, 95))
    for row in train:
        for one in set(row.tolist()):
            for other in set(row.tolist()) - {one}:
                expected[one, other] += 1
    assert np.array_equal(pairs, expected)


def test_the_first_code_is_the_taste_that_an_item_belongs_to(train):
    codes = tokenize(train, clusters=TASTES, cluster_size=SIZE).codes
    first = codes[: TASTES * SIZE, 0].reshape(TASTES, SIZE)
    assert (first == first[:, :1]).all() and len(set(first[:, 0])) == TASTES
    assert set(codes[TASTES * SIZE :, 0]) == {TASTES}  # nobody has them: a cluster of their own


def test_two_triangles_worked_by_hand():
    affinity = np.zeros((6, 6))
    for triangle in ([0, 2, 4], [1, 3, 5]):
        affinity[np.ix_(triangle, triangle)] = 1
    np.fill_diagonal(affinity, 0)
    affinity[0, 1] = affinity[1, 0] = 0.1
    paths = cluster_paths(csr_matrix(affinity), 2, 3, np.random.default_rng(0))
    assert len({paths[item][0] for item in (0, 2, 4)}) == 1 and paths[0][0] != paths[1][0]
    assert sorted(paths[item][1] for item in (1, 3, 5)) == [0, 1, 2]


@pytest.mark.parametrize("clusters, cluster_size", [(2, 4), (3, 1), (6, 15), (20, 10), (20, 95)])
def test_identifiers_are_unique_and_none_is_the_beginning_of_another(train, clusters, cluster_size):
    identifiers = tokenize(train, clusters=clusters, cluster_size=cluster_size)
    assert collision_rate(identifiers.codes) == 0
    assert (identifiers.codes.max(axis=0) + 1).tolist() == list(identifiers.level_sizes)
    paths = [tuple(row[row >= 0].tolist()) for row in identifiers.codes]
    assert not {path[:length] for path in paths for length in range(len(path))} & set(paths)
    leaves = np.unique([str(path[:-1]) for path in paths], return_counts=True)[1]
    assert leaves.max() <= cluster_size


def test_items_are_cut_evenly_where_the_graph_says_nothing():
    empty = cluster_paths(csr_matrix((100, 100)), 4, 10, np.random.default_rng(0))
    assert np.bincount([path[0] for path in empty]).tolist() == [25] * 4
    assert {len(path) for path in empty} == {3}
    pairs = csr_matrix(np.ones((50, 50)) - np.eye(50))
    assert len({tuple(path) for path in cluster_paths(pairs, 4, 5, np.random.default_rng(0))}) == 50


def test_a_star_does_not_make_endless_paths():
    affinity = np.zeros((200, 200))
    affinity[0, 1:] = affinity[1:, 0] = 1
    paths = cluster_paths(csr_matrix(affinity), 4, 5, np.random.default_rng(0))
    assert len({tuple(path) for path in paths}) == 200
    assert max(map(len, paths)) <= 8


def test_equal_seeds_give_equal_bits(train):
    first, second, other = (tokenize(train, clusters=4, cluster_size=8, seed=seed).codes for seed in (3, 3, 4))
    assert np.array_equal(first, second) and not np.array_equal(first, other)
