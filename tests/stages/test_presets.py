"""Every preset, and every kind that no preset has, through every stage on a tiny demo shop."""

import collections
import json
import sys
from pathlib import Path

import polars as pl
import pytest
import yaml

from pipeline_lib import artifacts, cli, plain_files
from pipeline_lib.added_items import read_added_items
from pipeline_lib.reporting.finished_run import scored_users
from tests.conftest import ROOT, tiny, write_shop
from tests.stages.whole_run import run_stages

PAPERS = sorted(path.stem for path in (ROOT / "conf/paper").glob("*.yaml"))
OTHERS = {
    **{kind: [f"tokenizer.kind={kind}"]
       for kind in ("rqkmeans", "opq", "random", "random_id", "sequential", "cid", "semantic")},
    "mq_seq2seq": ["paper=tiger", "tokenizer.kind=mq"],
}
FIRST = "popularity"  # the others take its ingest and split
SCORING = "store_scoring"  # ranks nothing: it scores candidates
VARIANTS = {**{paper: [f"paper={paper}"] for paper in PAPERS}, **OTHERS}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs all stages in this process, once a variant; the folder with its artifacts and reports."""
    raw, done = tmp_path_factory.mktemp("raw"), {}
    write_shop(raw, users=150, items=120)

    def run_variant(name: str) -> Path:
        if name not in done:
            shared = None if name == FIRST else run_variant(FIRST) / "data"
            done[name] = tmp_path_factory.mktemp(name)
            run_stages(done[name], tiny(*VARIANTS[name]), raw, done=shared)
        return done[name]

    return run_variant


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != SCORING])
def test_it_runs_through_every_stage(run, name):
    folder = run(name)
    metrics = json.loads((folder / "metrics.json").read_text())
    figures, popularity = metrics["test"]["all"], metrics["baseline"]["popularity"]
    assert figures["users"] == popularity["users"] > 100 and metrics["decode"]["invalid_share"] == 0
    assert 0 <= figures["ndcg@10"] <= figures["recall@10"] <= 1 and metrics["test"]["unseen"]["users"] > 0
    split = artifacts.read_split(folder / "data/split")
    rankings = artifacts.read_predictions(folder / "data/predictions/test.parquet", split.num_items)["all"]
    assert all(0 < len(row) <= 30 and not set(row) & set(history)
               for row, history in zip(rankings.items, split.test.histories, strict=True))
    if name == "popularity":  # the same lists but for the order of items that were taken equally often
        assert figures["recall@30"] == pytest.approx(popularity["recall@30"], abs=0.05)


def test_candidates_are_scored_through_every_stage(run):
    metrics = json.loads((run(SCORING) / "metrics.json").read_text())
    test, popularity = metrics["scoring"]["test"], metrics["scoring"]["baseline"]["popularity"]
    assert test["pairs"] == popularity["pairs"] == 11 * test["users"] > 1000
    assert 0 < test["auc"] < 1 and test["ndcg@1"] <= test["mrr"] <= 1
    assert metrics["run"]["protocol"].endswith(" | 10 sampled negatives, 10000 users")
    users, figures, _ = scored_users(run(SCORING))
    assert len(users) == test["users"] and figures["group_auc"].mean() == pytest.approx(test["group_auc"], abs=1e-6)
    assert 0 < metrics["decode"]["prompt_tokens"]["codes"] < metrics["decode"]["prompt_tokens"]["text"]


@pytest.fixture
def sidflow(monkeypatch, capsys):
    """Runs `sidflow ...` in a folder; what it printed."""
    def run_command(folder: Path, *arguments: str) -> str:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["sidflow", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert not end.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    return run_command


def ids_of(printed: str) -> list[str]:
    return [line.split()[2] for line in printed.splitlines()]


def test_an_item_is_added_and_recommended_without_training(run, sidflow, tmp_path):
    """It was taken by those who took another: it is recommended beside it, to known users and to new ones."""
    folder = run("tokenrec")
    split = artifacts.read_split(folder / "data/split")
    items, users = (plain_files.read_table(folder / f"data/ingest/{name}.parquet",
                                           schema)[f"{name[:-1]}_id"].to_pylist()
                    for name, schema in (("items", artifacts.ITEMS), ("users", artifacts.USERS)))
    history = ",".join(items[item] for item in split.train[0][-5:])
    before = ids_of(sidflow(folder, "recommend", "--history", history, "-k", "10"))
    twin = items.index(before[0])
    takers = split.train_users[[twin in row for row in split.train]]
    (tmp_path / "new.csv").write_text("item_id,title\nNEW1,A thing that is new\n")
    (tmp_path / "taken.csv").write_text("user_id,item_id\n" + "".join(f"{users[user]},NEW1\n" for user in takers))
    sidflow(folder, "items", "add", str(tmp_path / "new.csv"), "--taken", str(tmp_path / "taken.csv"))
    try:
        assert "NEW1  A thing that is new" in sidflow(folder, "items", "list")
        after = sidflow(folder, "recommend", "--history", history, "-k", "10")
        assert "NEW1  A thing that is new  (new)" in after and before[0] in ids_of(after)
        assert len(ids_of(sidflow(folder, "recommend", "--history", f"{history},NEW1", "-k", "5"))) == 5
        tested = {name: next(user for user in split.test.users if (user in takers) == (name == "taker"))
                  for name in ("taker", "other")}
        assert [name for name, user in tested.items() if "NEW1" in ids_of(
            sidflow(folder, "recommend", "--user", users[user], "-k", str(len(items) + 1)))] == ["other"]
        with pytest.raises(AssertionError, match="error: embedding source lightgcn knows a user by items of the last run"):
            sidflow(folder, "recommend", "--history", "NEW1")
    finally:
        sidflow(folder, "items", "clear")
    oldest, rest = history.split(",", maxsplit=1)
    assert ids_of(sidflow(folder, "recommend", "--history", oldest, "--history", rest, "-k", "10")) == before


@pytest.mark.parametrize(("name", "message"), [
    ("tokenrec", "item NEW1: embedding source lightgcn embeds an item by the users who took it"),
    ("tiger_sas", "embedding source sasrec cannot embed new items"),
])
def test_items_that_the_run_cannot_rank_are_not_added(run, sidflow, tmp_path, name, message):
    (tmp_path / "new.csv").write_text("item_id,title\nNEW1,A thing that is new\n")
    with pytest.raises(AssertionError, match=f"error: {message}"):
        sidflow(run(name), "items", "add", str(tmp_path / "new.csv"))
    assert sidflow(run(name), "items", "list") == ""


def test_an_item_of_code_readers_is_added_by_its_text(run, sidflow, tmp_path):
    """It has the text of another item, and so its codes, with the next free suffix."""
    folder = run("tiger")
    catalogue = artifacts.read_catalogue(folder / "data/ingest/items.parquet")
    identifiers = artifacts.read_identifiers(folder / "data/tokens")
    shared = collections.Counter(map(tuple, identifiers.codes[:, :-1].tolist()))
    like = next(item for item, codes in enumerate(identifiers.codes[:, :-1].tolist())
                if shared[tuple(codes)] < identifiers.level_sizes[-1])
    row = {"item_id": "NEW,1", **{name: values[like] for name, values in catalogue.attributes.items()}}
    pl.DataFrame([row]).write_parquet(tmp_path / "new.parquet")
    sidflow(folder, "items", "add", str(tmp_path / "new.parquet"))
    try:
        arguments = ("recommend", "--history", catalogue.item_ids[like - 1], "-k", str(len(catalogue)))
        assert {"NEW,1", catalogue.item_ids[like]} <= set(ids_of(sidflow(folder, *arguments)))
        assert len(ids_of(sidflow(folder, "recommend", "--history", "NEW,1", "--history", catalogue.item_ids[0]))) == 10
        sidflow(folder, "export", "--codes", str(tmp_path / "codes.parquet"))
        codes = pl.read_parquet(tmp_path / "codes.parquet")
        assert codes["item_id"].to_list() == [*catalogue.item_ids, "NEW,1"]
        assert codes.row(-1)[1:-1] == codes.row(like)[1:-1] and codes.row(-1)[-1] != codes.row(like)[-1]
        with pytest.raises(ValueError, match="added to another catalogue, or to other users, .* run `sidflow items clear`"):
            read_added_items(folder / "data/added/items.parquet", "digest of other users")
    finally:
        sidflow(folder, "items", "clear")


def test_a_run_that_scores_candidates_recommends_nothing(run, sidflow):
    item = artifacts.read_catalogue(run(SCORING) / "data/ingest/items.parquet").item_ids[0]
    for arguments in (("recommend", "--history", item), ("export", "--recommendations", "lists.csv")):
        with pytest.raises(AssertionError, match="error: decode.kind=score scores candidates and makes no lists"):
            sidflow(run(SCORING), *arguments)


def test_tables_are_exported_each_to_a_file_of_its_own_or_none_at_all(run, sidflow, tmp_path):
    codes, lists = str(tmp_path / "codes.csv"), str(tmp_path / "lists.csv")
    with pytest.raises(AssertionError, match="error: .*codes.csv: one file was named for several tables"):
        sidflow(run("tiger"), "export", "--codes", codes, "--test-lists", codes)
    with pytest.raises(AssertionError, match="error: k is 31, but lists have up to 30 items"):
        sidflow(run("tiger"), "export", "--codes", codes, "--test-lists", lists, "-k", "31")
    assert not any(tmp_path.iterdir())


def test_every_kind_of_every_axis_is_in_some_variant(run):
    trees = [yaml.safe_load((run(name) / "params.yaml").read_text()) for name in VARIANTS]
    for axis in ("tokenizer", "recommender"):
        blocks = {name for name, value in trees[0][axis].items() if isinstance(value, dict)}
        assert blocks == {tree[axis]["kind"] for tree in trees}
