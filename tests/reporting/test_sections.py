"""Sections of the report on small arrays; the whole page is made in tests/test_compare.py."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest

from pipeline_lib.evaluation.code_quality import code_usage_rows, describe_codes
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Catalogue, Rankings, Split
from pipeline_lib.reporting.data_sections import (
    code_tree,
    codes_section,
    data_section,
    reconstruction_section,
    training_section,
)
from pipeline_lib.reporting.ledger import measured_parts
from pipeline_lib.reporting.result_sections import (
    comparison_section,
    example_rows,
    examples_section,
    history_name,
    metrics_section,
    run_section,
    shown_metrics,
    timing_section,
)

CATALOGUE = Catalogue([f"B{item}" for item in range(4)], ["Red & blue", "", "Soap", "Tea"], ["a b", "", "c d e f", ""],
                      {"brand": ["x", "", "", ""]})
CASES = Cases(np.array([3, 8], np.int32), Ragged.from_rows([[0, 1], [2]]), Ragged.from_rows([[3], [0]]),
              np.array([True, False]))
RANKINGS = Rankings(np.array([8, 3], np.int32), Ragged.from_rows([[1, 2], [2, 3]]), np.zeros(4, np.float32))
ROW = {"protocol": "beauty | mine", "dataset": "beauty", "paper": "tiger", "ablation": "none", "scale": "small",
       "seed": 1, "data": "aa", "seconds": 12.0, "revision": "abc", "params_hash": "0f", "test/all/recall@10": 0.5}


def text_of(section):
    return " ".join("".join(ElementTree.fromstring(f"<x>{section.body}</x>").itertext()).split())


def test_the_data_section_counts_what_there_is():
    split = Split(np.array([3], np.int32), Ragged.from_rows([[0, 1, 0]]), CASES, CASES,
                  np.array([2, 1, 0, 0], np.int32), np.array([True, True, False, False]), np.ones(4, np.int8))
    section = data_section(CATALOGUE, split, 2, 6)
    cells = re.findall(r">([^<>]+)</td><td>([^<>]+)</td>", section.body)
    assert {("users", "2"), ("items", "4"), ("interactions", "6"), ("of them to train on", "3"), ("title", "75.0%"),
            ("text", "50.0%"), ("attribute brand", "25.0%"), ("items without training data (cold)", "2"),
            ("test users without training data (unseen)", "1")} <= set(cells)
    assert "A text has 3.0 words." in text_of(section) and section.body.count("<img") == 2


def test_scored_candidates_have_their_figures_in_the_sections_of_lists():
    figures = {"users": 5, "pairs": 20, "auc": 0.7, "group_auc": 0.65, "mrr": 0.4, "ndcg@1": 0.2, "ndcg@5": 0.3}
    scoring = {"test": figures, "valid": figures | {"auc": 0.6}, "baseline": {"popularity": figures | {"auc": 0.55}}}
    metrics = {"run": {"protocol": "shop | mine"}, **measured_parts({"run": {}, "scoring": scoring, "decode": {"tokens": 9}})}
    run, groups = text_of(run_section(metrics, [])), text_of(metrics_section(metrics, [], []))
    assert re.search(r"auc ?group_auc ?ndcg@5 ?mrr", run) and "0.7000" in run and "popularity" in run and "0.5500" in run
    assert "valid: all" in groups and "0.6000" in groups


def test_the_tree_opens_prefix_by_prefix_down_to_titles():
    codes = np.array([[1, 0, 0], [1, 0, 1], [1, 2, 0], [0, 0, -1]], np.int32)
    root = ElementTree.fromstring(f"<x>{code_tree(codes, CATALOGUE.titles)}</x>")
    first = root.find("details")
    assert [part.find("summary").text for part in root.findall("details")] == ["1: 3 items", "0: 1 item"]
    assert [part.find("summary").text for part in first.findall("details")] == ["1-0: 2 items", "1-2: 1 item"]
    assert [item.text for item in first.iter("li")] == ["Red & blue", "item 1", "Soap"]


def test_the_tree_of_a_large_catalogue_stays_small():
    codes = np.random.default_rng(0).integers(0, 256, size=(20_000, 3)).astype(np.int32)
    tree = code_tree(codes, ["A title of an item"] * 20_000)
    assert len(tree) < 200_000 and "and 244 more" in tree  # 256 first codes, 12 shown


def test_identifiers_are_described_where_there_are_codes_and_otherwise_said_to_be_absent():
    codes = np.array([[0, 1], [0, 1], [1, 0], [1, 1]], np.int32)
    usage = [{name: str(value) for name, value in row.items()} for row in code_usage_rows(codes, (2, 2))]
    section = codes_section(describe_codes(codes, (2, 2), 0.25), usage, codes, CATALOGUE.titles, "rqvae")
    assert all(part in section.body for part in ("0.5000", "level_1", "<img", "<details"))
    none = codes_section({"items": 4}, [], None, CATALOGUE.titles, "none")
    assert "tokenizer of this run is none: items have no codes" in text_of(none) and "<img" not in none.body


def test_curves_are_drawn_for_what_was_trained_and_nothing_else():
    rows = [{"epoch": "1", "train_loss": "3.0", "valid_ndcg@10": "0.1"},
            {"epoch": "2", "train_loss": "2.0", "valid_ndcg@10": ""},
            {"epoch": "3", "train_loss": "1.0", "valid_ndcg@10": "0.05"}]
    section = training_section({"finetune": rows})
    assert section.body.count("<img") == 2
    assert text_of(section).endswith("finetune: 3 epochs; last train_loss 1, valid_ndcg@10 0.05; "
                                     "best valid_ndcg@10 0.1 in epoch 1.")
    assert text_of(training_section({})) == "Nothing was trained by gradient in this run."


def test_groups_and_their_charts():
    scores = {"users": 9, "recall@5": 0.25, "recall@10": 0.5, "ndcg@10": 0.3, "mrr": 0.2}
    metrics = {"test": {"all": scores, "unseen": {"users": 0}}, "valid": {"all": scores}}
    section = metrics_section(metrics, [{"group": "1", "users": "9", "recall@10": "0.5"}],
                              [{"history": "3", "users": "9", "recall@10": "0.5"}])
    assert section.body.count("<img") == 2 and "test: unseen" in text_of(section) and "-" in text_of(section)
    assert "valid: all" in text_of(section)
    assert "valid" not in text_of(metrics_section({"test": metrics["test"]}, [], []))  # refitted on validation
    assert shown_metrics(scores) == ["recall@5", "recall@10", "ndcg@10", "mrr"]
    assert shown_metrics({"recall@3": 1, "hit_rate@3": 1}) == ["recall@3"]


@pytest.mark.parametrize(("shortest", "name"), [(0, "0"), (1, "1-2"), (5, "5-9"), (50, "50+")])
def test_buckets_of_histories_are_named_by_both_ends(shortest, name):
    assert history_name(shortest) == name


def test_figures_of_another_protocol_are_marked_as_such():
    figure = {"source": "P (X 2024)", "table": "Table 1", "row": "TIGER", "data": "beauty", "group": "all", "note": ""}
    published = [figure | {"protocol": "beauty | theirs", "metric": "recall@10", "value": "0.0648"},
                 figure | {"protocol": "beauty | mine", "metric": "recall@10", "value": "0.0111",
                           "note": "misprint: low"},
                 figure | {"protocol": "toys | theirs", "data": "toys", "metric": "recall@10", "value": "0.0999"}]
    row = {name: str(value) for name, value in ROW.items()}
    ledger = [row | {"seed": "7", "paper": "sasrec"}, row | {"protocol": "beauty | else", "paper": "mf"}]
    text = text_of(comparison_section(ROW, ledger, published, []))
    assert "another: beauty | theirs" in text and "the same" in text
    assert "0.0111*" in text and "TIGER: misprint: low" in text
    assert "sasrec" in text and "mf" not in text and "0.0999" not in text
    for others in ([], [row | {"seed": "7", "data": "bb"}]):  # the second on other data of the same name
        assert "No other run of this protocol" in text_of(comparison_section(ROW, others, [], []))


def test_a_comparison_says_what_it_compares_how_and_at_what_cost():
    row = {"dataset": "shop", "protocol": "shop | one", "scale": "small", "seeds": "2 of 2", "status": "done",
           "reference": "plain", "overrides": "training.epochs=3", "recall@10": "0.5", "recall@10 spread": "0.01",
           "seconds": "", "seconds/finetune": "40", "seconds/ingest": "", "peak_memory_mib": "",
           "peak_memory_mib/finetune": "90", "peak_memory_mib/ingest": "", "untimed": "ingest"}
    tested = {"recall@10 difference": "0.1", "recall@10 low": "0.05", "recall@10 high": "0.2", "recall@10 p": "0.01"}
    section = comparison_section(ROW, [], [], [row | {"method": "good", **tested}, row | {"method": "plain"}])
    text = text_of(section)
    assert "shop, scale small: shop | one; with training.epochs=3" in text
    assert "reference: plain; 95% bootstrap interval and paired permutation test over users" in text
    assert "+0.1000 [+0.0500, +0.2000] p=0.0100" in text and "&gt; 40" in section.body and "&gt; 90" in section.body
    assert "Seconds and peak memory of each stage" in text and "40 (90)" in text
    assert "good: > means at least; untimed, from DVC's cache: ingest" in text


def test_a_comparison_has_a_table_for_each_protocol():
    row = {"dataset": "shop", "protocol": "shop | all items", "scale": "small", "seeds": "1 of 1", "status": "done",
           "reference": "", "recall@10": "0.5", "recall@10 spread": ""}
    rows = [row | {"method": "ranks"}, row | {"method": "scores", "protocol": "shop | sampled"},
            row | {"method": "late", "protocol": "", "recall@10": "", "status": "not run", "seeds": "0 of 1"}]
    body = comparison_section(ROW, [], [], rows).body
    one, two = body.split("Comparison over seeds")[1].split("<table")[1:3]
    assert "ranks" in one and "late" in one and "shop | all items" in one and "scores" not in one
    assert "scores" in two and "shop | sampled" in two and "ranks" not in two


def test_examples_are_right_and_wrong_ones_in_turn_with_titles():
    assert example_rows(CASES, RANKINGS) == [0, 1]
    text = text_of(examples_section(CATALOGUE, [f"u<{user}" for user in range(9)], CASES, RANKINGS))
    assert text.index("User u<3: right") < text.index("User u<8: wrong") and "Red & blue" in text and "B1" in text
    assert "Tea ←" in text and text.count("←") == 1


def test_ten_users_are_shown_even_where_few_are_right():
    users = np.arange(100, dtype=np.int32)
    cases = Cases(users, Ragged.from_rows([[0]] * 100), Ragged.from_rows([[1]] * 2 + [[3]] * 98), np.ones(100, bool))
    rankings = Rankings(users, Ragged.from_rows([[1]] * 100), np.zeros(100, np.float32))
    rows = example_rows(cases, rankings)
    assert len(rows) == len(set(rows)) == 10 and {0, 1} <= set(rows)
    everyone = Cases(users, cases.histories, Ragged.from_rows([[1]] * 100), cases.seen)
    assert len(example_rows(everyone, rankings)) == 10


def test_timings_and_reconstructions_are_tables():
    timing = {"decode": {"seconds": 2.5, "peak_memory_mib": 80.0, "users": 10, "users_per_second": 4.0}}
    assert "4.0 users/s" in text_of(timing_section(timing, {"cpu": "x", "gpu": ""}))
    example = {"item": 2, "attribute": "brand", "original": "Acme", "decoded": "Acne"}
    said = text_of(reconstruction_section([example], CATALOGUE.titles, 0.416))
    assert "Soap" in said and "make what is so 42% cheaper to say" in said and said.endswith("AcmeAcneno")
    assert "cheaper" not in text_of(reconstruction_section([example], CATALOGUE.titles, None))
