"""Figures that are more than one line over one axis, as SVG; `dvc plots` shows the others from their CSV."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline_lib.reporting.charts import draw_svg, line_chart

ALIGNMENT_LOSSES = ("sia_loss", "psa_loss", "changed_codes")


def draw_figures(popularity: Sequence[Mapping[str, Any]],
                 tables: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, bytes]:
    """File name -> SVG: recall by popularity, and those of the model.

    Args:
        popularity: rows ``group`` with their metrics, the most popular items first.
        tables: as for draw_model_figures.
    """
    return {"recall_by_popularity.svg": draw_svg(lambda axes: _draw_groups(axes, popularity)),
            **draw_model_figures(tables)}


def draw_model_figures(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> dict[str, bytes]:
    """File name -> SVG: what a model's tables hold beside the training loss; empty for most models.

    Args:
        tables: ``alignment`` (kind, user, x, y) and ``training`` (an epoch a row), ``beta`` (a weight a row), as they
            stand in the model's folder.
    """
    figures = {}
    if tables.get("alignment"):
        figures["states.svg"] = draw_svg(lambda axes: _draw_states(axes, tables["alignment"]))
    curves = {name: [(float(row["epoch"]), float(row[name])) for row in tables.get("training", ()) if row.get(name)]
              for name in ALIGNMENT_LOSSES}
    if tables.get("beta"):
        points = [(float(row["beta"]), float(row["ndcg@10"])) for row in tables["beta"]]
        figures["beta.svg"] = line_chart({"validation": points}, x="beta, the weight of semantic scores",
                                         y="validation ndcg@10")
    if any(curves.values()):
        figures["alignment_losses.svg"] = draw_svg(*[lambda axes, name=name, curve=curve: _draw_curve(axes, name, curve)
                                                 for name, curve in curves.items() if curve])
    return figures


def alignment_rows(tables: Mapping[str, Sequence[Mapping[str, str]]]) -> list[dict[str, str]]:
    """``epoch`` and the losses that tie recommender and tokenizer, of epochs that have one; none for most models."""
    losses = [name for name in ALIGNMENT_LOSSES if name.endswith("_loss")]
    return [{name: row.get(name, "") for name in ("epoch", *losses)} for row in tables.get("training", ())
            if any(row.get(name) for name in losses)]


def _draw_groups(axes, rows: Sequence[Mapping[str, Any]]) -> None:
    recalls = [name for name in rows[0] if name.startswith("recall@")] if rows else ["recall@10"]
    figure = "recall@10" if "recall@10" in recalls else recalls[-1]
    bars = axes.bar([str(row["group"]) for row in rows], [row[figure] for row in rows], color="0.6", edgecolor="black")
    axes.bar_label(bars, fmt="%.3f")
    axes.set(xlabel="popularity group of the target (1: most popular)", ylabel=figure)


def _draw_states(axes, rows: Sequence[Mapping[str, str]]) -> None:
    for kind, marker, label in (("preference", "o", "preference states"), ("semantics", "x", "target semantics")):
        points = [(float(row["x"]), float(row["y"])) for row in rows if row["kind"] == kind]
        axes.scatter(*zip(*points), s=9, marker=marker, linewidths=0.7, alpha=0.6, label=label)
    axes.set(title="t-SNE of preference states and target semantics", xticks=[], yticks=[])
    axes.legend()


def _draw_curve(axes, name: str, curve: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*curve), marker=".", color="black")
    label = {"sia_loss": "sequence-item divergence (nats)", "psa_loss": "preference-semantic loss (nats)",
             "changed_codes": "share of items with a changed code"}[name]
    axes.set(xlabel="epoch", ylabel=label)
