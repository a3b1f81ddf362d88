"""`sidflow record`, `results`, `report`, `sweep` and `compare`: what is done with a finished run."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import plain_files
from pipeline_lib.command import listed
from pipeline_lib.params_file import check_ablation, compose_tree, params_from_tree
from pipeline_lib.parsing import known_names

PROJECT, CONF = Path(), Path("conf")
RESULTS, KEPT = Path("reports/results"), Path("reports/results/runs")
log = logging.getLogger(__name__)
LEDGER, COMPARISON = RESULTS / "ledger.csv", RESULTS / "comparison.csv"

OutOption = Annotated[typer.FileTextWrite, typer.Option(encoding="utf-8", atomic=True)]
MetricOption = Annotated[list[str], typer.Option("--metrics", help="Metrics to show, separated by commas.")]


def record() -> None:
    """Add the finished run to reports/results/ledger.csv, with what made it; refused for a run nobody could repeat."""
    from pipeline_lib.params_file import read_params
    from pipeline_lib.reporting.finished_run import PARAMS, collect_run, keep_run
    from pipeline_lib.reporting.ledger import append_row
    from pipeline_lib.reporting.provenance import require_committed

    require_committed(PROJECT, Path(read_params(PROJECT / PARAMS).ingest.path))
    run = collect_run(PROJECT, KEPT)
    keep_run(KEPT, run)  # first, since it can be done again
    row, old = run.tree["row"], append_row(LEDGER, run.tree["row"])
    if old is not None:
        what = f"params {row['params_hash']}, revision {row['revision']}, seed {row['seed']}"
        raise ValueError(f"{LEDGER}: this run ({what}) was recorded on {old['date']}; nothing was added")
    what = f"{row['paper']} on {row['dataset']}, seed {row['seed']}, revision {row['revision']}"
    typer.echo(f"recorded {what} in {LEDGER}")


def results(metrics: MetricOption = ("recall@5,recall@10,recall@20,hit_rate@10,hit_rate@20,"
                                     "ndcg@5,ndcg@10,ndcg@20,auc,group_auc,mrr",),
            data: Annotated[str | None, typer.Option(help="Only protocols that start with this name.")] = None,
            groups: Annotated[list[str], typer.Option(help="Of users or items, e.g. all,warm,cold")] = ("all",),
            ) -> None:
    """Print recorded runs and the papers' figures, a block a protocol: figures of two protocols never share a row."""
    from pipeline_lib.reporting.results_table import format_results, published_rows, recorded_rows

    tables, names = plain_files.read_tables(RESULTS), listed(metrics)
    ledger = tables.get("ledger", [])
    known = {figure["group"] for figure in tables.get("published", [])}
    known |= {name.split("/")[1] for row in ledger[:1] for name in row if name.startswith("test/")}
    unknown = [group for group in listed(groups) if known and group not in known]
    if unknown:
        raise ValueError(f"--groups {unknown[0]}: no figure is of it; {known_names(unknown[0], sorted(known))}")
    rows = recorded_rows(ledger, names, listed(groups))
    rows += published_rows(tables.get("published", []), listed(groups))
    rows = [row for row in rows if data is None or row["protocol"].startswith(data)]
    if not rows:
        raise ValueError(f"{RESULTS}: no figures on {data or 'anything'}; `sidflow record` adds those of a run")
    text = format_results(rows, names)
    if not text:
        raise ValueError(f"--metrics {','.join(names)}: no figure on {data or 'anything'}; try e.g. recall@10")
    typer.echo(text)
    if "*" in text:
        typer.echo("\n* misprint of the source, see the notes in published.csv")


def report(out: OutOption = "reports/report.html") -> None:
    """Write one self-contained HTML page about the last run: reports/report.html."""
    from pipeline_lib.reporting.page_of_run import report_page

    _check_place("--out", out)
    page = report_page(PROJECT, RESULTS)
    out.write(page)
    typer.echo(f"wrote {out.name} ({len(page) / 2**20:.1f} MiB)")


