"""The loop on a small linear regression: it learns, resumes to the same result, and equals two processes."""

import gc
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

from pipeline_lib.params import TrainingParams
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.device import make_accelerator
from pipeline_lib.training.loop import Alternation, fit
from tests.two_processes import run_in_two_processes

PARAMS = TrainingParams(epochs=6, batch_size=16, learning_rate=0.05, early_stopping="loss", patience=3)
X = torch.randn(100, 4, generator=torch.Generator().manual_seed(0))
Y = X @ torch.tensor([1.0, -2.0, 0.5, 0.0])


class Regression(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.linear, self.dropout = nn.Linear(4, 1), nn.Dropout(dropout)

    def forward(self, batch):
        return ((self.linear(self.dropout(batch["x"])).squeeze(-1) - batch["y"]) ** 2).sum(), len(batch["y"])


def train(folder: Path, params: TrainingParams = PARAMS, stop_after: int | None = None, dropout: float = 0.2,
          batch_size: int = 16, accelerator: Accelerator | None = None):
    model, lengths, validated = Regression(dropout), np.ones(100, dtype=int), []

    def validate(network):
        if stop_after is not None and len(validated) == stop_after:
            raise KeyboardInterrupt
        validated.append(1)
        with torch.no_grad():
            return {"loss": float(network({"x": X[:20], "y": Y[:20]})[0]) / 20}

    rows = fit(model, collate=lambda rows: {"x": X[rows], "y": Y[rows]}, validate=validate, held_out=X[:20],
               batches=lambda epoch: length_bucketed_batches(lengths, batch_size, 1, np.random.default_rng(epoch)),
               params=params, checkpoints=Checkpoints(folder), accelerator=accelerator or make_accelerator("fp32"))
    return model, rows


def test_it_learns_and_ends_with_the_best_epoch(tmp_path):
    model, rows = train(tmp_path / "a", dropout=0.0)
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] / 2
    best = min(rows, key=lambda row: row["valid_loss"])
    with torch.no_grad():
        assert float(model.eval()({"x": X[:20], "y": Y[:20]})[0]) / 20 == pytest.approx(best["valid_loss"])


def test_few_steps_are_warned_of(tmp_path, caplog):
    train(tmp_path / "few")  # 6 epochs of 7 steps
    assert [line for line in caplog.messages if "are few" in line] == [
        "6 epochs of 7 steps are few to learn from; lower training.batch_size (16) or train more epochs"]
    caplog.clear()
    train(tmp_path / "many", replace(PARAMS, epochs=22, patience=1))  # 154 steps, though it may stop earlier
    assert not [line for line in caplog.messages if "are few" in line]


def train_to_figures(folder: Path, losses: list[float], seen: list[torch.Tensor], stop_at: int | None = None):
    """Validation says ``losses``, one an epoch, and notes the weights that it was ``seen`` with."""
    model = Regression()

    def validate(network):
        if len(seen) + 1 == stop_at:
            raise KeyboardInterrupt
        seen.append(network.linear.weight.detach().clone())
        return {"loss": losses[len(seen) - 1]}

    fit(model, batches=lambda epoch: np.split(np.arange(100), 5), collate=lambda rows: {"x": X[rows], "y": Y[rows]},
        validate=validate, held_out=losses, params=replace(PARAMS, patience=10), checkpoints=Checkpoints(folder),
        accelerator=make_accelerator("fp32"))
    return model


@pytest.mark.parametrize("stop_at", [None, 2, 3, 5])
def test_it_ends_with_the_weights_of_the_second_epoch_where_that_was_the_best_of_six(tmp_path, stop_at):
    losses, seen = [3.0, 1.0, 2.0, 5.0, 1.0, 4.0], []
    if stop_at is not None:
        with pytest.raises(KeyboardInterrupt):
            train_to_figures(tmp_path / "a", losses, seen, stop_at)
    model = train_to_figures(tmp_path / "a", losses, seen)
    assert [torch.equal(model.linear.weight, weight) for weight in seen] == [False, True, False, False, False, False]


