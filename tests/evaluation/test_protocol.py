"""The protocol line."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from pipeline_lib.evaluation.protocol import describe_protocol
from pipeline_lib.params import CandidateParams, KCore, Params
from pipeline_lib.params_file import params_from_tree

CONFIG = Path(__file__).resolve().parents[2] / "conf" / "config.yaml"


@pytest.fixture
def params() -> Params:
    tree = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    tree.pop("defaults")
    return params_from_tree(tree)


def changed(params: Params, room: str, **values) -> Params:
    return dataclasses.replace(params, **{room: dataclasses.replace(getattr(params, room), **values)})


def test_options_that_are_off_are_left_out(params):
    params = changed(params, "decode", filter_history=False)
    assert describe_protocol(changed(params, "ingest", path="data/raw/beauty")) == \
        "beauty | leave_one_out, one target | full ranking | history kept"


def test_options_that_are_on_are_named(params):
    params = changed(params, "ingest", path="data/raw/mine", min_rating=4.0, after=1367884800.0, k_core=KCore(5, 5))
    params = changed(params, "split", kind="ratio", max_history=100, unseen_user_share=0.05, min_history=3)
    assert describe_protocol(params) == (
        "mine | rating from 4, time from 1367884800, 5-core | ratio 0.8:0.1:0.1 by time, all held-out targets, "
        "last 100 interactions, unseen users 0.05, history from 3 | full ranking | history filtered")


@pytest.mark.parametrize(("candidates", "rule"), [
    (CandidateParams("sampled", 9), "9 sampled negatives"),
    (CandidateParams("sampled", 9, users=500), "9 sampled negatives, 500 users"),
    (CandidateParams("impressions", 10), "shown candidates, 10 negatives at most"),
])
def test_scored_candidates_are_named_and_history_filtering_does_not_matter(params, candidates, rule):
    params = changed(changed(params, "split", candidates=candidates), "decode", kind="score")
    assert describe_protocol(params) == f"demo | leave_one_out, one target | {rule}"
    assert describe_protocol(changed(params, "decode", filter_history=False)) == describe_protocol(params)


@pytest.mark.parametrize(("room", "values"), [
    ("ingest", {"path": "data/raw/other"}), ("ingest", {"k_core": KCore(5, 0)}), ("ingest", {"before": 5.0}),
    ("split", {"kind": "by_user"}), ("split", {"kind": "given", "file": "split.tsv.gz"}),
    ("split", {"max_history": 50}), ("decode", {"filter_history": False}), ("evaluate", {"ks": (5, 20)}),
])
def test_whatever_changes_the_task_changes_the_line(params, room, values):
    assert describe_protocol(changed(params, room, **values)) != describe_protocol(params)


def test_whatever_belongs_to_the_method_does_not(params):
    other = changed(changed(params, "decode", beam_size=70), "training", epochs=3)
    assert describe_protocol(other) == describe_protocol(params)


def test_what_was_refitted_on_validation_stands_apart_and_says_so(params):
    assert describe_protocol(changed(params, "split", refit=True)) == \
        "demo | leave_one_out, one target, refitted on validation | full ranking | history filtered"
