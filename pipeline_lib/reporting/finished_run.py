"""What a finished run leaves in its project folder, gathered: a ledger row, and the figures of every test user.

A kept run is a folder with ``run.json`` (row, parameters, timing of each stage) and ``users.parquet`` (a test user
a row, a metric a column): small, and enough to compare runs user by user after their artifacts are gone.
"""

import datetime
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_lib import artifacts, plain_files
from pipeline_lib.evaluation.groups import lists_of, score_lists
from pipeline_lib.evaluation.scoring import user_scoring_metrics
from pipeline_lib.params import Params
from pipeline_lib.params_file import read_params
from pipeline_lib.reporting.ledger import effective_params, run_name, run_row
from pipeline_lib.reporting.hardware import describe_hardware
from pipeline_lib.reporting.provenance import Stage, changed_keys, data_digest, read_stages, revision
from pipeline_lib.reporting.timing import HARDWARE, timings_of

PARAMS, METRICS, TOKENIZER = "params.yaml", "reports/metrics.json", "reports/tokenizer.json"
TIMING, TIMINGS = "reports/timing.json", "timings.json"
SPLIT, EMBED, TOKENS, MODEL, PREDICTIONS = ("data/split", "data/embed", "data/tokens", "data/model", "data/predictions")

Timing = Mapping[str, float]


@dataclass(frozen=True)
class FinishedRun:
    """``tree``: the content of run.json, with the ledger row at ``row``; ``users``: ``user`` and a column a metric."""

    name: str
    tree: Mapping[str, Any]
    users: pa.Table


def collect_run(folder: Path, kept: Path) -> FinishedRun:
    """Gather the run whose artifacts lie in a project folder.

    Args:
        kept: where runs are kept, and timings of stages that DVC took from its cache this time.
    """
    params = read_params(folder / PARAMS)
    stages = read_stages(folder)
    measured = _read_json(folder / TIMING)
    timing = stage_timings(stages, timings_of(measured, params), _read_json(kept / TIMINGS))
    users, figures, cases = scored_users(folder) if params.decode.kind == "score" else ranked_users(folder, params)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    data = data_digest(folder, Path(params.ingest.path))
    unread = tuple(f"{where}." for where, options in params.blocks.items() if options not in params.chosen)
    overrides = {key: value for key, value in changed_keys(folder).items() if not key.startswith(unread)}
    row = run_row(params, plain_files.read_json(folder / METRICS), plain_files.read_json(folder / TOKENIZER), timing,
                  count_parameters(folder, params), data=data, revision=revision(folder), overrides=overrides,
                  hardware=measured.get(HARDWARE) or describe_hardware(), date=now)
    tree = {"row": row, "params": effective_params(params), "cases": cases, "timing": timing, "data": data}
    columns = {"user": pa.array(users, pa.int32()),
               **{name: pa.array(values, pa.float32()) for name, values in figures.items()}}
    return FinishedRun(run_name(params), tree, pa.table(columns))


def ranked_users(folder: Path, params: Params) -> tuple[np.ndarray, Mapping[str, np.ndarray], str]:
    """Test users, a metric of lists -> its values, and a digest of what was asked."""
    split = artifacts.read_split(folder / SPLIT)
    rankings = artifacts.read_predictions(folder / PREDICTIONS / "test.parquet", split.num_items)["all"]
    metrics = score_lists(lists_of(rankings, split.test, "test"), split.test.targets, params.evaluate.ks).metrics
    return split.test.users, metrics, _digest(split.test.users, split.test.targets.values, split.test.targets.offsets)


def scored_users(folder: Path) -> tuple[np.ndarray, Mapping[str, np.ndarray], str]:
    """The same for scored candidates; the AUC of a user is called group_auc, as the mean over users is."""
    split = artifacts.read_split(folder / SPLIT)
    users, items, labels, scores = artifacts.read_scores(folder / PREDICTIONS / "test_scores.parquet", split.num_items)
    metrics = user_scoring_metrics(users, labels, scores)
    asked = _digest(users, items, labels)
    return metrics.pop("users"), {"group_auc": metrics.pop("auc"), **metrics}, asked


