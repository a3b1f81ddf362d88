"""`sidflow data`: raw data is checked, placed under data/raw/ and listed."""

import dataclasses
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from pipeline_lib import plain_files
from pipeline_lib.params import IngestParams
from pipeline_lib.params_file import read_tree
from pipeline_lib.parsing import parse
from pipeline_lib.reporting.provenance import data_pointer

data_app = typer.Typer(no_args_is_help=True, help="Raw data: check it, place it under data/raw/, list it.")
CONF, RAW = Path("conf"), Path("data/raw")

FormatOption = Annotated[str | None, typer.Option("--format", help="Raw format; found out from the files if left out.")]
ColumnOption = Annotated[list[str] | None, typer.Option("--column", help="ours=theirs, e.g. user_id=customer; repeatable.")]
BadRowsOption = Annotated[int | None, typer.Option("--max-bad-rows", min=0, help="So many bad rows are left out; more are refused.")]
SHOWN_BAD_ROWS = 20
ROW_NUMBERS = ("", "Unnamed: 0", "__index_level_0__")  # names that pandas gives to what is no attribute
NAME = re.compile(r"(?!(null|true|false|nan|inf)$)[a-z][a-z0-9_-]*", re.ASCII | re.IGNORECASE)  # what -S dataset=NAME takes


@data_app.command("add")
def add_data(folder: Path,
             name: Annotated[str | None, typer.Option(help="Its name here; the folder's by default.")] = None,
             raw_format: FormatOption = None, column: ColumnOption = None, max_bad_rows: BadRowsOption = None) -> None:
    """Check a folder of raw files, copy it to data/raw/NAME, `dvc add` it, and write conf/dataset/NAME.yaml if absent."""
    name = folder.resolve().name if name is None else name
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a data set: give --name with letters, digits, - and _, a letter first")
    if RAW.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder} holds {RAW} itself, where data is copied to; name the folder of the raw files alone")
    preset, place = CONF / "dataset" / f"{name}.yaml", RAW / name
    if place.exists():
        raise ValueError(f"{place} exists already; remove it first, or give another --name")
    pointer = data_pointer(place)
    if pointer.exists():
        raise ValueError(f"{pointer} exists already: `dvc pull` gets its files; remove it first, or give another --name")
    options = _ingest_options(folder, preset, raw_format, column, max_bad_rows)
    if preset.exists():
        _refuse_other_options(preset, options)
    raw = _describe(folder, options, preset)
    _refuse_interpolations(folder, raw)
    new_preset = not preset.exists()
    try:
        _copy(folder, place)
        if new_preset:
            _write_preset(preset, name, options, [] if raw.items is None else raw.items.columns)
        _dvc_add(place)
    except BaseException:  # Ctrl-C, too
        shutil.rmtree(place, ignore_errors=True)
        pointer.unlink(missing_ok=True)
        if new_preset:
            preset.unlink(missing_ok=True)
        raise
    if new_preset:
        typer.echo(f"wrote {preset}: look there at what makes up an item's title and text, and set filters and split")
    without_texts = "" if _ingest_block(preset).get("text") else " -S paper=lightgcn"
    typer.echo(f"added {place}; run it with `dvc exp run -S dataset={name}{without_texts}`"
               f"{', or another paper that needs no texts of items' if without_texts else ''}")
    typer.echo("queued runs, `sidflow compare` and `record` take it from git: "
               f"`git add {preset} {RAW} && git commit -m {name}`")


@data_app.command("validate")
def validate_data(folder: Path, raw_format: FormatOption = None, column: ColumnOption = None,
                  max_bad_rows: BadRowsOption = None) -> None:
    """Count rows and columns of raw files and name their problems. Nothing is written."""
    preset = CONF / "dataset" / f"{folder.resolve().name}.yaml"
    _describe(folder, _ingest_options(folder, preset, raw_format, column, max_bad_rows), preset)


@data_app.command("list")
def list_data() -> None:
    """The data sets that have a preset, and whether their files are here."""
    for preset in sorted((CONF / "dataset").glob("*.yaml")):
        try:
            path = _ingest_block(preset)["path"]
        except ValueError as error:
            typer.echo(f"{preset.stem:16} {'broken':7} {error}")
        else:
            typer.echo(f"{preset.stem:16} {'here' if Path(path).exists() else 'absent':7} {path}")


def _ingest_options(folder: Path, preset: Path, raw_format: str | None, columns: list[str] | None,
                    max_bad_rows: int | None) -> IngestParams:
    """Those of the preset, where there is one; what is given goes before it."""
    from pipeline_lib.interactions.detection import detect_format

    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: no such folder; expected one that holds the raw files")
    wrong = [pair for pair in columns or [] if "=" not in pair]
    if wrong:
        raise ValueError(f"--column {wrong[0]}: expected ours=theirs, e.g. user_id=customer")
    given = {"format": raw_format, "columns": dict(pair.split("=", 1) for pair in columns or []) or None,
             "max_bad_rows": max_bad_rows}
    kept = (parse(IngestParams, _ingest_block(preset), f"{preset}: ingest") if preset.exists() else
            IngestParams(path=str(folder), format=raw_format or detect_format(folder)))
    return dataclasses.replace(kept, **{name: value for name, value in given.items() if value is not None})


