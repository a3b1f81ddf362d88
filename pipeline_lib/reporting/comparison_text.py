"""The comparison as people read it: mean and spread in one cell, difference with interval and p in the next."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline_lib.reporting.comparison import NOT_RUN
from pipeline_lib.reporting.results_table import format_table, heading


def readable_rows(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[list[str]]:
    """Header and cells of `comparison.comparison_rows`, or of the same rows read from comparison.csv."""
    tested = [metric for metric in metrics if any(row.get(f"{metric} p", "") != "" for row in rows)]
    header = ["method", "seeds", *(name for metric in metrics for name in
                                   (metric, *((f"{metric} - reference",) if metric in tested else ())))]
    lines = [[*header, "seconds", "peak MiB", "parameters", "users/s"]]
    for row in rows:
        cells = [row["method"], row["seeds"]]
        for metric in metrics:
            cells.append(_mean_cell(row, metric))
            if metric in tested:
                cells.append(_test_cell(row, metric))
        cells += [_of_stages(row, "seconds", sum), _of_stages(row, "peak_memory_mib", max)]
        cells += [_whole(row.get(name, "")) for name in ("parameters", "users_per_second")]
        lines.append(cells)
    return lines


def format_comparison(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str], reference: str | None,
                      overrides: Sequence[str] = ()) -> str:
    """Text: a block a data set, scale and protocol, with what failed or is missing, and seconds of each stage.

    ``overrides``: what all runs have set beyond their presets.
    """
    blocks = []
    for protocol, same in by_protocol(rows):
        head = f"{same[0]['dataset']}, scale {same[0]['scale']}" + (f": {heading(protocol)}" if protocol else "")
        head += f"\nwith {' '.join(overrides)}" if overrides else ""
        parts = [head, format_table(readable_rows(same, metrics))]
        parts += [f"{row['method']}: {row['status']}" for row in same if row["status"] != "done"]
        parts += row_notes(same, metrics)
        stages = stage_rows(same)
        blocks.append("\n".join([*parts, *(["", format_table(stages)] if stages else [])]))
    note = f"\n\n{reference_note(reference)}" if reference else ""
    revisions = {revision for row in rows for revision in row.get("revisions", "").split()}
    if len(revisions) > 1:
        note += f"\n\nruns of {len(revisions)} revisions of the code: {', '.join(sorted(revisions))}"
    return "\n\n".join(blocks) + note


def by_protocol(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """The rows of each data set and scale under each protocol, in their order; what did not run is in the first one."""
    blocks = []
    for key in dict.fromkeys((row["dataset"], row["scale"]) for row in rows):
        members = [row for row in rows if (row["dataset"], row["scale"]) == key]
        protocols = list(dict.fromkeys(row["protocol"] for row in members if row["protocol"])) or [""]
        blocks += [(protocol, [row for row in members if (row["protocol"] or protocols[0]) == protocol])
                   for protocol in protocols]
    return blocks


def reference_note(reference: str) -> str:
    """What a difference, its interval and its p are."""
    return f"reference: {reference}; 95% bootstrap interval and paired permutation test over users"


def row_notes(rows: Sequence[Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Why a cell is empty, or says no more than a least value; a line that several rows share comes once."""
    said = [row[f"{metric} {why}"] for row in rows for metric in metrics for why in ("missing", "untested")
            if row.get(f"{metric} {why}", "") != ""]
    said += [f"{row['method']}: > means at least; untimed, from DVC's cache: {row['untimed'].replace(' ', ', ')}"
             for row in rows if row.get("untimed") and _of_stages(row, "seconds", sum).startswith(">")]
    return list(dict.fromkeys(said))


def stage_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and cells of what each stage took; empty where nothing was timed."""
    columns = dict.fromkeys(name for row in rows for name, value in row.items()
                            if name.startswith("seconds/") and value != "")
    stages = [name.removeprefix("seconds/") for name in columns]
    if not stages:
        return []
    lines = [["seconds (peak MiB)", *stages]]
    lines += [[row["method"], *(f"{_whole(row[f'seconds/{stage}'])} ({_whole(row[f'peak_memory_mib/{stage}'])})"
                                if row.get(f"seconds/{stage}", "") != "" else "-" for stage in stages)]
              for row in rows if row["protocol"] and row["seeds"]]
    return lines


def _mean_cell(row: Mapping[str, Any], metric: str) -> str:
    if row.get(metric, "") == "":
        status = row["status"].partition(":")[0]
        return status if status in ("failed", NOT_RUN) else "-"
    spread = row.get(f"{metric} spread", "")
    return f"{float(row[metric]):.4f}" + (f" ±{float(spread):.4f}" if spread != "" else "")


def _test_cell(row: Mapping[str, Any], metric: str) -> str:
    if row.get(f"{metric} p", "") == "":
        return "-"
    difference, low, high, p = (float(row[f"{metric} {name}"]) for name in ("difference", "low", "high", "p"))
    return f"{difference:+.4f} [{low:+.4f}, {high:+.4f}] p={p:.4f}"


def _of_stages(row: Mapping[str, Any], figure: str, joined: Callable[[Iterable[float]], float]) -> str:
    """A figure of the whole run; where stages came untimed, ``>`` and what the others have."""
    if row.get(figure, "") != "":
        return _whole(row[figure])
    known = [float(value) for name, value in row.items() if name.startswith(f"{figure}/") and value != ""]
    return f"> {_whole(joined(known))}" if known else "-"


def _whole(value: Any) -> str:
    return "-" if value in ("", None) else f"{float(value):,.0f}" if abs(float(value)) >= 10 else f"{float(value):.1f}"
