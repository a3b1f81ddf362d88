"""Every recommender that ranks while it trains does so by the rule that lists are made by (`decode.filter_history`).

With nobody to rank for (`split.refit`), every recommender trains all its epochs and keeps the last one. And every
recommender draws by its seed.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.variants import recommender_for
from tests.recommenders import test_instruction_lm as instruction
from tests.recommenders import test_joint_seq2seq as joint
from tests.recommenders import test_retrieval_lm as retrieval
from tests.recommenders import test_scoring_lm as scoring
from tests.recommenders import test_seq2seq as seq2seq
from tests.recommenders import test_set_query as sets

RUNS = {  # toy data, options and training of a test file
    "instruction_lm": (instruction, replace(instruction.CONFIG, joint_epochs=1, second_phase=False)),
    "retrieval_lm": (retrieval, retrieval.CONFIG),
    "seq2seq": (seq2seq, seq2seq.CONFIG),  # joint_seq2seq validates with its network
    "set_query": (sets, sets.CONFIG),
}
REFITTED = RUNS | {
    "instruction_lm": (instruction, replace(instruction.CONFIG, joint_epochs=None, next_epochs=1)),
    "joint_seq2seq": (joint, replace(joint.CONFIG, final_epochs=1)),
    "scoring_lm": (scoring, scoring.CONFIG),
    "set_query": (sets, replace(sets.CONFIG, beta=0.4)),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("filter_history", [True, False])
def test_the_epoch_is_chosen_by_the_rule_that_lists_are_made_by(name, filter_history, accelerator, tmp_path):
    module, config = RUNS[name]
    inputs = module.make_inputs()
    repeated = replace(inputs.split.valid, targets=inputs.split.valid.histories.last(1))  # none that filtering leaves
    inputs = replace(inputs, split=replace(inputs.split, valid=repeated, filter_history=filter_history))
    model = module.train(inputs, config, replace(module.TRAINING, epochs=1, validate_every=1),
                         checkpoints=Checkpoints(tmp_path / "run"), accelerator=accelerator, seed=0)
    assert (model.training[0]["valid_recall@10"] == 0) == filter_history


def with_nobody_held_out(inputs):
    nobody = np.arange(0)
    candidates = {part: asked.take(nobody) if part == "valid" else asked
                  for part, asked in inputs.split.candidates.items()}
    examples = {part: rows.take(nobody) if part == "valid" else rows for part, rows in inputs.examples.items()}
    split = replace(inputs.split, valid=inputs.split.valid.take(nobody), candidates=candidates)
    return replace(inputs, split=split, examples=examples)


@pytest.mark.parametrize("name", REFITTED)
def test_with_nobody_held_out_all_epochs_are_trained_and_the_last_of_the_last_phase_is_kept(name, accelerator, tmp_path,
                                                                                           monkeypatch):
    (module, config), recommender, phases = REFITTED[name], recommender_for(name), []
    fit = recommender.fit

    def watched(network, *, params, **given):
        rows = fit(network, params=params, **given)
        assert [row["epoch"] for row in rows] == list(range(1, params.epochs + 1))
        phases.append((network, {name: value.clone() for name, value in network.state_dict().items()}))
        return rows

    monkeypatch.setattr(recommender, "fit", watched)
    model = recommender.train(with_nobody_held_out(module.make_inputs()), config,
                              replace(module.TRAINING, epochs=2, patience=1, validate_every=1),
                              checkpoints=Checkpoints(tmp_path / "run"), accelerator=accelerator, seed=0)
    network, end = phases[-1]
    assert len(phases) == (2 if name in ("instruction_lm", "joint_seq2seq") else 1)
    assert all(torch.equal(value, end[name]) for name, value in network.state_dict().items())
    assert not any(figure.startswith("valid_") for row in model.training for figure in row)
    assert not any(model.tables.values())


def test_with_nobody_held_out_a_weight_that_is_yet_to_be_chosen_is_refused(accelerator, tmp_path):
    with pytest.raises(ValueError, match="set_query.beta is null, but nobody is held out to choose it on"):
        sets.run(with_nobody_held_out(sets.make_inputs()), accelerator, tmp_path)


@pytest.mark.parametrize("name", REFITTED)
def test_another_seed_is_another_training(name, accelerator, tmp_path):
    module, config = REFITTED[name]
    one, other = (module.train(module.make_inputs(), config, replace(module.TRAINING, epochs=2, validate_every=1),
                               checkpoints=Checkpoints(tmp_path / str(seed)), accelerator=accelerator, seed=seed)
                  for seed in (0, 1))
    assert all(row["train_loss"] != again["train_loss"] for row, again in zip(one.training, other.training))