@pytest.mark.parametrize(("epochs", "every", "allowed", "expected"), [
    (6, 1, lambda epoch: True, [1, 2, 3, 4, 5, 6]),
    (6, 4, lambda epoch: True, [4, 6]),
    (5, 5, lambda epoch: epoch % 2 == 0, [4]),  # neither epoch that is due may be
    (15, 5, lambda epoch: epoch % 2 == 0, [6, 10, 14]),  # the next one is
    (9, 2, lambda epoch: epoch % 4 != 1, [2, 4, 6, 8]),
])
def test_epochs_that_may_not_be_validated_put_it_off(tmp_path, epochs, every, allowed, expected):
    model = Regression()
    rows = fit(model, batches=lambda epoch: np.split(np.arange(100), 5), collate=lambda rows: {"x": X[rows], "y": Y[rows]},
               validate=lambda network: {"loss": 1.0}, held_out=[1],
               params=replace(PARAMS, epochs=epochs, validate_every=every, patience=99),
               checkpoints=Checkpoints(tmp_path), accelerator=make_accelerator("fp32"),
               alternation=Alternation(lambda epoch: None, lambda epoch: {}, allowed, lambda name: 1.0))
    assert [row["epoch"] for row in rows if "valid_loss" in row] == expected


def test_a_training_that_leaves_no_model_to_keep_is_refused(tmp_path):
    with pytest.raises(ValueError, match="training.epochs is 1, and none of them leaves a model that may be kept"):
        fit(Regression(), batches=lambda epoch: np.split(np.arange(100), 5),
            collate=lambda rows: {"x": X[rows], "y": Y[rows]}, validate=lambda network: {"loss": 1.0}, held_out=[1],
            params=replace(PARAMS, epochs=1), checkpoints=Checkpoints(tmp_path), accelerator=make_accelerator("fp32"),
            alternation=Alternation(lambda epoch: None, lambda epoch: {}, lambda epoch: epoch > 1, lambda name: 1.0))


def train_with_nobody_held_out(folder: Path, stop_at: int | None = None):
    """The weights that training leaves, those at the end of each epoch, and the rows."""
    model, ends = Regression(), []

    def begin(epoch):
        if epoch == stop_at:
            raise KeyboardInterrupt

    def end(epoch):
        ends.append(model.linear.weight.detach().clone())
        return {}

    rows = fit(model, batches=lambda epoch: np.split(np.arange(100), 5),
               collate=lambda rows: {"x": X[rows], "y": Y[rows]},
               validate=lambda network: pytest.fail("there is nobody to validate on"), held_out=[],
               params=replace(PARAMS, patience=1, validate_every=4), checkpoints=Checkpoints(folder),
               accelerator=make_accelerator("fp32"),
               alternation=Alternation(begin, end, lambda epoch: True, lambda name: 1.0))
    return model.linear.weight.detach(), ends, rows


def test_with_nobody_held_out_every_epoch_is_trained_and_the_last_one_kept(tmp_path):
    weight, ends, rows = train_with_nobody_held_out(tmp_path / "a")
    assert [torch.equal(weight, end) for end in ends] == [False] * 5 + [True]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert not any(name.startswith("valid_") for row in rows for name in row)