def stage_timings(stages: Sequence[Stage], measured: Mapping[str, Timing],
                  known: Mapping[str, Timing]) -> dict[str, Timing | None]:
    """A stage -> its timing: of the time when equal outputs were made, else as measured now, else None.

    Args:
        measured: what timing.json holds of this run.
        known: as `keep_timings` writes them.
    """
    return {stage.name: known.get(outputs_digest(stage), measured.get(stage.name)) for stage in stages}


def keep_timings(kept: Path, folder: Path) -> None:
    """Remember how long the stages of a project folder took to make what dvc.lock says they made.

    A stage that DVC takes from its cache is not timed again, so a run that was interrupted, or that shares stages with
    others, finds their timings here. The first timing of equal outputs stays. The folder's timing.json must hold
    nothing of another run, as that of the clone in which runs are compared.
    """
    try:
        stages = read_stages(folder)
    except ValueError:  # a folder that was left in the middle of being set up
        return
    measured = _read_json(folder / TIMING)
    made = {outputs_digest(stage): measured[stage.name] for stage in stages
            if stage.name in measured and None not in stage.outs.values()}
    plain_files.write_json(kept / TIMINGS, made | _read_json(kept / TIMINGS))


def count_parameters(folder: Path, params: Params) -> dict[str, int]:
    """A stage -> how many numbers the model that it saved has."""
    paths = {f"embed@{source}": folder / EMBED / source / "model" / "model.safetensors"
             for source in params.embed.sources}
    paths |= {"quantize": folder / TOKENS / "tokenizer.safetensors", "finetune": folder / MODEL / "model.safetensors"}
    return {stage: sum(tensor.size for tensor in plain_files.read_tensors(path).values())
            for stage, path in paths.items() if path.exists()}


def keep_run(kept: Path, run: FinishedRun) -> None:
    """Put a run among the kept ones, in place of a former one of the same name."""
    with plain_files.writing_folder(kept / run.name) as place:
        plain_files.write_json(place / "run.json", run.tree)
        plain_files.write_table(place / "users.parquet", run.users, run.users.schema)


def keep_failure(kept: Path, name: str, error: str) -> None:
    """Remember why a run failed, until it is tried again."""
    with plain_files.writing_folder(kept / name) as place:
        plain_files.write_json(place / "run.json", {"error": error})


def read_run(kept: Path, name: str, data: str | None = None) -> dict[str, Any]:
    """run.json of a kept run: with ``row`` where it finished, ``error`` where it failed; empty where it was not run.

    Args:
        data: the digest of the raw data; a run that finished on others does not count. None where that is not known.
    """
    tree = _read_json(kept / name / "run.json")
    return {} if None not in (data, tree.get("data")) and tree["data"] != data else tree


def read_users(kept: Path, name: str, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Test users of a kept run and their values of a metric.

    Raises:
        ValueError: if the run has no such metric.
    """
    path = kept / name / "users.parquet"
    table = plain_files.read_table(path, pa.schema([("user", pa.int32()), (metric, pa.float32())]))
    return table["user"].to_numpy(), table[metric].to_numpy()


def user_metrics(kept: Path, name: str) -> list[str]:
    """The metrics that a kept run has of each test user."""
    table = plain_files.read_table(kept / name / "users.parquet", pa.schema([("user", pa.int32())]))
    return [column for column in table.column_names if column != "user"]


def outputs_digest(stage: Stage) -> str:
    """A stage and what it made, as 12 digits."""
    return hashlib.sha256(repr((stage.name, sorted(stage.outs.items()))).encode()).hexdigest()[:12]


def _read_json(path: Path) -> dict[str, Any]:
    return plain_files.read_json(path) if path.exists() else {}


def _digest(*arrays: np.ndarray) -> str:
    """Which users were asked for, with which targets: runs with another digest cannot be compared user by user."""
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:12]
