"""Each data set preset names parameters that exist, and reads the real data where it is at hand."""

import json
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline_lib.interactions.raw import RawData
from pipeline_lib.interactions.reading import read_raw
from pipeline_lib.interactions.validation import describe_raw
from pipeline_lib.params import IngestParams, SplitParams
from pipeline_lib.parsing import parse

ROOT = Path(__file__).resolve().parents[2]
DATASETS = ROOT.parent / "shared" / "datasets"
PRESETS = ("beauty", "beauty_setrec", "instruments", "lastfm", "ml-100k", "ml-1m", "scientific18", "toys",
           "toys_setrec", "yelp")


def preset(name):
    text = (ROOT / "conf" / "dataset" / f"{name}.yaml").read_text(encoding="utf-8")
    assert text.startswith("# @package _global_\n")
    return yaml.safe_load(text)


@pytest.mark.parametrize("name", [*PRESETS, "demo"])
def test_a_preset_holds_known_parameters_and_its_own_name(name):
    tree = preset(name)
    assert tree["preset"] == {"dataset": name}
    ingest = parse(IngestParams, tree["ingest"], "ingest")
    split = parse(SplitParams, {"kind": "leave_one_out"} | tree.get("split", {}), "split")
    assert ingest.order != "none" or split.kind == "given"
    assert ingest.path == f"data/raw/{name.removesuffix('_setrec')}"


@pytest.mark.parametrize("name", PRESETS)
def test_real_data_has_the_published_counts(name):
    params = parse(IngestParams, preset(name)["ingest"], "ingest")
    folder = DATASETS / Path(params.path).name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    raw = read_raw(folder, params)
    found, expected = describe_raw(raw), json.loads((folder / "stats.json").read_text())
    assert (found["users"], found["items"], found["interactions"]) == (
        expected["users"], expected["items"], expected["interactions"])
    assert found["interactions"] - found["repeats"] == expected["distinct_user_item_pairs"]
    assert found["density"] * 100 == pytest.approx(expected["density_percent"], abs=5e-5)
    for ours, theirs in (("history_length", "user_history_length"), ("item_frequency", "item_frequency")):
        assert found[ours] == pytest.approx(expected[theirs], abs=5e-3)
    for attribute, share in expected.get("coverage", {}).items():
        assert found["filled"][attribute] == pytest.approx(share, abs=5e-5)
    named = {params.title, *params.text, *params.lists} - {None}
    assert named <= set([] if raw.items is None else raw.items.columns)
    split_file = preset(name).get("split", {}).get("file")
    assert split_file is None or (folder / split_file).is_file()


def test_figures_worked_by_hand():
    interactions = pl.DataFrame({"user_id": ["u", "u", "u", "v"], "item_id": ["a", "a", "b", "a"],
                                 "timestamp": [1, 2, 3, 4], "rating": [None, None, None, None]})
    items = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "title": ["A", None, "", "D"],
                          "tags": [["x"], [], None, ["y"]]})
    assert describe_raw(RawData(interactions, items, ("one",))) == {
        "users": 2, "items": 2, "interactions": 4, "density": 1.0, "repeats": 1,
        "duplicates": 0,
        "first": "1 (1970-01-01)", "last": "4 (1970-01-01)",
        "history_length": {"min": 1, "mean": 2.0, "max": 3}, "item_frequency": {"min": 1, "mean": 2.0, "max": 3},
        "bad_rows": 1, "item_rows": 4, "items_without_interactions": 2, "filled": {"title": 0.5, "tags": 0.5}}
    again = pl.concat([interactions, interactions.tail(2), interactions.head(1).with_columns(timestamp=pl.lit(9, pl.Int64))])
    assert [describe_raw(RawData(again, None))[name] for name in ("repeats", "duplicates")] == [4, 2]
    as_dates = interactions.with_columns(pl.lit(20200913).alias("timestamp"))
    assert "20200913 (the date 2020-09-13? Write it so" in describe_raw(RawData(as_dates, None))["first"]
    milliseconds = interactions.with_columns(pl.lit(1_577_836_800_123).alias("timestamp"))
    described = describe_raw(RawData(milliseconds, None))
    assert described["first"] == "1577836800123 (no day: are these seconds?)" and "filled" not in described