def test_with_nobody_held_out_a_killed_run_resumes_to_the_same_weights(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train_with_nobody_held_out(tmp_path / "b", stop_at=3)
    (weight, _, rows), (again, _, resumed) = (train_with_nobody_held_out(tmp_path / name) for name in "ab")
    assert torch.equal(weight, again) and rows == resumed


def test_equal_seeds_give_equal_bits(tmp_path):
    (one, rows), (two, again) = train(tmp_path / "a"), train(tmp_path / "b")
    assert rows == again
    assert torch.equal(one.linear.weight, two.linear.weight)


def test_a_killed_run_resumes_to_the_result_of_an_undisturbed_one(tmp_path):
    undisturbed, rows = train(tmp_path / "a")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", stop_after=3)
    resumed, again = train(tmp_path / "b")
    assert rows == again
    assert torch.equal(undisturbed.linear.weight, resumed.linear.weight)


def test_nothing_of_a_training_is_kept_for_the_next_one(tmp_path):
    def optimizers():
        gc.collect()
        return {id(found) for found in gc.get_objects() if issubclass(type(found), torch.optim.Optimizer)}

    before, accelerator = optimizers(), make_accelerator("fp32")
    train(tmp_path / "a", accelerator=accelerator)
    assert not optimizers() - before


def test_patience_ends_training_early(tmp_path):
    params = TrainingParams(epochs=50, batch_size=16, learning_rate=0.0, early_stopping="loss", patience=2)
    _, rows = train(tmp_path / "a", params)
    assert len(rows) == 3


def test_a_loss_that_is_no_number_is_an_error_at_once(tmp_path):
    params = TrainingParams(epochs=3, batch_size=16, learning_rate=1e30, clip_norm=1e30, early_stopping="loss")
    with pytest.raises(ValueError, match="training loss is .*; lower training.learning_rate"):
        train(tmp_path / "a", params)


class Pair(nn.Module):
    """Two regressions whose sum predicts; what does not require a gradient keeps its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.one, self.two = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, batch):
        return ((self.one(batch["x"]) + self.two(batch["x"]) - batch["y"].unsqueeze(-1)) ** 2).sum(), len(batch["y"])


def train_in_turns(folder: Path, epochs: int = 4, precision: str = "fp32"):
    """Odd epochs train ``two`` at a tenth of the rate and are not validated, even ones train ``one``."""
    model, weights = Pair(), []

    def begin(epoch):
        model.one.requires_grad_(epoch % 2 == 0)
        model.two.requires_grad_(epoch % 2 == 1)
        weights.append([part.weight.detach().clone() for part in (model.one, model.two)])

    def validate(network):
        with torch.no_grad():
            return {"loss": float(network({"x": X[:20], "y": Y[:20]})[0]) / 20}

    turns = Alternation(begin, lambda epoch: {"turn": epoch % 2}, lambda epoch: epoch % 2 == 0,
                        lambda name: 0.1 if name.startswith("two.") else 1.0)
    params = TrainingParams(epochs=epochs, batch_size=16, learning_rate=0.05, weight_decay=0.5, early_stopping="loss",
                            schedule="constant", warmup_share=0.0)
    lengths = np.ones(100, dtype=int)
    rows = fit(model, batches=lambda epoch: length_bucketed_batches(lengths, 16, 1, np.random.default_rng(epoch)),
               collate=lambda rows: {"x": X[rows], "y": Y[rows]}, validate=validate, held_out=X[:20], params=params,
               checkpoints=Checkpoints(folder), accelerator=make_accelerator(precision), alternation=turns)
    return weights, rows


def test_who_has_no_turn_keeps_its_weights_even_from_decay_and_is_not_validated(tmp_path):
    weights, rows = train_in_turns(tmp_path / "a")
    (one, two), (one_later, two_later), (one_last, two_last) = weights[:3]
    assert torch.equal(one, one_later) and torch.equal(two_later, two_last)
    assert not torch.equal(two, two_later) and not torch.equal(one_later, one_last)
    assert (two_later - two).abs().max() < 0.1 * 0.05 * 7 * 1.5  # seven steps at a tenth of the rate
    assert ["valid_loss" in row for row in rows] == [False, True, False, True]
    assert [row["turn"] for row in rows] == [1, 0, 1, 0]


def test_bf16_trains_to_nearly_the_same_loss(tmp_path):
    (_, exact), (_, rounded) = train_in_turns(tmp_path / "a", 10), train_in_turns(tmp_path / "b", 10, "bf16")
    assert rounded != exact
    assert rounded[-1]["train_loss"] == pytest.approx(exact[-1]["train_loss"], rel=0.05)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for each of two processes with the second part of what each of `RUNS` gives."""
    folder = tmp_path_factory.mktemp("together")
    run_in_two_processes("tests.training.test_loop", str(folder))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "in_turns"])
