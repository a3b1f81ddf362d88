"""Training in two processes: both end with one model, whose losses are those of one process."""

import hashlib
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator
from tests.recommenders import test_instruction_lm as instruction
from tests.recommenders import test_joint_seq2seq as joint
from tests.recommenders import test_retrieval_lm as retrieval
from tests.recommenders import test_scoring_lm as scoring
from tests.recommenders import test_seq2seq as seq2seq
from tests.recommenders import test_set_query as sets
from tests.two_processes import run_in_two_processes

RUNS = {  # toy data, options and training of a test file; without dropout, which each process draws for itself
    # batches of 23 of 300 examples: of the last one, which has one, the second process gets none
    "seq2seq": (seq2seq, seq2seq.CONFIG, replace(seq2seq.TRAINING, epochs=3, batch_size=23)),
    "joint_seq2seq": (joint, replace(joint.CONFIG, dropout=0.0), replace(joint.TRAINING, batch_size=23)),
    "retrieval_lm": (retrieval, retrieval.CONFIG, replace(retrieval.TRAINING, epochs=3, validate_every=1)),
    "retrieval_lm, negatives": (retrieval, replace(retrieval.CONFIG, loss="cosine_margin"),
                                replace(retrieval.TRAINING, epochs=3, validate_every=1)),
    "set_query": (sets, sets.CONFIG, replace(sets.TRAINING, epochs=3, validate_every=1)),
    "instruction_lm": (instruction, replace(instruction.CONFIG, joint_epochs=2, next_epochs=2),
                       replace(instruction.TRAINING, validate_every=1)),
    "scoring_lm": (scoring, scoring.CONFIG, replace(scoring.TRAINING, epochs=3, validate_users=20)),
}

TOLERANCE = {"joint_seq2seq": 0.15}  # its tokenizer's and alignment losses contrast the items of a process's share alone


def run(name: str, folder: Path):
    module, config, training = RUNS[name]
    return module.train(module.make_inputs(), config, training, checkpoints=Checkpoints(folder / "run"),
                        accelerator=make_accelerator("fp32"), seed=0)


def digest(model) -> str:
    tensors = sorted(model.tensors.items())
    return hashlib.sha256(b"".join(np.ascontiguousarray(value).tobytes() for _, value in tensors)).hexdigest()


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each of two processes that trained every model, one after the other."""
    folder = tmp_path_factory.mktemp("together")
    run_in_two_processes("tests.recommenders.test_two_processes", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_one_model_as_one_process_does(together, tmp_path, name):
    alone = run(name, tmp_path)
    one, two = (json.loads((together / f"{rank}.json").read_text())[name] for rank in (0, 1))
    assert one == two
    for both, row in zip(one["training"], alone.training, strict=True):
        assert both["train_loss"] == pytest.approx(row["train_loss"], rel=TOLERANCE.get(name, 1e-3))


if __name__ == "__main__":  # one of the two processes
    target, results = Path(sys.argv[1]), {}
    assert os.environ["WORLD_SIZE"] == "2"
    for chosen in RUNS:
        trained = run(chosen, target / chosen)
        results[chosen] = {"training": trained.training, "digest": digest(trained)}
    (target / f"{os.environ['RANK']}.json").write_text(json.dumps(results))