def sweep(key: Annotated[str, typer.Argument(help="The parameter that was swept, e.g. tokenizer.mq.mask")],
          metrics: MetricOption = ("valid.all.recall@10,test.all.recall@10",),
          out: OutOption = "reports/sweep.svg") -> None:
    """Draw metrics of the commit's experiments (`dvc exp run --queue -S 'key=1,2,3'`) against the parameter that was swept.

    A line where its values are numbers, bars where they are names.
    """
    from pipeline_lib.params_file import read_tree
    from pipeline_lib.reporting.charts import bar_chart, line_chart
    from pipeline_lib.reporting.ledger import flatten
    from pipeline_lib.reporting.provenance import changed_stages
    from pipeline_lib.reporting.results_table import format_table
    from pipeline_lib.reporting.sweep import shown_experiments, sweep_points

    _check_place("--out", out)
    lines = sweep_points(shown_experiments(PROJECT), key, listed(metrics),
                         flatten(read_tree(PROJECT / "params.yaml"), joint="."), not changed_stages(PROJECT))
    values = [value for value, _ in next(iter(lines.values()))]
    numbers = all(isinstance(value, float) for value in values)
    names = [f"{value:g}" if isinstance(value, float) else value for value in values]
    figures = {metric: [figure for _, figure in points] for metric, points in lines.items()}
    typer.echo(format_table([[key, *figures], *([name, *(f"{column[place]:.4f}" for column in figures.values())]
                                                for place, name in enumerate(names))]))
    drawn = line_chart(lines, x=key, y="metric") if numbers else bar_chart(names, figures, x=key, y="metric")
    out.write(drawn.decode())
    typer.echo(f"wrote {out.name}")


def compare(papers: Annotated[list[str], typer.Option("--paper", help="Presets, separated by commas.")],
            datasets: Annotated[list[str], typer.Option("--dataset", help="Data sets.")] = ("demo",),
            ablations: Annotated[list[str], typer.Option("--ablation", help="none is the method itself.")] = ("none",),
            seeds: Annotated[list[str], typer.Option("--seed", help="All runs of the first come first.")] = ("42",),
            scale: str = "demo",
            overrides: Annotated[list[str] | None, typer.Option("--set", "-S", help="key=value for every run.")] = None,
            reference: Annotated[str | None, typer.Option(help="The method to test the others against.")] = None,
            metrics: MetricOption = ("recall@10,ndcg@10",),
            chart: Annotated[typer.FileTextWrite | None, typer.Option(
                encoding="utf-8", atomic=True, help="An SVG of the first metric by popularity of the target.")] = None,
            show: Annotated[bool, typer.Option("--show", help="Run nothing; show what is there.")] = False) -> None:
    """Run presets x data sets x ablations x seeds, one after the other, and compare them over users and seeds.

    Runs happen in a clone of the project at HEAD, with its DVC cache; finished ones are kept under reports/results/runs
    and not run again while their raw data is the same, so after an interruption the same command goes on. The exit
    status is 1 where a run failed.
    """
    from pipeline_lib.reporting.comparison import comparison_rows, find_outcomes, make_grid, run_grid
    from pipeline_lib.reporting.comparison_text import format_comparison
    from pipeline_lib.reporting.finished_run import keep_timings
    from pipeline_lib.reporting.provenance import changed_code, data_digest
    from pipeline_lib.reporting.workspace import WORKSPACE, open_workspace, place_pointer
    from pipeline_lib.seeding import numpy_generator

    if chart is not None:
        _check_place("--chart", chart)
    metrics = listed(metrics)
    cells = make_grid(listed(datasets), listed(papers), scale, listed(ablations),
                      [_whole_number(seed) for seed in listed(seeds)], overrides or [])
    _check_names(cells)
    methods = list(dict.fromkeys(cell.method for cell in cells))
    if reference is not None and reference not in methods:
        raise ValueError(f"--reference {reference}: not among the methods that are compared: {', '.join(methods)}")
    _check_cells(cells, metrics, chart is not None)
    changed = changed_code(PROJECT)
    if changed:
        log.warning("%s: not as committed, and so no part of these runs, which are those of HEAD",
                    ", ".join(changed[:3]) + (f" and {len(changed) - 3} more" if len(changed) > 3 else ""))
    if show:
        outcomes = find_outcomes(cells, KEPT, lambda cell: params_from_tree(compose_tree(CONF, cell.composition)),
                                 lambda params: data_digest(PROJECT, Path(params.ingest.path)))
    else:
        keep_timings(KEPT, PROJECT / WORKSPACE)  # as an interruption left it
        with open_workspace(PROJECT) as workspace:
            def compose(cell):
                return params_from_tree(compose_tree(workspace / "conf", cell.composition))

            def data(params):
                place_pointer(workspace, PROJECT, Path(params.ingest.path))
                return data_digest(workspace, Path(params.ingest.path))

            run_grid(cells, KEPT, compose, lambda cell, params: _run_cell(workspace, cell, params), data)
            outcomes = find_outcomes(cells, KEPT, compose, data)
    rows = comparison_rows(outcomes, KEPT, metrics, reference, numpy_generator(0, "comparison"))
    if not show:
        plain_files.write_csv(COMPARISON, rows)
    typer.echo(format_comparison(rows, metrics, reference, overrides or ()))
    if chart is not None:
        drawn = _popularity_chart(outcomes, metrics[0])
        chart.write(drawn)  # opened here, so that a chart that cannot be drawn takes none away
        typer.echo(f"wrote {chart.name}")
    if not show and any(outcome.error for outcome in outcomes):
        raise typer.Exit(1)


