"""A grid of runs as one table: mean and spread over seeds, and paired tests over users against a reference method."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_lib.evaluation.scoring import NDCG_KS
from pipeline_lib.params import Params
from pipeline_lib.reporting.finished_run import FinishedRun, keep_failure, keep_run, read_run, read_users, user_metrics
from pipeline_lib.reporting.ledger import run_name
from pipeline_lib.reporting.results_table import PREFIX, baseline_figures
from pipeline_lib.reporting.statistics import (
    bootstrap_interval,
    mean_and_spread,
    paired_differences,
    paired_permutation_test,
)

log = logging.getLogger(__name__)
NOT_RUN = "not run"


@dataclass(frozen=True)
class Cell:
    """A run that is asked for; ``overrides`` are further keys, as after -S."""

    dataset: str
    paper: str
    scale: str
    ablation: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def composition(self) -> list[str]:
        """What `sidflow params` is given."""
        return [f"dataset={self.dataset}", f"paper={self.paper}", f"scale={self.scale}", f"ablation={self.ablation}",
                f"seed={self.seed}", *self.overrides]

    @property
    def method(self) -> str:
        return self.paper if self.ablation == "none" else f"{self.paper}, {self.ablation}"

    def __str__(self) -> str:
        return f"{self.dataset}: {self.method}, scale {self.scale}, seed {self.seed}"


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: the name of its kept run and the content of its run.json, or an error, or neither."""

    cell: Cell
    name: str | None = None
    tree: Mapping[str, Any] | None = None
    error: str | None = None


def make_grid(datasets: Sequence[str], papers: Sequence[str], scale: str, ablations: Sequence[str],
              seeds: Sequence[int], overrides: Sequence[str] = ()) -> list[Cell]:
    """All cells, each once, the first seed of everything before the second of anything."""
    cells = [Cell(dataset, paper, scale, ablation, seed, tuple(overrides)) for seed in seeds for dataset in datasets
             for paper in papers for ablation in ablations]
    return list(dict.fromkeys(cells))


def measured_metrics(params: Params) -> list[str]:
    """The metrics that a run of these parameters has of all test users."""
    if params.decode.kind == "score":
        return ["auc", "group_auc", "mrr", *(f"ndcg@{k}" for k in NDCG_KS)]
    return [*(f"{name}@{k}" for name in ("recall", "hit_rate", "ndcg") for k in params.evaluate.ks), "mrr"]


def run_grid(cells: Sequence[Cell], kept: Path, compose: Callable[[Cell], Params],
             run: Callable[[Cell, Params], FinishedRun], data: Callable[[Params], str | None] = lambda params: None) -> None:
    """Run every cell that is not kept yet; one that fails is remembered with its error, and the others go on.

    What was run before an interruption is kept, so the same call again goes on where it stopped.

    Args:
        compose: the parameters of a cell.
        run: runs the pipeline of a cell; RuntimeError and ValueError mean that the cell failed.
        data: the digest of the raw data of a cell; a kept run of other data is run again.
    """
    for place, cell in enumerate(cells, 1):
        name = None
        try:
            params = compose(cell)
            name = run_name(params)
            if "row" in read_run(kept, name, data(params)):
                log.info("cell %d of %d is there: %s", place, len(cells), cell)
                continue
            log.info("cell %d of %d: %s", place, len(cells), cell)
            keep_run(kept, run(cell, params))
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            message = " ".join(str(error).split())
            log.warning("cell %d of %d failed: %s: %s", place, len(cells), cell, message)
            if name is not None:
                keep_failure(kept, name, message)


def find_outcomes(cells: Sequence[Cell], kept: Path, compose: Callable[[Cell], Params],
                  data: Callable[[Params], str | None] = lambda params: None) -> list[Outcome]:
    """What the kept runs say of each cell; ``compose`` and ``data`` as for `run_grid`."""
    outcomes = []
    for cell in cells:
        try:
            params = compose(cell)
        except ValueError as error:
            outcomes.append(Outcome(cell, error=str(error)))
            continue
        name = run_name(params)
        tree = read_run(kept, name, data(params))
        outcomes.append(Outcome(cell, name, tree if "row" in tree else None, tree.get("error")))
    return outcomes


def comparison_rows(outcomes: Sequence[Outcome], kept: Path, metrics: Sequence[str], reference: str | None,
                    generator: np.random.Generator) -> list[dict[str, Any]]:
    """A row a method on a data set under a protocol, over its seeds.

    Args:
        reference: the method that others are tested against, on the same data, protocol, scale and seeds.

    Returns:
        ``dataset, protocol, scale, method, seeds, status``, ``reference`` and ``overrides`` of all, and per metric its
        mean, ``<metric> spread`` (sample standard deviation over seeds) and, against the reference, ``difference``,
        ``low``, ``high`` (95% interval over users) and ``p``; ``untested``, why there is no test or one of fewer seeds;
        ``missing``, why there is no figure; then ``untimed``, the stages that a seed has no time of, and means of
        parameters, users/s, and seconds and peak memory of each stage, over the seeds that have them.

    Raises:
        ValueError: if seeds of a method differ in their protocol, or all methods ran and none has a metric.
    """
    groups: dict[tuple[str, ...], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.cell.dataset, outcome.cell.scale, outcome.cell.method), []).append(outcome)
    for members in groups.values():
        protocols = sorted({outcome.tree["row"]["protocol"] for outcome in members if outcome.tree})
        if len(protocols) > 1:
            raise ValueError(f"{members[0].cell}: its seeds differ in their protocol ({'; '.join(protocols)}); compare "
                             "them in two calls")
    rows = [_row(key, groups, reference or "", kept, metrics, generator) for key in groups]
    for metric in metrics:
        if rows and all(f"{metric} missing" in row for row in rows):
            raise ValueError(f"{metric}: no run has it ({rows[0][f'{metric} missing']})")
    return rows + _baseline_rows(outcomes, metrics, reference or "")


