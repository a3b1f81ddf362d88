"""The report: everything that one page shows of the run in a project folder."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline_lib import artifacts, plain_files
from pipeline_lib.params import Params
from pipeline_lib.params_file import read_params
from pipeline_lib.records import Catalogue, Split
from pipeline_lib.reporting.dag import draw_dag
from pipeline_lib.reporting.data_sections import codes_section, data_section, reconstruction_section, training_section
from pipeline_lib.reporting.figures import draw_model_figures
from pipeline_lib.reporting.finished_run import (
    EMBED,
    METRICS,
    MODEL,
    PREDICTIONS,
    SPLIT,
    TOKENIZER,
    TOKENS,
    collect_run,
)
from pipeline_lib.reporting.hardware import HARDWARE_FIELDS
from pipeline_lib.reporting.ledger import measured_parts
from pipeline_lib.reporting.page import Section, image, paragraph, render_page
from pipeline_lib.reporting.provenance import Stage, changed_code, changed_stages, read_stages
from pipeline_lib.reporting.result_sections import (
    comparison_section,
    examples_section,
    metrics_section,
    run_facts,
    run_section,
    timing_section,
)

ITEMS, USERS = "data/ingest/items.parquet", "data/ingest/users.parquet"
INTERACTIONS = "data/ingest/interactions.parquet"
PLOTS = "reports/plots"


def report_page(folder: Path, results: Path) -> str:
    """HTML of the run whose artifacts lie in a project folder.

    Args:
        results: the folder with ledger.csv, published.csv and comparison.csv, as far as they are there, and runs/.

    Raises:
        FileNotFoundError: naming the stage whose output is missing.
    """
    params, stages = read_params(folder / "params.yaml"), read_stages(folder)
    run = collect_run(folder, results / "runs")
    timing = {name: entry for name, entry in run.tree["timing"].items() if entry}
    catalogue, split = artifacts.read_catalogue(folder / ITEMS), artifacts.read_split(folder / SPLIT)
    measured, plots = plain_files.read_json(folder / METRICS), plain_files.read_tables(folder / PLOTS)
    metrics = {"run": measured["run"], **measured_parts(measured)}
    tables = plain_files.read_tables(results) if results.exists() else {}
    names = [title or item_id for title, item_id in zip(catalogue.titles, catalogue.item_ids, strict=True)]
    user_ids = artifacts.read_user_ids(folder / USERS)
    counts = (len(user_ids), len(artifacts.read_interactions(folder / INTERACTIONS)))
    changed = changed_stages(folder)
    sections = [
        _warned(run_section(metrics, run_facts(run.tree["row"], _kinds(params))), changed),
        _pipeline_section(folder, stages, timing, changed),
        data_section(catalogue, split, *counts),
        codes_section(plain_files.read_json(folder / TOKENIZER), plots.get("code_usage", []),
                      artifacts.read_final_codes(folder / MODEL, folder / TOKENS, len(catalogue)), names,
                      params.tokenizer.kind),
        *_reconstructions(folder, params, names),
        training_section(_training_curves(folder, params)),
        metrics_section(metrics, plots.get("recall_by_popularity", []), plots.get("recall_by_history", [])),
        *_figures(folder),
        comparison_section(run.tree["row"], *(tables.get(name, []) for name in ("ledger", "published", "comparison"))),
        *_examples(folder, params, catalogue, user_ids, split),
        timing_section(timing, {name: run.tree["row"][name] for name in HARDWARE_FIELDS}),
    ]
    return render_page(f"sidflow: {run.tree['row']['paper']} on {run.tree['row']['dataset']}", sections)


def _warned(section: Section, changed: Sequence[str]) -> Section:
    """With a note above it where the files at hand may be those of several runs."""
    if not changed:
        return section
    note = f"Not of one run: {', '.join(changed)} changed since the last one was finished; `dvc repro`, then report."
    return replace(section, body=paragraph(note, note=True) + section.body)


def _pipeline_section(folder: Path, stages: Sequence[Stage], timing: Mapping[str, Mapping[str, Any]],
                      changed: Sequence[str]) -> Section:
    captions = {name: f"{entry['seconds']:,.1f} s" for name, entry in timing.items()}
    caption = "<figcaption>What reads what, and the seconds that each stage took.</figcaption>"
    body = f"<figure>{draw_dag(stages, captions)}{caption}</figure>"
    changes = [f"{name} changed since the run" for name in changed]
    changes += [f"{name} differs from HEAD" for name in changed_code(folder)]
    note = f"Not reproducible from the revision alone: {'; '.join(changes)}." if changes else \
        "All files are those of dvc.lock, and the code is that of the revision."
    return Section("pipeline", "Pipeline", body + paragraph(note, note=True))


def _training_curves(folder: Path, params: Params) -> dict[str, Sequence[Mapping[str, Any]]]:
    """Rows an epoch of each stage that was trained."""
    curves: dict[str, Sequence[Mapping[str, Any]]] = {}
    for source in params.embed.sources:
        curves[f"embed@{source}"] = plain_files.read_json(folder / EMBED / source / "meta.json").get("training", [])
    curves["quantize"] = plain_files.read_tables(folder / TOKENS).get("training", [])
    curves["finetune"] = plain_files.read_tables(folder / MODEL).get("training", [])
    return {stage: rows for stage, rows in curves.items() if rows}


def _reconstructions(folder: Path, params: Params, names: Sequence[str]) -> list[Section]:
    metas = [plain_files.read_json(folder / EMBED / source / "meta.json") for source in params.embed.sources]
    return [reconstruction_section(meta["reconstructions"], names, meta.get("told_share"))
            for meta in metas if meta.get("reconstructions")]


def _examples(folder: Path, params: Params, catalogue: Catalogue, user_ids: Sequence[str],
              split: Split) -> list[Section]:
    """Users with their lists; none where candidates were scored, which makes no lists."""
    if params.decode.kind == "score":
        return []
    rankings = artifacts.read_predictions(folder / PREDICTIONS / "test.parquet", len(catalogue))["all"]
    return [examples_section(catalogue, user_ids, split.test, rankings)]


def _figures(folder: Path) -> list[Section]:
    """The figures of the model, where it has any, drawn from its tables."""
    figures = draw_model_figures(plain_files.read_tables(folder / MODEL))
    images = "".join(image(svg, name.removesuffix(".svg").replace("_", " ")) for name, svg in figures.items())
    return [Section("figures", "Figures of the model", images)] if figures else []


def _kinds(params: Params) -> str:
    return (f"{' + '.join(params.embed.sources)} -> {params.tokenizer.kind} -> {params.recommender.kind} -> "
            f"{params.decode.kind}")
