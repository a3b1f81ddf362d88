import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.backbones.item_losses import bce_loss, full_softmax_loss, sampled_softmax_loss


def loss_inputs(positions=23, num_items=17, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    hidden = (torch.randn(positions, 5, generator=generator) * scale).requires_grad_()
    table = torch.randn(num_items, 5, generator=generator).requires_grad_()
    return hidden, table, torch.randint(num_items, (positions,), generator=generator)


@pytest.mark.parametrize("block", [1, 17 * 4, 17 * 23, 10**6])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_the_chunked_loss_and_its_gradients_equal_plain_cross_entropy(block, scale):
    hidden, table, labels = loss_inputs(scale=scale)
    plain = F.cross_entropy(hidden @ table.T, labels, reduction="sum") * 0.7
    chunked = full_softmax_loss(hidden, table, labels, block) * 0.7
    torch.testing.assert_close(chunked, plain)
    for ours, theirs in zip(torch.autograd.grad(chunked, (hidden, table)), torch.autograd.grad(plain, (hidden, table))):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("frozen", [0, 1])
def test_one_side_may_be_frozen_and_the_other_has_the_same_gradient(frozen):
    sides, labels = list(loss_inputs()[:2]), loss_inputs()[2]
    both = torch.autograd.grad(full_softmax_loss(*sides, labels, 40), sides)
    sides[frozen] = sides[frozen].detach()
    full_softmax_loss(*sides, labels, 40).backward()
    assert sides[frozen].grad is None and torch.equal(sides[1 - frozen].grad, both[1 - frozen])


def test_the_chunked_loss_is_the_same_without_gradients_and_zero_without_positions():
    hidden, table, labels = loss_inputs()
    with torch.no_grad():
        without = full_softmax_loss(hidden, table, labels, 40)
    assert not without.requires_grad and without == full_softmax_loss(hidden, table, labels, 40).detach()
    nothing = full_softmax_loss(hidden[:0], table, labels[:0])
    nothing.backward()
    assert float(nothing.detach()) == 0 and not table.grad.any()


def test_the_sampled_loss_worked_by_hand():
    hidden, table = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    loss = sampled_softmax_loss(hidden, table, torch.tensor([1, 0]), torch.tensor([2, 0]))
    first = np.log(np.exp(1) + np.exp(-1) + np.exp(0)) - 1
    second = np.log(np.exp(0) + np.exp(-2)) - 0  # the negative 0 is its label
    assert float(loss) == pytest.approx(first + second, rel=1e-6)


def test_the_sampled_loss_with_every_item_as_negative_is_the_full_one():
    hidden, table, labels = loss_inputs()
    torch.testing.assert_close(sampled_softmax_loss(hidden, table, labels, torch.arange(17)),
                               full_softmax_loss(hidden, table, labels))


def test_the_binary_loss_worked_by_hand():
    hidden, table = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0], [-1.0]])
    loss = bce_loss(hidden, table, torch.tensor([1, 0]), torch.tensor([2, 1]))
    assert float(loss) == pytest.approx(2 * np.log1p(np.exp(-1)) + np.log(2) + np.log1p(np.exp(2)), rel=1e-6)
