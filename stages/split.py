"""Hold out what validation and test ask for; the rest may be trained on."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts, plain_files, records
from pipeline_lib.command import run_stage
from pipeline_lib.interactions.candidates import draw_candidates
from pipeline_lib.interactions.given_split import read_given_split
from pipeline_lib.interactions.impressions import read_impressions
from pipeline_lib.interactions.splitting import split_interactions
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.variants import load_params

PathOption = Annotated[Path, typer.Option()]


def main(interactions: PathOption, items: PathOption, users: PathOption, raw: PathOption, out: PathOption,
         timing: PathOption, params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    options = config.split
    with measure_stage("split", timing, config) as measured:
        log, item_table = artifacts.read_interactions(interactions), plain_files.read_table(items, artifacts.ITEMS)
        given = None
        if options.kind == "given" and options.file is not None:
            given = read_given_split(raw / options.file, plain_files.read_table(users, artifacts.USERS), item_table)
        split = split_interactions(log, len(item_table), options, order=config.ingest.order, given=given,
                                   seed=config.seed)
        asked = options.candidates
        if asked.source is not None:
            shown = None
            if asked.source == "impressions":
                user_table = plain_files.read_table(users, artifacts.USERS)
                shown = read_impressions(raw, config.ingest.format, user_table, item_table)
            drawn = draw_candidates(split, asked.source, negatives=asked.negatives, users=asked.users, shown=shown,
                                    seed=config.seed)
            split = replace(split, candidates={part: records.Candidates(*columns) for part, columns in drawn.items()})
        artifacts.write_split(out, split)
        measured["interactions"] = len(log)


if __name__ == "__main__":
    run_stage(main)
