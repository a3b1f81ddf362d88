import pytest
import torch

from pipeline_lib.quantizers import codebook as codebook_module
from pipeline_lib.quantizers.codebook import (
    codebook_loss, commitment_loss, nearest_codeword, revive_dead, squared_distances, straight_through,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_distances_worked_by_hand():
    distances = squared_distances(torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0]]))
    assert distances.tolist() == [[1.0, 9.0], [18.0, 16.0]]


def test_nearest_codeword_equals_a_search_one_by_one(generator, monkeypatch):
    monkeypatch.setattr(codebook_module, "ROWS_AT_ONCE", 7)  # several pieces
    vectors, codebook = torch.randn(40, 5, generator=generator), torch.randn(9, 5, generator=generator)
    slow = [min(range(9), key=lambda code: ((vector - codebook[code]) ** 2).sum().item()) for vector in vectors]
    assert nearest_codeword(vectors, codebook).tolist() == slow


def test_vectors_far_from_the_origin_keep_their_distances_and_gradients(generator):
    """As of encoders whose vectors have a large part in common; without a centre the squares cancel."""
    vectors, codebook = (1000 + torch.randn(rows, 5, generator=generator) for rows in (200, 64))
    exact = torch.cdist(vectors.double(), codebook.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(vectors, codebook).double(), exact, rtol=1e-3, atol=1e-3)
    assert torch.equal(nearest_codeword(vectors, codebook), exact.argmin(dim=1))
    leaves = vectors[:3].clone().requires_grad_(), codebook[:4].clone().requires_grad_()
    squared_distances(*leaves).sum().backward()
    for leaf, other in (leaves, leaves[::-1]):
        expected = 2 * (len(other) * leaf.detach() - other.detach().sum(dim=0))
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-3, atol=1e-2)


def test_straight_through_has_the_codeword_s_bits_and_the_vector_s_gradient(generator):
    vectors = torch.randn(6, 3, generator=generator, requires_grad=True)
    codewords = torch.randn(6, 3, generator=generator, requires_grad=True)
    passed = straight_through(vectors, codewords)
    assert torch.equal(passed, codewords)
    weights = torch.randn(6, 3, generator=generator)
    (passed * weights).sum().backward()
    assert torch.equal(vectors.grad, weights) and codewords.grad is None


def test_each_loss_moves_one_side_only(generator):
    vectors = torch.randn(6, 3, generator=generator, requires_grad=True)
    codewords = torch.randn(6, 3, generator=generator, requires_grad=True)
    codebook_loss(vectors, codewords).backward()
    assert vectors.grad is None and codewords.grad.abs().sum() > 0
    codewords.grad = None
    commitment_loss(vectors, codewords).backward()
    assert codewords.grad is None and vectors.grad.abs().sum() > 0


def test_revival_replaces_rare_codewords_by_candidates_and_no_others(generator):
    codebook, before = torch.zeros(4, 2), torch.zeros(4, 2)
    candidates = torch.arange(1.0, 21.0).view(10, 2)
    assert revive_dead(codebook, torch.tensor([5, 0, 2, 0]), candidates, generator) == 2
    assert torch.equal(codebook[[0, 2]], before[[0, 2]])
    assert all(any(torch.equal(codebook[code], row) for row in candidates) for code in (1, 3))
    assert not torch.equal(codebook[1], codebook[3])
    assert revive_dead(codebook, torch.tensor([5, 3, 2, 3]), candidates, generator, least=3) == 1


def test_revival_with_fewer_candidates_than_dead_codewords_replaces_what_it_can(generator):
    codebook = torch.zeros(3, 1)
    assert revive_dead(codebook, torch.zeros(3), torch.ones(1, 1), generator) == 1
    assert codebook.sum() == 1


def test_dimension_mismatch_names_both_sizes():
    with pytest.raises(ValueError, match="5 dimensions but codebooks have 4"):
        squared_distances(torch.zeros(2, 5), torch.zeros(3, 4))
