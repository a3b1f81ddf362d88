"""Give every item an identifier: item vectors -> codes, judged before anything expensive is trained on them."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts, plain_files
from pipeline_lib.command import run_stage
from pipeline_lib.evaluation.code_quality import check_code_quality, code_usage_rows, describe_codes
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.variants import load_params, tokenizer_for

PathOption = Annotated[Path, typer.Option()]


def main(vectors: PathOption, cf_vectors: PathOption, split: PathOption, items: PathOption, tokens: PathOption,
         metrics: PathOption, plots: PathOption, timing: PathOption, params: PathOption = Path("params.yaml")) -> None:
    config = load_params(params)
    with measure_stage("quantize", timing, config) as measured:
        inputs = artifacts.read_tokenizer_inputs(vectors, cf_vectors, split, items)
        tokenizer = tokenizer_for(config.tokenizer.kind)
        identifiers = tokenizer.tokenize_items(inputs, config.tokenizer.options.parse(tokenizer.Config),
                                               collisions=config.tokenizer.collisions, seed=config.seed)
        measured["items"] = len(inputs.vectors)

    description, usage = {"items": len(inputs.vectors)}, []
    if identifiers.codes is not None:
        description = describe_codes(identifiers.codes, identifiers.level_sizes, identifiers.reconstruction_error)
        usage = code_usage_rows(identifiers.codes, identifiers.level_sizes)
    description |= {name: identifiers.config[name] for name in ("before_resolution", "users")
                    if name in identifiers.config}
    plain_files.write_json(metrics, description)
    plain_files.write_csv(plots, usage)
    if identifiers.codes is not None:
        check_code_quality(description, config.tokenizer.max_collision_rate, config.tokenizer.min_utilisation)
    artifacts.write_identifiers(tokens, identifiers)


if __name__ == "__main__":
    run_stage(main)
