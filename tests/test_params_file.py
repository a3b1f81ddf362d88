import copy
import shutil
from pathlib import Path

import pytest
import yaml

from pipeline_lib.cli import compose
from pipeline_lib.params_file import compose_tree, params_from_tree, read_params


@pytest.fixture
def tree():
    return copy.deepcopy(yaml.safe_load(compose([])))


def test_the_default_composition_is_read(tree):
    params = params_from_tree(tree)
    assert params.tokenizer.options.where == "tokenizer.kmeans"
    assert params.ingest.k_core.user == 0
    assert params.evaluate.ks == (1, 5, 10, 20, 30)


@pytest.mark.parametrize("sources", [["text"], ["text", "sasrec"]])
def test_the_stages_are_those_of_the_dag(tree, sources):
    dag = list(yaml.safe_load(Path("dvc.yaml").read_text())["stages"])
    at = dag.index("embed")
    tree["embed"]["sources"] = sources
    assert list(params_from_tree(tree).stages) == [*dag[:at], *(f"embed@{source}" for source in sources), *dag[at + 1:]]


@pytest.mark.parametrize("rule", [True, False])
def test_sources_that_rank_users_choose_epochs_by_the_rule_that_lists_are_made_by(rule):
    embed = yaml.safe_load(compose([f"decode.filter_history={rule}"]))["embed"]
    found = {source: embed[source]["filter_history"] for source in embed["sources"] + ["sasrec", "lightgcn", "mf"]
             if "filter_history" in embed[source]}
    assert found == {"sasrec": rule, "lightgcn": rule, "mf": rule}


@pytest.mark.parametrize(("path", "value", "message"), [
    (("split", "knid"), 1, "params: split.knid is not known; known: .*kind"),
    (("tokenizer", "levels"), 3, "params: tokenizer.levels is not known"),
    (("tokenizer", "kind"), "rqave", "params: tokenizer.kind is rqave; known: .*rqvae"),
    (("tokenizer", "kind"), ["rqvae"], r"params: tokenizer.kind is \['rqvae'\]; known: .*rqvae"),
    (("embed", "sources"), ["txet"], "embed.sources names txet, which has no options; known: .*text"),
    (("seed",), "x", "params: seed is 'x', expected int"),
])
def test_a_wrong_key_or_value_is_one_clear_line(tree, path, value, message):
    place = tree
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        params_from_tree(tree)


def test_a_section_that_is_missing_is_named(tree):
    del tree["decode"]
    with pytest.raises(ValueError, match="params: decode is missing; run `sidflow params`"):
        params_from_tree(tree)


@pytest.mark.parametrize("text", [b"ingest:\n\tpath: x\n", b"ingest: [1\n", b"seed: 1\nseed: 2\n", b"ingest: {path: \xf6}\n"])
def test_a_preset_that_is_no_yaml_is_named(tmp_path, text):
    shutil.copytree("conf", tmp_path / "conf")
    (tmp_path / "conf/dataset/mine.yaml").write_bytes(b"# @package _global_\n" + text)
    with pytest.raises(ValueError, match="conf/dataset/mine.yaml.*") as refused:
        compose_tree(tmp_path / "conf", ["dataset=mine"])
    assert "not valid YAML" in str(refused.value)


def test_files_that_are_no_parameters_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `sidflow params`"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match="not valid YAML"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("- 1")
    with pytest.raises(ValueError, match="expected a mapping of parameters, found list"):
        read_params(tmp_path / "params.yaml")
