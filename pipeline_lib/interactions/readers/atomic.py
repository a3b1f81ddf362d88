"""RecBole's atomic files: ``<name>.inter`` and perhaps ``<name>.item``, tab separated, typed headers, no quoting.

Source: recbole.io, "Atomic Files"; a header cell is ``name:type`` with type token, token_seq, float or float_seq.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline_lib.interactions.readers.delimited import Layout, read_columns, read_header
from pipeline_lib.interactions.readers.raw_file import NO_TIMES, RawFile, require_columns
from pipeline_lib.interactions.readers.text_files import find_file, find_optional_file, read_content

LAYOUT = Layout(separator="\t")
TYPES = ("token", "token_seq", "float", "float_seq")


def read(folder: Path, columns: Mapping[str, str], ordered: bool) -> tuple[RawFile, RawFile | None]:
    """Read the interactions, and the items where there is an ``.item`` file; other interaction columns are ignored."""
    path = find_file(folder, "*.inter")
    content = read_content(path)
    header = _header(path, content)
    require_columns(path, header, ["user_id", "item_id", *(["timestamp"] if ordered else [])],
                    NO_TIMES)
    picked = {name: header.index(name) for name in ("user_id", "item_id", "timestamp", "rating") if name in header}
    interactions = RawFile(path, read_columns(path, content, LAYOUT, len(header), picked))
    del content

    item_path = find_optional_file(folder, "*.item")
    return interactions, None if item_path is None else _items(item_path)


def _items(path: Path) -> RawFile:
    content = read_content(path)
    header = _header(path, content)
    require_columns(path, header, ["item_id"])
    picked = {name: place for place, name in enumerate(header)}
    return RawFile(path, read_columns(path, content, LAYOUT, len(header), picked))


def _header(path: Path, content: bytes) -> list[str]:
    names = []
    for cell in read_header(path, content, LAYOUT):
        name, _, kind = cell.rpartition(":")
        if not name or kind not in TYPES:
            raise ValueError(f"{path}, row 1: header cell '{cell}' has no known type, expected name:type with type "
                             f"{', '.join(TYPES)}; for plain headers set ingest.format=table")
        names.append(name)
    return names
