"""Of STORE's checklist: 4 (frozen word embeddings under adapters), 5 (samples an item) and 6 (what is exported)."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline_lib.artifacts import read_embedding_model, read_item_vectors, write_embedding
from pipeline_lib.backbones.causal_lm import Backbone, Lora, load_backbone, restore_backbone
from pipeline_lib.embeddings.attribute_tasks import attribute_tasks, training_texts
from pipeline_lib.embeddings.dense import (
    LITTLE_TOLD, Config, embed_items, embed_new_items, encode, reconstructions, restore_network, told_share, validate,
)
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Catalogue, Embedding
from pipeline_lib.seeding import seed_everything
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator

NOBODY = Ragged.from_rows([])
COLOURS, THINGS = ("red", "blue", "green", "black"), ("tent", "stove", "lipstick", "polish")
KINDS = {"tent": "Camping", "stove": "Camping", "lipstick": "Beauty", "polish": "Beauty"}
CONFIG = Config(backbone=Backbone(layers=1, heads=2, width=32, feed_forward=64, vocabulary=290, max_positions=64),
                tokens=2, shown=("title", "brand"), predicted=("kind",), epochs=8, batch_size=4, learning_rate=1e-2,
                weight_decay=0.0, validation_share=0.1)


def make_catalogue(items=64):
    """The kind follows from the title, but only from its meaning; every eighth item has no brand."""
    generator = np.random.default_rng(0)
    things = [THINGS[place] for place in generator.integers(4, size=items)]
    titles = [f"{COLOURS[place]} {thing}" for place, thing in zip(generator.integers(4, size=items), things)]
    brands = [None if row % 8 == 0 else ("Camp", "Glow")[row % 2] for row in range(items)]
    return Catalogue([f"i{row}" for row in range(items)], titles, [""] * items,
                     {"brand": brands, "kind": [[KINDS[thing]] for thing in things]})


def embed(folder, catalogue=None, seed=0, **changes):
    return embed_items(catalogue or make_catalogue(), None, replace(CONFIG, **changes), seed=seed,
                       checkpoints=Checkpoints(folder / "embed"), accelerator=make_accelerator("fp32"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> Embedding:
    return embed(tmp_path_factory.mktemp("whole"))


def test_dense_tokens_hold_what_the_tasks_ask_for(embedded):
    validation = embedded.meta["validation"]
    assert embedded.meta["tasks"] == {"title": "reconstruction", "brand": "reconstruction", "kind": "generation"}
    assert validation["accuracy_kind"] > 0.85 and validation["accuracy_title"] > 0.7
    decoded = [row for row in embedded.meta["reconstructions"] if row["attribute"] == "kind"]
    assert len(decoded) == 6 and sum(row["original"] == row["decoded"] for row in decoded) >= 5


def test_items_of_one_kind_are_nearer(embedded):
    vectors = embedded.items.reshape(64, -1) - embedded.items.reshape(64, -1).mean(axis=0)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    camping = np.array([kind == ["Camping"] for kind in make_catalogue().attributes["kind"]])
    similarity = vectors @ vectors.T
    same = camping[:, None] == camping
    assert similarity[same & ~np.eye(64, dtype=bool)].mean() > similarity[~same].mean() + 0.2


def test_every_item_has_its_dense_tokens_and_equal_texts_equal_ones(embedded):
    assert embedded.items.shape == (64, 2, 32) and embedded.items.dtype == np.float32
    assert embedded.meta["dimensions"] == 32 and embedded.meta["vectors_per_item"] == 2
    catalogue = make_catalogue()
    texts = [(title, brand) for title, brand in zip(catalogue.titles, catalogue.attributes["brand"])]
    first = [texts.index(text) for text in texts]
    assert len(set(first)) < 64
    np.testing.assert_allclose(embedded.items, embedded.items[first], atol=1e-5)


def test_the_written_model_embeds_the_items_again_in_any_company(embedded, tmp_path):
    write_embedding(tmp_path / "dense", embedded)
    tensors, tree = read_embedding_model(tmp_path / "dense")
    catalogue, exported = make_catalogue(), read_item_vectors(tmp_path / "dense", 64)
    np.testing.assert_allclose(embed_new_items(catalogue, NOBODY, tensors, tree), exported, atol=1e-5)
    few = Catalogue(["x", "y"], [catalogue.titles[8], "a much longer title than those before: red red red tent"],
                    ["", ""])  # item 8 has no brand, these no attributes at all
    np.testing.assert_allclose(embed_new_items(few, NOBODY, tensors, tree)[0], exported[8], atol=1e-5)


def test_a_recommender_can_start_from_the_written_model(embedded):
    model, tokenizer = restore_backbone(embedded.model, json.loads(json.dumps(dict(embedded.model_json))))
    network, _ = restore_network(embedded.model, embedded.model_json)
    assert tokenizer.decode(tokenizer.encode("red tent")) == "red tent"
    assert all(torch.equal(weight, network.model.state_dict()[name]) for name, weight in model.state_dict().items())


def test_meta_tells_options_training_and_the_best_epoch(embedded):
    rows = embedded.meta["training"]
    assert embedded.meta["options"] == asdict(CONFIG)
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    best = min(rows, key=lambda row: row["valid_loss"])
    assert best["epoch"] == embedded.meta["best_epoch"] and best["valid_loss"] == embedded.meta["validation"]["loss"]
    assert rows[-1]["train_loss"] < 0.5 * rows[0]["train_loss"]
    assert "training" in json.loads(json.dumps(dict(embedded.meta)))


def test_equal_seeds_give_equal_bits_also_after_a_kill(embedded, tmp_path):
    checkpoints = Checkpoints(tmp_path / "embed")
    saved = checkpoints.save

    def save_once(tensors, state):
        saved(tensors, state)
        if len(state["rows"]) == 5:
            raise KeyboardInterrupt

    checkpoints.save = save_once
    with pytest.raises(KeyboardInterrupt):
        embed_items(make_catalogue(), None, CONFIG, seed=0, checkpoints=checkpoints,
                    accelerator=make_accelerator("fp32"))
    assert np.array_equal(embed(tmp_path).items, embedded.items)


def test_adapters_leave_the_words_alone_and_are_restored_with_them(tmp_path):
    embedded = embed(tmp_path, lora=Lora(rank=4, alpha=8.0, dropout=0.1), epochs=2)
    seed_everything(0)
    untrained, _ = load_backbone(CONFIG.backbone, training_texts(make_catalogue(), ("title", "brand", "kind")))
    saved = {name.removeprefix("backbone.").replace(".base_layer", ""): value  # of a layer that has an adapter
             for name, value in embedded.model.items() if name.startswith("backbone.") and "lora_" not in name}
    assert saved.keys() == {name for name, _ in untrained.named_parameters()}
    for name, weight in untrained.named_parameters():
        assert np.array_equal(saved[name], weight.detach().numpy()), name
    adapters = [value for name, value in embedded.model.items() if "lora_B" in name]
    assert len(adapters) == 2 and all(np.abs(value).max() > 0 for value in adapters)
    again = embed_new_items(make_catalogue(), NOBODY, embedded.model, embedded.model_json)
    np.testing.assert_allclose(again, embedded.items, atol=1e-5)


def test_reconstructions_are_read_off_the_dense_tokens_alone(embedded):
    network, tokenizer = restore_network(embedded.model, embedded.model_json)
    tasks = attribute_tasks(make_catalogue(), CONFIG.shown, CONFIG.predicted, tokenizer, CONFIG.max_tokens)
    items, names = np.array([3, 8]), ("title", "brand", "kind")
    rows = reconstructions(network, tasks, items, tokenizer, names)
    assert [(row["item"], row["attribute"]) for row in rows] == [
        (3, "title"), (3, "brand"), (3, "kind"), (8, "title"), (8, "kind")]  # item 8 has no brand
    assert rows[0]["original"] == make_catalogue().titles[3]
    swapped = Ragged.from_rows([tasks.content[8] if item == 3 else row for item, row in enumerate(tasks.content)])
    other = reconstructions(network, replace(tasks, content=swapped), items, tokenizer, names)
    assert other[0]["decoded"] == rows[3]["decoded"] and other[0]["original"] == rows[0]["original"]
    assert encode(network, tasks.content.take(np.array([3]))).shape == (1, 2, 32)


def test_what_the_dense_tokens_tell_is_what_those_of_another_item_do_not(embedded):
    network, tokenizer = restore_network(embedded.model, embedded.model_json)
    tasks = attribute_tasks(make_catalogue(), CONFIG.shown, CONFIG.predicted, tokenizer, CONFIG.max_tokens)
    items, names = np.array([3, 9, 20]), ("title", "brand", "kind")
    swapped = {3: 20, 9: 3, 20: 9}
    others = replace(tasks, content=Ragged.from_rows(tasks.content[swapped.get(item, item)] for item in range(64)))
    own, other = (validate(network, given, items, names)["loss"] for given in (tasks, others))
    assert told_share(network, tasks, items, names) == pytest.approx(1 - own / other)
    assert told_share(network, tasks, items[:1], names) is None


def test_dense_tokens_that_tell_little_are_warned_of(tmp_path, caplog):
    short = embed(tmp_path / "short", epochs=2)
    assert short.meta["told_share"] < LITTLE_TOLD
    assert "the dense tokens tell little" in caplog.text and "(the best was 2 of 2)" in caplog.text
    caplog.clear()
    long = embed(tmp_path / "long", make_catalogue(160), epochs=12)
    assert long.meta["told_share"] > LITTLE_TOLD and "tell little" not in caplog.text


def test_items_without_text_are_embedded_but_not_trained_on(tmp_path):
    catalogue = make_catalogue(12)
    catalogue.titles[4], catalogue.attributes["brand"][4], catalogue.attributes["kind"][4] = "", None, []
    embedded = embed(tmp_path, catalogue, epochs=1)
    assert embedded.items.shape == (12, 2, 32) and np.isfinite(embedded.items).all()


@pytest.mark.parametrize("changes, message", [
    ({"validation_share": 0.0}, "embed.dense.validation_share is 0.0"),
    ({"backbone": replace(CONFIG.backbone, heads=7)}, "embed.dense.backbone.width is .* but there are 7 heads"),
    ({"shown": ("colour",)}, "names colour, which the items do not have"),
    ({"backbone": replace(CONFIG.backbone, max_positions=8)}, r"item has \d+ tokens, but the LM has 8 positions"),
    ({"validation_share": 0.995}, "only 64 items have a text, and 64 of them are held out"),
])
def test_options_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        embed(tmp_path, **changes)
