"""A finished run as one flat row, and the ledger of such rows, which only grows.

A row's columns are paths of what they hold, e.g. ``test/all/recall@10`` or ``seconds/finetune``; a run that measured
something new adds columns, which older rows leave empty.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_lib import plain_files
from pipeline_lib.evaluation.protocol import describe_protocol
from pipeline_lib.params import Params

IDENTITY = ("params_hash", "revision", "seed")
PRESETS = ("dataset", "paper", "scale", "ablation")


def effective_params(params: Params) -> dict[str, Any]:
    """The parameters that a stage of this run reads: no presets, no options of kinds that are not chosen."""
    tree = dataclasses.asdict(params)
    del tree["preset"], tree["ablations"], tree["blocks"]
    # keys that came later are no part, while off, of the digests that runs were recorded under before
    if tree["decode"]["beta"] is None:
        del tree["decode"]["beta"]
    if not tree["split"]["refit"]:
        del tree["split"]["refit"]
    tree["embed"]["options"] = {source: tree["embed"]["options"][source] for source in params.embed.sources}
    return tree


def params_hash(params: Params) -> str:
    """12 digits that two runs share where they read equal parameters."""
    text = json.dumps(effective_params(params), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run_name(params: Params) -> str:
    """The folder name of a run: its presets, seed and parameters."""
    names = "-".join(str(params.preset.get(group, "none")) for group in PRESETS)
    return f"{names}-seed{params.seed}-{params_hash(params)}"


def run_row(params: Params, metrics: Mapping[str, Any], tokenizer: Mapping[str, Any],
            timing: Mapping[str, Mapping[str, float] | None], parameters: Mapping[str, int], *, data: str | None,
            revision: str, overrides: Mapping[str, Any], hardware: Mapping[str, str | int],
            date: str) -> dict[str, Any]:
    """The row of a finished run.

    Args:
        metrics, tokenizer: the content of reports/metrics.json and reports/tokenizer.json.
        timing: a stage -> ``seconds``, ``peak_memory_mib`` and counts; None for a stage of unknown timing, with which
            there is no sum of seconds.
        parameters: a stage -> how many numbers it trained.
        data: the digest of the raw files, None where it is not known.
        overrides: keys that differ from what the presets say.
        date: when the run was recorded, as ISO text.
    """
    known = {stage: entry for stage, entry in timing.items() if entry}
    complete = len(known) == len(timing) > 0
    row = {"date": date, **{group: params.preset.get(group, "") for group in PRESETS}, "seed": params.seed,
           "data": (data or "")[:12], "protocol": describe_protocol(params), "params_hash": params_hash(params),
           "overrides": " ".join(f"{key}={value}" for key, value in overrides.items()), "revision": revision,
           **hardware,
           "parameters": sum(parameters.values()),
           **{f"parameters/{stage}": count for stage, count in parameters.items()},
           "users_per_second": known.get("decode", {}).get("users_per_second", ""),
           "seconds": round(sum(entry["seconds"] for entry in known.values()), 2) if complete else "",
           "peak_memory_mib": max(entry["peak_memory_mib"] for entry in known.values()) if complete else ""}
    for figure in ("seconds", "peak_memory_mib"):
        row |= {f"{figure}/{stage}": entry[figure] for stage, entry in known.items()}
    return row | flatten({**measured_parts(metrics), "tokenizer": tokenizer})


def measured_parts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """metrics.json without ``run``; figures of scored candidates, if there are any, where those of lists would stand."""
    parts = {part: tree for part, tree in metrics.items() if part not in ("run", "scoring")}
    scoring = metrics.get("scoring", {})
    return parts | {part: tree if part == "baseline" else {"all": tree} for part, tree in scoring.items()}


def flatten(tree: Mapping[str, Any], prefix: str = "", *, joint: str = "/") -> dict[str, Any]:
    """Nested mappings as one, keys joined by ``joint``."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        flat |= flatten(value, f"{key}{joint}", joint=joint) if isinstance(value, Mapping) else {key: value}
    return flat


def read_ledger(path: Path) -> list[dict[str, str]]:
    """Rows as text, oldest first; none where there is no ledger yet."""
    return plain_files.read_tables(path.parent)[path.stem] if path.exists() else []


def find_row(rows: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The row of the same run: equal parameters, revision, seed and, where both rows know it, data."""
    return next((old for old in rows if all(str(old[name]) == str(row[name]) for name in IDENTITY)
                 and not other_data(old, row)), None)


def other_data(row: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two runs are known to have read other raw files; older rows do not say which."""
    digests = {row.get("data", ""), other.get("data", "")} - {""}
    return len(digests) > 1


def block_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The protocol of each row, with the digest of its data where rows of the protocol are known to have other data."""
    known: dict[str, set[str]] = {}
    for row in rows:
        known.setdefault(row["protocol"], set()).update({row.get("data", "")} - {""})
    return [f"{row['protocol']} | data {row['data']}" if len(known[row["protocol"]]) > 1 and row.get("data") else
            row["protocol"] for row in rows]


def append_row(path: Path, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Put a row at the end of the ledger, unless the run is there already; returns the row that was there."""
    with plain_files.locked_folder(path.parent):
        rows = read_ledger(path)
        old = find_row(rows, row)
        if old is None:
            plain_files.write_csv(path, [*rows, row])
    return old
