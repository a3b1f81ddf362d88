"""Masks and positions, against the tables of the paper's method section and a plain rule for one pair of tokens.

Of the checklist: 3 and 5 at the level of the tensors; backbones/test_set_models.py looks at attention itself.
"""

import pytest
import torch

from pipeline_lib.backbones.set_attention import (
    additive, history_mask, history_positions, joined_mask, mask_among_queries, query_mask, query_positions,
)


def rows(table):
    return [[cell == "1" for cell in line.split()] for line in table.strip().splitlines()]


def test_the_paper_s_mask_worked_by_hand():
    history = history_mask(torch.tensor([2]), 2, 3, 1, sparse=True, causal=True, causal_text=True)
    mask = joined_mask(history, query_mask(torch.tensor([[2]]), 2, 3, 1), mask_among_queries(3, sparse=True))
    assert mask[0].tolist() == rows("""
        1 . . . . . . . . .
        1 1 . . . . . . . .
        1 . 1 . . . . . . .
        1 . . 1 . . . . . .
        1 1 1 1 1 . . . . .
        1 1 1 1 . 1 . . . .
        1 1 1 1 . . 1 . . .
        1 1 1 1 1 1 1 1 . .
        1 1 1 1 1 1 1 . 1 .
        1 1 1 1 1 1 1 . . 1""")


def test_a_bidirectional_history_sees_all_other_items():
    mask = history_mask(torch.tensor([2]), 2, 2, 1, sparse=True, causal=False, causal_text=False)
    assert mask[0].tolist() == rows("""
        1 1 1 1 1
        1 1 . 1 1
        1 . 1 1 1
        1 1 1 1 .
        1 1 1 . 1""")


def test_queries_of_two_places_packed_behind_a_history():
    history = history_mask(torch.tensor([2]), 2, 1, 0, sparse=True, causal=True, causal_text=True)
    mask = joined_mask(history, query_mask(torch.tensor([[1, 2]]), 2, 1, 0), mask_among_queries(1, sparse=True))
    assert mask[0].tolist() == rows("""
        1 . . .
        1 1 . .
        1 . 1 .
        1 1 . 1""")


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("text", [0, 3])
def test_the_mask_follows_the_rule_for_each_pair(sparse, causal, text):
    lengths, num_items, tokens = torch.tensor([3, 1, 0]), 3, 2
    mask = history_mask(lengths, num_items, tokens, text, sparse=sparse, causal=causal, causal_text=causal)

    def sees(row, query, key):
        first, second = ((place - text) // tokens if place >= text else -1 for place in (query, key))
        if query == key:
            return True
        if max(first, second) >= lengths[row]:
            return False
        if first == second and first >= 0 and sparse:
            return False
        return second < first or (first == second and key < query) if causal else True

    size = text + num_items * tokens
    expected = [[[sees(row, query, key) for key in range(size)] for query in range(size)] for row in range(3)]
    assert mask.tolist() == expected


def test_without_anything_to_see_a_query_sees_the_first_padding():
    assert query_mask(torch.tensor([[0], [1]]), 2, 2, 0).tolist() == [[[True, False, False, False]],
                                                                      [[True, True, False, False]]]
    assert query_mask(torch.tensor([[0]]), 1, 2, 1).tolist() == [[[True, False, False]]]


def test_queries_without_the_sparse_mask_see_those_before_them():
    assert mask_among_queries(3, sparse=False).tolist() == rows("""
        1 . .
        1 1 .
        1 1 1""")


def test_an_item_s_tokens_share_a_position_and_items_follow_each_other():
    assert history_positions(3, 2, 2).tolist() == [0, 1, 2, 2, 3, 3, 4, 4]


def test_queries_stand_behind_what_they_see_or_where_the_released_code_has_them():
    seen = torch.tensor([[1, 2]])
    assert query_positions(seen, 3, 4, shared=True).tolist() == [[[5, 5, 5], [6, 6, 6]]]
    assert query_positions(seen, 3, 4, shared=False).tolist() == [[[7, 8, 9], [10, 11, 12]]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_masked_gets_no_weight_in_either_precision(dtype):
    scores = torch.tensor([1.0, 2.0, 3.0], dtype=dtype) + additive(torch.tensor([True, False, True]), dtype)
    assert scores.softmax(-1)[1] == 0
    assert scores.softmax(-1).isfinite().all()
