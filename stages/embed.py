"""Turn items, and users where the source models them, into vectors."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts
from pipeline_lib.command import run_stage
from pipeline_lib.reporting.timing import EARLIER, measure_stage
from pipeline_lib.training.checkpoints import checkpoint_key, checkpoint_root, open_checkpoints
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.variants import embedding_for, load_params

PathOption = Annotated[Path, typer.Option()]


def main(source: Annotated[str, typer.Option()], items: PathOption, split: PathOption, out: PathOption,
         timing: PathOption, params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    embedding = embedding_for(source)
    options = config.embed.options[source].parse(embedding.Config)
    key = checkpoint_key(f"embed-{source}", (options, config.seed), [items, split])
    accelerator = make_accelerator("fp32")
    main_process = accelerator.is_main_process
    with open_checkpoints(checkpoint_root(), key, main_process) as checkpoints:
        with measure_stage(f"embed@{source}", timing, config, main_process) as measured:
            catalogue = artifacts.read_catalogue(items)
            embedded = embedding.embed_items(catalogue, artifacts.read_split(split), options,
                                             checkpoints=checkpoints, accelerator=accelerator, seed=config.seed)
            if main_process:
                artifacts.write_embedding(out, embedded)
            measured[EARLIER] = checkpoints.clock.earlier
            measured["items"] = len(catalogue)
        accelerator.end_training()


if __name__ == "__main__":
    run_stage(main)
