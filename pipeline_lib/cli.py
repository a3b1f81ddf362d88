"""The `sidflow` command: parameters composed and checked, the last run shown; the other commands are put beside these."""

import importlib.metadata
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import yaml

from pipeline_lib import artifacts, plain_files
from pipeline_lib.command import run_app
from pipeline_lib.data_cli import data_app
from pipeline_lib.params import Params
from pipeline_lib.params_file import compose_tree, params_from_tree
from pipeline_lib.recommend_cli import export, items_app, recommend
from pipeline_lib.reporting import commands
from pipeline_lib.variants import check_pipeline, load_params

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
                  help="Generative recommendation as a DVC pipeline. `dvc repro` runs it; these commands are around it.")
app.add_typer(data_app, name="data")
app.add_typer(items_app, name="items")
app.command("recommend")(recommend)
app.command("export")(export)
for command in (commands.record, commands.results, commands.report, commands.sweep, commands.compare):
    app.command()(command)

PARAMS = Path("params.yaml")
CONF = Path("conf")
ITEMS, USERS, SPLIT = Path("data/ingest/items.parquet"), Path("data/ingest/users.parquet"), Path("data/split")
PREDICTIONS, METRICS = Path("data/predictions"), Path("reports/metrics.json")


def main() -> None:
    run_app(app)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        typer.echo(f"sidflow {importlib.metadata.version('sidflow')}")
        raise typer.Exit


@app.command("params")
def compose_params(overrides: Annotated[list[str] | None,
                                        typer.Argument(help="As after -S: paper=tiger, seed=7")] = None,
                   out: Annotated[Path, typer.Option(help="Where to write them.")] = PARAMS) -> None:
    """Compose conf/ into params.yaml, as `dvc exp run -S ...` does, without running anything."""
    text = compose(overrides or [])
    config = params_from_tree(yaml.safe_load(text))
    check_pipeline(config)
    check_options(config)
    with plain_files.writing_file(out) as place:
        place.write_text(text, encoding="utf-8")
    typer.echo(f"wrote {out}")


@app.command("check")
def check(overrides: Annotated[list[str] | None,
                               typer.Argument(help="Check this composition instead of params.yaml")] = None,
          params: Path = PARAMS) -> None:
    """Are these parameters a possible pipeline? Nothing is run."""
    config = params_from_tree(yaml.safe_load(compose(overrides))) if overrides else load_params(params)
    check_pipeline(config)
    check_options(config)
    typer.echo(f"ok: {' + '.join(config.embed.sources)} -> {config.tokenizer.kind} ({config.tokenizer.collisions}) -> "
               f"{config.recommender.kind} -> {config.decode.kind} on {config.ingest.path}")
    if not Path(config.ingest.path).exists():
        typer.echo(f"{config.ingest.path} is not here yet: `sidflow data add FOLDER --name {Path(config.ingest.path).name}` "
                   "places raw files there, `dvc pull` gets those that a remote has", err=True)


@app.command("show")
def show(users: Annotated[int, typer.Option(min=0, help="Example users to print.")] = 3,
         k: Annotated[int, typer.Option("-k", "--k", min=1, help="Items a user.")] = 5) -> None:
    """Print the metrics of the last run and some users' recommendations, with titles."""
    from pipeline_lib.reporting.provenance import changed_stages
    from pipeline_lib.reporting.recommendations import format_metrics, format_recommendations

    metrics, stages = plain_files.read_json(METRICS), changed_stages(Path())
    typer.echo(format_metrics(metrics))
    if stages:
        typer.echo(f"these are the figures of the last run that was finished; dvc status: {', '.join(stages)} changed "
                   "since, so no lists are shown; `dvc repro` makes them again", err=True)
        return
    if "scoring" in metrics:  # candidates were scored: there are no lists
        return
    catalogue, split = artifacts.read_catalogue(ITEMS), artifacts.read_split(SPLIT)
    rankings = artifacts.read_predictions(PREDICTIONS / "test.parquet", len(catalogue))["all"]
    chosen = split.test.users[np.linspace(0, len(split.test) - 1, num=min(users, len(split.test)), dtype=int)]
    user_ids = artifacts.read_user_ids(USERS)
    typer.echo(format_recommendations(catalogue, user_ids, split.test, rankings, chosen.tolist(), k))


def compose(overrides: list[str]) -> str:
    """conf/ with overrides as YAML text: what `dvc exp run -S` writes to params.yaml."""
    return yaml.safe_dump(compose_tree(CONF, overrides), sort_keys=False)


def check_options(config: Params) -> None:
    """What each stage otherwise finds when it starts: options of all kinds by name and type, those of the chosen
    kinds by value, and whether there is text to embed.

    Raises:
        ValueError: naming the first that cannot be.
    """
    from pipeline_lib.variants import embedding_for, recommender_for, tokenizer_for

    dense = config.embed.options.get("dense")
    texts = {"text": config.ingest.text,
             "dense": config.ingest.text or config.ingest.title or (dense and dense.values.get("shown"))}
    for source, found in texts.items():
        if source in config.embed.sources and not found:
            raise ValueError(f"params: embed.sources names {source}, but ingest.text is empty: name there the attributes that "
                             f"make up an item's text in {config.ingest.path}, or take a source that needs no text, such as "
                             "paper=lightgcn or paper=tiger_sas")
    modules = {"embed": embedding_for, "tokenizer": tokenizer_for, "recommender": recommender_for}
    for where, options in config.blocks.items():
        module = modules[where.split(".")[0]](options.kind)
        parsed = options.parse(module.Config)
        if options in config.chosen and hasattr(module, "check_config"):
            module.check_config(parsed)


if __name__ == "__main__":
    main()
