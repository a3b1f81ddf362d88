"""record, compare, report and export on a finished run, as a user types them."""

import csv
import json
import re
import shutil
import subprocess
import sys
from itertools import chain
from xml.etree import ElementTree

import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from tests.conftest import TINY

pytestmark = pytest.mark.slow
SECTIONS = ["run", "pipeline", "data", "codes", "training", "metrics", "comparison", "examples", "timings"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PROBE = """<script>
window.wrong = [];
window.addEventListener("error", event => window.wrong.push(String(event.message || event.target.outerHTML)), true);
window.addEventListener("load", () => {
  const hidden = [...document.querySelectorAll("section")].filter(part => part.getBoundingClientRect().height < 40);
  const dead = [...document.querySelectorAll("a")].filter(link => !document.querySelector(link.getAttribute("href")));
  const blank = [...document.images].filter(image => !image.naturalWidth);
  const sections = document.querySelectorAll("section").length;
  document.body.innerHTML = JSON.stringify({sections: sections, hidden: hidden.length, dead: dead.length,
                                            blank: blank.length, wrong: window.wrong});
});</script>"""


@pytest.fixture(scope="module")
def recorded(project):
    """The project with its run in the ledger; afterwards without all that this module adds."""
    assert "recorded" in project.run("sidflow", "record").stdout
    yield project
    for name in ("reports/results/runs", ".sidflow/compare"):
        shutil.rmtree(project.folder / name, ignore_errors=True)
    for name in ("reports/results/ledger.csv", "reports/results/comparison.csv", "reports/report.html"):
        (project.folder / name).unlink(missing_ok=True)


def ledger(project) -> list[dict[str, str]]:
    with (project.folder / "reports/results/ledger.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_recorded_run_has_its_metrics_and_origin(recorded):
    (row,) = ledger(recorded)
    metrics = json.loads((recorded.folder / "reports/metrics.json").read_text())
    timing = json.loads((recorded.folder / "reports/timing.json").read_text())
    assert float(row["test/all/recall@10"]) == metrics["test"]["all"]["recall@10"]
    assert row["protocol"] == metrics["run"]["protocol"]
    assert set(TINY) & set(row["overrides"].split()) and "dataset" not in row["overrides"]
    read = json.loads(next(recorded.folder.glob("reports/results/runs/demo-tiger*/run.json")).read_text())["params"]
    kinds = {"embed": read["embed"]["sources"], "tokenizer": [read["tokenizer"]["kind"]],
             "recommender": [read["recommender"]["kind"]]}
    options = [key.split(".") for key in row["overrides"].split() if key.split("=")[0].count(".") > 1]
    assert all(kind in kinds.get(axis, [kind]) for axis, kind, *_ in options)
    assert float(row["seconds/finetune"]) == timing["finetune"]["seconds"] and int(row["parameters/finetune"]) > 1000
    assert row["revision"] == recorded.run("git", "rev-parse", "--short=12", "HEAD").stdout.strip() and row["cpu"]


def test_a_run_is_not_recorded_twice_nor_with_other_code_or_params(recorded):
    twice = recorded.run("sidflow", "record", check=False)
    assert twice.returncode == 1 and "was recorded on" in twice.stderr
    (recorded.folder / "stages/extra.py").write_text("")
    other = recorded.run("sidflow", "record", check=False)
    (recorded.folder / "stages/extra.py").unlink()
    assert other.returncode == 1 and "error: stages/extra.py differs from HEAD" in other.stderr
    params = recorded.folder / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("beam_size: 30", "beam_size: 31"))
    changed, exported, recommended = (recorded.run("sidflow", *command, check=False) for command in (
        ("record",), ("export", "--codes", "codes.csv"), ("recommend", "--user", "u0000")))
    shown = recorded.run("sidflow", "show")
    recorded.run("sidflow", "report")
    params.write_text(text)
    assert "decode changed since the run, so its files are not of one run" in exported.stderr
    assert recommended.stderr == exported.stderr and recommended.stdout == ""
    assert "dvc status: decode changed" in shown.stderr and "recall@10" in shown.stdout
    assert "Not of one run: decode changed" in (recorded.folder / "reports/report.html").read_text(encoding="utf-8")
    assert changed.returncode == 1 and "dvc status: decode changed since the run" in changed.stderr
    params.write_text(text.replace("ablation: none", "ablation: no_cf"))
    foreign = recorded.run("sidflow", "record", check=False)
    params.write_text(text)
    assert foreign.returncode == 1 and "dvc status: evaluate changed since the run" in foreign.stderr
    assert len(ledger(recorded)) == 1


def test_a_comparison_takes_what_is_cached_and_names_what_fails(recorded):
    grid = ["--paper", "tiger", "--dataset", "demo,beauty", "--seed", "42", "--seed", "43",
            *chain.from_iterable(("-S", key) for key in TINY)]
    shown = recorded.run("sidflow", "compare", *grid, "--show", "--chart", "groups.svg").stdout
    chart = recorded.folder / "groups.svg"
    assert "popularity group of the target" in chart.read_text()
    chart.unlink()
    assert "tiger: 1 of 2 seeds not run" in shown  # the recorded run is that of seed 42
    shutil.rmtree(next(recorded.folder.glob("reports/results/runs/demo-tiger*")))
    assert not (recorded.folder / "reports/results/comparison.csv").exists()  # nothing ran
    del grid[6:8]
    done = recorded.run("sidflow", "compare", *grid, check=False)
    assert done.returncode == 1 and "tiger: failed: data/raw/beauty: not in git and not added to DVC" in done.stdout
    assert "Running stage" not in done.stderr and f"with {' '.join(TINY)}" in done.stdout
    (row,) = ledger(recorded)
    assert f"{float(row['test/all/recall@10']):.4f}" in done.stdout and "1 of 1" in done.stdout
    written = (recorded.folder / "reports/results/comparison.csv").read_text()
    tiger, absent, popularity, random = csv.DictReader(written.splitlines())
    assert tiger["recall@10"] == row["test/all/recall@10"] and absent["status"].startswith("failed")
    assert [popularity["method"], random["method"]] == ["baseline: popularity", "baseline: random"]
    assert float(popularity["recall@10"]) > float(random["recall@10"])
    assert tiger.get("seconds", "") == ""  # nothing ran, so nothing was timed
    assert recorded.run("git", "status", "--short", "--", "params.yaml", "dvc.lock").stdout == ""  # ran in the clone


@pytest.fixture(scope="module")
def page(recorded) -> str:
    recorded.run("sidflow", "report")
    return (recorded.folder / "reports/report.html").read_text(encoding="utf-8")


def test_the_report_is_one_well_formed_page_with_every_section(page):
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>"))
    sections = {section.get("id"): " ".join("".join(section.itertext()).split()) for section in root.iter("section")}
    assert list(sections) == SECTIONS and min(map(len, sections.values())) > 20
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids)) and {link.get("href")[1:] for link in root.iter("a")} <= set(ids)
    assert not re.search(r"(?:src|href)=\"(?!data:|#)|url\(|<script|@import", page)  # nothing comes from elsewhere
    assert "finetune" in sections["pipeline"] and "right" in sections["examples"]
    assert "tiger (this run)" in sections["comparison"]
    assert len(page) < 3_000_000


