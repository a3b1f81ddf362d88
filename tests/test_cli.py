"""The command as a user types it, in a folder with a copy of conf/."""

import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline_lib import cli

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def sidflow(tmp_path, monkeypatch, capsys):
    """Run `sidflow ...` in tmp_path; returns exit status, stdout and stderr."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sidflow", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
            raise SystemExit(0)
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def own_data(tmp_path):
    folder = tmp_path / "shop"
    folder.mkdir()
    rows = [f"{user:04d},b{item},{10 + item}" for user in range(5) for item in range(4)]
    (folder / "interactions.csv").write_text("customer,sku,timestamp\n" + "\n".join(rows) + "\n")
    return folder


COLUMNS = ("--column", "user_id=customer", "--column", "item_id=sku")


def test_the_version_is_that_of_the_package(sidflow):
    assert sidflow("--version")[:2] == (0, f"sidflow {importlib.metadata.version('sidflow')}\n")


def test_params_are_composed_from_groups_and_keys(sidflow):
    assert sidflow("params", "scale=small", "seed=7")[0] == 0
    tree = yaml.safe_load(Path("params.yaml").read_text())
    assert (tree["seed"], tree["preset"]["scale"]) == (7, "small")
    assert sidflow("check")[:2] == (0, "ok: dense -> kmeans (none) -> instruction_lm -> beam on data/raw/demo\n")


def test_a_pipeline_on_data_that_is_not_here_is_possible_and_said(sidflow):
    status, out, err = sidflow("check", "paper=sasrec", "dataset=yelp")
    assert status == 0 and out.startswith("ok: sasrec") and err.startswith("data/raw/yelp is not here yet: `sidflow data add")


@pytest.mark.parametrize(("arguments", "message"), [
    (("check", "tokenizer.kind=rqave"), "error: params: tokenizer.kind is rqave; known: "),
    (("check", "tokeniser.kind=rqvae"), "error: conf/: "),
    (("check", "paper=nothing"), "error: conf/: "),
    (("params", "decode.top_k=5"), "error: params: decode.top_k=5 is shorter than the largest of evaluate.ks (30)"),
    (("check", "+tokenizer.kmeans.depth=3"), "error: params: tokenizer.kmeans.depth is not known; known: "),
    (("check", "paper=store", "ablation=no_sia"), "error: params: ablation=no_sia is not one of paper=store, whose "),
    (("compare", "--paper", "tiger,store", "--ablation", "none,no_user_token"), "error: params: ablation=no_user_token "),
    (("compare", "--paper", "tigr"), "error: --paper tigr: no such preset in conf/paper; known: "),
    (("compare", "--paper", "tiger", "-S", "seed=2"), "error: -S seed=2: give it as --seed"),
    (("compare", "--paper", "tiger", "--metrics", "recall@7"), "error: --metrics recall@7: evaluate.ks has 1, 5, 10, 20, 30"),
    (("compare", "--paper", "tiger", "--metrics", "ndcg@10,recal@10"),
     "error: --metrics recal@10: no run here measures it; known: recall@1, "),
    (("compare", "--paper", "store_scoring", "--metrics", "ndcg@10"),
     "error: --metrics ndcg@10: no run here measures it; known: auc, group_auc, mrr, ndcg@1, ndcg@5; did you mean ndcg@"),
    (("compare", "--paper", "store_scoring,store", "--metrics", "auc,recall@10,group_acu"),
     "error: --metrics group_acu: no run here measures it; known: "),
    (("compare", "--paper", "tiger", "--chart", "nodir/c.svg"), "error: --chart nodir/c.svg: there is no folder nodir"),
    (("compare", "--paper", "store_scoring,tiger", "--metrics", "auc", "--chart", "auc.svg"),
     "error: --chart: auc is not measured by popularity here; put a metric of ranked lists first"),
    (("compare", "--paper", "tiger", "--chart", "conf"), "error: --chart conf: is a folder"),
    (("sweep", "tokenizer.kind", "--out", "nodir/s.svg"), "error: --out nodir/s.svg: there is no folder nodir"),
    (("report", "--out", "conf"), "error: --out conf: is a folder; expected a file"),
    (("params", "--out", "conf"), "error: [Errno 21] Is a directory"),
    (("check", "training.batch_size=0"), "error: params: training.batch_size is 0; expected 1 or more"),
    (("check", "evaluate.ks=[0]"), "error: params: evaluate.ks[0] is 0; expected 1 or more"),
    (("recommend",), "error: give either --user or --history"),
    (("recommend", "--user", "x"), "error: data/ingest/items.parquet: no such file; stage ingest makes it"),
    (("data", "validate", "absent"), "error: absent: no such folder"),
    (("data", "validate", "conf"), "error: conf: no raw format recognised"),
    (("data", "validate", "conf", "--format", "csv"), "error: "),
])
def test_an_error_is_one_line_and_writes_nothing(sidflow, arguments, message):
    status, out, err = sidflow(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(message) and err.count("\n") == 1
    assert sorted(path.name for path in Path().iterdir()) == ["conf"]


def test_a_metric_that_only_some_methods_measure_is_taken(sidflow):
    subprocess.run(["git", "init", "-q"], check=True)
    status, out, _ = sidflow("compare", "--paper", "tiger,store_scoring", "--metrics", "auc,recall@10", "--show")
    assert status == 0 and "tiger: not run" in out and "store_scoring: not run" in out


def test_without_a_dvc_repository_show_says_so_in_one_line(sidflow):
    Path("reports").mkdir()
    Path("reports/metrics.json").write_text("{}")
    status, out, err = sidflow("show")
    assert (status, out) == (1, "") and err.startswith("error: dvc status: you are not inside of a DVC repository")
    assert err.count("\n") == 1


def test_a_traceback_is_shown_on_demand(sidflow, monkeypatch):
    monkeypatch.setenv("SIDFLOW_DEBUG", "1")
    monkeypatch.setattr(sys, "argv", ["sidflow", "recommend"])
    with pytest.raises(ValueError, match="give either"):
        cli.main()


def test_own_data_is_described(sidflow, own_data):
    status, out, _ = sidflow("data", "validate", str(own_data), *COLUMNS)
    assert status == 0
    assert "shop (table)" in out and "users: 5" in out and "items: 4" in out and "interactions: 20" in out
    assert "history_length: min 4, mean 4, max 4" in out and "density: 1\n" in out


@pytest.fixture
def flawed_data(own_data):
    """own_data with 22 rows that have no time."""
    with (own_data / "interactions.csv").open("a") as file:
        file.writelines(f"new,b{item % 4},\n" for item in range(22))
    return own_data


def test_bad_rows_are_listed_beside_what_is_left_of_the_data_before_they_are_refused(sidflow, flawed_data):
    status, out, err = sidflow("data", "validate", str(flawed_data), *COLUMNS)
    lines = out.splitlines()
    assert [line.split(", row ")[1].split(":")[0] for line in lines[:20]] == [str(row) for row in range(22, 42)]
    assert all(line.startswith("bad row: ") and "timestamp" in line for line in lines[:20])
    assert lines[20] == "and 2 more bad rows" and "users: 5" in out and "interactions: 20" in out
    assert status == 1 and err.splitlines()[-1].startswith("error: ") and "(bad rows: 22, allowed by" in err
    assert sidflow("data", "add", str(flawed_data), *COLUMNS)[0] == 1 and not Path("data/raw/shop").exists()
    assert sidflow("data", "validate", str(flawed_data), *COLUMNS, "--max-bad-rows", "22")[0] == 0
    assert sidflow("data", "validate", str(flawed_data), *COLUMNS, "--max-bad-rows", "21")[0] == 1


def test_bad_rows_that_are_let_pass_stand_in_the_new_preset(sidflow, flawed_data):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q"], check=True)
    assert sidflow("data", "add", str(flawed_data), *COLUMNS, "--max-bad-rows", "22")[0] == 0
    assert yaml.safe_load(cli.compose(["dataset=shop"]))["ingest"]["max_bad_rows"] == 22
    assert sidflow("data", "validate", str(flawed_data))[0] == 0  # as the preset says
    assert sidflow("data", "validate", str(flawed_data), "--max-bad-rows", "3")[0] == 1
    shutil.rmtree("data/raw/shop")
    Path("data/raw/shop.dvc").unlink()
    status, _, err = sidflow("data", "add", str(flawed_data), "--max-bad-rows", "30")
    assert status == 1 and "exists already and has ingest.max_bad_rows=22, not 30" in err


def test_a_wrong_mapping_lists_the_columns_there_are(sidflow, own_data):
    status, _, err = sidflow("data", "validate", str(own_data))
    assert status == 1 and "customer" in err and "user_id" in err
    assert sidflow("data", "validate", str(own_data), "--column", "user_id")[2] == \
        "error: --column user_id: expected ours=theirs, e.g. user_id=customer\n"


def test_a_new_preset_takes_the_attributes_there_are_as_text(sidflow, own_data):
    (own_data / "items.csv").write_text("sku,name,colour\n" + "".join(f"b{item},thing {item},red\n" for item in range(4)))
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q"], check=True)
    assert sidflow("data", "add", str(own_data), "--name", "other", *COLUMNS)[0] == 0
    tree = yaml.safe_load(cli.compose(["dataset=other"]))
    assert (tree["ingest"]["title"], tree["ingest"]["text"]) == ("name", ["name", "colour"])


@pytest.mark.parametrize("name", ["../evil", "mein laden", "läd", "2024", "Null", "shop, old", "shop(2)", "a=b", ""])
def test_what_cannot_be_named_on_a_command_line_is_no_name_of_a_data_set(sidflow, own_data, name):
    status, out, err = sidflow("data", "add", str(own_data), "--name", name, *COLUMNS)
    assert (status, out) == (1, "") and f"{name!r} cannot name a data set: give --name with letters" in err
    assert not Path("data").exists()


def test_where_there_is_no_dvc_repository_nothing_is_kept(sidflow, own_data):
    status, _, err = sidflow("data", "add", str(own_data), *COLUMNS)
    assert status == 1 and err.startswith("error: `dvc add data/raw/shop` failed, and nothing was kept: ")
    assert err.count("\n") == 1 and not Path("data/raw/shop").exists() and not Path("conf/dataset/shop.yaml").exists()


def test_a_folder_that_holds_the_copies_is_refused(sidflow, own_data, tmp_path):
    status, _, err = sidflow("data", "add", str(tmp_path), "--name", "shop")
    assert status == 1 and "holds data/raw itself" in err and not Path("data").exists()


def test_a_folder_that_cannot_be_copied_leaves_nothing(sidflow, own_data):
    (own_data / "notes.txt").symlink_to("nowhere")
    status, _, err = sidflow("data", "add", str(own_data), *COLUMNS)
    assert status == 1 and "shop cannot be copied, and nothing was kept: " in err and err.count("\n") == 1
    assert not Path("data/raw/shop").exists()


@pytest.mark.parametrize("interrupted", ["copytree", "run"])
def test_an_addition_that_is_interrupted_leaves_nothing(sidflow, own_data, monkeypatch, interrupted):
    def partly(source, copy, **options):
        (Path(copy) / "interactions.csv").write_text("cust")
        raise KeyboardInterrupt

    def add(*arguments, **options):
        Path("data/raw/shop.dvc").write_text("outs: []")
        raise KeyboardInterrupt

    monkeypatch.setattr(*((shutil, "copytree", partly) if interrupted == "copytree" else (subprocess, "run", add)))
    sidflow("data", "add", str(own_data), *COLUMNS)
    assert not list(Path("data/raw").iterdir()) and not Path("conf/dataset/shop.yaml").exists()


def test_why_dvc_refuses_a_folder_is_said(sidflow, own_data):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q"], check=True)
    (own_data / "interactions.csv.dvc").write_text("outs: [")
    status, out, err = sidflow("data", "add", str(own_data), *COLUMNS)
    assert status == 1 and "interactions.csv.dvc' is invalid" in err and err.count("\n") == 1 and "wrote" not in out
    assert not Path("data/raw/shop").exists()


def test_a_column_that_a_preset_cannot_name_is_refused(sidflow, own_data):
    (own_data / "items.csv").write_text("sku,${x}\n" + "".join(f"b{item},1\n" for item in range(4)))
    status, _, err = sidflow("data", "add", str(own_data), *COLUMNS)
    assert status == 1 and "column ${x} cannot stand in a preset" in err and not Path("data").exists()


def test_rows_that_repeat_others_at_the_same_time_are_told(sidflow, own_data):
    text = (own_data / "interactions.csv").read_text()
    (own_data / "interactions.csv").write_text(text + text.split("\n", 1)[1])
    _, out, err = sidflow("data", "validate", str(own_data), *COLUMNS)
    assert "duplicates: 20" in out and err.startswith("20 rows repeat another one of the same user, item and time")


def test_data_under_the_name_of_a_preset_is_read_as_that_says_and_the_error_names_it(sidflow, own_data):
    toys = own_data.rename(own_data.with_name("toys"))
    status, _, err = sidflow("data", "validate", str(toys))
    assert status == 1 and "(read as conf/dataset/toys.yaml says" in err


def test_row_numbers_of_a_table_are_no_part_of_a_text(sidflow, own_data):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q"], check=True)
    (own_data / "items.csv").write_text(",sku,title\n0,b0,Zero\n1,b1,One\n2,b2,Two\n3,b3,Three\n")
    assert sidflow("data", "add", str(own_data), *COLUMNS)[0] == 0
    ingest = yaml.safe_load(Path("conf/dataset/shop.yaml").read_text())["ingest"]
    assert (ingest["title"], ingest["text"]) == ("title", ["title"])


def test_columns_that_are_given_go_before_those_of_a_preset_and_leave_the_rest_of_it(sidflow, own_data):
    (own_data / "interactions.csv").write_text("customer,sku\n1,2\n")
    Path("conf/dataset/shop.yaml").write_text("ingest: {path: data/raw/shop, format: table, order: none}\n")
    status, out, err = sidflow("data", "validate", str(own_data), *COLUMNS)
    assert (status, err) == (0, "") and "users: 1" in out


def test_own_data_is_added_with_a_preset_that_composes(sidflow, own_data):
    subprocess.run(["git", "init", "-q"], check=True)
    subprocess.run([Path(sys.executable).with_name("dvc"), "init", "-q"], check=True)
    status, out, _ = sidflow("data", "add", str(own_data), *COLUMNS)
    assert status == 0 and "added data/raw/shop" in out
    assert "`dvc exp run -S dataset=shop -S paper=lightgcn`, or another paper that needs no texts" in out
    assert "`git add conf/dataset/shop.yaml data/raw && git commit -m shop`" in out
    assert Path("data/raw/shop.dvc").exists() and Path("data/raw/shop/interactions.csv").exists()
    tree = yaml.safe_load(cli.compose(["dataset=shop"]))
    assert tree["ingest"]["path"] == "data/raw/shop"
    assert tree["ingest"]["columns"] == {"user_id": "customer", "item_id": "sku"}
    assert (tree["ingest"]["title"], tree["ingest"]["text"]) == (None, [])
    listed = sidflow("data", "list")[1]
    assert any(line.split()[:2] == ["shop", "here"] for line in listed.splitlines())
    assert sidflow("data", "add", str(own_data))[2].startswith("error: data/raw/shop exists already")
    shutil.rmtree("data/raw/shop")  # its preset stays
    assert sidflow("data", "add", str(own_data))[2].startswith("error: data/raw/shop.dvc exists already: `dvc pull` gets")
    Path("data/raw/shop.dvc").unlink()
    other = ("--column", "user_id=customer", "--column", "item_id=sku", "--column", "rating=timestamp")
    status, _, err = sidflow("data", "add", str(own_data), *other)
    assert status == 1 and err.startswith(f"error: --column: {Path('conf/dataset/shop.yaml')} exists already and has ")
    assert err.count("\n") == 1 and not Path("data/raw/shop").exists()
    assert sidflow("data", "add", str(own_data), *COLUMNS)[0] == 0


@pytest.mark.parametrize(("text", "message"), [
    ("ingest: [1", "conf/dataset/mine.yaml: not valid YAML"),
    ("ingest:\n  format: table\n", "conf/dataset/mine.yaml: no ingest.path; expected the folder of the raw files"),
    ("", "conf/dataset/mine.yaml: expected a mapping of parameters, found NoneType"),
])
def test_a_broken_preset_is_one_line_and_the_others_are_listed(sidflow, own_data, text, message):
    Path("conf/dataset/mine.yaml").write_text(text)
    status, out, err = sidflow("data", "list")
    lines = {line.split()[0]: line for line in out.splitlines()}
    assert (status, err) == (0, "") and len(lines) == len(list(Path("conf/dataset").glob("*.yaml")))
    assert lines["mine"].split()[1] == "broken" and message in lines["mine"] and "data/raw/demo" in lines["demo"]
    err = sidflow("data", "add", str(own_data), "--name", "mine")[2]
    assert err.startswith(f"error: {message}") and err.count("\n") == 1
