"""Write histories and targets as the examples that the recommender reads."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts
from pipeline_lib.command import run_stage
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.variants import load_params, sequences_for

PathOption = Annotated[Path, typer.Option()]


def main(split: PathOption, tokens: PathOption, out: PathOption, timing: PathOption,
         params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    with measure_stage("build_sequences", timing) as measured:
        held, identifiers = artifacts.read_split(split), artifacts.read_identifiers(tokens)
        parts, vocabulary = sequences_for(config.recommender.kind).build_examples(held, identifiers, config.sequences)
        artifacts.write_sequences(out, parts, vocabulary)
        measured["examples"] = sum(len(part) for part in parts.values())


if __name__ == "__main__":
    run_stage(main)
