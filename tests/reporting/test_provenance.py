import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.lock import Lock

from pipeline_lib.params_file import compose_tree
from pipeline_lib.reporting.provenance import changed_keys, changed_stages, read_stages

CONF = Path("conf").resolve()


@pytest.mark.parametrize(("overrides", "expected"), [
    (["dataset=beauty", "paper=tiger", "scale=small"], {}),
    (["seed=7"], {}),
    (["training.epochs=3", "tokenizer.kind=opq"], {"training.epochs": 3, "tokenizer.kind": "opq"}),
    (["decode.filter_history=false"], {"decode.filter_history": False}),
    (["embed.mf.filter_history=false"], {"embed.mf.filter_history": False}),
    (["decode.filter_history=false", "embed.mf.filter_history=true"], {"decode.filter_history": False}),
    (["embed.dense.backbone.layers=9"], {"embed.dense.backbone.layers": 9}),
])
def test_what_was_set_beyond_presets_is_listed_and_not_what_follows_it(overrides, expected, tmp_path):
    (tmp_path / "conf").symlink_to(CONF)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(compose_tree(CONF, overrides)), encoding="utf-8")
    assert changed_keys(tmp_path) == expected


@pytest.fixture
def repository(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    stage = {"cmd": "echo ${size} > made", "params": ["size"], "outs": ["made"]}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"make": stage}}), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("size: 3\n", encoding="utf-8")
    return tmp_path


def test_stages_that_changed_since_the_run_are_named(repository, monkeypatch):
    monkeypatch.chdir(repository)
    assert changed_stages(Path()) == ["make"] and [stage.name for stage in read_stages(Path())] == ["make"]


@pytest.mark.parametrize("params", ["size: [3", "other: 3"])
def test_params_that_dvc_cannot_read_are_one_line(repository, params):
    (repository / "params.yaml").write_text(params, encoding="utf-8")
    with pytest.raises(ValueError, match=r"^dvc status: (unable to read: |failed to parse ).+$"):
        changed_stages(repository)
    with pytest.raises(ValueError, match=r"^dvc.yaml: (unable to read: |failed to parse ).+$"):
        read_stages(repository)


def test_a_folder_without_dvc_is_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^dvc status: you are not inside of a DVC repository .+$"):
        changed_stages(tmp_path)


def test_a_repository_that_another_dvc_process_holds_is_one_line(repository):
    with Lock(str(repository / ".dvc/tmp/lock")):
        with pytest.raises(ValueError, match=r"^dvc status: Unable to acquire lock. Most likely another DVC process .+$"):
            changed_stages(repository)
