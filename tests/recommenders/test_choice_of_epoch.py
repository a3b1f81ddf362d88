"""Every recommender that ranks while it trains does so by the rule that lists are made by (`decode.filter_history`)."""

from dataclasses import replace

import pytest

from pipeline_lib.training.checkpoints import Checkpoints
from tests.recommenders import test_instruction_lm as instruction
from tests.recommenders import test_retrieval_lm as retrieval
from tests.recommenders import test_seq2seq as seq2seq
from tests.recommenders import test_set_query as sets

RUNS = {  # toy data, options and training of a test file
    "instruction_lm": (instruction, replace(instruction.CONFIG, joint_epochs=1, second_phase=False)),
    "retrieval_lm": (retrieval, retrieval.CONFIG),
    "seq2seq": (seq2seq, seq2seq.CONFIG),  # joint_seq2seq validates with its network
    "set_query": (sets, sets.CONFIG),
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
