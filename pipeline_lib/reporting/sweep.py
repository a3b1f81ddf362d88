"""What a sweep found: a metric of all experiments on this commit, against the parameter in which they differ."""

import csv
import io
import subprocess
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

KINDS = ("tokenizer.kind", "recommender.kind")
PROTOCOL = ("ingest.", "split.", "evaluate.", "decode.kind", "decode.filter_history", "decode.candidate_sets")  # of parameters
OF_AN_EXPERIMENT = ("Experiment", "rev", "typ", "Created", "parent", "State", "Executor")  # columns that tell rows apart
Value = float | str
Points = list[tuple[Value, float]]


def shown_experiments(project: Path) -> str:
    """What `dvc exp show --csv` prints.

    Raises:
        ValueError: with DVC's last line, where it fails.
    """
    done = subprocess.run([sys.executable, "-m", "dvc", "exp", "show", "--csv"], cwd=project, capture_output=True,
                          text=True, check=False)
    if done.returncode:
        raise ValueError(f"`dvc exp show` failed: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def sweep_points(shown: str, key: str, metrics: Sequence[str], params: Iterable[str] = (),
                 with_workspace: bool = True) -> dict[str, Points]:
    """Points of each metric, mean over experiments of an equal value.

    Values stand in their order where all are numbers, and else in that of DVC. They are those of one method on one data
    set under one protocol: of several, those with most values of the key, or what DVC shows first. The row of the
    workspace is left out where an experiment equals it.

    Args:
        shown: what `dvc exp show --csv` printed.
        key: a parameter, e.g. ``tokenizer.mq.mask`` or ``tokenizer.kind``.
        metrics: e.g. ``test.all.recall@10``.
        params: the names of all parameters; those of `PROTOCOL` tell what compares. Timings have names like them.
        with_workspace: False where the workspace's metrics are not those of its parameters.

    Raises:
        ValueError: if a column is not there, or no experiment has the key and a number in each metric.
    """
    rows = [row for row in csv.DictReader(io.StringIO(shown)) if with_workspace or row["rev"] != "workspace"]
    columns = {name: _column(rows, name) for name in (key, *metrics)}
    found: dict[Value, list[list[float]]] = {}
    telling = {name for name in params if name.startswith(PROTOCOL)}.union(KINDS)
    kept = _of_one_method(rows, columns[key], telling)
    for row in kept:
        figures = [_number(row[columns[name]]) for name in metrics]
        if row[columns[key]] and all(isinstance(figure, float) for figure in figures):
            found.setdefault(_number(row[columns[key]]), []).append(figures)
    if not found or not any(row["Experiment"] for row in kept):  # nothing but the workspace and the commit
        raise ValueError(f"no experiment on this commit has {key} and numbers for {', '.join(metrics)}; "
                         f"run `dvc exp run --queue -S '{key}=...'` and `dvc exp run --run-all` first")
    values = sorted(found) if all(isinstance(value, float) for value in found) else list(found)
    return {name: [(value, sum(figures[place] for figures in found[value]) / len(found[value])) for value in values]
            for place, name in enumerate(metrics)}


def _number(text: str) -> Value:
    """``text`` as a number where it is one; that of an experiment of another kind, or not yet run, is empty."""
    try:
        return float(text)
    except ValueError:
        return text


def _of_one_method(rows: Sequence[dict[str, str]], key: str, names: Collection[str]) -> list[dict[str, str]]:
    """The rows that agree in presets and ``names`` and have most values in the column ``key``, no run twice.

    Rows of the workspace and the commit alone are no sweep where there are others.
    """
    telling = [column for column in rows[0] if column != key
               and (column.split(":")[-1].startswith("preset.") or column.split(":")[-1] in names)]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[column] for column in telling), []).append(row)
    kept = max(groups.values(), key=lambda group: (any(row["Experiment"] for row in group),
                                                   len({row[key] for row in group})))  # the first of equals
    said = [{name: value for name, value in row.items() if name not in OF_AN_EXPERIMENT} for row in kept]
    return kept[1:] if said[0] in said[1:] else kept


def _column(rows: Sequence[dict[str, str]], name: str) -> str:
    """The column of a key; DVC puts the file in front of a name that two files have."""
    columns = list(rows[0]) if rows else []
    fitting = [column for column in columns if column == name or column.endswith(f":{name}")]
    if not fitting:
        raise ValueError(f"`dvc exp show` has no column {name}; parameters and metrics are named as in params.yaml and "
                         "reports/metrics.json, with dots, e.g. test.all.recall@10")
    return fitting[0]
