import math

import numpy as np
import pytest
import torch

from pipeline_lib.backbones.graph import BipartiteGraph
from pipeline_lib.embeddings.pairwise import (
    PairwiseModel, PairwiseOptions, Vectors, count_users, distinct_values, fit_pairwise, training_pairs,
    user_states, with_negatives,
)
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator


def cases(users, histories, targets, seen):
    histories, targets = Ragged.from_rows(histories), Ragged.from_rows(targets)
    return Cases(np.array(users, dtype=np.int32), histories, targets, np.array(seen))


def small_split(train=((3, 1, 1), (0,)), train_users=(0, 2), valid=None, test=None, num_items=5):
    train = Ragged.from_rows(train)
    counts = np.bincount(train.values, minlength=num_items).astype(np.int32)
    valid = valid or cases([0], [[3, 1, 1]], [[2]], [True])
    return Split(np.array(train_users, dtype=np.int32), train, valid, test or valid, counts, counts > 0,
                 np.ones(num_items, dtype=np.int8))


def all_pairs(generator, num_users=12, num_items=9):
    taken = np.argwhere(generator.random((num_users, num_items)) < 0.5)
    return taken[taken[:, 0] != 4], num_items  # user 4 took nothing


def test_the_loss_worked_by_hand():
    model = PairwiseModel(1, 2, 2, regularisation=0.1)
    model.users.data, model.items.data = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    loss, count = model({"triples": torch.tensor([[0, 0, 1], [0, 1, 0]])})  # the user's scores are 3 and 2
    squares = (1 + 4) + 9 + 1
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-1)) + math.log(1 + math.exp(1)) + 2 * 0.1 / 2 * squares)
    assert count.item() == 2


def test_the_loss_and_gradient_behind_a_graph_worked_by_hand():
    graph = BipartiteGraph(np.array([0]), np.array([0]), 1, 2)  # one edge, of weight 1; nobody took item 1
    model = PairwiseModel(1, 2, 1, regularisation=0.0, graph=graph, num_layers=1)
    model.users.data, model.items.data = torch.tensor([[1.0]]), torch.tensor([[3.0], [-2.0]])
    loss, _ = model({"triples": torch.tensor([[0, 0, 1]])})
    loss.backward()
    # means of layers 0 and 1: the user (1 + 3) / 2 = 2, items (3 + 1) / 2 = 2 and -2 / 2 = -1, so that the margin is
    # 2 * (2 - -1) = 6, where layer 0 has 1 * (3 - -2) = 5; it grows by 3, 2 and -2 with those means
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-6)))
    slope = -1 / (1 + math.exp(6))
    assert model.users.grad.flatten().tolist() == pytest.approx([slope * (3 + 2) / 2])
    assert model.items.grad.flatten().tolist() == pytest.approx([slope * (3 + 2) / 2, slope * -2 / 2])


def test_the_penalty_reaches_the_rows_of_the_batch_alone():
    def gradients(regularisation):
        torch.manual_seed(0)
        graph = BipartiteGraph(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 3]), 3, 4)
        model = PairwiseModel(3, 4, 2, regularisation, graph, num_layers=2)
        model({"triples": torch.tensor([[0, 0, 2], [0, 0, 3]])})[0].backward()
        return model, model.users.grad, model.items.grad

    _, users_without, items_without = gradients(0.0)
    model, users_with, items_with = gradients(0.5)
    times_in_batch = torch.tensor([2.0, 0.0, 0.0]), torch.tensor([2.0, 0.0, 1.0, 1.0])
    torch.testing.assert_close(users_with - users_without, 0.5 * times_in_batch[0][:, None] * model.users)
    torch.testing.assert_close(items_with - items_without, 0.5 * times_in_batch[1][:, None] * model.items)


def test_repeated_interactions_are_one_pair():
    assert training_pairs(small_split()).tolist() == [[0, 1], [0, 3], [2, 0]]


def test_negatives_are_never_training_items_and_cover_all_others_alike():
    pairs, num_items = all_pairs(np.random.default_rng(0))
    taken = set(map(tuple, pairs.tolist()))
    generator = np.random.default_rng(1)
    counts = np.zeros((pairs[:, 0].max() + 1, num_items))
    rounds = 2000
    for _ in range(rounds):
        triples = with_negatives(pairs, num_items, generator)
        assert np.array_equal(triples[:, :2], pairs)
        np.add.at(counts, (triples[:, 0], triples[:, 2]), 1)
    for user in np.unique(pairs[:, 0]):
        degree = (pairs[:, 0] == user).sum()
        expected = rounds * degree / (num_items - degree)
        for item in range(num_items):
            if (user, item) in taken:
                assert counts[user, item] == 0
            else:
                assert counts[user, item] == pytest.approx(expected, abs=6 * math.sqrt(expected))


def test_users_who_took_everything_are_left_out_and_refused_when_alone():
    pairs = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    triples = with_negatives(pairs, 3, np.random.default_rng(0))
    assert triples.tolist() == [[1, 0, 2], [1, 1, 2]]
    with pytest.raises(ValueError, match="3 interactions, and no user with one lacks any of the 3 items"):
        with_negatives(pairs[:3], 3, np.random.default_rng(0))


def test_user_states_are_fitted_folded_in_or_missing():
    valid = cases([0, 1, 3], [[3], [4, 2], []], [[4]] * 3, [True, False, False])
    split = small_split(valid=valid)
    assert count_users(split) == 4
    folded = []
    vectors = Vectors(torch.arange(8.0).view(4, 2), torch.zeros(5, 2),
                      lambda histories: folded.extend(histories) or torch.tensor([[-1.0, -2.0]]))
    states = user_states(vectors, valid, split)
    assert states[:3].tolist() == [[0, 1], [-1, -2], [4, 5]]  # user 2 is no case, but was trained on
    assert np.isnan(states[3]).all()
    assert [row.tolist() for row in folded] == [[4, 2]]


def test_distinct_values_of_each_history():
    rows = distinct_values(Ragged.from_rows([[3, 1, 3], [], [0, 0]]))
    assert [row.tolist() for row in rows] == [[1, 3], [], [0]]


def test_validation_without_a_user_to_rank_for_is_refused(tmp_path):
    valid = cases([1], [[]], [[2]], [False])
    with pytest.raises(ValueError, match="none of 1 users has training data or a history"):
        fit_pairwise(PairwiseModel(3, 5, 2, 0.0), small_split(valid=valid), None, PairwiseOptions(),
                     checkpoints=Checkpoints(tmp_path), accelerator=make_accelerator("fp32"), seed=0)