def _popularity_chart(outcomes, metric: str) -> str:
    """A panel a protocol."""
    from pipeline_lib.reporting.charts import bar_charts
    from pipeline_lib.reporting.results_table import POPULARITY_AXIS, POPULARITY_GROUPS, popularity_bars

    rows = [outcome.tree["row"] for outcome in outcomes if outcome.tree]
    panels = {protocol: popularity_bars([row for row in rows if row["protocol"] == protocol], metric)
              for protocol in dict.fromkeys(row["protocol"] for row in rows)}
    panels = {protocol: bars for protocol, bars in panels.items() if bars}
    if not panels:
        raise ValueError(f"--chart: none of these runs has {metric} by popularity")
    return bar_charts(POPULARITY_GROUPS, panels, x=POPULARITY_AXIS, y=metric).decode()


def _check_place(option: str, file) -> None:
    """Refuse, before the work, a file that is opened after it and cannot be written."""
    place = Path(file.name)
    if place.is_dir():
        raise ValueError(f"{option} {place}: is a folder; expected a file to write")
    if not place.parent.is_dir():
        raise ValueError(f"{option} {place}: there is no folder {place.parent}; make it, or give another file")


def _check_names(cells) -> None:
    """Refuse presets that conf/ does not have, and -S for what has an option of its own."""
    for group in ("dataset", "paper", "scale", "ablation"):
        known = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for name in dict.fromkeys(getattr(cell, group) for cell in cells):
            if name not in known:
                raise ValueError(f"--{group} {name}: no such preset in {CONF / group}; {known_names(name, known)}")
    for override in cells[0].overrides:
        name = override.split("=")[0].strip("+~")
        if name in ("dataset", "paper", "scale", "ablation", "seed"):
            raise ValueError(f"-S {override}: give it as --{name}, by which runs are told apart")


def _check_cells(cells, metrics: list[str], with_chart: bool) -> None:
    """Refuse another paper's ablations, metrics that no run measures and a chart of none, before anything runs."""
    from pipeline_lib.reporting.comparison import measured_metrics

    runs = []
    for cell in {(cell.paper, cell.ablation): cell for cell in cells}.values():
        try:
            params = params_from_tree(compose_tree(CONF, cell.composition))
        except ValueError:  # such a cell is a failed one, and does not keep the others from running
            continue
        check_ablation(params)
        runs.append(params)
    _check_metrics(runs, metrics)
    if with_chart and runs and not any(metrics[0] in measured_metrics(params) for params in runs
                                       if params.decode.kind != "score"):  # candidates are not grouped
        raise ValueError(f"--chart: {metrics[0]} is not measured by popularity here; put a metric of ranked lists first, "
                         "e.g. --metrics recall@10")


def _check_metrics(runs, metrics: list[str]) -> None:
    from pipeline_lib.reporting.comparison import measured_metrics

    known = dict.fromkeys(name for params in runs for name in measured_metrics(params))
    ks = dict.fromkeys(str(k) for params in runs if params.decode.kind != "score" for k in params.evaluate.ks)
    for metric in metrics if runs else ():
        if metric not in known:
            name, _, length = metric.partition("@")
            if length.isdigit() and any(f"{name}@{k}" in known for k in ks):
                raise ValueError(f"--metrics {metric}: evaluate.ks has {', '.join(ks)}; take one of these, or set "
                                 "-S 'evaluate.ks=[...]'")
            raise ValueError(f"--metrics {metric}: no run here measures it; {known_names(metric, known)}")


def _run_cell(workspace: Path, cell, params):
    """Run a cell, and put it into the ledger unless it is there."""
    from pipeline_lib.reporting.finished_run import collect_run, keep_timings
    from pipeline_lib.reporting.ledger import append_row
    from pipeline_lib.reporting.workspace import run_pipeline

    try:
        run_pipeline(workspace, PROJECT, cell.composition, Path(params.ingest.path))
    finally:
        keep_timings(KEPT, workspace)
    run = collect_run(workspace, KEPT)
    append_row(LEDGER, run.tree["row"])
    return run


def _whole_number(text: str) -> int:
    if not text.strip().isdigit():
        raise ValueError(f"--seed {text}: expected whole numbers separated by commas, e.g. 42,43")
    return int(text)
