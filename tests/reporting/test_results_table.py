import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.reporting.results_table import (
    format_results, popularity_bars, published_rows, recorded_rows, same_data,
)

PUBLISHED = Path(__file__).resolve().parents[2] / "reports" / "results" / "published.csv"
IDENTITY = ("source", "table", "row", "data", "group", "protocol", "metric")


@pytest.fixture(scope="module")
def published():
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_published_figure_is_one_number_with_its_source(published):
    assert {row["source"].split()[0] for row in published} == {"STORE", "TokenRec", "ETEGRec", "SETRec", "TIGER"}
    assert all(row[name] for row in published for name in (*IDENTITY, "value"))
    assert max(Counter(tuple(row[name] for name in IDENTITY) for row in published).values()) == 1
    shares = [float(row["value"]) for row in published if row["metric"].split("@")[0] in ("recall", "ndcg", "auc")]
    assert len(shares) > 900 and all(0 <= share < 1 for share in shares)


def test_figures_are_those_of_the_papers(published):
    value = {tuple(row[name] for name in ("row", "table", "data", "group", "metric")): row["value"]
             for row in published}
    assert value["ETEGRec", "Table 3", "instruments", "all", "ndcg@10"] == "0.0331"
    assert value["STORE", "Table 3", "yelp", "all", "recall@20"] == "0.0316"
    assert value["TokenRec", "Table 2", "lastfm", "all", "hit_rate@20"] == "0.0936"
    assert value["SETRec (T5)", "Table 1", "beauty", "cold", "recall@10"] == "0.0761"
    assert value["SETRec (Qwen 7B)", "Table 3", "toys", "cold", "ndcg@10"] == "0.0613"


def test_impossible_columns_are_left_out_and_misprints_marked(published):
    assert not [row for row in published if row["source"].startswith("STORE") and row["metric"].startswith("ndcg")
                and row["table"] != "Table 5"]
    figures = {}
    for row in published:
        if row["metric"].split("@")[0] in ("recall", "hit_rate", "ndcg") and not row["note"]:
            kind, k = row["metric"].split("@")
            key = (*(row[name] for name in IDENTITY[:-1]), kind)
            figures.setdefault(key, []).append((int(k), float(row["value"])))
    for key, values in figures.items():  # with one target, none of these falls with k
        values = [value for _, value in sorted(values)]
        assert values == sorted(values) or "all held-out targets" in key[5], key
    assert {row["value"] for row in published if row["note"].startswith("misprint: ten times")} == {"0.5234", "0.3336"}


def test_bars_by_popularity_are_means_over_the_runs_of_a_method_that_have_every_group():
    row = {"paper": "tiger", "ablation": "none",
           **{f"test/popularity_{group}/recall@10": 0.1 * group for group in range(1, 6)}}
    higher = row | {"test/popularity_1/recall@10": "0.3"}  # as the ledger has it: text
    sparse = row | {"paper": "mf", "test/popularity_5/recall@10": ""}
    bars = popularity_bars([row, higher, sparse], "recall@10")
    assert list(bars) == ["tiger"] and np.allclose(bars["tiger"], [0.2, 0.2, 0.3, 0.4, 0.5])


def test_recorded_runs_stand_behind_the_baselines_and_say_what_was_set():
    row = {"protocol": "p", "paper": "tiger", "ablation": "none", "scale": "small", "seed": "1", "revision": "abc",
           "overrides": "training.epochs=8", "test/all/recall@10": "0.05", "baseline/popularity/recall@10": "0.01"}
    rows = recorded_rows([row, row | {"seed": "2", "overrides": ""}], ["recall@10", "mrr"])
    assert [one["method"] for one in rows] == ["baseline: popularity", "tiger", "tiger"]
    assert [one["recall@10"] for one in rows] == ["0.0100", "0.0500", "0.0500"]
    assert [one["source"] for one in rows[1:]] == ["scale small, seed 1, abc training.epochs=8",
                                                   "scale small, seed 2, abc"]


