import numpy as np
import pytest
import torch

from pipeline_lib.decoding.grounding import ground
from pipeline_lib.ragged import Ragged


@pytest.fixture
def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(7, 5, generator=generator), torch.randn(40, 5, generator=generator)


def test_best_items_worked_by_hand():
    users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 2.0], [0.5, 0.0]])
    found, scores = ground(users, items, 2)
    assert found.tolist() == [[0, 1], [1, 0]]
    assert scores.tolist() == [[3.0, 1.0], [4.0, 2.0]]


def test_cosine_forgets_length_worked_by_hand():
    found, scores = ground(torch.tensor([[2.0, 0.0]]), torch.tensor([[10.0, 10.0], [0.1, 0.0]]), 2, similarity="cosine")
    assert found.tolist() == [[1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[1.0, 0.5**0.5]]))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("block", [1, 3, 40, 1000])
def test_blocks_give_what_a_full_sort_gives(vectors, similarity, block):
    users, items = vectors
    excluded = Ragged.from_rows([[0, 3], [], [39], [5, 6, 7], [1], [], [2]])
    allowed = torch.arange(40) % 4 != 1
    found, scores = ground(users, items, 10, similarity=similarity, allowed=allowed, excluded=excluded, block=block)
    for row, user in enumerate(users.double()):
        every = items.double() @ user
        if similarity == "cosine":
            every = every / (items.double().norm(dim=1) * user.norm())
        open_items = [item for item in range(40) if allowed[item] and item not in excluded[row]]
        expected = sorted(open_items, key=lambda item: -every[item])[:10]
        assert found[row].tolist() == expected
        torch.testing.assert_close(scores[row].double(), every[expected], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 100])
@pytest.mark.parametrize("top_k", [1, 3, 7, 12])
def test_items_of_equal_scores_come_by_index_whatever_the_blocks_and_the_length(block, top_k):
    scores = torch.tensor([2.0, 5.0, 2.0, 2.0, 5.0, 1.0, 2.0, 1.0, 2.0, 5.0, 1.0, 2.0])
    found, _ = ground(torch.ones(2, 1), scores[:, None], top_k, block=block)
    assert found.tolist() == [[1, 4, 9, 0, 2, 3, 6, 8, 11, 5, 7, 10][:top_k]] * 2


def test_who_has_too_few_items_left_gets_no_item_twice_and_none_that_is_excluded(vectors):
    users, items = vectors
    excluded = Ragged.from_rows([np.arange(38)] + [[]] * 6)
    found, scores = ground(users, items, 5, excluded=excluded, block=7)
    assert set(found[0, :2].tolist()) == {38, 39} and found[0, 2:].tolist() == [-1] * 3
    assert torch.isinf(scores[0, 2:]).all()


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_scores_are_exact_in_mixed_precision_too(similarity):
    generator = torch.Generator().manual_seed(0)
    users, items = (4.0 + torch.randn(count, 8, generator=generator) for count in (6, 500))  # all alike: bf16 scores tie
    found, scores = ground(users, items, 20, similarity=similarity)
    with torch.autocast("cpu", torch.bfloat16):
        again, same = ground(users, items, 20, similarity=similarity)
    assert torch.equal(found, again) and torch.equal(scores, same)


def test_vectors_of_different_sources_are_refused(vectors):
    with pytest.raises(ValueError, match="users have 4 dimensions but items have 5"):
        ground(torch.zeros(1, 4), vectors[1], 3)
    with pytest.raises(ValueError, match="similarity is l2; known: dot, cosine"):
        ground(*vectors, 3, similarity="l2")
