"""The report's sections on what came out: metrics by group, comparison, example users, timings."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pipeline_lib.evaluation.groups import HISTORY_BUCKETS
from pipeline_lib.records import Cases, Catalogue, Rankings
from pipeline_lib.reporting.charts import bar_chart
from pipeline_lib.reporting.comparison_text import by_protocol, readable_rows, reference_note, row_notes, stage_rows
from pipeline_lib.reporting.ledger import PRESETS, find_row, other_data
from pipeline_lib.reporting.page import Section, bullets, image, paragraph, table
from pipeline_lib.reporting.results_table import POPULARITY_AXIS, heading, method_name, same_data

EXAMPLE_USERS, EXAMPLE_HISTORY, EXAMPLE_ITEMS = 10, 8, 10


def run_section(metrics: Mapping[str, Any], facts: Sequence[tuple[str, Any]]) -> Section:
    """Which run this is, and its main figures beside popularity and random.

    Args:
        facts: names and values of what identifies the run.
    """
    names = shown_metrics(metrics["test"]["all"])
    rows = [("this run", *_figures(metrics["test"]["all"], names)),
            *((name, *_figures(scores, names)) for name, scores in metrics["baseline"].items())]
    return Section("run", "This run", table(["", ""], facts, text_columns=2)
                   + table(["test users", "users", *names], rows, heading(metrics["run"]["protocol"])))


def metrics_section(metrics: Mapping[str, Any], by_popularity: Sequence[Mapping[str, str]],
                    by_history: Sequence[Mapping[str, str]]) -> Section:
    """Figures of every group of users and items, and recall against popularity and length of history."""
    names = shown_metrics(metrics["test"]["all"])
    rows = [(f"{part}: {group}", *_figures(scores, names)) for part in ("test", "valid") if part in metrics
            for group, scores in metrics[part].items()]
    body = table(["group", "users", *names], rows, "popularity_1 are the most popular targets; code_level counts a hit "
                 "on an identifier that several items may share.")
    recall = next((name for name in names if name == "recall@10"), names[0])
    if by_popularity:
        body += image(bar_chart([f"{row['group']} ({row['users']})" for row in by_popularity],
                                {recall: [float(row[recall]) for row in by_popularity]},
                                x=f"{POPULARITY_AXIS} (users)", y=recall),
                      f"{recall} by popularity of the target.")
    if by_history:
        body += image(bar_chart([f"{history_name(int(row['history']))} ({row['users']})" for row in by_history],
                                {recall: [float(row[recall]) for row in by_history]},
                                x="items in the history (users)", y=recall), f"{recall} by length of the history.")
    return Section("metrics", "Metrics by group", body)


def comparison_section(row: Mapping[str, Any], ledger: Sequence[Mapping[str, str]],
                       published: Sequence[Mapping[str, str]], compared: Sequence[Mapping[str, str]]) -> Section:
    """This run beside recorded runs of the same data and protocol, published figures on the same data, and `sidflow compare`.

    Args:
        row: of this run, as `ledger.run_row` makes it.
        published: rows of published.csv; ``compared``: rows of comparison.csv.
    """
    names = [name.removeprefix("test/all/") for name in row if name.startswith("test/all/")]
    names = shown_metrics(names)
    same = [old for old in ledger if old["protocol"] == row["protocol"] and find_row([old], row) is None
            and not other_data(old, row)]
    rows = [(method_name(one), one["scale"], one["seed"], *(_number(one.get(f"test/all/{name}")) for name in names),
             f"{float(one['seconds']):,.0f}" if one["seconds"] != "" else None, one["revision"],
             one.get("overrides") or "as the presets")
            for one in [row, *same]]
    rows[0] = (f"{rows[0][0]} (this run)", *rows[0][1:])
    body = table(["method", "scale", "seed", *names, "seconds", "revision", "other than the presets"], rows,
                 f"Recorded runs of this protocol: {heading(row['protocol'])}")
    if not same:
        body += paragraph("No other run of this protocol is in the ledger; `sidflow record` adds one.", note=True)
    if compared:
        body += "<h3>Comparison over seeds</h3>" + _compared(compared)
    return Section("comparison", "Comparison", body + "<h3>Published figures</h3>" + _published(row, published))


def _compared(rows: Sequence[Mapping[str, str]]) -> str:
    """What `sidflow compare` printed: a table of figures and one of stages for each data set, scale and protocol."""
    metrics = [name.removesuffix(" spread") for name in rows[0] if name.endswith(" spread")]
    parts = []
    for protocol, members in by_protocol(rows):
        header, *lines = readable_rows(members, metrics)
        statuses = [row["status"] for row in members]
        parts.append(table([*header, "status"], [[*line, status] for line, status in zip(lines, statuses, strict=True)],
                           _compared_caption(members[0], protocol)))
        parts += [paragraph(note, note=True) for note in row_notes(members, metrics)]
        header, *lines = stage_rows(members) or [[]]
        if lines:
            parts.append(table(header, lines, "Seconds and peak memory of each stage, means over seeds."))
    return "".join(parts)


def _compared_caption(row: Mapping[str, str], protocol: str) -> str:
    caption = f"{row['dataset']}, scale {row['scale']}: {heading(protocol)}"
    caption += f"; with {row['overrides']}" if row.get("overrides") else ""
    return f"{caption}; {reference_note(row['reference'])}" if row.get("reference") else caption


def _published(row: Mapping[str, Any], published: Sequence[Mapping[str, str]]) -> str:
    here = [one for one in published if same_data(one["data"], str(row["dataset"]))]
    if not here:
        return paragraph(f"None of the papers reports figures on {row['dataset'] or 'this data'}.")
    figures: dict[tuple[str, ...], dict[str, str]] = {}
    for one in here:
        key = tuple(one[name] for name in ("protocol", "source", "table", "row", "group"))
        figures.setdefault(key, {})[one["metric"]] = one["value"] + ("*" if one["note"] else "")
    names = sorted({name for values in figures.values() for name in values}, key=_metric_order)
    rows = [(source, where, method, group, "the same" if protocol == row["protocol"] else f"another: {protocol}",
             *(values.get(name) for name in names))
            for (protocol, source, where, method, group), values in figures.items()]
    notes = sorted({f"{one['row']}: {one['note']}" for one in here if one["note"]})
    table_html = table(["source", "table", "method", "group", "protocol", *names], rows,
                       "As printed. Figures of another protocol do not compare with this run's.", text_columns=5)
    return table_html + (paragraph("* " + "; ".join(notes), note=True) if notes else "")


def examples_section(catalogue: Catalogue, user_ids: Sequence[str], cases: Cases, rankings: Rankings) -> Section:
    """Ten users, right and wrong ones in turn, with titles: history, truth, recommendations.

    ``user_ids``: of the raw data, by user index.
    """
    chosen = example_rows(cases, rankings)
    if not len(chosen):
        return Section("examples", "Example users", paragraph("There is no test user."))
    place_of = {int(user): place for place, user in enumerate(rankings.users)}
    body = paragraph(f"Right: a target is among the first {EXAMPLE_ITEMS}. Hits are bold, behind an arrow.", note=True)
    for row in chosen:
        ranked, targets = rankings.items[place_of[int(cases.users[row])]][:EXAMPLE_ITEMS], cases.targets[row]
        history = cases.histories[row]
        right = np.isin(ranked, targets).any()
        body += f"<h3>User {escape(user_ids[cases.users[row]])}: {'right' if right else 'wrong'}</h3>"
        body += f"<p>History of {len(history)}, the latest last:</p>"
        body += bullets(_titles(catalogue, history[-EXAMPLE_HISTORY:]))
        body += "<p>Truth:</p>" + bullets(_titles(catalogue, targets[:EXAMPLE_ITEMS]))
        body += "<p>Recommended:</p><ol>" + "".join(
            f'<li class="hit">{title} &#8592;</li>' if item in targets else f"<li>{title}</li>"
            for item, title in zip(ranked, _titles(catalogue, ranked), strict=True)) + "</ol>"
    return Section("examples", "Example users", body)


def example_rows(cases: Cases, rankings: Rankings) -> list[int]:
    """Rows of ``cases``: as many right as wrong ones where there are, spread over all users, in turn."""
    place_of = {int(user): place for place, user in enumerate(rankings.users)}
    right = np.array([bool(np.isin(rankings.items[place_of[int(user)]][:EXAMPLE_ITEMS], targets).any())
                      for user, targets in zip(cases.users, cases.targets, strict=True)], dtype=bool)
    groups = [np.flatnonzero(right), np.flatnonzero(~right)]
    sizes = [min(len(groups[0]), EXAMPLE_USERS - min(len(groups[1]), EXAMPLE_USERS // 2))]
    sizes.append(min(len(groups[1]), EXAMPLE_USERS - sizes[0]))
    picked = [group[np.linspace(0, len(group) - 1, size).astype(int)].tolist() if size else []
              for group, size in zip(groups, sizes, strict=True)]
    longest = max(sizes)
    return [rows[place] for place in range(longest) for rows in picked if place < len(rows)]


def timing_section(timing: Mapping[str, Mapping[str, float]], hardware: Mapping[str, Any]) -> Section:
    """Seconds, peak memory and throughput of each stage."""
    rows = [(stage, entry["seconds"], entry["peak_memory_mib"],
             ", ".join(f"{value:,.1f} {name.removesuffix('_per_second')}/s" for name, value in entry.items()
                       if name.endswith("_per_second")) or None) for stage, entry in timing.items()]
    body = table(["stage", "seconds", "peak memory (MiB)", "throughput"], rows)
    if timing:
        body += image(bar_chart(list(timing), {"seconds": [entry["seconds"] for entry in timing.values()]},
                                x="stage", y="seconds"), "Wall time of each stage when it last ran.")
    machine = ", ".join(f"{name} {value or 'none'}" for name, value in hardware.items())
    return Section("timings", "Timings", body + paragraph(f"Measured on: {machine}.", note=True))


def shown_metrics(names: Sequence[str] | Mapping[str, Any]) -> list[str]:
    """The metrics that a table has room for: AUC, recall and NDCG at 5, 10 and 20 (or what there is), and MRR."""
    ranked = [name for name in names if name.startswith(("recall@", "ndcg@"))]
    usual = [name for name in ranked if name.split("@")[1] in ("5", "10", "20")] or ranked
    areas = [name for name in names if name in ("auc", "group_auc")]
    return [*areas, *sorted(usual, key=_metric_order), *(name for name in names if name == "mrr")]


def history_name(shortest: int) -> str:
    """The name of a bucket of history lengths, e.g. 3-4."""
    longer = [edge for edge in HISTORY_BUCKETS if edge > shortest]
    if not longer:
        return f"{shortest}+"
    return str(shortest) if longer[0] == shortest + 1 else f"{shortest}-{longer[0] - 1}"


def run_facts(row: Mapping[str, Any], kinds: str) -> list[tuple[str, Any]]:
    """What identifies a run, from its ledger row; ``kinds`` names embedding, tokenizer, recommender and decoder."""
    named = [(group, row[group]) for group in PRESETS]
    data = [("raw data (digest)", row["data"])] if row["data"] else []  # files that git tracks are those of the revision
    return [*named, ("pipeline", kinds), ("seed", str(row["seed"])), ("revision", row["revision"]), *data,
            ("parameters (digest)", row["params_hash"]), ("trained numbers", row["parameters"])]


def _figures(scores: Mapping[str, float], names: Sequence[str]) -> list[Any]:
    return [scores["users"], *(scores.get(name) for name in names)]


def _metric_order(name: str) -> tuple[Any, ...]:
    kind, _, k = name.partition("@")
    kinds = ("recall", "hit_rate", "ndcg", "mrr")
    return kinds.index(kind) if kind in kinds else len(kinds), kind, int(k) if k.isdigit() else 0


def _titles(catalogue: Catalogue, items: np.ndarray) -> list[str]:
    return [escape(" ".join(catalogue.titles[item].split()) or catalogue.item_ids[item]) for item in items]


def _number(value: Any) -> Any:
    return float(value) if value not in (None, "") else None
