"""What DVC runs, reruns and reuses: the demo pipeline in a repository of its own."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline_lib.cli import compose
from tests.conftest import ROOT, tiny

pytestmark = pytest.mark.slow
STAGES = ["ingest", "split", "embed@text", "quantize", "build_sequences", "finetune", "decode", "evaluate"]


def changed_stages(project) -> set[str]:
    """Stages whose own params, code or inputs from outside differ from their last run."""
    status = json.loads(project.run("dvc", "status", "--json").stdout)
    return {stage for stage, changes in status.items() if any("changed deps" in change for change in changes)}


def test_the_first_run_runs_every_stage_in_order(project):
    assert project.first_run == STAGES


def test_a_second_run_runs_nothing(project):
    assert project.repro() == []


def test_metrics_hold_every_group_and_the_baselines(project):
    metrics = json.loads((project.folder / "reports/metrics.json").read_text())
    assert metrics["run"]["preset"]["paper"] == "tiger"
    for part in (metrics["test"]["all"], metrics["valid"]["all"], metrics["baseline"]["popularity"],
                 metrics["baseline"]["random"]):
        assert part["users"] > 100
        assert 0 <= part["ndcg@10"] <= part["recall@10"] <= 1
    assert metrics["decode"]["invalid_share"] == 0
    timing = json.loads((project.folder / "reports/timing.json").read_text())
    assert sorted(timing) == sorted([*STAGES, "hardware"])


@pytest.mark.parametrize(("override", "expected"), [
    ("ingest.max_bad_rows=1", {"ingest"}),
    ("ingest.min_rating=1", {"ingest", "evaluate"}),
    ("split.min_history=2", {"split", "evaluate"}),
    ("embed.text.ngram_max=1", {"embed@text"}),
    ("tokenizer.rqvae.epochs=4", {"quantize"}),
    ("tokenizer.rqkmeans.iterations=3", set()),
    ("tokenizer.opq.levels=3", set()),
    ("sequences.max_items=5", {"build_sequences"}),
    ("recommender.seq2seq.dropout=0.2", {"finetune"}),
    ("training.learning_rate=0.1", {"finetune"}),
    ("decode.beam_size=40", {"decode"}),
    ("decode.kind=soft_beam", {"decode", "evaluate"}),
    ("decode.filter_history=false", {"finetune", "decode", "evaluate"}),
    ("embed.sasrec.dropout=0.4", set()),
    ("recommender.joint_seq2seq.cycle=3", set()),
    ("evaluate.ks=[5,10]", {"evaluate"}),
    ("preset.paper=other", {"evaluate"}),  # metrics.json names it
    ("seed=7", {"split", "embed@text", "quantize", "finetune", "decode", "evaluate"}),
])
def test_a_param_reruns_the_stages_that_read_it_and_no_other(other_params, override, expected):
    other_params.compose(override)
    assert changed_stages(other_params) == expected


def test_changing_the_beam_reruns_decode_and_evaluate_and_going_back_runs_nothing(restored):
    restored.compose("decode.beam_size=35")
    assert restored.repro() == ["decode", "evaluate"]
    restored.run("sidflow", "params", *tiny())
    assert restored.repro() == []


def test_an_experiment_with_another_tokenizer_reuses_the_stages_before_it(restored):
    overrides = sum((["-S", o] for o in tiny("tokenizer.kind=rqkmeans")), [])
    ran = restored.stages_run(restored.run("dvc", "exp", "run", *overrides, "--name", "other").stdout)
    assert ran == STAGES[3:]
    assert "tokenizer.kind" in restored.run("dvc", "params", "diff").stdout
    assert "recall@10" in restored.run("dvc", "metrics", "diff", "--all").stdout
    assert "other" in restored.run("dvc", "exp", "show", "--csv").stdout
    for command, *revisions in (("show",), ("diff", "HEAD")):
        restored.run("dvc", "plots", command, "-o", "plots", *revisions)
        page = (restored.folder / "plots" / "index.html").read_text()
        assert "Code usage per level" in page and "train_loss" in page
        restored.run("rm", "-r", "plots")


def test_a_stage_killed_between_epochs_resumes_to_the_same_bytes(restored):
    restored.compose("training.epochs=6", "training.patience=10")
    assert restored.repro("finetune") == ["finetune"]
    undisturbed = (restored.folder / "data/model/model.safetensors").read_bytes()
    arguments = yaml.safe_load((restored.folder / "dvc.lock").read_text())["stages"]["finetune"]["cmd"]
    command = arguments.replace("${SIDFLOW_LAUNCH:-python}", sys.executable)
    command = command.replace("--out data/model", "--out data/other")
    process = subprocess.Popen(command, shell=True, cwd=restored.folder, env=restored.env, stderr=subprocess.PIPE)
    checkpoints = restored.folder / ".sidflow/checkpoints"
    deadline = time.monotonic() + 400
    while not any(checkpoints.glob("finetune-*/state.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.01)
    subprocess.run(["pkill", "-9", "-P", str(process.pid)], check=False)
    process.kill()
    process.wait()
    assert not (restored.folder / "data/other").exists()
    done = restored.run("bash", "-c", command)
    assert "resuming after epoch" in done.stderr
    assert (restored.folder / "data/other/model.safetensors").read_bytes() == undisturbed
    assert not any(checkpoints.iterdir())
    restored.run("rm", "-r", "data/other")


def test_another_paper_runs_its_own_embedding_and_reuses_what_is_equal(restored):
    restored.compose("paper=etegrec")
    assert restored.repro() == ["embed@sasrec", *STAGES[3:]]
    assert (restored.folder / "reports/figures/states.svg").exists()
    restored.compose("paper=sasrec")
    assert restored.repro() == STAGES[3:]
    timing = json.loads((restored.folder / "reports/timing.json").read_text())
    assert sorted(timing) == sorted(["hardware", *("embed@sasrec" if stage == "embed@text" else stage for stage in STAGES)])
    item = pq.read_table(restored.folder / "data/ingest/items.parquet")["item_id"][0].as_py()
    # by a vector made for this history
    found = restored.run("sidflow", "recommend", "--history", item, "-k", "5").stdout
    assert len([line for line in found.splitlines() if line.strip()]) >= 5
    restored.compose()
    assert restored.repro() == []


def test_two_processes_decode_what_one_does(project):
    command = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"]["decode"]["cmd"]
    launch = f"{sys.executable} -m torch.distributed.run --standalone --nproc-per-node 2"
    command = command.replace("--out data/predictions", "--out data/other").replace("reports/timing", "data/timing")
    project.run("bash", "-c", command, SIDFLOW_LAUNCH=launch, OMP_NUM_THREADS="1")
    for part in ("valid", "test"):
        one, two = (pq.read_table(project.folder / "data" / folder / f"{part}.parquet")
                    for folder in ("predictions", "other"))
        assert one.drop(["scores"]) == two.drop(["scores"])
        flat = [np.concatenate(table["scores"].to_numpy()) for table in (one, two)]
        np.testing.assert_allclose(*flat, atol=1e-5)
    project.run("rm", "-r", "data/other", "data/timing.json")


def test_recommendations_come_from_the_last_run(project):
    known = project.run("sidflow", "recommend", "--user", "u0000", "-k", "5", check=False)
    users = project.run("sidflow", "show", "--users", "2").stdout
    assert "popularity" in users and "history of" in users
    ids = [line.split()[2] for line in project.run("sidflow", "recommend", "--history",
                                                   first_items(project), "-k", "5").stdout.splitlines()]
    assert len(set(ids)) == 5
    assert known.returncode == 0 or "no such user" in known.stderr
    wrong = project.run("sidflow", "recommend", "--history", "nothing", check=False)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: --history: item nothing is not in")


def first_items(project) -> str:
    return ",".join(pq.read_table(project.folder / "data/ingest/items.parquet")["item_id"].to_pylist()[:3])


def test_codes_that_collide_too_often_stop_the_pipeline_with_one_line(restored):
    restored.compose("tokenizer.collisions=none", "tokenizer.max_collision_rate=0.0")
    done = restored.run("dvc", "repro", "quantize", check=False)
    assert done.returncode != 0
    assert "max_collision_rate" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_the_committed_params_are_the_default_composition():
    committed = subprocess.run(["git", "show", "HEAD:params.yaml"], cwd=ROOT, capture_output=True, text=True,
                               check=True)
    assert committed.stdout == compose([])


def test_what_git_holds_is_what_a_clone_needs():
    tracked = set(subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True,
                                 check=True).stdout.split())
    assert {"dvc.lock", "params.yaml", "reports/metrics.json", "reports/tokenizer.json",
            "reports/timing.json"} <= tracked
    lock = yaml.safe_load((ROOT / "dvc.lock").read_text())
    assert sorted(lock["stages"]) == sorted("embed@dense" if stage == "embed@text" else stage for stage in STAGES)
    assert Path(ROOT, "LICENSE").read_text().lstrip().startswith("Apache License")