def test_baselines_are_means_over_the_seeds_by_which_a_split_may_draw_other_users():
    rows = [{"protocol": "p", "paper": "tiger", "ablation": "none", "scale": "small", "seed": seed, "revision": "abc",
             "overrides": "", "test/all/recall@10": "0.05", "baseline/popularity/recall@10": value}
            for seed, value in (("1", "0.01"), ("1", "0.01"), ("2", "0.04"), ("2", ""))]
    popularity, *methods = recorded_rows(rows, ["recall@10"])
    assert (popularity["recall@10"], popularity["source"]) == ("0.0250", "the same users, seed 1, 2")
    assert [one["recall@10"] for one in methods] == ["0.0500"] * 4


def test_runs_on_other_data_of_one_name_have_blocks_and_baselines_of_their_own():
    row = {"protocol": "shop", "paper": "tiger", "ablation": "none", "scale": "small", "seed": "1", "revision": "abc",
           "data": "aa", "test/all/recall@10": "0.05", "baseline/popularity/recall@10": "0.01"}
    other = row | {"data": "bb", "test/all/recall@10": "0.06", "baseline/popularity/recall@10": "0.03"}
    blocks = format_results(recorded_rows([row, other], ["recall@10"]), ["recall@10"]).split("\n\n")
    assert [block.split("\n")[0] for block in blocks] == ["shop | data aa", "shop | data bb"]
    assert "0.0100" in blocks[0] and "0.0500" in blocks[0] and "0.0300" in blocks[1] and "0.0600" in blocks[1]


def test_the_figures_of_a_group_stand_in_rows_of_their_own():
    row = {"protocol": "p", "paper": "setrec", "ablation": "none", "scale": "small", "seed": "1", "revision": "abc",
           "overrides": "", "test/all/recall@10": "0.05", "test/cold/recall@10": "0.07",
           "baseline/popularity/recall@10": "0.01"}
    rows = recorded_rows([row, row | {"test/cold/recall@10": ""}], ["recall@10"], ["all", "cold"])
    assert [(one["method"], one.get("recall@10")) for one in rows] == [
        ("baseline: popularity", "0.0100"), ("setrec", "0.0500"), ("setrec, cold", "0.0700"), ("setrec", "0.0500"),
        ("setrec, cold", None)]
    assert [one["method"] for one in recorded_rows([row], ["recall@10"], ["cold"])] == ["setrec, cold"]


def test_two_protocols_never_share_a_row_or_a_block(published):
    ledger = [{"protocol": "beauty | mine", "paper": "tiger", "ablation": "random_codes", "scale": "small", "seed": "1",
               "revision": "abc", "test/all/recall@10": "0.05"}]
    rows = recorded_rows(ledger, ["recall@10"]) + published_rows(published)
    text = format_results(rows, ["recall@10"])
    blocks = dict(block.split("\n", 1) for block in text.split("\n\n"))
    assert "tiger, random_codes" in blocks["beauty | mine"] and "TIGER" not in blocks["beauty | mine"]
    tiger = {name: block for name, block in blocks.items() if name.startswith("beauty") and "TIGER" in block}
    assert len(tiger) == 2  # of its own paper and of SETRec's split, apart
    assert all(len({row["protocol"] for row in rows if row["protocol"] == name}) == 1 for name in blocks)


def test_a_group_is_a_row_of_its_own(published):
    methods = {row["method"] for row in published_rows(published, ("all", "cold"))}
    assert {"SETRec (T5)", "SETRec (T5), cold"} <= methods and "SETRec (T5), warm" not in methods


def test_our_cuts_of_a_data_set_are_found():
    assert same_data("beauty", "beauty_setrec") and same_data("scientific", "scientific18")
    assert same_data("ml-1m", "ml-1m") and not same_data("ml-1m", "ml-100k") and not same_data("toys", "beauty")