def _baseline_rows(outcomes: Sequence[Outcome], metrics: Sequence[str], reference: str) -> list[dict[str, Any]]:
    """Popularity and random, scored on the users of the finished runs of each data set, scale and protocol."""
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for outcome in outcomes:
        if outcome.tree:
            key = (outcome.cell.dataset, outcome.tree["row"]["protocol"], outcome.cell.scale)
            groups.setdefault(key, []).append(outcome.tree["row"])
    return [{"dataset": key[0], "protocol": key[1], "scale": key[2], "method": f"baseline: {name}", "seeds": "",
             "status": "done", "revisions": "", "reference": reference,
             "overrides": " ".join(outcomes[0].cell.overrides), **figures}
            for key, rows in groups.items() for name, figures in baseline_figures(rows, metrics).items()]


def _row(key: tuple[str, ...], groups: Mapping[tuple[str, ...], Sequence[Outcome]], reference: str, kept: Path,
         metrics: Sequence[str], generator: np.random.Generator) -> dict[str, Any]:
    members, references = groups[key], groups.get((key[0], key[1], reference), [])
    done = [outcome for outcome in members if outcome.tree]
    row = {"dataset": key[0], "protocol": done[0].tree["row"]["protocol"] if done else "", "scale": key[1],
           "method": key[2], "seeds": f"{len(done)} of {len(members)}", "status": _status(members, len(done)),
           "revisions": " ".join(sorted({outcome.tree["row"]["revision"] for outcome in done})),
           "reference": reference, "overrides": " ".join(members[0].cell.overrides)}
    if not done:
        return row
    for metric in metrics:
        row |= _metric_columns(metric, done, [other for other in references if other.tree], kept, generator)
    timings = [timing for outcome in done for timing in outcome.tree.get("timing", {}).items()]
    row["untimed"] = " ".join(dict.fromkeys(stage for stage, timing in timings if not timing))
    columns = dict.fromkeys(name for outcome in done for name in outcome.tree["row"])
    figures = [name for name in columns if name in ("parameters", "users_per_second")
               or name.split("/")[0] in ("seconds", "peak_memory_mib")]
    for name in figures:
        values = [float(outcome.tree["row"][name]) for outcome in done if outcome.tree["row"].get(name, "") != ""]
        row[name] = round(float(np.mean(values)), 2) if values else ""
    return row


def _status(members: Sequence[Outcome], done: int) -> str:
    """``done``, ``failed: ...`` or ``not run``, behind the number of seeds where others have figures."""
    errors = [outcome.error for outcome in members if outcome.error]
    what, count = (f"failed: {errors[0]}", len(errors)) if errors else (NOT_RUN, len(members) - done)
    if not count:
        return "done"
    return f"{count} of {len(members)} seeds {what}" if done else what


def _metric_columns(metric: str, done: Sequence[Outcome], references: Sequence[Outcome], kept: Path,
                    generator: np.random.Generator) -> dict[str, Any]:
    values = [outcome.tree["row"].get(PREFIX + metric) for outcome in done]
    if None in values:
        lacking = done[values.index(None)]
        reason = f"{lacking.cell.method}: no {metric}; it has {', '.join(_metrics_of(lacking.tree)) or 'no metric'}"
        return {metric: "", f"{metric} spread": "", f"{metric} missing": reason}
    mean, spread = mean_and_spread(np.array(values, dtype=np.float64))
    columns = {metric: mean, f"{metric} spread": "" if spread is None else spread}
    partners = {outcome.cell.seed: outcome for outcome in references}
    pairs = [(one, partners[one.cell.seed]) for one in done if one.cell.seed in partners]
    pairs = [(one, other) for one, other in pairs if one.name != other.name and _comparable(one, other)]
    if not pairs:
        itself = {one.name for one in done} & {other.name for other in references}
        reason = f"{done[0].cell.method}: {metric} is not tested, since no seed of the reference has the same users to test"
        return columns if itself or not references else columns | {f"{metric} untested": reason}
    by_user = set.intersection(*(set(user_metrics(kept, one.name)) for pair in pairs for one in pair))
    if metric not in by_user:
        reason = f"not tested, since runs do not keep it user by user; take one of {', '.join(sorted(by_user))}"
        return columns | {f"{metric} untested": f"{metric}: {reason}"}
    ours, theirs = ({pair[side].cell.seed: read_users(kept, pair[side].name, metric) for pair in pairs}
                    for side in (0, 1))
    differences = paired_differences(ours, theirs)
    low, high = bootstrap_interval(differences, generator)
    if len(pairs) < max(len(done), len(references)):  # the difference is not that of the means
        seeds = ", ".join(str(one.cell.seed) for one, _ in pairs)
        columns[f"{metric} untested"] = f"{done[0].cell.method}: {metric} is tested on what both have, seed {seeds}"
    return columns | {f"{metric} difference": float(differences.mean()), f"{metric} low": low, f"{metric} high": high,
                      f"{metric} p": paired_permutation_test(differences, generator)}


def _comparable(one: Outcome, other: Outcome) -> bool:
    return (one.tree["row"]["protocol"], one.tree["cases"]) == (other.tree["row"]["protocol"], other.tree["cases"])


def _metrics_of(tree: Mapping[str, Any]) -> list[str]:
    names = [name.removeprefix(PREFIX) for name in tree["row"] if name.startswith(PREFIX)]
    return [name for name in names if name not in ("users", "pairs")]
