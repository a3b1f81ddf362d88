"""Rank items for every user who is held out, or score the candidates that they were given."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts, records
from pipeline_lib.command import run_stage
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.variants import load_params, recommender_for

PathOption = Annotated[Path, typer.Option()]


def main(model: PathOption, sequences: PathOption, tokens: PathOption, vectors: PathOption, cf_vectors: PathOption,
         split: PathOption, out: PathOption, timing: PathOption, params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    recommender = recommender_for(config.recommender.kind)
    accelerator = make_accelerator(config.training.precision)
    with measure_stage("decode", timing, config, accelerator.is_main_process) as measured:
        inputs = artifacts.read_recommender_inputs(sequences, tokens, vectors, cf_vectors, split, ("valid", "test"))
        ranker = recommender.load_ranker(artifacts.read_model(model), inputs, config.decode, accelerator=accelerator,
                                         seed=config.seed)
        if config.decode.kind == "score":
            asked = {part: inputs.split.candidates[part] for part in inputs.split.held_out}
            scores = {part: ranker.score(part) for part in asked}
            if accelerator.is_main_process:
                artifacts.write_scored(out, asked, scores, {"prompt_tokens": ranker.prompt_tokens("test")})
            measured["candidates"] = sum(map(len, asked.values()))
        else:
            rank_users(ranker, inputs, out, accelerator.is_main_process)
            measured["users"] = len(inputs.split.valid) + len(inputs.split.test)
    accelerator.end_training()


def rank_users(ranker, inputs: records.RecommenderInputs, out: Path, writes: bool) -> None:
    ranked = {part: ranker.rank(inputs.examples[part], cases, part) for part, cases in inputs.split.held_out.items()}
    if writes:
        test = ranked["test"]
        counts = {"invalid_share": test.invalid_share}
        if test.index_recall is not None:
            counts["index_recall"] = test.index_recall
        artifacts.write_decoded(out, {part: result.rankings for part, result in ranked.items()}, counts,
                                test.index_file)


if __name__ == "__main__":
    run_stage(main)
