import faiss
import numpy as np
import pytest
import torch

from pipeline_lib.decoding.grounding import ground
from pipeline_lib.decoding.index import build_index, index_bytes, index_from_bytes, index_recall, search_index
from pipeline_lib.ragged import Ragged

KINDS = ("flat", "ivf", "hnsw")
NUM_ITEMS, NUM_USERS = 3000, 60


@pytest.fixture(scope="module")
def vectors():
    """Users ``(60, 12)`` and items ``(3000, 12)``, around 40 tastes."""
    rng = np.random.default_rng(0)
    tastes = rng.normal(size=(40, 12))
    users, items = (tastes[rng.integers(0, 40, count)] + 0.6 * rng.normal(size=(count, 12))
                    for count in (NUM_USERS, NUM_ITEMS))
    return users.astype(np.float32), items.astype(np.float32)


@pytest.fixture
def excluded():
    rng = np.random.default_rng(1)
    return Ragged.from_rows([rng.permutation(NUM_ITEMS)[: rng.integers(0, 30)] for _ in range(NUM_USERS)])


@pytest.fixture
def two_threads():
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    yield
    faiss.omp_set_num_threads(threads)


def as_rows(items):
    return Ragged.from_rows([row[row >= 0] for row in items])


def test_best_items_worked_by_hand():
    items = np.array([[3.0, 1.0], [1.0, 2.0], [0.5, 0.0]], dtype=np.float32)
    found, scores = search_index(build_index(items, "flat", "dot"), np.array([[1.0, 0.0], [0.0, 2.0]]), 2)
    assert found.tolist() == [[0, 1], [1, 0]]
    assert scores.tolist() == [[3.0, 1.0], [4.0, 2.0]]
    assert found.dtype == np.int64 and scores.dtype == np.float32


def test_excluded_items_make_room_and_short_lists_are_padded_worked_by_hand():
    items = np.array([[3.0], [2.0], [1.0]], dtype=np.float32)
    found, scores = search_index(build_index(items, "flat", "dot"), np.array([[1.0], [1.0], [-1.0]]), 2,
                                 Ragged.from_rows([[0], [2, 0], []]))
    assert found.tolist() == [[1, 2], [1, -1], [2, 1]]
    assert scores.tolist() == [[2.0, 1.0], [2.0, -np.inf], [-1.0, -2.0]]


def test_cosine_forgets_the_length_of_items_and_users_worked_by_hand():
    items = np.array([[10.0, 10.0], [0.1, 0.0]], dtype=np.float32)
    for length in (1.0, 7.0):
        found, scores = search_index(build_index(items, "flat", "cosine"), np.array([[length, 0.0]]), 5)
        assert found.tolist() == [[1, 0]]
        np.testing.assert_allclose(scores, [[1.0, 0.5**0.5]], rtol=1e-6)


def test_items_of_equal_score_come_by_number_or_in_the_order_given():
    items = np.array([[1.0], [2.0], [1.0], [1.0]], dtype=np.float32)
    index = build_index(items, "flat", "dot")
    assert search_index(index, np.ones((1, 1)), 4)[0].tolist() == [[1, 0, 2, 3]]
    assert search_index(index, np.ones((1, 1)), 4, order=np.array([2, 3, 0, 1]))[0].tolist() == [[1, 2, 3, 0]]


