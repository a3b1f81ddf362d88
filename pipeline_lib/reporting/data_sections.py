"""The report's sections on what went in and how items are named: data, identifiers, training."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline_lib.records import Catalogue, Split
from pipeline_lib.reporting.charts import bar_chart, line_chart
from pipeline_lib.reporting.page import Section, bullets, fold, image, paragraph, table

TREE_WIDTHS = (12, 6, 6)  # prefixes shown at the first levels, the most common ones; then titles
TREE_TITLES = 5
LENGTHS = (1, 2, 3, 5, 10, 20, 50, 100)


def data_section(catalogue: Catalogue, split: Split, num_users: int, num_interactions: int) -> Section:
    """Counts, lengths of training histories, popularity of items, and how many items have a text."""
    lengths = split.train.lengths
    counts = [("users", num_users), ("items", len(catalogue)), ("interactions", num_interactions),
              ("of them to train on", int(lengths.sum())),
              ("interactions of all possible pairs", f"{num_interactions / max(num_users * len(catalogue), 1):.3%}"),
              ("validation users", len(split.valid)), ("test users", len(split.test)),
              ("test targets a user", float(split.test.targets.lengths.mean()) if len(split.test) else None),
              ("items without training data (cold)", int((~split.warm).sum())),
              ("test users without training data (unseen)", int((~split.test.seen).sum()))]
    body = table(["", "count"], counts)
    body += image(_histogram(lengths), "How many items users have to train on.")
    popularity = np.sort(split.train_count[split.train_count > 0])[::-1]
    chart = line_chart({"items": _thinned(popularity)}, x="rank of the item by popularity", y="training interactions",
                       log=True)
    body += image(chart, "How often each item is trained on, most popular first.")
    shares = [("title", _share(catalogue.titles)), ("text", _share(catalogue.texts)),
              *((f"attribute {name}", _share(values)) for name, values in catalogue.attributes.items())]
    words = [len(text.split()) for text in catalogue.texts if text]
    body += table(["", "items that have it"], [(name, f"{share:.1%}") for name, share in shares],
                  "Texts of items. " + (f"A text has {np.mean(words):.1f} words." if words else "No item has a text."))
    return Section("data", "Data", body)


def codes_section(description: Mapping[str, Any], usage: Sequence[Mapping[str, str]], codes: np.ndarray | None,
                  titles: Sequence[str], tokenizer: str) -> Section:
    """How well codebooks are used, what collides, and the identifiers as a tree that opens prefix by prefix.

    Args:
        description: the content of reports/tokenizer.json; ``usage``: the rows of code_usage.csv.
        codes: ``(N, L)`` int32, the final codes, padded with -1; None for identifiers without codes.
        titles: N of them.
    """
    if codes is None:
        return Section("codes", "Item identifiers", paragraph(
            f"The tokenizer of this run is {tokenizer}: items have no codes, so there are no codebooks to look at."))
    levels = list(description["level_sizes"])
    measures = ("level_sizes", "utilisation", "perplexity", "prefix_entropy")
    body = table(["level", "codes", "share in use", "perplexity", "entropy of the prefix (bits)"],
                 [(level, *(description[measure][level] for measure in measures)) for level in levels],
                 "A perplexity near the number of codes says that all are used evenly.")
    figures = [("share of items that share their identifier", description["collision_rate"]),
               ("different identifiers", description["distinct"]),
               ("most items with one identifier", description["largest_bucket"])]
    if "before_resolution" in description:
        figures += [("share before collisions were resolved", description["before_resolution"]["collision_rate"])]
    if "reconstruction_error" in description:
        figures += [("reconstruction error (mean square a dimension)", description["reconstruction_error"])]
    body += table(["", f"tokenizer {tokenizer}"], figures)
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in usage:
        lines.setdefault(f"level {row['level']}", []).append((float(row["rank"]), float(row["count"])))
    if lines:
        body += image(line_chart(lines, x="rank of the code within its level", y="items with the code"),
                      "Use of the codes of each level, most used first.")
    return Section("codes", "Item identifiers", body + "<h3>The identifiers as a tree</h3>" + code_tree(codes, titles))


def code_tree(codes: np.ndarray, titles: Sequence[str]) -> str:
    """Nested parts to open: a prefix, how many items have it, and under it longer ones, then titles.

    Only the most common prefixes are shown, ``TREE_WIDTHS`` at each level, so the page stays small at any N.
    """
    def branch(items: np.ndarray, level: int, prefix: str) -> str:
        if level >= min(len(TREE_WIDTHS), codes.shape[1]) or len(items) == 1:
            shown = [escape(titles[item] or f"item {item}") for item in items[:TREE_TITLES]]
            return bullets([*shown, *_more(len(items) - TREE_TITLES)])
        values, counts = np.unique(codes[items, level], return_counts=True)
        largest = np.argsort(-counts, kind="stable")[: TREE_WIDTHS[level]]
        parts = []
        for place in largest:
            longer = f"{prefix}{values[place]}" if values[place] >= 0 else f"{prefix}end"
            inner = branch(items[codes[items, level] == values[place]], level + 1, longer + "-")
            parts.append(fold(f"{longer}: {counts[place]} item{'s' if counts[place] > 1 else ''}", inner))
        return "".join(parts) + "".join(paragraph(line, note=True) for line in _more(len(values) - len(largest)))

    return branch(np.arange(len(codes)), 0, "")


def training_section(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Section:
    """Losses and validation figures by epoch.

    Args:
        curves: a stage -> a row an epoch; rows have ``epoch`` and any figures, empty where an epoch has none.
    """
    body = ""
    for stage, rows in curves.items():
        columns = [name for name in dict.fromkeys(name for row in rows for name in row)
                   if name not in ("epoch", "step")]
        points = {name: [(float(row.get("epoch") or place), float(row[name])) for place, row in enumerate(rows, 1)
                         if row.get(name) not in (None, "")] for name in columns}
        losses = {name: line for name, line in points.items() if line and "loss" in name}
        shares = {name: line for name, line in points.items() if line and "@" in name}
        for kind, lines in (("loss", losses), ("validation figure", shares)):
            if lines:
                body += image(line_chart(lines, x="epoch", y=kind), f"{stage}: {kind} by epoch.")
        if points:
            last = [f"{name} {line[-1][1]:.4g}" for name, line in points.items() if line]
            tops = {name: max(line, key=lambda point: point[1]) for name, line in shares.items()}
            best = [f"best {name} {value:.4g} in epoch {epoch:g}" for name, (epoch, value) in tops.items()]
            body += paragraph("; ".join([f"{stage}: {len(rows)} epochs", f"last {', '.join(last)}", *best]) + ".",
                              note=True)
    return Section("training", "Training", body or paragraph("Nothing was trained by gradient in this run."))


def reconstruction_section(examples: Sequence[Mapping[str, Any]], titles: Sequence[str],
                           told_share: float | None) -> Section:
    """What an embedding model says of held-out items from their vectors alone, beside what is so.

    Args:
        told_share: of `embeddings.dense.told_share`.
    """
    told = "" if told_share is None else paragraph(
        f"Of held-out items, an item's own vectors make what is so {told_share:.0%} cheaper to say than those of another "
        "item do: 0% would be vectors that tell nothing, 100% ones that tell all.")
    rows = [(titles[example["item"]], example["attribute"], example["original"], example["decoded"],
             "yes" if example["original"] == example["decoded"] else "no") for example in examples]
    return Section("reconstructions", "What the item vectors remember",
                   told + table(["item", "attribute", "so it is", "read from the vectors", "equal"], rows,
                                text_columns=5))


def _histogram(lengths: np.ndarray) -> bytes:
    edges = np.array([*LENGTHS, np.iinfo(np.int64).max])
    counts = np.histogram(lengths, edges)[0]
    names = [str(low) if high == low + 1 else f"{low}-{high - 1}" for low, high in pairwise(LENGTHS)]
    names.append(f"{LENGTHS[-1]}+")
    return bar_chart(names, {"users": counts.tolist()}, x="items of the training history", y="users")


def _thinned(values: np.ndarray, points: int = 200) -> list[tuple[float, float]]:
    """Rank and value at ranks that are even on a logarithmic axis."""
    ranks = np.unique(np.geomspace(1, max(len(values), 1), points).astype(int)) if len(values) else np.zeros(0, int)
    return [(float(rank), float(values[rank - 1])) for rank in ranks] or [(1.0, 1.0)]


def _share(values: Sequence[Any]) -> float:
    return sum(bool(value) for value in values) / max(len(values), 1)


def _more(count: int) -> list[str]:
    return [f"and {count:,} more"] if count > 0 else []
