"""SASRec on a shop where each item is always followed by the next one of a ring."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipeline_lib.embeddings import sasrec
from pipeline_lib.embeddings.sasrec import Config, SASRec, collate, embed_items, embed_users, training_rows
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator

NUM_ITEMS, RING = 12, 10  # items 10 and 11 never occur
SMALL = Config(dimensions=16, layers=1, heads=2, feed_forward=16, dropout=0.1, max_items=6, batch_size=16,
               learning_rate=0.01, epochs=4, filter_history=False)


def ring_row(start, length):
    return [(start + step) % RING for step in range(length)]


def cases(users, rows):
    return Cases(np.array(users, dtype=np.int32), Ragged.from_rows(row[:-1] for row in rows),
                 Ragged.from_rows(row[-1:] for row in rows), np.ones(len(users), dtype=bool))


@pytest.fixture
def split():
    """Users 0 to 39 train; 40 to 44 are unseen; user 45 has no history."""
    rows = [ring_row(user, 2 + user % 8) for user in range(40)]
    train = Ragged.from_rows(rows)
    valid = cases(range(40), [row + ring_row(row[-1] + 1, 1) for row in rows])
    test = cases(range(46), [row + ring_row(row[-1] + 1, 2) for row in rows]
                 + [ring_row(start, 4) for start in range(5)] + [[3]])
    count = np.bincount(train.values, minlength=NUM_ITEMS).astype(np.int32)
    return Split(np.arange(40, dtype=np.int32), train, valid, test, count, count > 0, np.ones(NUM_ITEMS, dtype=np.int8))


def embed(split, folder, seed=0, **options):
    return embed_items(None, split, replace(SMALL, **options), checkpoints=Checkpoints(folder),
                       accelerator=make_accelerator("fp32"), seed=seed)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return SASRec(NUM_ITEMS, replace(SMALL, initializer_std=0.3)).eval()


@pytest.mark.parametrize("loss", ["bce", "sampled"])
def test_negatives_reach_all_items_but_the_label(loss, monkeypatch):
    drawn = []
    for name in ("bce_loss", "sampled_softmax_loss"):
        monkeypatch.setattr(sasrec, name, lambda hidden, table, labels, negatives: drawn.append(negatives))
    network = SASRec(3, replace(SMALL, loss=loss, negatives=200))
    network({"inputs": torch.zeros(100, 2, dtype=torch.int64), "lengths": torch.full((100,), 2),
             "labels": torch.ones(200, dtype=torch.int64)})
    assert set(drawn[0].tolist()) == ({0, 2} if loss == "bce" else {0, 1, 2}) and len(drawn[0]) == 200


def test_rows_worked_by_hand():
    inputs, labels = training_rows(Ragged.from_rows([[7], [1, 2], [3, 4, 5, 6], []]), max_items=2)
    assert [row.tolist() for row in inputs] == [[1], [4, 5]]
    assert [row.tolist() for row in labels] == [[2], [5, 6]]
    batch = collate(inputs, labels, np.array([1, 0]))
    assert batch["inputs"].tolist() == [[4, 5], [1, 0]]
    assert batch["lengths"].tolist() == [2, 1] and batch["labels"].tolist() == [5, 6, 2]


def test_the_packed_loss_is_the_sum_over_all_prefixes(network):
    rows = [[1, 2, 3, 9], [4, 4], [5, 0, 7]]
    inputs, labels = training_rows(Ragged.from_rows(rows), max_items=6)
    packed, count = network(collate(inputs, labels, np.array([2, 0, 1])))
    prefixes = [(row[:end], row[end]) for row in rows for end in range(1, len(row))]
    last = [network.states(torch.tensor([prefix]))[0, -1] for prefix, _ in prefixes]
    expected = sum(F.cross_entropy(state @ network.items.weight.T, torch.tensor(label))
                   for state, (_, label) in zip(last, prefixes))
    assert count == len(prefixes)
    torch.testing.assert_close(packed, expected)


def test_a_share_of_a_batch_without_users_costs_nothing_but_has_gradients(network):
    inputs, labels = training_rows(Ragged.from_rows([[1, 2]]), max_items=6)
    loss, count = network(collate(inputs, labels, np.empty(0, dtype=np.int64)))
    loss.backward()
    assert count == 0 and float(loss.detach()) == 0
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in network.parameters())


def test_a_state_depends_on_its_own_recent_items_alone(network):
    alone = network.encode(Ragged.from_rows([[1, 2, 3]]))
    together = network.encode(Ragged.from_rows([[5, 6, 7, 8, 9], [1, 2, 3], []]))
    torch.testing.assert_close(together[1], alone[0])
    assert together[2].isnan().all()
    long = network.encode(Ragged.from_rows([[11, 10, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]]))
    torch.testing.assert_close(long[0], long[1])


def test_the_order_of_earlier_items_counts(network):
    # one layer, so that without positions the last item would attend to the same set of items
    one, two = network.encode(Ragged.from_rows([[1, 2, 3], [2, 1, 3]]))
    assert (one - two).abs().max() > 0.01


def test_each_position_that_a_batch_reaches_is_trained(network):
    inputs, labels = training_rows(Ragged.from_rows([[1, 2, 3, 9], [5, 0]]), max_items=6)
    network(collate(inputs, labels, np.array([0, 1])))[0].backward()
    assert network.positions.weight.grad.any(dim=1).tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("loss", ["full", "sampled", "bce"])
def test_it_learns_which_item_follows_which(split, tmp_path, loss):
    embedding = embed(split, tmp_path, loss=loss, negatives=20, epochs=40, patience=40, learning_rate=0.02)
    best = (embedding.users_test[:45] @ embedding.items.T).argmax(axis=1)
    assert (best == [row[0] for row in split.test.targets][:45]).mean() > 0.95


def test_users_are_embedded_by_their_histories_even_unseen_ones(split, tmp_path):
    embedding = embed(split, tmp_path)
    assert embedding.users_valid.shape == embedding.users_test.shape == (46, 16)
    assert np.isfinite(embedding.users_test[:45]).all() and np.isnan(embedding.users_test[45]).all()
    assert np.isfinite(embedding.users_valid[:40]).all() and np.isnan(embedding.users_valid[40:]).all()
    assert embedding.meta["untrained_items"] == 2
    np.testing.assert_array_equal(embed_users(split.test.histories, embedding.model, embedding.model_json),
                                  embedding.users_test)


def test_meta_shows_how_the_epoch_was_chosen(split, tmp_path):
    meta = embed(split, tmp_path).meta
    best = max(meta["training"], key=lambda row: row["valid_ndcg@10"])
    assert len(meta["training"]) == 4 and meta["best_epoch"] == best["epoch"]
    assert meta["validation"] == {"ndcg@10": best["valid_ndcg@10"], "recall@10": best["valid_recall@10"]}


def test_with_nobody_held_out_the_last_epoch_is_kept(split, tmp_path):
    embedding = embed(replace(split, valid=split.valid.take(np.arange(0))), tmp_path, epochs=3, patience=1)
    assert (embedding.meta["best_epoch"], embedding.meta["validation"]) == (3, {})
    assert len(embedding.meta["training"]) == 3 and np.isnan(embedding.users_valid).all()
    assert np.isfinite(embedding.users_test[:45]).all()


def same_vectors(one, two):
    return all(np.array_equal(getattr(one, name), getattr(two, name), equal_nan=True)
               for name in ("items", "users_valid", "users_test"))


def test_equal_seeds_give_equal_bytes_and_others_do_not(split, tmp_path):
    one = embed(split, tmp_path / "a")
    assert same_vectors(one, embed(split, tmp_path / "b"))
    assert not same_vectors(one, embed(split, tmp_path / "c", seed=1))


@pytest.mark.parametrize("loss", ["full", "bce"])
def test_a_killed_run_resumes_to_the_same_bytes(split, tmp_path, monkeypatch, loss):
    undisturbed, calls, validate = embed(split, tmp_path / "a", loss=loss), [], sasrec.validate

    def killed_in_the_third_epoch(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(sasrec, "validate", killed_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        embed(split, tmp_path / "b", loss=loss)
    resumed = embed(split, tmp_path / "b", loss=loss)
    assert len(calls) == 5 and same_vectors(undisturbed, resumed) and undisturbed.meta == resumed.meta


def test_test_targets_are_never_read(split, tmp_path):
    other = replace(split, test=replace(split.test, targets=Ragged.from_rows([[11]] * 46)))
    one, two = embed(split, tmp_path / "a"), embed(other, tmp_path / "b")
    assert same_vectors(one, two) and one.meta == two.meta


def test_validation_targets_only_choose_the_epoch(split, tmp_path):
    other = replace(split, valid=replace(split.valid, targets=Ragged.from_rows([[11]] * 40)))
    one, two = embed(split, tmp_path / "a"), embed(other, tmp_path / "b")
    losses = [[row["train_loss"] for row in embedding.meta["training"]] for embedding in (one, two)]
    assert losses[0] == losses[1] and one.meta["validation"] != two.meta["validation"]


@pytest.mark.parametrize("filter_history", [True, False])
def test_the_epoch_is_chosen_by_the_rule_that_lists_are_made_by(split, tmp_path, filter_history):
    repeated = replace(split.valid, targets=split.valid.histories.last(1))
    embedding = embed(replace(split, valid=repeated), tmp_path, epochs=1, filter_history=filter_history)
    assert (embedding.meta["validation"]["recall@10"] == 0) == filter_history


def test_what_cannot_be_is_refused(split, tmp_path):
    with pytest.raises(ValueError, match="embed.sasrec.dimensions is 10, which 4 heads do not divide"):
        embed(split, tmp_path, dimensions=10, heads=4)
    with pytest.raises(ValueError, match="no training user has two items"):
        embed(replace(split, train=Ragged.from_rows([[1]] * 40)), tmp_path)
    with pytest.raises(ValueError, match="no validation user has a history"):
        embed(replace(split, valid=replace(split.valid, histories=Ragged.from_rows([[]] * 40))), tmp_path)
    embedding = embed(split, tmp_path, epochs=1)
    with pytest.raises(ValueError, match="histories hold items 3 to 12 but the model knows 0 to 11"):
        embed_users(Ragged.from_rows([[3, 12]]), embedding.model, embedding.model_json)
