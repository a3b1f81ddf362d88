import dataclasses

import numpy as np
import pytest
import torch

from pipeline_lib.embeddings.mf import Config, embed_items, embed_new_items, mean_of_neighbours
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Split
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator

BLOCKS, USERS_A_BLOCK, ITEMS_A_BLOCK = 4, 15, 8
OPTIONS = {"dimensions": 8, "learning_rate": 0.05, "regularisation": 1e-3, "batch_size": 64, "epochs": 12,
           "validate_every": 3}


def block_split(seed=0):
    """Users take items of their own block only; a block's two items left out are those to find."""
    generator = np.random.default_rng(seed)
    takes = []
    for user in range(BLOCKS * USERS_A_BLOCK):
        takes.append(user // USERS_A_BLOCK * ITEMS_A_BLOCK + generator.permutation(ITEMS_A_BLOCK))
    users, train = np.arange(len(takes), dtype=np.int32), Ragged.from_rows([items[:-2] for items in takes])
    valid, test = (Cases(users, Ragged.from_rows([items[:place] for items in takes]),
                         Ragged.from_rows([items[[place]] for items in takes]), np.ones(len(users), dtype=bool))
                   for place in (ITEMS_A_BLOCK - 2, ITEMS_A_BLOCK - 1))
    counts = np.bincount(train.values, minlength=BLOCKS * ITEMS_A_BLOCK).astype(np.int32)
    return Split(users, train, valid, test, counts, counts > 0, np.ones(len(counts), dtype=np.int8))


def with_unseen_users(split, histories, targets):
    """The same with test users nobody trained on behind the others."""
    new = np.arange(len(split.train_users), len(split.train_users) + len(histories), dtype=np.int32)
    test = Cases(new, Ragged.from_rows(histories), Ragged.from_rows(targets), np.zeros(len(new), dtype=bool))
    return dataclasses.replace(split, test=test)


def with_other_targets(split, part="test"):
    """The same but for what the users of a part are to be recommended."""
    cases = getattr(split, part)
    wrong = Ragged((cases.targets.values + 5) % split.num_items, cases.targets.offsets)
    return dataclasses.replace(split, **{part: dataclasses.replace(cases, targets=wrong)})


def recall_of_held_out(embedding, split):
    """Share of test targets among the two best items that were not trained on."""
    scores = embedding.users_test @ embedding.items.T
    scores[split.train.row_of_value, split.train.values] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :2]
    return (best == split.test.targets.values[:, None]).any(axis=1).mean()


def embed(split, folder, seed=0, **options):
    return embed_items(None, split, Config(**{**OPTIONS, **options}), checkpoints=Checkpoints(folder / "embed"),
                       accelerator=make_accelerator("fp32"), seed=seed)


def test_the_mean_of_neighbours_worked_by_hand():
    items = torch.tensor([[1.0], [2.0], [6.0]])
    means = mean_of_neighbours(items, Ragged.from_rows([[2, 1, 2], [], [0]]))
    assert means[[0, 2], 0].tolist() == [4, 1]
    assert means[1].isnan()


@pytest.mark.parametrize("filter_history", [True, False])
def test_the_epoch_is_chosen_by_the_rule_that_lists_are_made_by(tmp_path, filter_history):
    split = block_split()
    repeated = dataclasses.replace(split.valid, targets=split.valid.histories.last(1))
    embedding = embed(dataclasses.replace(split, valid=repeated), tmp_path, epochs=3, filter_history=filter_history)
    assert (embedding.meta["validation"]["recall@10"] == 0) == filter_history


def test_users_find_the_rest_of_their_block(tmp_path):
    split = block_split()
    embedding = embed(split, tmp_path)
    assert recall_of_held_out(embedding, split) > 0.9  # by chance 2 of 26
    assert embedding.meta["validation"]["ndcg@10"] == max(row.get("valid_ndcg@10", 0) for row in embedding.meta["training"])


def test_one_seed_gives_the_same_bytes_and_another_others(tmp_path):
    split = block_split()
    first, again, other = (embed(split, tmp_path / str(run), seed=seed, epochs=2) for run, seed in enumerate((0, 0, 1)))
    assert first.items.tobytes() == again.items.tobytes()
    assert first.users_test.tobytes() == again.users_test.tobytes()
    assert not np.allclose(first.items, other.items)


