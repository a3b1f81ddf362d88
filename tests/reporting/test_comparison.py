import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from pipeline_lib import plain_files
from pipeline_lib.evaluation.ranking import ranking_metrics
from pipeline_lib.evaluation.scoring import scoring_figures
from pipeline_lib.ragged import Ragged
from pipeline_lib.reporting.comparison import comparison_rows, find_outcomes, make_grid, measured_metrics, run_grid
from pipeline_lib.reporting.comparison_text import format_comparison, readable_rows
from pipeline_lib.reporting.finished_run import FinishedRun
from pipeline_lib.reporting.ledger import run_name
from pipeline_lib.reporting.workspace import one_line_error
from tests.reporting.test_ledger import make_params

GRID = make_grid(["shop"], ["good", "plain"], "demo", ["none"], [1, 2])


def compose(cell):
    if cell.paper == "unknown":
        raise ValueError("conf/: Could not find 'paper/unknown'")
    names = {"dataset": cell.dataset, "paper": cell.paper, "scale": cell.scale, "ablation": cell.ablation}
    return make_params(seed=cell.seed, preset=names)


class Runs:
    """Stands in for the pipeline: users of ``good`` have 0.5 more than those of ``plain``; remembers what was run."""

    def __init__(self, failing=(), data=None):
        self.cells, self.failing, self.data = [], failing, data

    def __call__(self, cell, params):
        self.cells.append((cell.paper, cell.seed))
        if cell.paper in self.failing:
            raise RuntimeError("finetune: out of memory\nsecond line")
        values = np.tile([0.0, 0.25, 0.5, 0.25], 10) + (0.5 if cell.paper == "good" else 0.0)
        row = {"protocol": "shop | one", "revision": "abc", "seed": cell.seed, "parameters": 1234, "users_per_second": "",
               "test/all/recall@10": float(values.mean()) + 0.01 * cell.seed,
               "seconds": 10.0 * cell.seed, "seconds/finetune": 4.0,
               "peak_memory_mib": 100.0, "peak_memory_mib/finetune": 90.0}
        users = pa.table({"user": pa.array(range(40), pa.int32()), "recall@10": pa.array(values, pa.float32())})
        return FinishedRun(run_name(params), {"row": row, "cases": "c", "data": self.data}, users)


def rows_of(cells, kept, reference=None):
    outcomes = find_outcomes(cells, kept, compose)
    return comparison_rows(outcomes, kept, ["recall@10"], reference, np.random.default_rng(0))


def change_row(kept, cell, **figures):
    """Change the kept run of a cell: None takes a figure away."""
    path = kept / run_name(compose(cell)) / "run.json"
    tree = plain_files.read_json(path)
    row = {name: value for name, value in (tree["row"] | figures).items() if value is not None}
    plain_files.write_json(path, tree | {"row": row})


def test_metrics_are_known_before_a_run_as_it_measures_them():
    params = make_params()
    ranked = Ragged.from_rows([[0, 1]])
    assert set(measured_metrics(params)) == ranking_metrics(ranked, ranked, params.evaluate.ks).keys()
    scored = dataclasses.replace(params, decode=dataclasses.replace(params.decode, kind="score"))
    figures = scoring_figures(np.array([0, 0]), np.array([0, 1]), np.array([0.1, 0.2]))
    assert set(measured_metrics(scored)) == figures.keys() - {"pairs", "users"}


def test_one_seed_of_everything_comes_before_the_second(tmp_path):
    runs = Runs()
    run_grid(GRID, tmp_path, compose, runs)
    assert runs.cells == [("good", 1), ("plain", 1), ("good", 2), ("plain", 2)]


