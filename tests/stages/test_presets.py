"""Every preset, and every kind that no preset has, through every stage on a tiny demo shop."""

import json
from pathlib import Path

import pytest
import yaml

from pipeline_lib import artifacts
from pipeline_lib.cli import compose
from stages import build_sequences, decode, embed, evaluate, finetune, quantize
from tests.conftest import ROOT, TINY

PAPERS = sorted(path.stem for path in (ROOT / "conf/paper").glob("*.yaml"))
OTHERS = {
    **{kind: [f"tokenizer.kind={kind}"] for kind in ("opq", "random", "random_id", "sequential", "cid", "semantic")},
}
VARIANTS = {**{paper: [f"paper={paper}"] for paper in PAPERS}, **OTHERS}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(project, tmp_path_factory):
    """Runs what comes behind `split`, in this process; the folder with its artifacts and reports."""
    def run_variant(name: str) -> Path:
        folder = tmp_path_factory.mktemp(name)
        tree = yaml.safe_load(compose([*TINY, *VARIANTS[name]]))
        (folder / "params.yaml").write_text(yaml.safe_dump(tree))
        common = {"timing": folder / "timing.json", "params": folder / "params.yaml"}
        items, split = project.folder / "data/ingest/items.parquet", project.folder / "data/split"
        for source in tree["embed"]["sources"]:
            embed.main(source, items, split, folder / "embed" / source, **common)
        vectors, cf_vectors = (folder / "embed" / tree["tokenizer"][key] for key in ("source", "cf_source"))
        quantize.main(vectors, cf_vectors, split, items, folder / "tokens", folder / "tokenizer.json", folder / "usage.csv", **common)
        build_sequences.main(split, items, folder / "tokens", folder / "sequences", **common)
        inputs = (folder / "sequences", folder / "tokens", vectors, cf_vectors, split)
        finetune.main(*inputs, folder / "model", **common)
        decode.main(folder / "model", *inputs, folder / "predictions", **common)
        evaluate.main(folder / "predictions", split, folder / "tokens", folder / "model", folder / "metrics.json",
                      folder / "popularity.csv", folder / "history.csv", folder / "figures", **common)
        return folder

    return run_variant


@pytest.fixture(autouse=True)
def checkpoints(monkeypatch, tmp_path):
    monkeypatch.setenv("SIDFLOW_CHECKPOINTS", str(tmp_path / "checkpoints"))


@pytest.mark.parametrize("name", VARIANTS)
def test_it_runs_through_every_stage(run, project, name):
    folder = run(name)
    metrics = json.loads((folder / "metrics.json").read_text())
    figures, popularity = metrics["test"]["all"], metrics["baseline"]["popularity"]
    assert figures["users"] == popularity["users"] > 100 and metrics["decode"]["invalid_share"] == 0
    assert 0 <= figures["ndcg@10"] <= figures["recall@10"] <= 1 and metrics["test"]["unseen"]["users"] > 0
    split = artifacts.read_split(project.folder / "data/split")
    rankings = artifacts.read_predictions(folder / "predictions/test.parquet", split.num_items)["all"]
    assert all(0 < len(row) <= 30 and not set(row) & set(history)
               for row, history in zip(rankings.items, split.test.histories, strict=True))
    if name == "popularity":  # the same lists but for the order of items that were taken equally often
        assert figures["recall@30"] == pytest.approx(popularity["recall@30"], abs=0.05)


def test_every_kind_of_every_axis_is_in_some_variant():
    trees = [yaml.safe_load(compose([*TINY, *overrides])) for overrides in VARIANTS.values()]
    for axis in ("tokenizer", "recommender"):
        blocks = {name for name, value in trees[0][axis].items() if isinstance(value, dict)}
        assert blocks == {tree[axis]["kind"] for tree in trees}
