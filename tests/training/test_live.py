import importlib.util
import json
from importlib.machinery import PathFinder

import pytest

from pipeline_lib.training.live import live_curves

ROWS = [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.0}]


def test_without_dvclive_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with live_curves(tmp_path / "live", wanted=True) as log_row:
        log_row(ROWS[0])
    assert not (tmp_path / "live").exists()


def test_a_folder_that_dvclive_has_written_is_not_taken_for_it(tmp_path, monkeypatch):
    (tmp_path / "dvclive").mkdir()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: PathFinder.find_spec(name, [str(tmp_path)]))
    with live_curves(tmp_path / "live", wanted=True) as log_row:
        log_row(ROWS[0])
    assert not (tmp_path / "live").exists()


def test_only_one_process_writes(tmp_path):
    with live_curves(tmp_path / "live", wanted=False) as log_row:
        log_row(ROWS[0])
    assert not (tmp_path / "live").exists()


def test_with_dvclive_each_epoch_is_a_step(tmp_path, monkeypatch):
    pytest.importorskip("dvclive", reason="needs the extra `live`")
    monkeypatch.chdir(tmp_path)
    with live_curves(tmp_path / "live", wanted=True) as log_row:
        for row in ROWS:
            log_row(row)
        assert json.loads((tmp_path / "live" / "metrics.json").read_text())["train_loss"] == 1.0
    lines = (tmp_path / "live" / "plots" / "metrics" / "train_loss.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["step", "1", "2"]
