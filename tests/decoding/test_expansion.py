import numpy as np
import pytest
import torch

from pipeline_lib.decoding.beam import Beams
from pipeline_lib.decoding.expansion import count_items, rank_items, replace_lists
from pipeline_lib.decoding.trie import build_trie
from pipeline_lib.ragged import Ragged

NONE = float("-inf")
CODES = np.array([[0], [1], [0], [2], [1], [1]])  # leaf 0: items 0 and 2, leaf 1: items 1, 4, 5, leaf 2: item 3


@pytest.fixture
def trie():
    return build_trie(CODES, (3,))


def test_shared_identifiers_are_written_out_in_the_fixed_order(trie):
    beams = Beams(torch.tensor([[1, 2, -1], [0, -1, 2]]), torch.tensor([[-1.0, -2.0, NONE], [-1.0, -1.5, -3.0]]))
    items, scores = rank_items(beams, trie, top_k=3, order=np.array([5, 4, 3, 2, 1, 0]))
    assert [row.tolist() for row in items] == [[5, 4, 1], [2, 0, 3]]
    assert scores.tolist() == [-1.0, -1.0, -1.0, -1.0, -1.0, -3.0]
    assert items.values.dtype == np.int32 and scores.dtype == np.float32


def test_history_makes_room_for_the_next_items(trie):
    beams = Beams(torch.tensor([[1, 2], [1, 0]]), torch.tensor([[-1.0, -2.0], [-1.0, -2.0]]))
    items, _ = rank_items(beams, trie, top_k=2, order=np.arange(6), excluded=Ragged.from_rows([[4, 1], []]))
    assert [row.tolist() for row in items] == [[5, 3], [1, 4]]


def test_an_item_that_is_found_twice_is_ranked_once_at_its_best(trie):
    beams = Beams(torch.tensor([[0, 2, 0]]), torch.tensor([[-1.0, -2.0, -3.0]]))
    items, scores = rank_items(beams, trie, top_k=5, order=np.arange(6))
    assert items[0].tolist() == [0, 2, 3]
    assert scores.tolist() == [-1.0, -1.0, -2.0]


def test_users_without_any_hypothesis_get_an_empty_list(trie):
    beams = Beams(torch.tensor([[-1, -1], [2, -1], [-1, -1]]), torch.full((3, 2), NONE))
    items, scores = rank_items(beams, trie, top_k=5, order=np.arange(6))
    assert [row.tolist() for row in items] == [[], [3], []]
    assert len(scores) == 1


def test_many_users_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, (150, 1))
    trie, order = build_trie(codes, (40,)), rng.permutation(150)
    leaves = np.stack([rng.permutation(trie.num_leaves)[:12] for _ in range(60)])
    leaves[rng.random(leaves.shape) < 0.2] = -1
    scores = -np.sort(rng.random(leaves.shape), axis=1).astype(np.float32)
    excluded = Ragged.from_rows([rng.permutation(150)[: rng.integers(0, 30)] for _ in range(60)])
    items, kept = rank_items(Beams(torch.from_numpy(leaves), torch.from_numpy(scores)), trie, top_k=10, order=order,
                             excluded=excluded)
    for user in range(60):
        expected = [(item, score) for leaf, score in zip(leaves[user], scores[user], strict=True) if leaf >= 0
                    for item in sorted(trie.leaf_items(leaf).tolist(), key=lambda item: order[item])
                    if item not in excluded[user]][:10]
        assert items[user].tolist() == [item for item, _ in expected]
        assert kept[items.offsets[user] : items.offsets[user + 1]].tolist() == [score for _, score in expected]


def test_exclusions_of_another_number_of_users_are_refused(trie):
    with pytest.raises(ValueError, match="given for 1 users, but beams for 2"):
        rank_items(Beams(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1)), trie, top_k=1, order=np.arange(6),
                   excluded=Ragged.from_rows([[0]]))


def test_items_are_counted_before_any_is_left_out(trie):
    beams = Beams(torch.tensor([[1, 2, -1], [0, 1, 2], [-1, -1, -1]]), torch.full((3, 3), -1.0))
    assert count_items(beams, trie).tolist() == [4, 6, 0]


def test_lists_are_replaced_with_their_scores_by_others_that_are_no_shorter():
    lists = Ragged.from_rows([[1, 2], [3], [4]]), np.array([1.0, 2, 3, 4], dtype=np.float32)
    others = Ragged.from_rows([[5, 6, 7], []]), np.array([5.0, 6, 7], dtype=np.float32)
    items, scores = replace_lists(lists, np.array([1, 2]), others)
    assert [row.tolist() for row in items] == [[1, 2], [5, 6, 7], [4]]
    assert scores.tolist() == [1, 2, 5, 6, 7, 4]
    assert items.values.dtype == np.int32 and scores.dtype == np.float32
