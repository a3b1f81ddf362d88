"""The embed stage, killed and in two processes: it yields what one process does, and the main one alone writes."""

import os
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
import yaml
from accelerate import Accelerator

from pipeline_lib import artifacts, plain_files
from pipeline_lib.training.checkpoints import Checkpoints, Clock
from stages.embed import main
from tests.embeddings import test_dense as dense
from tests.embeddings import test_mf as mf
from tests.embeddings import test_sasrec as sasrec
from tests.two_processes import ROOT, run_in_two_processes

# without dropout, which each process draws for itself; the last step of an epoch has one row; lightgcn stops early
OPTIONS = {
    "sasrec": asdict(sasrec.SMALL) | {"dropout": 0.0, "batch_size": 59},
    "lightgcn": mf.OPTIONS | {"batch_size": 359, "validate_every": 1, "patience": 2},
    "mf": mf.OPTIONS | {"batch_size": 359},
    "dense": asdict(dense.CONFIG) | {"epochs": 3, "batch_size": 19},
}


def write_inputs(folder: Path) -> None:
    """A split of users who keep to a block of items, the texts of another shop, and params.yaml."""
    artifacts.write_split(folder / "split", mf.block_split())
    catalogue = dense.make_catalogue()
    items = pa.table({"item": pa.array(range(len(catalogue)), pa.int32()), "item_id": catalogue.item_ids,
                      "title": catalogue.titles, "text": catalogue.texts}
                     | {f"attr_{name}": values for name, values in catalogue.attributes.items()})
    plain_files.write_table(folder / "items.parquet", items, items.schema)
    tree = yaml.safe_load((ROOT / "conf/config.yaml").read_text(encoding="utf-8"))
    del tree["defaults"]
    tree["embed"] |= OPTIONS | {"sources": ["text", *OPTIONS]}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def embed(source: str, inputs: Path, out: Path, checkpoints: Path | None = None) -> None:
    """Run the stage; all that it writes lies in ``out``, the checkpoints too where nothing else is said."""
    with patch.dict(os.environ, {"SIDFLOW_CHECKPOINTS": str(checkpoints or out / "checkpoints")}):
        main(source, inputs / "items.parquet", inputs / "split", out / source, out / "timing.json",
             inputs / "params.yaml")


def test_the_seconds_of_a_resumed_stage_are_those_of_both_processes(tmp_path):
    write_inputs(tmp_path)
    with patch.object(artifacts, "write_embedding", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
        with patch.object(Clock, "seconds", return_value=1000.0):
            embed("mf", tmp_path, tmp_path)
    embed("mf", tmp_path, tmp_path)
    timing = plain_files.read_json(tmp_path / "timing.json")["embed@mf"]
    assert timing["seconds"] > 1000 and "earlier_seconds" not in timing
    assert timing["items_per_second"] == pytest.approx(timing["items"] / timing["seconds"], abs=0.06)


@pytest.fixture(scope="module")
def together(tmp_path_factory) -> Path:
    """Inputs, and a folder for each of two processes that embedded with every source, one after the other."""
    folder = tmp_path_factory.mktemp("together")
    write_inputs(folder)
    run_in_two_processes("tests.stages.test_embed", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("source", OPTIONS)
def test_two_processes_embed_as_one_does(together, tmp_path, source):
    embed(source, together, tmp_path)
    alone, both = tmp_path / source, together / "0" / source
    metas = [plain_files.read_json(folder / "meta.json") for folder in (alone, both)]
    assert metas[0]["best_epoch"] == metas[1]["best_epoch"]
    losses = [[row["train_loss"] for row in meta["training"]] for meta in metas]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one, two in zip(*(tables(folder) for folder in (alone, both)), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-3)


@pytest.mark.slow
def test_the_main_process_alone_writes(together):
    assert sorted(path.name for path in (together / "0").iterdir()) == sorted([*OPTIONS, "checkpoints", "timing.json"])
    assert set(plain_files.read_json(together / "0/timing.json")) == {*(f"embed@{source}" for source in OPTIONS), "hardware"}
    assert not any((together / "0/checkpoints").iterdir())
    assert not any((together / "1").iterdir())


@pytest.mark.slow
def test_two_processes_killed_between_training_and_writing_go_on_to_the_same_end(together):
    for name in ("meta.json", "items.npy", "users_valid.npy", "users_test.npy", "model/model.safetensors"):
        assert (together / "resumed/0/mf" / name).read_bytes() == (together / "0/mf" / name).read_bytes()
    assert not any((together / "resumed/checkpoints").iterdir())
    assert not any((together / "resumed/1").iterdir())


def tables(folder: Path) -> list[np.ndarray]:
    """All arrays that the stage wrote, in the order of their names."""
    tensors, _ = artifacts.read_embedding_model(folder)
    return [np.load(path) for path in sorted(folder.glob("*.npy"))] + [tensors[name] for name in sorted(tensors)]


def embed_through_a_kill(inputs: Path, folder: Path) -> None:
    """Train with MF, die before anything is written, start again; the second process is late to read the checkpoint."""
    rank, load = os.environ["RANK"], Checkpoints.load
    (folder / rank).mkdir(parents=True)
    with patch.object(artifacts, "write_embedding", side_effect=KeyboardInterrupt), suppress(KeyboardInterrupt):
        embed("mf", inputs, folder / rank, folder / "checkpoints")
    with patch.object(Checkpoints, "load", lambda self: (time.sleep(int(rank)), load(self))[1]):
        embed("mf", inputs, folder / rank, folder / "checkpoints")


if __name__ == "__main__":  # one of the two processes
    target = Path(sys.argv[1])
    assert os.environ["WORLD_SIZE"] == "2"
    (target / os.environ["RANK"]).mkdir()
    with patch.object(Accelerator, "end_training"):  # they part once, after the last source
        for name in OPTIONS:
            embed(name, target, target / os.environ["RANK"])
        embed_through_a_kill(target, target / "resumed")
    Accelerator().end_training()
