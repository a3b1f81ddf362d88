"""Tables, arrays, tensors, JSON and CSV as files: written to a temporary name and renamed, read with checks.

What the files of the pipeline hold is the knowledge of `artifacts`. No pickle is ever read.
"""

import contextlib
import csv
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

MADE_BY = {"ingest": "ingest", "split": "split", "embed": "embed", "tokens": "quantize",
           "sequences": "build_sequences", "model": "finetune", "predictions": "decode"}


def write_table(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    table = table.select(schema.names).cast(schema)
    with writing_file(path) as place:
        pq.write_table(table, place, compression="zstd")


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Read a Parquet file; columns beyond the schema are kept.

    Raises:
        FileNotFoundError: naming the stage that makes the file.
        ValueError: if a column is missing, of another type, or null where a number must stand.
    """
    require(path)
    try:
        table = pq.read_table(path, memory_map=True)
    except pa.ArrowInvalid as error:
        raise _damaged(path, error) from error
    for wanted in schema:
        if wanted.name not in table.column_names:
            raise ValueError(f"{path}: column {wanted.name} is missing; found {', '.join(table.column_names)}")
        found = table.schema.field(wanted.name).type
        if found != wanted.type:
            raise ValueError(f"{path}: column {wanted.name} is {found}, expected {wanted.type}")
        if wanted.name != "rating" and table[wanted.name].null_count:
            raise ValueError(f"{path}: column {wanted.name} has {table[wanted.name].null_count} empty values")
    return table.combine_chunks()


def read_array(path: Path, dtype: type) -> np.ndarray:
    require(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (EOFError, ValueError) as error:
        said = "not an array of numbers" if "pickle" in str(error) else error
        raise _damaged(path, said) from error
    if array.dtype != dtype:
        raise ValueError(f"{path}: {array.dtype} values, expected {np.dtype(dtype)}")
    return array


def write_tensors(path: Path, tensors: Mapping[str, Any]) -> None:
    """Save NumPy arrays or torch tensors as safetensors."""
    from safetensors.numpy import save_file

    arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)
              for name, value in tensors.items()}
    with writing_file(path) as place:
        save_file(arrays, place)


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    require(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise _damaged(path, error) from error


def write_json(path: Path, tree: Mapping[str, Any]) -> None:
    with writing_file(path) as place:
        place.write_text(json.dumps(tree, indent=1, sort_keys=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    require(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _damaged(path, error) from error


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a row; the columns are those of all rows, in order of first appearance, and absent values are empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with writing_file(path) as place, place.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_tables(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The CSV files of a folder by name, rows as text.

    Raises:
        ValueError: for a row with more or fewer values than there are columns.
    """
    require(folder)
    tables = {}
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            tables[path.stem] = rows = list(csv.DictReader(file))
        for number, row in enumerate(rows, start=1):
            if None in row or None in row.values():
                raise ValueError(f"{path}: row {number} below the header has not as many values as there are columns; was "
                                 "it cut off? Correct or remove it")
    return tables


@contextlib.contextmanager
def writing_file(path: Path) -> Iterator[Path]:
    """A temporary path that becomes ``path`` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield place
        os.replace(place, path)
    finally:
        place.unlink(missing_ok=True)


@contextlib.contextmanager
def writing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``folder``, in place of what was there, when the block ends without an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    place = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(place, folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait for other processes in such a block over the same folder; for files that are read, then written anew."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def files_digest(*paths: Path) -> str:
    """12 digits that files share with their copies."""
    digest = hashlib.sha256()
    for path in paths:
        require(path)
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def require(path: Path) -> None:
    """Refuse a path where nothing is, naming the stage that makes it."""
    if not path.exists():
        stage = _maker(path)
        hint = f"; stage {stage} makes it: run `dvc repro {stage}`" if stage else ""
        raise FileNotFoundError(f"{path}: no such file{hint}")


def _damaged(path: Path, said: object) -> ValueError:
    stage = _maker(path)
    hint = f"re-run stage {stage}, which makes it: `dvc repro {stage}`" if stage else "remove it, and make it anew"
    return ValueError(f"{path}: damaged ({' '.join(str(said).split())}); {hint}")


def _maker(path: Path) -> str | None:
    """The stage that writes a file, as far as its folder tells."""
    return next((MADE_BY[part] for part in reversed(path.parts) if part in MADE_BY), None)
