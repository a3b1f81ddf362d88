import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from pipeline_lib.artifacts import read_tensors, write_embedding
from pipeline_lib.backbones.graph import BipartiteGraph, mean_of_layers
from pipeline_lib.decoding.grounding import ground
from pipeline_lib.embeddings import lightgcn, mf
from pipeline_lib.embeddings.lightgcn import Config, embed_items, embed_new_items, fold_in
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.ragged import Ragged
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.training.validation import best_items, ranking_figures
from tests.embeddings.test_mf import (
    ITEMS_A_BLOCK, OPTIONS, assert_test_targets_are_not_read, assert_the_penalty_counts_as_weighted,
    assert_validation_targets_only_choose_the_epoch, block_split, recall_of_held_out, with_unseen_users,
)

DATASETS = Path(__file__).resolve().parents[2].parent / "shared" / "datasets"


def embed(split, folder, seed=0, **options):
    return embed_items(None, split, Config(**{**OPTIONS, **options}), checkpoints=Checkpoints(folder / "embed"),
                       accelerator=make_accelerator("fp32"), seed=seed)


def with_item_nobody_took(split):
    fields = {"train_count": 0, "warm": False, "popularity_group": 5}
    return dataclasses.replace(split, **{name: np.append(getattr(split, name), value).astype(getattr(split, name).dtype)
                                         for name, value in fields.items()})


def test_fold_in_worked_by_hand():
    layers = torch.tensor([[[1.0], [10.0], [7.0]], [[2.0], [20.0], [0.0]], [[400.0], [4000.0], [0.0]]])  # (3, N, 1)
    users = fold_in(layers, torch.tensor([4, 1, 0]), Ragged.from_rows([[0], [0, 1, 0], [1, 2], [2], []]))
    both = ((1 + 2) / (2 * 4) ** 0.5 + (10 + 20) / (2 * 1) ** 0.5) / 3  # the last layer is sent to nobody
    assert users[:4, 0].tolist() == pytest.approx([(1 + 2) / 2 / 3, both, (10 + 20) / 3, 0])
    assert users[4].isnan()


def test_users_find_the_rest_of_their_block(tmp_path):
    split = block_split()
    assert recall_of_held_out(embed(split, tmp_path), split) > 0.9  # by chance 2 of 26


def test_without_layers_it_is_matrix_factorisation(tmp_path):
    split = block_split()
    ours = embed(split, tmp_path / "lightgcn", layers=0, epochs=3)
    theirs = mf.embed_items(None, split, mf.Config(**{**OPTIONS, "epochs": 3}),
                            checkpoints=Checkpoints(tmp_path / "mf"), accelerator=make_accelerator("fp32"), seed=0)
    assert ours.items.tobytes() == theirs.items.tobytes()
    assert ours.users_test.tobytes() == theirs.users_test.tobytes()
    new = Ragged.from_rows([[0, 3], [5]])
    folded = [module.embed_users(new, made.model, made.model_json) for module, made in ((lightgcn, ours), (mf, theirs))]
    assert folded[0].tobytes() == folded[1].tobytes() and np.abs(folded[0]).min(axis=1).all()


def test_a_user_folded_in_gets_its_vector_less_its_own_layer_0(tmp_path):
    split = block_split()
    propagated, ego = (embed(split, tmp_path / export, epochs=3, export=export) for export in ("propagated", "ego"))
    layers, degrees = (torch.from_numpy(propagated.model[name]) for name in ("item_layers", "item_degrees"))
    folded = fold_in(layers, degrees, split.train).numpy()
    np.testing.assert_allclose(folded, propagated.users_test - ego.users_test / len(layers), atol=1e-6)
    assert np.abs(folded).max() > 0.01


def test_an_item_folded_in_with_its_takers_gets_its_vector_less_its_own_layer_0(tmp_path):
    split = block_split()
    propagated, ego = (embed(split, tmp_path / export, epochs=3, export=export) for export in ("propagated", "ego"))
    order = np.argsort(split.train.values, kind="stable")
    takers = Ragged(split.train.row_of_value[order].astype(np.int32),
                    np.concatenate([[0], np.cumsum(split.train_count)]))
    folded = embed_new_items(None, takers, propagated.model, propagated.model_json)
    np.testing.assert_allclose(folded, propagated.items - ego.items / 4, atol=1e-6)
    users = ego.model["user_layers"][0]
    np.testing.assert_allclose(embed_new_items(None, Ragged.from_rows([[0, 3], []]), ego.model, ego.model_json),
                               [users[[0, 3]].mean(axis=0), np.full(users.shape[1], np.nan)], rtol=1e-5)


