"""Raw files of any known format -> `RawData`, checked row by row. Which formats there are: `READERS` and ``demo``."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline_lib.interactions.raw import RawData
from pipeline_lib.interactions.readers import amazon, atomic, hetrec, mind, movielens, steam, table, yelp
from pipeline_lib.interactions.readers.checks import check_interactions, check_items, refuse_bad_rows
from pipeline_lib.interactions.readers.raw_file import RawFile
from pipeline_lib.params import IngestParams

logger = logging.getLogger(__name__)

Reader = Callable[[Path, Mapping[str, str], bool], tuple[RawFile, RawFile | None]]
READERS: Mapping[str, Reader] = {"atomic": atomic.read, "table": table.read, "movielens": movielens.read,
                                 "amazon": amazon.read, "yelp": yelp.read, "mind": mind.read, "steam": steam.read,
                                 "hetrec": hetrec.read}
ORDERS = ("time", "position", "none")


def read_raw(path: Path, params: IngestParams) -> RawData:
    """Read a folder of raw files.

    Args:
        path: the folder.
        params: ``format``, ``columns``, ``lists``, ``order`` and ``max_bad_rows`` are used.

    Raises:
        FileNotFoundError: if the folder or a file that the format needs is not there.
        ValueError: for an unknown format or order, a file that cannot be read as a whole, or more bad rows than
            ``max_bad_rows``; names the file and, where there is one, row and column.
    """
    _check_params(params)
    if params.format == "demo":
        from pipeline_lib.interactions import demo_shop  # it depends on RawData, not on raw files: no need of it here
        return demo_shop.generate(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; run `sidflow data add` with the folder of your raw files")
    interactions_file, items_file = READERS[params.format](path, params.columns, params.order != "none")
    items, bad = (None, []) if items_file is None else check_items(items_file, params.lists)
    interactions, bad_interactions = check_interactions(
        interactions_file, None if items is None else items["item_id"], params.order != "none")
    bad += bad_interactions
    refuse_bad_rows(bad, params.max_bad_rows)
    if interactions.is_empty():
        raise ValueError(f"{interactions_file.path}: no interaction is left, {len(bad)} rows are bad; "
                         f"the first: {bad[0]}")
    logger.info("read %s: %d interactions, %s items, %d bad rows left out", path, interactions.height,
                "no" if items is None else items.height, len(bad))
    return RawData(interactions, items, tuple(bad))


def _check_params(params: IngestParams) -> None:
    known = (*READERS, "demo")
    if params.format not in known:
        raise ValueError(f"params: ingest.format is {params.format}; known: {', '.join(known)}")
    if params.order not in ORDERS:
        raise ValueError(f"params: ingest.order is {params.order}; known: {', '.join(ORDERS)}")
    if params.columns and params.format != "table":
        raise ValueError(f"params: ingest.columns is for format table, but ingest.format is {params.format}, whose "
                         "columns are fixed; remove ingest.columns")
