"""Measure ranked items (groups, baselines, code level, rows for the plots), or the scores of candidates."""

import logging
from pathlib import Path
from typing import Annotated

import typer

from pipeline_lib import artifacts, plain_files
from pipeline_lib.command import run_stage
from pipeline_lib.evaluation.groups import history_rows, popularity_rows, share_in_history
from pipeline_lib.evaluation.metrics_tree import evaluate_predictions, metrics_tree
from pipeline_lib.evaluation.protocol import describe_protocol
from pipeline_lib.evaluation.scoring import scoring_tree
from pipeline_lib.reporting.figures import alignment_rows, draw_figures
from pipeline_lib.reporting.timing import measure_stage
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.variants import load_params

logger = logging.getLogger(__name__)
PathOption = Annotated[Path, typer.Option()]


def main(predictions: PathOption, split: PathOption, tokens: PathOption, model: PathOption, metrics: PathOption,
         popularity_plot: PathOption, history_plot: PathOption, alignment_plot: PathOption, figures: PathOption,
         timing: PathOption, params: Path = Path("params.yaml")) -> None:
    config = load_params(params)
    with measure_stage("evaluate", timing, config) as measured:
        held = artifacts.read_split(split)
        run = {"protocol": describe_protocol(config), "preset": dict(config.preset), "seed": config.seed}
        decoded = plain_files.read_json(predictions / "decode.json")
        if config.decode.kind == "score":
            scored = {part: artifacts.read_scores(predictions / f"{part}_scores.parquet", held.num_items)
                      for part in held.held_out}
            tree = scoring_tree(scored, held.train_count)
            plain_files.write_json(metrics, {"run": run, "scoring": tree, "decode": decoded})
            for path in (popularity_plot, history_plot, alignment_plot):
                plain_files.write_csv(path, [])
            artifacts.write_figures(figures, {})
            measured["candidates"] = sum(len(columns[0]) for columns in scored.values())
            return
        ranked = {part: artifacts.read_predictions(predictions / f"{part}.parquet", held.num_items)
                  for part in held.held_out}
        refused = share_in_history(held.test) if config.decode.filter_history else 0.0
        if refused > 0:
            logger.warning("%.1f%% of the test targets stand in their user's history, which the lists leave out; "
                           "set decode.filter_history=false where things are taken again; rows that merely repeat "
                           "another are the `duplicates` of `sidflow data validate`", 100 * refused)
        evaluation = evaluate_predictions(held, ranked, config.evaluate.ks, config.decode.filter_history,
                                          numpy_generator(config.seed, "random baseline"),
                                          artifacts.read_final_codes(model, tokens, held.num_items))
        plain_files.write_json(metrics, metrics_tree(run, evaluation, decoded))
        by_popularity, tables = popularity_rows(evaluation.groups["test"]), plain_files.read_tables(model)
        plain_files.write_csv(popularity_plot, by_popularity)
        plain_files.write_csv(history_plot, history_rows(evaluation.groups["test"]["all"], held.test.histories.lengths))
        plain_files.write_csv(alignment_plot, alignment_rows(tables))
        artifacts.write_figures(figures, draw_figures(by_popularity, tables))
        measured["users"] = len(held.test) + len(held.valid)


if __name__ == "__main__":
    run_stage(main)