def test_an_unseen_user_is_the_mean_of_its_history_and_ranks_its_block_first(tmp_path):
    split = with_unseen_users(block_split(), [[8, 9, 10], []], [[11], [0]])
    embedding = embed(split, tmp_path)
    folded, without = embedding.users_test[-2:]
    np.testing.assert_allclose(folded, embedding.items[8:11].mean(axis=0), rtol=1e-5)
    assert set(np.argsort(-(embedding.items @ folded))[:ITEMS_A_BLOCK]) == set(range(8, 16))
    assert np.isnan(without).all() and np.isnan(embedding.users_valid[-2:]).all()


def test_a_new_item_is_the_mean_of_the_users_who_took_it(tmp_path):
    embedding = embed(block_split(), tmp_path, epochs=2)
    found = embed_new_items(None, Ragged.from_rows([[1, 4], []]), embedding.model, embedding.model_json)
    np.testing.assert_allclose(found[0], embedding.users_test[[1, 4]].mean(axis=0), rtol=1e-5)
    assert np.isnan(found[1]).all()


def assert_test_targets_are_not_read(embed_split, folder):
    split = block_split()
    embeddings = [embed_split(each, folder / name, epochs=2)
                  for name, each in (("as it is", split), ("other targets", with_other_targets(split)))]
    for name in ("items", "users_valid", "users_test"):
        assert getattr(embeddings[0], name).tobytes() == getattr(embeddings[1], name).tobytes()


def test_nothing_is_read_from_test_targets(tmp_path):
    assert_test_targets_are_not_read(embed, tmp_path)


def assert_validation_targets_only_choose_the_epoch(embed_split, folder):
    split = block_split()
    one, two = (embed_split(each, folder / name, epochs=3).meta
                for name, each in (("as it is", split), ("other targets", with_other_targets(split, "valid"))))
    assert [row["train_loss"] for row in one["training"]] == [row["train_loss"] for row in two["training"]]
    assert one["validation"] != two["validation"]


def test_validation_targets_only_choose_the_epoch(tmp_path):
    assert_validation_targets_only_choose_the_epoch(embed, tmp_path)


def assert_the_penalty_counts_as_weighted(embed_split, folder):
    losses = [embed_split(block_split(), folder / str(weight), regularisation=weight, epochs=1,
                          batch_size=1000).meta["training"][0]["train_loss"] for weight in (0.0, 1.0, 3.0)]
    penalty = losses[1] - losses[0]
    assert losses[2] - losses[0] == pytest.approx(3 * penalty, rel=1e-4)
    assert penalty == pytest.approx(3 * 8 * 0.1**2 / 2, rel=0.2)  # half the squares of three rows, drawn 0.1 wide


def test_the_penalty_counts_as_weighted(tmp_path):
    assert_the_penalty_counts_as_weighted(embed, tmp_path)


def test_a_fit_resumes_after_a_kill(tmp_path):
    split = block_split()
    whole = embed(split, tmp_path / "whole", epochs=6)
    embed(split, tmp_path / "killed", epochs=3)
    resumed = embed(split, tmp_path / "killed", epochs=6)
    assert len(resumed.meta["training"]) == 6
    assert resumed.items.tobytes() == whole.items.tobytes()


def test_fewer_validation_users_still_choose_an_epoch(tmp_path):
    embedding = embed(block_split(), tmp_path, epochs=3, validate_users=5)
    assert embedding.meta["best_epoch"] == 3
    found = embedding.meta["validation"]["recall@10"] * 5
    assert found == pytest.approx(round(found))


def test_with_nobody_held_out_the_last_epoch_is_kept(tmp_path):
    split = block_split()
    embedding = embed(dataclasses.replace(split, valid=split.valid.take(np.arange(0))), tmp_path, epochs=4, patience=1)
    assert embedding.meta["best_epoch"] == len(embedding.meta["training"]) == 4
    assert not any(name.startswith("valid_") for name in embedding.meta)
    np.testing.assert_array_equal(embedding.users_valid, embedding.users_test)  # as fitted, for who trains on them