def test_rows_answer_with_the_numbers_that_they_were_given(vectors):
    users, items = vectors
    order = np.random.default_rng(2).permutation(NUM_ITEMS)
    plain = build_index(items, "flat", "cosine")
    shuffled = build_index(items[order], "flat", "cosine", order)
    assert np.array_equal(search_index(plain, users, 10)[0], search_index(shuffled, users, 10)[0])


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_the_flat_index_equals_exact_grounding(vectors, excluded, similarity):
    users, items = vectors
    found, scores = search_index(build_index(items, "flat", similarity), users, 20, excluded)
    exact, exact_scores = ground(torch.from_numpy(users), torch.from_numpy(items), 20, similarity=similarity,
                                 excluded=excluded)
    assert np.array_equal(found, exact.numpy())
    np.testing.assert_allclose(scores, exact_scores.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_approximate_indexes_find_nearly_all_with_exact_scores(vectors, excluded, kind, similarity):
    users, items = vectors
    exact, _ = search_index(build_index(items, "flat", similarity), users, 20, excluded)
    found, scores = search_index(build_index(items, kind, similarity), users, 20, excluded)
    assert index_recall(as_rows(found), as_rows(exact)) > 0.95
    if similarity == "cosine":
        users, items = (table / np.linalg.norm(table, axis=1, keepdims=True) for table in (users, items))
    every = np.take_along_axis(users @ items.T, found, axis=1)
    np.testing.assert_allclose(scores[found >= 0], every[found >= 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_fall_in_score_hold_no_item_twice_and_none_that_is_excluded(vectors, kind):
    users, items = vectors
    index = build_index(items, kind, "cosine")
    favourites, _ = search_index(index, users, 25)
    excluded = as_rows(favourites[:, ::2])  # what would come first, if nothing were excluded
    found, scores = search_index(index, users, 30, excluded)
    for row, kept, history in zip(found, scores, excluded, strict=True):
        real = row[row >= 0].tolist()
        assert len(set(real)) == len(real) > 0 and not set(real) & set(history.tolist())
        assert (np.diff(kept[: len(real)]) <= 0).all()
        assert (row[len(real) :] == -1).all() and (kept[len(real) :] == -np.inf).all()


def test_too_few_found_by_an_approximate_index_make_a_shorter_list(vectors):
    users, items = vectors
    index = build_index(items, "ivf", "dot")
    faiss.extract_index_ivf(index).nprobe = 1  # one cell of about 55 items
    found, _ = search_index(index, users, 400)
    assert ((found >= 0).sum(axis=1) < 400).all() and (found[:, 0] >= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_catalogue_smaller_than_the_list_is_ranked_whole(kind):
    items = np.eye(5, dtype=np.float32)
    found, _ = search_index(build_index(items, kind, "dot"), np.arange(5.0)[None], 30)
    assert found.tolist() == [[4, 3, 2, 1, 0]]


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_is_saved_finds_the_same_and_is_built_the_same(vectors, kind, two_threads):
    users, items = vectors
    order = np.random.default_rng(3).permutation(NUM_ITEMS)
    index = build_index(items[order], kind, "cosine", order)
    saved = index_bytes(index)
    assert saved == index_bytes(build_index(items[order], kind, "cosine", order))
    before, after = (search_index(held, users, 15) for held in (index, index_from_bytes(saved)))
    assert np.array_equal(before[0], after[0]) and np.array_equal(before[1], after[1])


def test_building_leaves_the_number_of_threads_as_it_was(vectors, two_threads):
    build_index(vectors[1][:200], "hnsw", "dot")
    assert faiss.omp_get_max_threads() == 2


def test_recall_worked_by_hand():
    exact = Ragged.from_rows([[1, 2, 3, 4], [5, 6], [], [0]])
    found = Ragged.from_rows([[4, 1, 9], [6, 5], [7], []])
    assert index_recall(found, exact) == pytest.approx((0.5 + 1 + 1 + 0) / 4)
    assert index_recall(exact, exact) == 1.0


def test_recall_equals_a_plain_loop():
    rng = np.random.default_rng(4)
    found, exact = (Ragged.from_rows([rng.permutation(20)[: rng.integers(1, 12)] for _ in range(50)]) for _ in range(2))
    expected = np.mean([len(set(a.tolist()) & set(b.tolist())) / len(b) for a, b in zip(found, exact, strict=True)])
    assert index_recall(found, exact) == pytest.approx(expected)


def test_what_cannot_be_is_refused(vectors):
    users, items = vectors
    with pytest.raises(ValueError, match="index is annoy; known: flat, ivf, hnsw"):
        build_index(items, "annoy", "dot")
    with pytest.raises(ValueError, match="similarity is l2; known: dot, cosine"):
        build_index(items, "flat", "l2")
    with pytest.raises(ValueError, match="no item vectors"):
        build_index(items[:0], "flat", "dot")
    index = build_index(items, "flat", "dot")
    with pytest.raises(ValueError, match="users have 5 dimensions but the index has 12"):
        search_index(index, users[:, :5], 3)
    with pytest.raises(ValueError, match="given for 1 users, but there are 60 queries"):
        search_index(index, users, 3, Ragged.from_rows([[]]))
    with pytest.raises(ValueError, match="found for 1 users, but there are 2"):
        index_recall(Ragged.from_rows([[1]]), Ragged.from_rows([[1], [2]]))
    with pytest.raises(ValueError, match="no index that Faiss"):
        index_from_bytes(index_bytes(index)[:100])