def test_means_spreads_and_paired_tests_worked_by_hand(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    good, plain = rows_of(GRID, tmp_path, "plain")
    assert good["recall@10"] == pytest.approx(0.765) and good["recall@10 spread"] == pytest.approx(0.01 / 2**0.5)
    assert [good[f"recall@10 {name}"] for name in ("difference", "low", "high")] == pytest.approx([0.5, 0.5, 0.5])
    assert good["recall@10 p"] < 0.001 and "recall@10 p" not in plain
    assert (good["seconds"], good["seconds/finetune"], good["parameters"]) == (15.0, 4.0, 1234.0)
    assert good["seeds"] == "2 of 2"


def test_a_cell_that_is_asked_for_twice_is_there_once():
    assert make_grid(["shop"], ["good", "plain", "good"], "demo", ["none"], [1, 2, 1]) == GRID


def test_an_interrupted_grid_goes_on_where_it_stopped(tmp_path):
    class Stopped(Runs):
        def __call__(self, cell, params):
            if len(self.cells) == 2:
                raise KeyboardInterrupt
            return super().__call__(cell, params)

    with pytest.raises(KeyboardInterrupt):
        run_grid(GRID, tmp_path, compose, Stopped())
    half = rows_of(GRID, tmp_path)
    assert [row["seeds"] for row in half] == ["1 of 2", "1 of 2"] and half[0]["status"] == "1 of 2 seeds not run"
    text = format_comparison(half, ["recall@10"], None)
    assert "good: 1 of 2 seeds not run" in text and "0.7600" in text
    again = Runs()
    run_grid(GRID, tmp_path, compose, again)
    assert again.cells == [("good", 2), ("plain", 2)]
    assert [row["status"] for row in rows_of(GRID, tmp_path)] == ["done", "done"]


def test_what_ran_on_other_raw_data_is_not_there_and_runs_again(tmp_path):
    def data(digest):
        return lambda params: digest

    first, unknown, same, other = Runs(data="one"), Runs(), Runs(), Runs(data="two")
    run_grid(GRID, tmp_path, compose, first, data("one"))
    run_grid(GRID, tmp_path, compose, unknown)
    run_grid(GRID, tmp_path, compose, same, data("one"))
    assert len(first.cells) == 4 and unknown.cells == same.cells == []
    assert not any(outcome.tree for outcome in find_outcomes(GRID, tmp_path, compose, data("two")))
    run_grid(GRID, tmp_path, compose, other, data("two"))
    assert other.cells == first.cells
    assert all(outcome.tree["data"] == "two" for outcome in find_outcomes(GRID, tmp_path, compose, data("two")))


def test_a_failed_cell_is_named_with_its_line_and_the_others_go_on(tmp_path):
    cells = make_grid(["shop"], ["unknown", "bad", "plain"], "demo", ["none"], [1])
    run_grid(cells, tmp_path, compose, Runs(failing=("bad",)))
    text = format_comparison(rows_of(cells, tmp_path), ["recall@10"], None)
    assert "unknown: failed: conf/: Could not find 'paper/unknown'" in text
    assert "bad: failed: finetune: out of memory second line" in text and "0.2600" in text
    retried = Runs()
    run_grid(cells, tmp_path, compose, retried)
    assert retried.cells == [("bad", 1)]


def test_a_failed_seed_is_told_from_a_failed_method(tmp_path):
    class Second(Runs):
        def __call__(self, cell, params):
            if cell.seed == 2:
                raise RuntimeError("out of memory")
            return super().__call__(cell, params)

    run_grid(GRID, tmp_path, compose, Second())
    good, _ = rows_of(GRID, tmp_path)
    assert good["status"] == "1 of 2 seeds failed: out of memory" and good["recall@10"] == pytest.approx(0.76)


def test_cells_that_were_not_run_are_printed_as_such(tmp_path):
    text = format_comparison(rows_of(GRID, tmp_path), ["recall@10"], None)
    assert text.count("not run") == 4 and "0 of 2" in text  # a cell of the table and a line, twice


def test_runs_with_other_test_users_are_not_paired(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    for cell in GRID[:2]:
        path = tmp_path / run_name(compose(cell)) / "run.json"
        plain_files.write_json(path, plain_files.read_json(path) | {"cases": cell.paper})
    (good, _) = rows_of(GRID, tmp_path, "plain")
    assert good["recall@10 difference"] == pytest.approx(0.5)  # of seed 2 alone
    assert good["recall@10 untested"] == "good: recall@10 is tested on what both have, seed 2"


def test_a_metric_that_a_method_lacks_leaves_its_cell_empty(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    for cell in GRID:
        if cell.paper == "good":
            change_row(tmp_path, cell, **{"test/all/recall@10": None, "test/all/users": 40, "test/all/auc": 0.75})
    outcomes, metrics = find_outcomes(GRID, tmp_path, compose), ["recall@10", "auc"]
    rows = comparison_rows(outcomes, tmp_path, metrics, "plain", np.random.default_rng(0))
    assert rows[0]["recall@10"] == "" and rows[1]["recall@10"] == pytest.approx(0.265) and rows[0]["status"] == "done"
    assert readable_rows(rows, metrics)[1][2:4] == ["-", "0.7500 ±0.0000"]
    text = format_comparison(rows, metrics, "plain")
    assert "good: no recall@10; it has auc\n" in text and "plain: no auc; it has recall@10\n" in text
    with pytest.raises(ValueError, match=r"^mrr: no run has it \(good: no mrr; it has auc\)$"):
        comparison_rows(outcomes, tmp_path, ["auc", "mrr"], None, np.random.default_rng(0))
    outcomes = find_outcomes(make_grid(["shop"], ["good", "other"], "demo", ["none"], [1]), tmp_path, compose)
    text = format_comparison(comparison_rows(outcomes, tmp_path, ["mrr"], None, np.random.default_rng(0)), ["mrr"], None)
    assert "good: no mrr; it has auc" in text and "other: not run" in text  # which may have it


def test_where_a_stage_came_untimed_the_known_ones_are_shown_as_the_least(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    for cell in GRID:
        path = tmp_path / run_name(compose(cell)) / "run.json"
        timing = {"ingest": None if cell.paper == "good" else {}, "finetune": {"seconds": 4.0}}
        plain_files.write_json(path, plain_files.read_json(path) | {"timing": timing if cell.paper == "good" else {}})
        if cell.paper == "good":
            change_row(tmp_path, cell, seconds="", peak_memory_mib="",
                       **{"seconds/split": 30.0, "peak_memory_mib/split": 95.0})
    rows = rows_of(GRID, tmp_path)
    assert (rows[0]["seconds"], rows[0]["untimed"], rows[1]["untimed"]) == ("", "ingest", "")
    header, good, plain = readable_rows(rows, ["recall@10"])
    place = header.index("seconds")
    assert good[place:place + 2] == ["> 34", "> 95"] and plain[place:place + 2] == ["15", "100"]
    text = format_comparison(rows, ["recall@10"], None)
    assert "good: > means at least; untimed, from DVC's cache: ingest" in text and "plain: >" not in text


def test_cells_say_what_they_were_set_to_and_compared_with(tmp_path):
    cells = make_grid(["shop"], ["good", "plain"], "demo", ["none"], [1], ["a=1", "b=2"])
    run_grid(cells, tmp_path, compose, Runs())
    assert {(row["reference"], row["overrides"]) for row in rows_of(cells, tmp_path, "plain")} == {("plain", "a=1 b=2")}
    assert {(row["reference"], row["overrides"]) for row in rows_of(GRID, tmp_path)} == {("", "")}


def test_a_metric_without_values_of_users_is_shown_and_said_not_to_be_tested(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    for cell in GRID:
        path = tmp_path / run_name(compose(cell)) / "run.json"
        tree = plain_files.read_json(path)
        plain_files.write_json(path, tree | {"row": tree["row"] | {"test/all/auc": 0.75}})
    metrics = ["auc", "recall@10"]
    rows = comparison_rows(find_outcomes(GRID, tmp_path, compose), tmp_path, metrics, "plain", np.random.default_rng(0))
    assert rows[0]["auc"] == 0.75 and "auc p" not in rows[0] and rows[0]["recall@10 difference"] == pytest.approx(0.5)
    text = format_comparison(rows, metrics, "plain")
    assert text.count("auc: not tested, since runs do not keep it user by user; take one of recall@10\n") == 1
    assert "auc - reference" not in text and "recall@10 - reference" in text


def test_popularity_and_random_on_the_same_users_stand_beside(tmp_path):
    run_grid(GRID, tmp_path, compose, Runs())
    path = tmp_path / run_name(compose(GRID[0])) / "run.json"
    tree = plain_files.read_json(path)
    tree["row"] |= {"baseline/popularity/recall@10": 0.03, "baseline/random/recall@10": 0.001,
                    "baseline/random/mrr": 0.5}
    plain_files.write_json(path, tree)
    *methods, popularity, random = rows_of(GRID, tmp_path)
    assert [row["method"] for row in methods] == ["good", "plain"]
    assert (popularity["method"], popularity["recall@10"]) == ("baseline: popularity", 0.03)
    assert (random["method"], random["recall@10"], random["protocol"]) == ("baseline: random", 0.001, "shop | one")
    text = format_comparison([*methods, popularity, random], ["recall@10"], None)
    assert "0.0300" in text and "0.0010" in text and text.count("baseline: random") == 1


def test_the_table_reads_the_same_from_its_csv(tmp_path):
    run_grid(GRID, tmp_path / "kept", compose, Runs())
    rows = rows_of(GRID, tmp_path / "kept", "plain")
    plain_files.write_csv(tmp_path / "comparison.csv", rows)
    read = plain_files.read_tables(tmp_path)["comparison"]
    assert readable_rows(read, ["recall@10"]) == readable_rows(rows, ["recall@10"])
    text = format_comparison(rows, ["recall@10"], "plain")
    assert "0.7650 ±0.0071" in text and "+0.5000 [+0.5000, +0.5000]" in text and "4.0 (90)" in text


def test_the_line_that_says_why_a_command_failed_is_found():
    lines = ["Running", "error: params: seed is x", "ERROR: failed to reproduce 'ingest'"]
    assert one_line_error(lines) == "params: seed is x"
    assert one_line_error(["a", "ERROR: failed", "b"]) == "failed" and one_line_error(["a", "b"]) == "b"
    assert one_line_error([]) == "no message"


def test_runs_of_another_protocol_are_not_paired(tmp_path):
    """Such as lists that keep the history beside lists that leave it out, of the same users."""
    run_grid(GRID, tmp_path, compose, Runs())
    for cell in GRID:
        if cell.paper == "good":
            change_row(tmp_path, cell, protocol="shop | other")
    good, _ = rows_of(GRID, tmp_path, "plain")
    assert "recall@10 p" not in good and "no seed of the reference has the same users" in good["recall@10 untested"]
