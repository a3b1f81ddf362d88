"""Recorded runs and published figures as text, in one block a protocol: two protocols never share a row."""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline_lib.reporting.ledger import block_names

PREFIX = "test/all/"
BASELINES = ("popularity", "random")
SYNTHETIC = "demo"  # the built-in data set
POPULARITY_AXIS = "popularity group of the target, 1 the most popular"
POPULARITY_GROUPS = ("1", "2", "3", "4", "5")


def heading(protocol: str) -> str:
    """A protocol as it is printed over figures, which says where these are of generated data."""
    name, bar, rest = protocol.partition(" | ")
    return f"{name} (synthetic){bar}{rest}" if name == SYNTHETIC else protocol


def method_name(row: Mapping[str, str]) -> str:
    """What a run is called: its paper preset, with the ablation where there is one."""
    return row["paper"] if row.get("ablation", "none") in ("none", "") else f"{row['paper']}, {row['ablation']}"


def same_data(name: str, dataset: str) -> bool:
    """Whether a data set of ours is one of the papers, perhaps cut otherwise: ``beauty_setrec`` is ``beauty``."""
    return re.sub(r"(_.*|(?<=[a-z])\d+)$", "", dataset.lower()) == name.lower()


def published_rows(published: Sequence[Mapping[str, str]], groups: Sequence[str] = ("all",)) -> list[dict[str, str]]:
    """The long published.csv (a figure a row) as a row a method: ``protocol, method, source`` and its metrics.

    Args:
        groups: of users or items, e.g. ``("all", "warm", "cold")``; a row's metrics are all of one group.
    """
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    for figure in published:
        if figure["group"] not in groups:
            continue
        method = _of_group(figure["row"], figure["group"])
        key = (figure["protocol"], figure["source"], figure["table"], method)
        row = rows.setdefault(key, {"protocol": key[0], "method": method, "source": f"{key[1]}, {key[2]}"})
        row[figure["metric"]] = figure["value"] + ("*" if figure["note"] else "")
    return list(rows.values())


def baseline_figures(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> dict[str, dict[str, float]]:
    """``popularity`` and ``random`` -> their metrics, as far as ledger rows of one protocol have them.

    The mean over the seeds of the rows, one row of each: a split may draw other users by another seed.
    """
    figures: dict[str, dict[str, float]] = {}
    for name, metric in itertools.product(BASELINES, metrics):
        place = f"baseline/{name}/{metric}"
        of_seeds = {str(row["seed"]): float(row[place]) for row in rows if row.get(place, "") != ""}
        if of_seeds:
            figures.setdefault(name, {})[metric] = sum(of_seeds.values()) / len(of_seeds)
    return figures


def recorded_rows(ledger: Sequence[dict[str, str]], metrics: Sequence[str],
                  groups: Sequence[str] = ("all",)) -> list[dict[str, str]]:
    """Ledger rows in the same form, a row a group, behind popularity and random where ``all`` is among the groups.

    ``source`` says scale, seed, revision, and what differed from the presets; runs that are known to have read other
    data under one name are of two protocols.
    """
    ledger = [row | {"protocol": block} for row, block in zip(ledger, block_names(ledger), strict=True)]
    rows = []
    for protocol in dict.fromkeys(row["protocol"] for row in ledger if "all" in groups):
        members = [row for row in ledger if row["protocol"] == protocol]
        seeds = ", ".join(sorted({row["seed"] for row in members}))
        rows += [{"protocol": protocol, "method": f"baseline: {name}", "source": f"the same users, seed {seeds}",
                  **{metric: f"{value:.4f}" for metric, value in figures.items()}}
                 for name, figures in baseline_figures(members, metrics).items()]
    rows += [{"protocol": row["protocol"], "method": _of_group(method_name(row), group),
              "source": f"scale {row['scale']}, seed {row['seed']}, {row['revision']} "
                        f"{row.get('overrides', '')}".strip(),
              **{name: f"{float(row[f'test/{group}/{name}']):.4f}" for name in metrics if row.get(f"test/{group}/{name}")}}
             for row in ledger for group in groups]
    return rows


def popularity_bars(ledger: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
    """Method -> the metric in each of POPULARITY_GROUPS, the most popular targets first; the mean of its rows.

    Runs without targets in one of the groups, or without the metric, are left out.
    """
    values: dict[str, list[list[float]]] = {}
    for row in ledger:
        figures = [row.get(f"test/popularity_{group}/{metric}", "") for group in POPULARITY_GROUPS]
        if "" not in figures:
            values.setdefault(method_name(row), []).append([float(figure) for figure in figures])
    return {method: [sum(column) / len(column) for column in zip(*runs, strict=True)]
            for method, runs in values.items()}


def format_results(rows: Sequence[Mapping[str, str]], metrics: Sequence[str]) -> str:
    """A block a protocol: its line, then method, source and metrics; ``*`` marks a misprint of the source."""
    blocks = []
    for protocol in dict.fromkeys(row["protocol"] for row in rows):
        members = [row for row in rows if row["protocol"] == protocol]
        shown = [name for name in metrics if any(name in row for row in members)]
        if shown:
            lines = [["method", "source", *shown]]
            lines += [[row["method"], row["source"], *(row.get(name, "-") for name in shown)] for row in members
                      if any(name in row for name in shown)]
            blocks.append(f"{heading(protocol)}\n{format_table(lines, 2)}")
    return "\n\n".join(blocks)


def _of_group(method: str, group: str) -> str:
    return method if group == "all" else f"{method}, {group}"


def format_table(rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """Columns as wide as their widest cell, the first ``text_columns`` to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(_aligned(row, widths, text_columns)).rstrip() for row in rows)


def _aligned(row: Sequence[str], widths: Sequence[int], text_columns: int) -> Iterable[str]:
    for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if place < text_columns else cell.rjust(width)
