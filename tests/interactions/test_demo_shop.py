from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from pipeline_lib.interactions.demo_shop import generate
from pipeline_lib.interactions.indexing import index_tables
from pipeline_lib.interactions.splitting import split_interactions
from pipeline_lib.params import SplitParams

RECIPE = Path(__file__).resolve().parents[2] / "data" / "raw" / "demo" / "shop.yaml"


@pytest.fixture(scope="module")
def shop():
    return generate(RECIPE)


@pytest.fixture(scope="module")
def split(shop):
    log, items, _ = index_tables(shop.interactions, shop.items, title="title", text=["title"])
    return split_interactions(log, len(items), SplitParams("leave_one_out"), order="time", seed=0)


def changed(folder, **changes):
    """A recipe with other values, ready to be generated."""
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(RECIPE.read_text()) | changes))
    return path


def test_the_shop_has_the_size_that_it_promises(shop):
    lengths = shop.interactions.group_by("user_id").len()["len"]
    assert (len(lengths), len(shop.items)) == (2000, 500)
    assert lengths.min() == 5 and lengths.max() == 25
    assert shop.interactions["user_id"].str.contains(r"^u\d{4}$").all()
    assert shop.interactions["item_id"].str.contains(r"^P\d{4}$").all()
    assert shop.interactions["item_id"].is_in(shop.items["item_id"].implode()).all()


def test_items_have_texts_that_tell_them_apart(shop):
    assert shop.items.columns == ["item_id", "title", "brand", "categories", "description"]
    assert shop.items["title"].n_unique() == shop.items["item_id"].n_unique() == 500
    assert shop.items.null_count().sum_horizontal().item() == 0
    assert shop.items["categories"].list.len().unique().to_list() == [2]
    assert shop.items.select(pl.col("title").str.starts_with(pl.col("brand")).all()).item()


def test_times_rise_within_each_history_and_stay_in_the_recipes_years(shop):
    gaps = shop.interactions["timestamp"].diff().to_numpy()[1:]
    same_user = (shop.interactions["user_id"] == shop.interactions["user_id"].shift()).to_numpy()[1:]
    assert (gaps[same_user.astype(bool)] > 0).all()
    days = pl.from_epoch(shop.interactions["timestamp"]).dt.year()
    assert sorted(days.unique()) == [2022, 2023]


def test_the_same_recipe_gives_the_same_shop_and_another_seed_another(shop, tmp_path):
    assert generate(RECIPE.parent).interactions.equals(shop.interactions)
    small = [generate(changed(tmp_path, users=30, seed=seed)).interactions for seed in (1, 1, 2)]
    assert small[0].equals(small[1]) and not small[0].equals(small[2])


def test_a_markov_chain_recalls_three_times_what_popularity_does(split):
    transitions = np.zeros((split.num_items, split.num_items))
    for items in split.train:
        np.add.at(transitions, (items[:-1], items[1:]), 1)
    popularity = split.train_count / split.train_count.sum()
    last = np.array([history[-1] for history in split.test.histories])
    scores = transitions[last] + popularity  # popularity only breaks ties
    targets = split.test.targets.values[:, None]
    markov = (np.argsort(-scores, axis=1)[:, :10] == targets).any(axis=1).mean()
    popular = np.isin(targets, np.argsort(-popularity)[:10]).mean()
    assert markov > 3 * popular > 0.1


def test_the_shop_has_cold_items_a_long_tail_and_few_repeats(split):
    assert 0.03 < (~split.warm).mean() < 0.08
    cold_targets = ~split.warm[split.test.targets.values]
    assert 0.02 < cold_targets.mean() < 0.1
    by_count = np.sort(split.train_count)[::-1]
    assert by_count[: len(by_count) // 5].sum() > 0.4 * by_count.sum()
    repeats = sum(len(items) - len(set(items.tolist())) for items in split.train) / len(split.train.values)
    assert 0 < repeats < 0.04


def test_a_wrong_recipe_is_refused_by_key(tmp_path):
    with pytest.raises(FileNotFoundError, match="shop.yaml is missing"):
        generate(tmp_path / "shop.yaml")
    with pytest.raises(ValueError, match="shop.yaml.users is 'many', expected int"):
        generate(changed(tmp_path, users="many"))
    with pytest.raises(ValueError, match="shop.yaml.users is 0; expected 1 or more"):
        generate(changed(tmp_path, users=0))
    (tmp_path / "shop.yaml").write_text("users: [1, 2")
    with pytest.raises(ValueError, match="shop.yaml: not valid YAML"):
        generate(tmp_path / "shop.yaml")
    with pytest.raises(ValueError, match="shop.yaml.colour is not known"):
        generate(changed(tmp_path, colour="red"))
    with pytest.raises(ValueError, match="too few for .* of 5000 items; add kinds or lower items"):
        generate(changed(tmp_path, items=5000))
    departments = yaml.safe_load(RECIPE.read_text())["departments"]
    departments[0]["categories"][0]["next"] = ["Rockets"]
    with pytest.raises(ValueError, match="next names the category Rockets"):
        generate(changed(tmp_path, departments=departments))
