"""Read the raw files, leave out what the parameters filter, and number users and items."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts
from pipeline_lib.command import run_stage
from pipeline_lib.interactions.filtering import filter_interactions
from pipeline_lib.interactions.indexing import index_tables
from pipeline_lib.interactions.reading import read_raw
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.variants import load_params

logger = logging.getLogger(__name__)
PathOption = Annotated[Path, typer.Option()]


def main(raw: PathOption, interactions: PathOption, items: PathOption, users: PathOption, timing: PathOption,
         params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    options = config.ingest
    with measure_stage("ingest", timing, config) as measured:
        data = read_raw(raw, options)
        for line in data.bad_rows:
            logger.warning("left out: %s", line)
        measured["interactions"] = len(data.interactions)
        kept = filter_interactions(data.interactions, min_rating=options.min_rating, after=options.after,
                                   before=options.before, user_core=options.k_core.user, item_core=options.k_core.item)
        tables = index_tables(kept, data.items, title=options.title, text=options.text)
        artifacts.write_ingest(interactions, items, users, *tables)


if __name__ == "__main__":
    run_stage(main)
