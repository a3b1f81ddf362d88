from itertools import pairwise, product

import pytest
import torch

from pipeline_lib.quantizers.codeword_diversity import (
    CodewordDiversity, assign_within_bounds, cluster_codewords, diversity_loss, draw_positives,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def codebook():
    """``(40, 3)``: most codewords in one heap, which k-means without bounds would leave together."""
    codewords = 0.1 * torch.randn(40, 3, generator=generator())
    codewords[:6] += 5
    return codewords


def error(codebook, labels):
    """Summed squared distances of codewords to the mean of their cluster."""
    return sum(((codebook[labels == c] - codebook[labels == c].mean(dim=0)) ** 2).sum().item() for c in labels.unique())


def test_the_diversity_loss_worked_by_hand():
    codebook = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    loss = diversity_loss(torch.tensor([0, 2]), torch.tensor([1, 0]), codebook)
    # code 0: products 2 with codeword 1 (positive) and 0 with codeword 2; code 2: 0 with both
    first, second = torch.tensor([2.0, 0.0]).log_softmax(0)[0], torch.tensor(0.5).log()
    assert loss.item() == pytest.approx(-(first + second).item() / 2)


def test_the_diversity_loss_and_its_gradient_equal_a_plain_loop(codebook):
    codes, positives = torch.tensor([3, 3, 17, 0]), torch.tensor([5, 1, 2, 39])

    def plain(codebook):
        total = 0
        for code, positive in zip(codes.tolist(), positives.tolist()):
            others = [j for j in range(40) if j != code]
            products = torch.stack([codebook[code] @ codebook[j] for j in others])
            total = total - products.log_softmax(0)[others.index(positive)]
        return total / 4

    tables = [codebook.clone().requires_grad_() for _ in range(2)]
    losses = [diversity_loss(codes, positives, tables[0]), plain(tables[1])]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(tables[0].grad, tables[1].grad)


def test_a_step_down_the_loss_brings_clusters_together_and_others_apart():
    codebook = torch.randn(8, 4, generator=generator(3)).requires_grad_()
    labels = torch.arange(8) // 2
    codes = torch.arange(8)
    optimizer = torch.optim.SGD([codebook], lr=0.2)

    def products():
        found = (codebook @ codebook.T).detach()
        same = labels[:, None] == labels
        return found[same & ~torch.eye(8, dtype=torch.bool)].mean() - found[~same].mean()

    before = products()
    for _ in range(5):
        optimizer.zero_grad()
        diversity_loss(codes, draw_positives(codes, labels, generator()), codebook).backward()
        optimizer.step()
    assert products() > before + 0.5


def test_positives_are_all_others_of_the_cluster_equally_often():
    labels = torch.tensor([0, 1, 0, 1, 0, 0])  # clusters {0, 2, 4, 5} and {1, 3}
    drawn = draw_positives(torch.tensor([2, 3]).repeat_interleave(3000), labels, generator())
    of_two, of_three = drawn[:3000], drawn[3000:]
    assert torch.bincount(of_two, minlength=6).tolist() == pytest.approx([1000, 0, 0, 0, 1000, 1000], abs=100)
    assert of_three.unique().tolist() == [1]


def test_assignment_is_the_best_of_all_that_respect_the_bounds():
    distances = torch.rand(7, 3, generator=generator(1)) ** 4
    distances[:, 0] *= 0.01  # without bounds all would go there
    allowed = [labels for labels in product(range(3), repeat=7) if all(2 <= labels.count(c) <= 3 for c in range(3))]
    best = min(sum(distances[row, c].item() for row, c in enumerate(labels)) for labels in allowed)
    found = assign_within_bounds(distances, 2, 3)
    assert tuple(found.tolist()) in allowed
    assert distances.gather(1, found[:, None]).sum().item() == pytest.approx(best, rel=1e-5)


def test_without_pressing_bounds_everybody_gets_the_nearest():
    distances = torch.rand(30, 3, generator=generator(2))
    assert torch.equal(assign_within_bounds(distances, 0, 30), distances.argmin(dim=1))


def test_clusters_hold_from_half_to_twice_the_average(codebook):
    sizes = torch.bincount(cluster_codewords(codebook, 4, 10, generator()), minlength=4)
    assert sizes.sum() == 40 and sizes.min() >= 5 and sizes.max() <= 20


def test_separate_heaps_are_found():
    heaps = torch.tensor([[0.0], [10.0], [20.0], [30.0]]).repeat(5, 1) + 0.1 * torch.randn(20, 1, generator=generator())
    labels = torch.zeros(20, dtype=torch.int64)
    labels[[0, 4, 1, 5, 2, 6, 3, 7]] = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])  # a start that knows two of each
    labels = cluster_codewords(heaps, 4, 10, generator(), labels)
    assert all(len(labels[heap::4].unique()) == 1 for heap in range(4)) and len(labels.unique()) == 4


def test_more_rounds_never_raise_the_error(codebook):
    errors = [error(codebook, cluster_codewords(codebook, 4, rounds, generator(5))) for rounds in (1, 2, 4, 10)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in pairwise(errors)) and errors[-1] < errors[0]


def test_equal_codewords_still_make_full_clusters():
    assert torch.bincount(cluster_codewords(torch.zeros(8, 2), 4, 3, generator())).tolist() == [2, 2, 2, 2]


def test_clusters_go_on_from_the_epoch_before(codebook):
    diversity = CodewordDiversity(4, generator())
    codebooks = torch.stack([codebook, codebook.flip(0)])
    diversity.update(codebooks)
    before = diversity.labels
    assert before.shape == (2, 40)
    diversity.update(codebooks)
    assert torch.equal(diversity.labels, before)
    diversity.update(codebooks + 0.02 * torch.randn(codebooks.shape, generator=generator(9)))
    assert (diversity.labels == before).float().mean() > 0.5  # numbers of clusters are kept too


def test_the_loss_of_all_levels_is_the_sum_over_levels(codebook):
    codebooks = torch.stack([codebook, 0.5 * codebook])
    diversity, again = CodewordDiversity(20, generator()), CodewordDiversity(20, generator())
    for each in (diversity, again):  # 40 codewords in 20 clusters: from 2 to 4 in each
        each.update(codebooks)
    codes = torch.randint(40, (64, 2), generator=generator(1))
    positives = [draw_positives(codes[:, level], again.labels[level], again.generator) for level in range(2)]
    expected = sum(diversity_loss(codes[:, level], positives[level], codebooks[level]) for level in range(2))
    torch.testing.assert_close(diversity.loss(codes, codebooks), expected)


def test_too_many_clusters_and_broken_codebooks_are_refused(codebook):
    with pytest.raises(ValueError, match="40 codewords cannot make 21 clusters of two or more; set clusters to 20"):
        cluster_codewords(codebook, 21, 1, generator())
    with pytest.raises(ValueError, match="not finite"):
        cluster_codewords(codebook * torch.nan, 4, 1, generator())
