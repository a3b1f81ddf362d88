import math

import pytest
import torch

from pipeline_lib.recommenders.alignment import preference_semantic_alignment, sequence_item_alignment


@pytest.fixture
def distances():
    return torch.rand(5, 3, 8, generator=torch.Generator().manual_seed(0)) * 4


def test_divergence_worked_by_hand():
    # P = (3/4, 1/4) and (1/2, 1/2)
    item, sequence = torch.tensor([[[0.0, math.log(3.0)]]]), torch.tensor([[[0.0, 0.0]]])
    one_way = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    other_way = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    assert sequence_item_alignment(item, sequence).item() == pytest.approx(one_way + other_way, rel=1e-5)


@pytest.mark.parametrize(("sign", "expected"), [
    ("minus", 31 / 39 * math.log(2)),  # P = (8, 4, 1) / 13: (8/13 - 1/3) log 8 + (4/13 - 1/3) log 4
    ("plus", 34 / 33 * math.log(2)),  # P = (1, 2, 8) / 11: (2/11 - 1/3) log 2 + (8/11 - 1/3) log 8
])
def test_the_nearest_codeword_is_the_likeliest_and_the_furthest_under_the_codes_sign(sign, expected):
    item, sequence = torch.tensor([[[0.0, math.log(2), math.log(8)]]]), torch.zeros(1, 1, 3)
    assert sequence_item_alignment(item, sequence, sign).item() == pytest.approx(expected, rel=1e-5)


def test_divergence_is_a_mean_over_items_and_levels(distances):
    other = distances.flip(0)
    parts = [sequence_item_alignment(distances[item : item + 1, level : level + 1],
                                     other[item : item + 1, level : level + 1])
             for item in range(5) for level in range(3)]
    torch.testing.assert_close(sequence_item_alignment(distances, other), torch.stack(parts).mean())


def test_divergence_is_zero_for_equals_positive_else_and_symmetric(distances):
    other = distances.flip(-1)
    assert sequence_item_alignment(distances, distances).item() == 0
    assert sequence_item_alignment(distances, other).item() > 0.1
    torch.testing.assert_close(sequence_item_alignment(distances, other), sequence_item_alignment(other, distances))


@pytest.mark.parametrize("sign", ["minus", "plus"])
def test_a_codeword_that_moves_nearer_gets_likelier_and_less_likely_under_the_codes_sign(distances, sign):
    near, far = distances[0, 0], distances[0, 0] + 0.5 * torch.eye(8)[2]
    change = {"minus": torch.softmax(-near, -1) - torch.softmax(-far, -1),
              "plus": torch.softmax(far, -1) - torch.softmax(near, -1)}[sign][2]
    # the logarithms of all probabilities change alike, but that of the codeword by 0.5 more or less
    divergence = sequence_item_alignment(far[None, None], near[None, None], sign)
    assert divergence.item() == pytest.approx(0.5 * change.item(), rel=1e-4)


def test_an_unknown_sign_is_refused(distances):
    with pytest.raises(ValueError, match="sia_sign is both; known: minus, plus"):
        sequence_item_alignment(distances, distances, sign="both")


def test_contrast_worked_by_hand():
    preferences, semantics = torch.eye(2), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    rows = (math.log(2) + math.log(2)) / 2  # preference 0 finds both alike, preference 1 neither
    columns = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1))) / 2
    assert preference_semantic_alignment(preferences, semantics, 1.0).item() == pytest.approx(rows + columns, rel=1e-5)


def test_contrast_tends_to_zero_for_equal_pairs_far_from_all_others():
    assert preference_semantic_alignment(torch.eye(6), torch.eye(6), 0.01).item() == pytest.approx(0, abs=1e-6)


def test_contrast_knows_neither_the_order_of_the_batch_nor_the_length_of_vectors():
    generator = torch.Generator().manual_seed(1)
    preferences, semantics = torch.randn(7, 4, generator=generator), torch.randn(7, 4, generator=generator)
    loss, order = preference_semantic_alignment(preferences, semantics, 0.07), torch.randperm(7, generator=generator)
    torch.testing.assert_close(preference_semantic_alignment(preferences[order], semantics[order], 0.07), loss)
    torch.testing.assert_close(preference_semantic_alignment(3 * preferences, 0.2 * semantics, 0.07), loss)
