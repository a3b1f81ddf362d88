import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline_lib.params_file import params_from_tree
from pipeline_lib.reporting.finished_run import outputs_digest, stage_timings
from pipeline_lib.reporting.ledger import (
    append_row, block_names, effective_params, find_row, flatten, params_hash, read_ledger, run_name, run_row,
)
from pipeline_lib.reporting.provenance import Stage

ROOT = Path(__file__).resolve().parents[2]
PRESETS = {"TIGER's codes on STORE's model": "tiger_lm", "LC-Rec": "lcrec", "P5-CID": "p5_cid", "TIGER-SAS": "tiger_sas"}
CONF = ROOT / "conf" / "config.yaml"


def make_params(**changes):
    tree = yaml.safe_load(CONF.read_text(encoding="utf-8"))
    del tree["defaults"]
    return params_from_tree(tree | changes)


def make_row(seed=42, revision="abc", **more):
    return {"params_hash": "0f", "revision": revision, "seed": seed, "date": "2026-01-01", **more}


def test_nested_figures_become_paths():
    assert flatten({"test": {"all": {"mrr": 0.5}}, "collisions": 0.0}) == {"test/all/mrr": 0.5, "collisions": 0.0}
    assert flatten({"embed": {"text": {"size": 3}}}, joint=".") == {"embed.text.size": 3}


def test_rows_are_kept_and_columns_grow(tmp_path):
    path = tmp_path / "ledger.csv"
    append_row(path, make_row(old=1))
    append_row(path, make_row(seed=43, new=0.5))
    first, second = read_ledger(path)
    assert (first["old"], first["new"], second["old"], second["new"]) == ("1", "", "", "0.5")
    assert [row["seed"] for row in (first, second)] == ["42", "43"]


def test_the_same_run_is_returned_and_leaves_the_file_alone(tmp_path):
    path = tmp_path / "ledger.csv"
    assert append_row(path, make_row()) is None
    before = path.read_bytes()
    assert append_row(path, make_row())["date"] == "2026-01-01" and path.read_bytes() == before
    append_row(path, make_row(revision="abd"))
    assert find_row(read_ledger(path), make_row(revision="abd")) is not None
    assert find_row(read_ledger(path), make_row(seed=7)) is None
    other = make_row(params_hash="1e")  # another method at the same revision and seed
    assert append_row(path, other) is None and len(read_ledger(path)) == 3


def test_a_run_on_other_data_is_another_run_where_both_say_which(tmp_path):
    path = tmp_path / "ledger.csv"
    assert append_row(path, make_row(data="aa")) is None and append_row(path, make_row(data="bb")) is None
    assert append_row(path, make_row(data="bb")) is not None and append_row(path, make_row(data="")) is not None
    assert [row["data"] for row in read_ledger(path)] == ["aa", "bb"]


def test_a_protocol_is_split_by_data_only_where_it_has_several():
    rows = [{"protocol": "p", "data": "aa"}, {"protocol": "q", "data": "aa"}, {"protocol": "p", "data": "bb"},
            {"protocol": "p", "data": ""}, {"protocol": "q", "data": ""}, {"protocol": "q"}]
    assert block_names(rows) == ["p | data aa", "q", "p | data bb", "p", "q", "q"]


def test_rows_of_several_processes_at_once_are_all_there(tmp_path):
    code = ("import sys; from pathlib import Path; from tests.reporting.test_ledger import append_row, make_row\n"
            "for place in range(20): append_row(Path(sys.argv[1]), make_row(seed=1000 * int(sys.argv[2]) + place))")
    command = [sys.executable, "-c", code, str(tmp_path / "ledger.csv")]
    both = [subprocess.Popen([*command, number], cwd=ROOT) for number in ("1", "2")]
    assert [process.wait(100) for process in both] == [0, 0]
    assert len(read_ledger(tmp_path / "ledger.csv")) == 40


def test_a_row_that_was_cut_off_is_named(tmp_path):
    path = tmp_path / "ledger.csv"
    append_row(path, make_row())
    append_row(path, make_row(seed=43))
    path.write_text(path.read_text()[:-20])
    with pytest.raises(ValueError, match="ledger.csv: row 2 below the header has not as many values"):
        read_ledger(path)


def test_no_ledger_has_no_rows(tmp_path):
    assert read_ledger(tmp_path / "ledger.csv") == []


def test_the_digest_says_what_the_stages_read_and_no_more():
    params = make_params()
    renamed = dataclasses.replace(params, preset={"paper": "other"})
    assert params_hash(params) == params_hash(renamed)
    assert params_hash(params) != params_hash(dataclasses.replace(params, seed=7))
    tree = yaml.safe_load(CONF.read_text(encoding="utf-8"))
    unused = make_params(embed=tree["embed"] | {"mf": tree["embed"]["mf"] | {"dimensions": 3}})
    used = make_params(embed=tree["embed"] | {"text": tree["embed"]["text"] | {"dimensions": 3}})
    assert params_hash(unused) == params_hash(params) != params_hash(used)