def test_the_report_opens_in_a_browser(page, tmp_path):
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium on this system (looked for " + ", ".join(BROWSERS) + ")")
    (tmp_path / "page.html").write_text(page.replace("<head>", f"<head>{PROBE}", 1), encoding="utf-8")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
               "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000",
               "--dump-dom", (tmp_path / "page.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ":CONSOLE" not in done.stderr
    found = json.loads(re.search(r"<body>(\{.*\})", done.stdout).group(1))
    assert found == {"sections": len(SECTIONS), "hidden": 0, "dead": 0, "blank": 0, "wrong": []}


def test_results_show_recorded_runs_and_published_figures_apart(recorded):
    text = recorded.run("sidflow", "results", "--metrics", "recall@10").stdout
    blocks = dict(block.split("\n", 1) for block in text.split("\n\n") if "\n" in block)
    ours = [block for protocol, block in blocks.items() if protocol.startswith("demo")]
    assert len(ours) == 1 and "tiger" in ours[0] and "Table" not in ours[0]
    assert any("ETEGRec" in block for block in blocks.values())
    unknown = recorded.run("sidflow", "results", "--metrics", "recal@10", check=False)
    assert unknown.returncode == 1 and unknown.stderr.startswith("error: --metrics recal@10: no figure on anything")
    group = recorded.run("sidflow", "results", "--groups", "warn", check=False)
    assert group.returncode == 1 and "known: all, " in group.stderr and "; did you mean warm?" in group.stderr


def test_codes_and_lists_are_exported_under_the_raw_ids(recorded, tmp_path):
    said = recorded.run("sidflow", "export", "--codes", str(tmp_path / "codes.parquet"), "--recommendations",
                        str(tmp_path / "lists.csv"), "--test-lists", str(tmp_path / "test.parquet"), "-k", "3").stdout
    items = pq.read_table(recorded.folder / "data/ingest/items.parquet")["item_id"].to_pylist()
    assert pq.read_table(tmp_path / "codes.parquet")["item_id"].to_pylist() == items
    lists = pyarrow.csv.read_csv(tmp_path / "lists.csv")
    assert set(lists["item_id"].to_pylist()) <= set(items) and max(lists["rank"].to_pylist()) == 3
    users = pq.read_table(recorded.folder / "data/ingest/users.parquet")["user_id"].to_pylist()
    assert set(lists["user_id"].to_pylist()) == set(users) and f"{len(users)} of {len(users)} users" in said
    taken = pq.read_table(recorded.folder / "data/ingest/interactions.parquet")
    taken = set(zip(taken["user"].to_pylist(), taken["item"].to_pylist(), strict=True))
    shown, tested = ({(users.index(user), items.index(item)) for user, item in
                      zip(table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)}
                     for table in (lists, pq.read_table(tmp_path / "test.parquet")))
    assert not shown & taken and tested & taken  # test targets are what test lists are to find
    nothing = recorded.run(sys.executable, "-m", "pipeline_lib.cli", "export", check=False)
    assert nothing.returncode == 1 and "nothing to export" in nothing.stderr
