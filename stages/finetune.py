"""Train the recommender, resuming from the last checkpoint of a killed run."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts
from pipeline_lib.command import run_stage
from pipeline_lib.reporting.timing import EARLIER, measure_stage
from pipeline_lib.training.checkpoints import checkpoint_key, checkpoint_root, open_checkpoints
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.variants import load_params, recommender_for

PathOption = Annotated[Path, typer.Option()]


def main(sequences: PathOption, tokens: PathOption, vectors: PathOption, cf_vectors: PathOption, split: PathOption,
         out: PathOption, timing: PathOption, params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    recommender = recommender_for(config.recommender.kind)
    options = config.recommender.options.parse(recommender.Config)
    accelerator = make_accelerator(config.training.precision)
    filter_history = config.decode.filter_history
    key = checkpoint_key("finetune", (config.recommender.kind, options, config.training, filter_history, config.seed),
                         [sequences, tokens, vectors, cf_vectors, split])
    with open_checkpoints(checkpoint_root(), key, accelerator.is_main_process) as checkpoints:
        with measure_stage("finetune", timing, config, accelerator.is_main_process) as measured:
            inputs = artifacts.read_recommender_inputs(sequences, tokens, vectors, cf_vectors, split,
                                                       ("train", "valid"))
            inputs = replace(inputs, split=replace(inputs.split, filter_history=filter_history))
            model = recommender.train(inputs, options, config.training, checkpoints=checkpoints,
                                      accelerator=accelerator, seed=config.seed)
            if accelerator.is_main_process:
                artifacts.write_model(out, model)
            measured[EARLIER] = checkpoints.clock.earlier
            measured["epochs"] = len(model.training)
            measured["examples"] = len(inputs.examples["train"]) * len(model.training)
        accelerator.end_training()


if __name__ == "__main__":
    run_stage(main)