def test_a_key_that_came_later_leaves_earlier_digests_as_they_were():
    params = make_params()
    assert "beta" not in effective_params(params)["decode"]
    weighed = dataclasses.replace(params, decode=dataclasses.replace(params.decode, beta=0.0))
    assert params_hash(weighed) != params_hash(params)
    assert "refit" not in effective_params(params)["split"]
    refitted = dataclasses.replace(params, split=dataclasses.replace(params.split, refit=True))
    assert effective_params(refitted)["split"]["refit"] and params_hash(refitted) != params_hash(params)


def test_a_row_holds_presets_metrics_and_stages():
    params = make_params(preset={"dataset": "shop", "paper": "tiger", "scale": "small", "ablation": "none"})
    metrics = {"run": {"protocol": "stale"}, "test": {"all": {"users": 9, "mrr": 0.5}}}
    timing = {"decode": {"seconds": 2.5, "peak_memory_mib": 80.0, "users_per_second": 4.0},
              "evaluate": {"seconds": 1.0, "peak_memory_mib": 90.0}}
    given = {"data": "0123456789abcdef.dir", "revision": "abc", "date": "now", "hardware": {"cpu": "x", "cores": 2},
             "overrides": {"training.epochs": 3, "decode.index": "ivf"}}
    row = run_row(params, metrics, {"collision_rate": 0.25}, timing, {"finetune": 5, "quantize": 2}, **given)
    expected = {"dataset": "shop", "paper": "tiger", "test/all/mrr": 0.5, "tokenizer/collision_rate": 0.25,
                "seconds": 3.5, "peak_memory_mib": 90.0, "seconds/decode": 2.5, "users_per_second": 4.0,
                "parameters": 7, "cores": 2, "parameters/quantize": 2, "seed": 42, "data": "0123456789ab",
                "overrides": "training.epochs=3 decode.index=ivf"}
    assert row | expected == row and "leave_one_out" in row["protocol"]
    partial = run_row(params, metrics, {}, timing | {"decode": None}, {}, **given)
    assert partial["seconds"] == "" and partial["seconds/evaluate"] == 1.0 and "seconds/decode" not in partial
    assert run_name(params) == f"shop-tiger-small-none-seed42-{params_hash(params)}"


def test_scored_candidates_stand_where_lists_would():
    scoring = {"test": {"auc": 0.7, "users": 5}, "valid": {"auc": 0.6}, "baseline": {"popularity": {"auc": 0.5}}}
    row = run_row(make_params(), {"run": {}, "scoring": scoring}, {}, {}, {}, data=None, revision="abc", overrides={},
                  hardware={}, date="now")
    assert row | {"test/all/auc": 0.7, "valid/all/auc": 0.6, "baseline/popularity/auc": 0.5, "overrides": ""} == row


def test_a_stage_from_the_cache_has_the_timing_of_when_it_was_made():
    stages = [Stage("a", (), {"x": "1"}), Stage("b", ("x",), {"y": "2"}), Stage("c", ("y",), {"z": "3"})]
    measured = {"a": {"seconds": 9.0}, "b": {"seconds": 1.0}, "embed@left_over": {"seconds": 5.0}}
    known = {outputs_digest(stages[0]): {"seconds": 2.0}, outputs_digest(Stage("c", (), {"z": "4"})): {"seconds": 7.0}}
    assert stage_timings(stages, measured, known) == {"a": {"seconds": 2.0}, "b": {"seconds": 1.0}, "c": None}


def test_the_grid_of_the_results_page_holds_what_the_ledger_holds():
    rows = [row for row in read_ledger(ROOT / "reports/results/ledger.csv")
            if (row["scale"], row["seed"], row["ablation"]) == ("small", "42", "none")]
    page = (ROOT / "docs/results.md").read_text(encoding="utf-8").split("## What was run\n")[1].split("\n## ")[0]
    header, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")]
                         for line in page.splitlines() if line.startswith("|")]
    datasets = [name.lower().replace(", released", "_setrec") for name in header[1:]]
    assert {row["dataset"] for row in rows} == set(datasets)
    for method, *cells in lines:
        paper = PRESETS.get(method, method.lower())
        for dataset, cell in zip(datasets, cells, strict=True):
            found = [f"{float(row['test/all/recall@10']):.4f}".removeprefix("0") for row in rows
                     if (row["dataset"], row["paper"]) == (dataset, paper)]
            assert cell in found if found else cell in ("-", "x"), f"{method} on {dataset}: {cell}, ledger: {found}"
