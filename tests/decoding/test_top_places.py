import pytest
import torch

from pipeline_lib.decoding.top_places import top_places


def test_equal_scores_are_settled_by_place_worked_by_hand():
    scores = torch.tensor([[1.0, 3.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [4.0, 1.0, 2.0, 3.0]])
    assert top_places(scores, 2).tolist() == [[0, 1], [0, 1], [0, 3]]
    assert top_places(scores, 9).tolist() == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize("k", [1, 5, 29, 30])
def test_the_places_are_those_of_a_stable_sort(k):
    scores = torch.randint(4, (50, 30), generator=torch.Generator().manual_seed(0)).float()
    scores[::3, ::2] = -torch.inf
    places = top_places(scores, k)
    for row, found in zip(scores.tolist(), places.tolist(), strict=True):
        finite = [place for place in range(30) if row[place] > float("-inf")]
        expected = sorted(finite, key=lambda place: -row[place])[:k]
        assert [place for place in found if row[place] > float("-inf")] == sorted(expected) and len(set(found)) == k