def test_two_processes_compute_what_one_does(together, tmp_path, kind):
    _, rows = RUNS[kind](tmp_path / "a")
    both = json.loads((together / "0.json").read_text())[kind]
    assert [row["train_loss"] for row in both] == pytest.approx([row["train_loss"] for row in rows], rel=1e-5)
    validated = [[row["valid_loss"] for row in run if "valid_loss" in row] for run in (both, rows)]
    assert validated[0] == pytest.approx(validated[1], rel=1e-5)


@pytest.mark.slow
def test_two_processes_that_measure_different_figures_end_with_the_weights_of_one_epoch(together):
    one, two = (json.loads((together / f"{rank}.json").read_text())["of_two_minds"] for rank in (0, 1))
    assert one == two


@pytest.mark.slow
def test_two_processes_that_are_killed_resume_to_the_result_of_undisturbed_ones(together):
    """Their shares of a batch differ in size, so that dropout draws more often in the first one."""
    for rank in (0, 1):
        found = json.loads((together / f"{rank}.json").read_text())
        assert found["undisturbed"] == found["killed"]


@pytest.mark.slow
def test_processes_with_equal_shares_drop_out_each_for_itself(together):
    one, two = (json.loads((together / f"{rank}.json").read_text())["drawn"] for rank in (0, 1))
    assert one != two


def draw_after_training(folder: Path):
    """What a process draws behind an epoch in which both drew as often."""
    model = Regression(0.2)
    torch.manual_seed(0)
    fit(model, batches=lambda epoch: np.split(np.arange(100), 5), collate=lambda rows: {"x": X[rows], "y": Y[rows]},
        validate=lambda network: {"loss": 1.0}, held_out=X, params=replace(PARAMS, epochs=1),
        checkpoints=Checkpoints(folder), accelerator=make_accelerator("fp32"))
    return model, torch.rand(1).item()


def train_killed(folder: Path):
    with pytest.raises(KeyboardInterrupt):
        train(folder, stop_after=3, batch_size=15)
    return train(folder, batch_size=15)


def train_of_two_minds(folder: Path):
    """The first process finds the third epoch best, the second one the first."""
    losses = [[3.0, 2.0, 1.0, 4.0, 4.0, 4.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]][int(os.environ["RANK"])]
    model = train_to_figures(folder, losses, [])
    return model, model.linear.weight.tolist()


RUNS = {"plain": lambda folder: train(folder, dropout=0.0), "in_turns": train_in_turns,
        "of_two_minds": train_of_two_minds, "drawn": draw_after_training,
        "undisturbed": lambda folder: train(folder, batch_size=15), "killed": train_killed}

if __name__ == "__main__":  # one of the two processes
    target = Path(sys.argv[1])
    assert os.environ["WORLD_SIZE"] == "2"
    found = {name: run(target / name)[1] for name, run in RUNS.items()}
    (target / f"{os.environ['RANK']}.json").write_text(json.dumps(found))


class Still(nn.Module):
    """A loss without a gradient: decay alone moves its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, batch):
        return 0 * sum(weight.sum() for weight in self.parameters()), len(batch["x"])


def test_weight_decay_shrinks_matrices_and_leaves_biases(tmp_path):
    params = replace(PARAMS, epochs=1, learning_rate=0.1, weight_decay=0.5, schedule="constant", warmup_share=0.0)
    model = Still()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    fit(model, batches=lambda epoch: [np.arange(4)] * 3, collate=lambda rows: {"x": torch.zeros(len(rows), 4)},
        validate=lambda network: {}, held_out=[], params=params, checkpoints=Checkpoints(tmp_path),
        accelerator=make_accelerator("fp32"))
    torch.testing.assert_close(model.linear.weight, before["linear.weight"] * 0.95**3)  # of AdamW: 1 - rate * decay
    assert torch.equal(model.linear.bias, before["linear.bias"])