def test_ego_exports_layer_0_of_the_same_fit(tmp_path):
    split = block_split()
    propagated, ego = (embed(split, tmp_path / export, epochs=3, export=export) for export in ("propagated", "ego"))
    assert ego.items.tobytes() == propagated.model["item_layers"][0].tobytes()
    np.testing.assert_allclose(propagated.items, propagated.model["item_layers"].mean(axis=0), atol=1e-6)
    assert not np.allclose(ego.items, propagated.items)


def test_the_epoch_is_chosen_by_the_propagated_vectors_under_either_export(tmp_path):
    split = block_split()
    propagated, ego = (embed(split, tmp_path / export, seed=1, learning_rate=0.01, epochs=2, validate_every=1,
                             export=export) for export in ("propagated", "ego"))

    def figures(embedding):
        users, items = torch.from_numpy(embedding.users_valid), torch.from_numpy(embedding.items)
        return ranking_figures(best_items(users, items, split.valid.histories), split.valid.targets)

    assert propagated.meta["training"] == ego.meta["training"]
    assert propagated.meta["validation"] == ego.meta["validation"] == pytest.approx(figures(propagated))
    assert figures(ego)["ndcg@10"] < figures(propagated)["ndcg@10"]  # so that layer 0 would be told apart


def test_an_item_nobody_took_keeps_its_share_of_layer_0(tmp_path):
    embedding = embed(with_item_nobody_took(block_split()), tmp_path, epochs=2)
    assert embedding.model["item_degrees"][-1] == 0
    np.testing.assert_allclose(embedding.items[-1], embedding.model["item_layers"][0, -1] / 4, rtol=1e-6)


def test_an_unseen_user_ranks_its_block_first_and_can_be_embedded_later(tmp_path):
    split = with_unseen_users(block_split(), [[8, 9, 10], []], [[11], [0]])
    embedding = embed(split, tmp_path)
    folded, without = embedding.users_test[-2:]
    assert set(np.argsort(-(embedding.items @ folded))[:ITEMS_A_BLOCK]) == set(range(8, 16))
    assert np.isnan(without).all()
    write_embedding(tmp_path / "written", embedding)
    saved = read_tensors(tmp_path / "written" / "model" / "model.safetensors")
    later = fold_in(*(torch.from_numpy(saved[name]) for name in ("item_layers", "item_degrees")),
                    Ragged.from_rows([[8, 9, 10]]))
    np.testing.assert_allclose(later[0], folded, rtol=1e-6)


def test_one_seed_gives_the_same_bytes(tmp_path):
    first, again = (embed(block_split(), tmp_path / name, epochs=2) for name in ("first", "again"))
    assert first.items.tobytes() == again.items.tobytes()


def test_nothing_is_read_from_test_targets(tmp_path):
    assert_test_targets_are_not_read(embed, tmp_path)


def test_validation_targets_only_choose_the_epoch(tmp_path):
    assert_validation_targets_only_choose_the_epoch(embed, tmp_path)


def test_the_penalty_counts_as_weighted(tmp_path):
    assert_the_penalty_counts_as_weighted(embed, tmp_path)


# --- released vectors on real data ----------------------------------------------------------------------------------


def released_lastfm():
    """TokenRec's LightGCN of LastFM: vectors of users and items at layer 0, interactions to train on, test items."""
    folder = DATASETS / "lastfm"
    if not folder.exists():
        pytest.skip(f"needs real data: {folder} is not here")
    rows = {side: pl.read_csv(folder / f"lightgcn_{side}_rows.tsv", separator="\t") for side in ("user", "item")}
    vectors = [torch.from_numpy(np.load(folder / f"lightgcn_{side}_embed.npy").astype(np.float32)) for side in rows]
    log = pl.read_csv(folder / "split.tsv.gz", separator="\t")
    for side, numbers in rows.items():
        log = log.join(numbers.rename({"row": side}), on=f"{side}_id")
    log = log.sort("user", "position")
    return *vectors, log.filter(pl.col("split") == "train"), log.filter(pl.col("split") == "test")


def test_released_vectors_of_lastfm_rank_as_the_sheet_measured_them_before_and_after_propagation():
    users, items, train, test = released_lastfm()
    graph = BipartiteGraph(train["user"].to_numpy(), train["item"].to_numpy(), len(users), len(items))
    user_layers, item_layers = graph.layers(users, items, 3)
    histories = Ragged.from_rows(train.group_by("user", maintain_order=True).agg("item")["item"].to_list())
    targets = Ragged.from_rows([[item] for item in test["item"]])
    found = {}
    for name, pair in {"ego": (users, items),
                       "mean": (mean_of_layers(user_layers), mean_of_layers(item_layers))}.items():
        ranked = ground(*pair, 20, excluded=histories)[0]
        found[name] = np.mean(ranking_metrics(Ragged.from_rows(ranked.tolist()), targets, (20,))["recall@20"])
    assert found["ego"] == pytest.approx(0.0688, abs=0.001)
    assert found["mean"] == pytest.approx(0.1486, abs=0.003)
