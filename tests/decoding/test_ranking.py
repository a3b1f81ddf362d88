from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from pipeline_lib.decoding.index import index_from_bytes, index_recall, search_index
from pipeline_lib.decoding.ranking import ground_cases, make_grounder
from pipeline_lib.params import DecodeParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases

NUM_ITEMS, NUM_USERS = 1600, 70
DECODE = DecodeParams("ground", top_k=10, filter_history=True)


@pytest.fixture(scope="module")
def vectors():
    rng = np.random.default_rng(0)
    tastes = rng.normal(size=(30, 8))
    users, items = (tastes[rng.integers(0, 30, count)] + 0.6 * rng.normal(size=(count, 8))
                    for count in (NUM_USERS, NUM_ITEMS))
    return torch.from_numpy(users.astype(np.float32)), items.astype(np.float32)


@pytest.fixture
def cases():
    rng = np.random.default_rng(1)
    histories = Ragged.from_rows([rng.permutation(NUM_ITEMS)[: rng.integers(0, 20)] for _ in range(NUM_USERS)])
    targets = Ragged.from_rows([[0]] * NUM_USERS)
    return Cases(np.arange(NUM_USERS, dtype=np.int32), histories, targets, np.ones(NUM_USERS, dtype=bool))


def ranked(vectors, cases, decode, similarity="cosine"):
    users, items = vectors
    warm = np.arange(len(items)) % 5 > 0
    grounder = make_grounder(items, SimpleNamespace(parts={"warm": warm, "cold": ~warm}), decode, similarity,
                             torch.device("cpu"), np.random.default_rng(0))
    batches = np.array_split(np.random.default_rng(2).permutation(len(cases)), 6)
    return ground_cases(cases, batches, lambda rows: users[rows], grounder, Accelerator(cpu=True))


def test_without_an_index_there_is_neither_recall_nor_file(vectors, cases):
    found = ranked(vectors, cases, DECODE)
    assert found.index_recall is None and found.index_file is None and found.invalid_share == 0.0


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("filter_history", [True, False])
def test_the_flat_index_ranks_as_exact_scoring_does(vectors, cases, similarity, filter_history):
    decode = replace(DECODE, filter_history=filter_history)
    exact, flat = (ranked(vectors, cases, replace(decode, index=index), similarity) for index in (None, "flat"))
    assert flat.index_recall == 1.0
    one, two = exact.rankings[0], flat.rankings[0]
    assert np.array_equal(one.items.offsets, two.items.offsets) and np.array_equal(one.items.values, two.items.values)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-4, atol=1e-5)
    assert two.items.values.dtype == np.int32 and two.scores.dtype == np.float32


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_recall_is_that_of_the_lists_that_are_handed_out(vectors, cases, kind):
    exact, found = (ranked(vectors, cases, replace(DECODE, index=index)).rankings[0].items for index in (None, kind))
    assert ranked(vectors, cases, replace(DECODE, index=kind)).index_recall == pytest.approx(index_recall(found, exact))
    for items, history in zip(found, cases.histories, strict=True):
        assert not set(items.tolist()) & set(history.tolist())


def test_recall_is_taken_over_a_sample_of_users_at_most(vectors, cases, monkeypatch):
    monkeypatch.setattr("pipeline_lib.decoding.ranking.RECALL_USERS", 20)  # of 70: every fourth
    monkeypatch.setattr("pipeline_lib.decoding.ranking.search_index", first_users_get_nothing)
    found = ranked(vectors, cases, replace(DECODE, index="flat"))
    sample = np.arange(0, NUM_USERS, 4)
    assert len(sample) <= 20
    got_nothing = found.rankings[0].items.lengths == 0
    assert 0 < got_nothing.sum() < NUM_USERS
    assert found.index_recall == pytest.approx(1 - got_nothing[sample].mean())


def first_users_get_nothing(index, queries, top_k, excluded, order):
    """What `search_index` finds, but for users on one side of the space, for whom nothing is found."""
    items, scores = search_index(index, queries, top_k, excluded, order)
    items[queries[:, 0] < 0] = -1
    return items, scores


def test_warm_and_cold_lists_are_exact_whatever_the_index_is(vectors, cases):
    decode = replace(DECODE, candidate_sets=True)
    exact, found = ({ranking.candidates: ranking for ranking in lists} for lists in
                    (ranked(vectors, cases, replace(decode, index=index)).rankings for index in (None, "ivf")))
    assert exact.keys() == found.keys() == {"all", "warm", "cold"}
    for name in ("warm", "cold"):
        assert np.array_equal(exact[name].items.values, found[name].items.values)
        assert np.array_equal(exact[name].scores, found[name].scores)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_the_saved_index_answers_with_items_of_the_catalogue(vectors, cases, kind):
    users, items = vectors
    found = ranked(vectors, cases, replace(DECODE, index=kind))
    again, scores = search_index(index_from_bytes(found.index_file), users.numpy(), 10, cases.histories)
    assert [row[row >= 0].tolist() for row in again] == [row.tolist() for row in found.rankings[0].items]
    best = again[:, 0]
    expected = torch.cosine_similarity(users, torch.from_numpy(items[best])).numpy()
    np.testing.assert_allclose(scores[:, 0], expected, rtol=1e-4)


def test_an_unknown_index_is_refused(vectors, cases):
    with pytest.raises(ValueError, match="index is lsh; known: flat, ivf, hnsw"):
        ranked(vectors, cases, replace(DECODE, index="lsh"))


def test_items_of_equal_score_come_in_an_order_that_the_seed_draws():
    cases = Cases(np.array([0], np.int32), Ragged.from_rows([[]]), Ragged.from_rows([[0]]), np.ones(1, dtype=bool))

    def order(seed):
        grounder = make_grounder(np.ones((50, 2), np.float32), None, replace(DECODE, top_k=50), "dot",
                                 torch.device("cpu"), np.random.default_rng(seed))
        found = ground_cases(cases, [np.array([0])], lambda rows: torch.ones(1, 2), grounder, Accelerator(cpu=True))
        return found.rankings[0].items.values.tolist()

    assert order(0) == order(0) != order(1) and sorted(order(0)) == list(range(50))
    assert order(0) != sorted(order(0))
