import math

import pytest
import torch

from pipeline_lib.quantizers.collaborative_alignment import CollaborativeAlignment, in_batch_alignment


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_alignment_worked_by_hand():
    quantized, targets = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 1.0], [1.0, 1.0]])
    # products: row 0 has 3 (its own) and 1, row 1 has 2 and 2 (its own)
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert in_batch_alignment(quantized, targets).item() == pytest.approx(expected)


def test_a_row_is_told_from_the_others_of_its_batch_whatever_their_order():
    quantized, targets = torch.randn(6, 4, generator=generator()), torch.randn(6, 4, generator=generator(1))
    order = torch.randperm(6, generator=generator(2))
    loss = in_batch_alignment(quantized, targets)
    torch.testing.assert_close(in_batch_alignment(quantized[order], targets[order]), loss)
    assert in_batch_alignment(10 * targets, targets) < loss


def test_vectors_of_the_latent_size_are_taken_as_they_are():
    vectors, quantized = torch.randn(9, 5, generator=generator()), torch.randn(3, 5, generator=generator(1))
    alignment = CollaborativeAlignment(vectors, torch.ones(9, dtype=torch.bool), 5, generator())
    rows = torch.tensor([8, 0, 4])
    assert list(alignment.parameters()) == []
    torch.testing.assert_close(alignment(rows, quantized), in_batch_alignment(quantized, vectors[rows]))


def test_other_sizes_are_mapped_by_a_matrix_that_is_trained():
    vectors, quantized = torch.randn(9, 7, generator=generator()), torch.randn(3, 5, generator=generator(1))
    alignment = CollaborativeAlignment(vectors, torch.ones(9, dtype=torch.bool), 5, generator())
    (matrix,) = alignment.parameters()
    rows = torch.tensor([8, 0, 4])
    loss = alignment(rows, quantized)
    torch.testing.assert_close(loss, in_batch_alignment(quantized, vectors[rows] @ matrix.T))
    loss.backward()
    assert matrix.grad.abs().sum() > 0 and not vectors.requires_grad
    same = CollaborativeAlignment(vectors, torch.ones(9, dtype=torch.bool), 5, generator())
    assert torch.equal(matrix, same.projection.weight)


def test_items_without_a_vector_worth_following_take_no_part():
    vectors = torch.randn(6, 5, generator=generator())
    quantized = torch.randn(4, 5, generator=generator(1)).requires_grad_()
    known = torch.tensor([True, False, True, True, False, True])
    alignment = CollaborativeAlignment(vectors, known, 5, generator())
    loss = alignment(torch.tensor([5, 1, 0, 4]), quantized)
    torch.testing.assert_close(loss, in_batch_alignment(quantized[[0, 2]], vectors[[5, 0]]))
    loss.backward()
    assert (quantized.grad.abs().sum(dim=1) > 0).tolist() == [True, False, True, False]
    assert alignment(torch.tensor([1, 4]), quantized[:2]).item() == 0


def test_equal_vectors_cost_the_logarithm_of_the_batch():
    assert in_batch_alignment(torch.randn(8, 3), torch.ones(8, 3)).item() == pytest.approx(math.log(8), rel=1e-5)
