import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.lock import Lock

from pipeline_lib.params_file import compose_tree
from pipeline_lib.reporting.provenance import (
    changed_code, changed_keys, changed_stages, data_digest, read_stages, require_committed,
)

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


@pytest.fixture
def with_data(repository):
    """The repository with raw data under DVC, everything committed, the run finished."""
    (repository / "raw").mkdir()
    (repository / "raw/shop.csv").write_text("a,b\n", encoding="utf-8")
    for command in (["dvc", "add", "-q", "raw"], ["dvc", "repro", "-q"]):
        subprocess.run([sys.executable, "-m", *command], cwd=repository, check=True)
    commit(repository)
    return repository


def commit(folder: Path) -> None:
    for command in (["add", "-A"], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=folder, check=True)


def test_a_run_on_data_that_git_does_not_know_or_knows_otherwise_is_refused(with_data):
    require_committed(with_data, Path("raw"))
    pointer = with_data / "raw.dvc"
    pointer.write_text(f"{pointer.read_text()}# other\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"^raw.dvc differs from HEAD \(1 such files\)"):
        require_committed(with_data, Path("raw"))
    subprocess.run(["git", "rm", "-q", "--cached", "raw.dvc", ".gitignore"], cwd=with_data, check=True)
    with pytest.raises(ValueError, match=r"^raw: neither these files nor raw.dvc, which `dvc add` writes, are in git"):
        require_committed(with_data, Path("raw"))


def test_raw_data_has_the_digest_of_its_pointer(with_data):
    first = data_digest(with_data, Path("raw"))
    (with_data / "raw/shop.csv").write_text("a,c\n", encoding="utf-8")
    subprocess.run([sys.executable, "-m", "dvc", "add", "-q", "raw"], cwd=with_data, check=True)
    assert first and data_digest(with_data, Path("raw")) not in (None, first)
    assert data_digest(with_data, Path("other")) is None and data_digest(with_data, with_data.parent) is None


def test_raw_data_that_lies_in_git_has_the_digest_of_its_files(repository):
    (repository / "raw").mkdir()
    digests = []
    for text in ("a,b\n", "a,c\n", "a,b\n"):
        (repository / "raw/shop.csv").write_text(text, encoding="utf-8")
        commit(repository)
        digests.append(data_digest(repository, Path("raw")))
    assert digests[0] == digests[2] != digests[1] and None not in digests


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


@pytest.mark.parametrize("form", ["../shop", "{outside}"])
def test_data_outside_the_project_is_refused_and_said_what_to_do_with(with_data, form):
    raw = form.format(outside=with_data.parent / "shop")
    with pytest.raises(ValueError, match=f"^{raw}: lies outside the project.*`sidflow data add {raw}`"):
        require_committed(with_data, Path(raw))


@pytest.mark.parametrize("name", ["pipeline_lib/extra.py", "stages/extra.py", "conf/paper/extra.yaml", "dvc.yaml"])
def test_code_that_differs_from_head_is_named(repository, name):
    commit(repository)
    assert changed_code(repository) == []
    path = repository / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text((path.read_text() if path.exists() else "") + "# other\n", encoding="utf-8")
    assert changed_code(repository) == [name]
