"""Write histories and targets as the examples that the recommender reads."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts
from pipeline_lib.command import run_stage
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.variants import load_params, reads_texts, sequences_for

PathOption = Annotated[Path, typer.Option()]


def main(split: PathOption, items: PathOption, tokens: PathOption, out: PathOption, timing: PathOption,
         params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    with measure_stage("build_sequences", timing, config) as measured:
        held, identifiers = artifacts.read_split(split), artifacts.read_identifiers(tokens)
        kind = config.recommender.kind
        parts, vocabulary = sequences_for(kind).build_examples(held, identifiers, config.sequences)
        artifacts.write_sequences(out, parts, vocabulary, items if reads_texts(kind) else None)
        measured["examples"] = sum(len(part) for part in parts.values())


if __name__ == "__main__":
    run_stage(main)