def _ingest_block(preset: Path) -> Mapping[str, Any]:
    """What a preset of a data set says of ``ingest``, the path for certain."""
    block = read_tree(preset).get("ingest")
    if not isinstance(block, Mapping) or not isinstance(block.get("path"), str):
        raise ValueError(f"{preset}: no ingest.path; expected the folder of the raw files, e.g. {RAW / preset.stem}")
    return block


def _refuse_other_options(preset: Path, options: IngestParams) -> None:
    """Runs read the preset that is there, so that other options than its own would be lost."""
    kept = parse(IngestParams, _ingest_block(preset), f"{preset}: ingest")
    for option, name in (("--column", "columns"), ("--format", "format"), ("--max-bad-rows", "max_bad_rows")):
        given, there = getattr(options, name), getattr(kept, name)
        if given != there:
            raise ValueError(f"{option}: {preset} exists already and has ingest.{name}={there}, not {given}; change it "
                             f"there and leave out {option}, remove the file, or give another --name")


def _copy(folder: Path, place: Path) -> None:
    """All of it, or nothing: whoever is killed meanwhile leaves no half of it under the name that runs read."""
    try:
        with plain_files.writing_folder(place) as copy:
            shutil.copytree(folder, copy, dirs_exist_ok=True)
    except (OSError, shutil.Error) as error:
        raise ValueError(f"{folder} cannot be copied, and nothing was kept: {' '.join(str(error).split())}") from error


def _dvc_add(place: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "dvc", "add", str(place)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ValueError(f"`dvc add {place}` failed, and nothing was kept: {' '.join(done.stderr.split()) or 'no message'}")


def _refuse_interpolations(folder: Path, raw) -> None:
    """A preset that names such a column says the value of another key, for Hydra as for DVC."""
    for column in [] if raw.items is None else raw.items.columns:
        if "${" in column:
            raise ValueError(f"{folder}: column {column} cannot stand in a preset, where ${{...}} names another key; "
                             "rename it in the file")


def _describe(folder: Path, options: IngestParams, preset: Path):
    """Print what the files hold and their bad rows, also where there are more of these than are allowed, which then raises."""
    from pipeline_lib.interactions.readers.checks import refuse_bad_rows
    from pipeline_lib.interactions.reading import read_raw
    from pipeline_lib.interactions.validation import describe_raw

    try:
        raw = read_raw(folder, dataclasses.replace(options, max_bad_rows=sys.maxsize))
    except (ValueError, OSError) as error:
        if not preset.exists():
            raise
        raise ValueError(f"{error} (read as {preset} says, a preset of this name; for other data call the folder "
                         "otherwise, or give `sidflow data add` a --name)") from error
    for line in raw.bad_rows[:SHOWN_BAD_ROWS]:
        typer.echo(f"bad row: {line}")
    if len(raw.bad_rows) > SHOWN_BAD_ROWS:
        typer.echo(f"and {len(raw.bad_rows) - SHOWN_BAD_ROWS} more bad rows")
    typer.echo(f"{folder} ({options.format}){', without its bad rows' if raw.bad_rows else ''}")
    described = describe_raw(raw)
    for key, value in described.items():
        typer.echo(f"  {key}: {_as_text(value)}")
    if described["duplicates"]:
        typer.echo(f"{described['duplicates']} rows repeat another one of the same user, item and time: were files "
                   "joined twice? Remove them, or items that are to be predicted stand in the history already", err=True)
    refuse_bad_rows(raw.bad_rows, options.max_bad_rows)
    return raw


def _as_text(figure: float | Mapping[str, float]) -> str:
    if isinstance(figure, Mapping):
        return ", ".join(f"{name} {_as_text(part)}" for name, part in figure.items()) or "none"
    return f"{figure:.4g}" if isinstance(figure, float) else str(figure)


def _write_preset(preset: Path, name: str, options: IngestParams, columns: list[str]) -> None:
    """A preset to start from: every attribute is part of an item's text, but for a table's row numbers."""
    attributes = [column for column in columns if column not in ("item_id", *ROW_NUMBERS)]
    title = next((column for column in ("title", "name", *attributes) if column in attributes), None)
    ingest = {"path": str(RAW / name), "format": options.format, "columns": dict(options.columns), "title": title,
              "text": attributes}
    if options.max_bad_rows:
        ingest["max_bad_rows"] = options.max_bad_rows
    body = yaml.safe_dump({"preset": {"dataset": name}, "ingest": ingest}, sort_keys=False)
    with plain_files.writing_file(preset) as place:
        place.write_text(f"# @package _global_\n{body}", encoding="utf-8")
