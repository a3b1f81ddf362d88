"""Finding the files of a raw folder and reading their bytes, gzipped or plain."""

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def find_file(folder: Path, *patterns: str) -> Path:
    """The one file of a folder that matches one of the patterns, with or without ``.gz``.

    Raises:
        FileNotFoundError: if there is none, listing what is there.
        ValueError: if there are several.
    """
    found = find_optional_file(folder, *patterns)
    if found is None:
        there = sorted(entry.name for entry in folder.iterdir())
        listed = ", ".join(there[:10]) + (", ..." if len(there) > 10 else "")
        raise FileNotFoundError(f"{folder}: no file named {' or '.join(patterns)} (or the same with .gz); found "
                                f"{listed or 'nothing'}; is ingest.format right?")
    return found


def find_optional_file(folder: Path, *patterns: str) -> Path | None:
    """The same, or None where there is no such file."""
    found = sorted({path for pattern in patterns for ending in ("", ".gz")
                    for path in folder.glob(pattern + ending) if path.is_file()})
    if len(found) > 1:
        raise ValueError(f"{folder}: {len(found)} files match {' or '.join(patterns)} "
                         f"({', '.join(path.name for path in found)}); keep one of them in the folder")
    return found[0] if found else None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open for reading bytes, decompressed; damage is reported as a ValueError that names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with (gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")) as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: cut off or damaged ({error}); copy or download it again") from error


def read_content(path: Path, otherwise: str | None = None) -> bytes:
    """All bytes of a text file, without a byte order mark.

    Args:
        path: plain or gzipped.
        otherwise: encoding of files that are not UTF-8, e.g. ``latin-1``; the result is UTF-8. With None the bytes stay
            as they are, and whoever takes them apart reports the row.

    Raises:
        ValueError: if the file is empty, cut off or damaged.
    """
    with opened(path) as file:
        content = file.read()
    if not content.strip():
        raise ValueError(f"{path}: the file is empty; copy or download it again")
    content = content.removeprefix(BYTE_ORDER_MARK)
    if otherwise is None or content.isascii():
        return content
    try:
        content.decode("utf-8")
        return content
    except UnicodeDecodeError:
        return content.decode(otherwise).encode("utf-8")
