"""Raw folders read twice: as they are, and with every plain file gzipped and every gzipped one plain."""

import gzip
from pathlib import Path

from polars.testing import assert_frame_equal

from pipeline_lib.interactions.reading import read_raw
from pipeline_lib.params import IngestParams


def read(folder: Path, format: str, **options):
    """What is read, which must not depend on the form of the files."""
    raw, other = (read_raw(place, IngestParams(path=str(place), format=format, **options))
                  for place in (folder, _in_the_other_form(folder)))
    assert_frame_equal(raw.interactions, other.interactions)
    assert (raw.items is None) == (other.items is None) and len(raw.bad_rows) == len(other.bad_rows)
    if raw.items is not None:
        assert_frame_equal(raw.items, other.items)
    return raw


def _in_the_other_form(folder: Path) -> Path:
    other = folder.with_name(f"{folder.name}_other")
    other.mkdir(exist_ok=True)
    for path in folder.iterdir():
        content = path.read_bytes()
        if path.suffix == ".gz":
            (other / path.stem).write_bytes(gzip.decompress(content))
        else:
            (other / f"{path.name}.gz").write_bytes(gzip.compress(content))
    return other
