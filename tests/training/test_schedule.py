import pytest

from pipeline_lib.training.early_stopping import EarlyStopping, kept_row, no_better
from pipeline_lib.training.loop import learning_rate_factor


def test_warm_up_rises_linearly_to_one():
    factors = [learning_rate_factor(step, 100, 0.1, "cosine") for step in range(11)]
    assert factors[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert factors[9] == factors[10] == pytest.approx(1.0)


def test_schedules_worked_by_hand():
    assert learning_rate_factor(55, 100, 0.1, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(100, 100, 0.1, "cosine") == pytest.approx(0.0)
    assert learning_rate_factor(39, 100, 0.1, "inverse_sqrt") == pytest.approx(0.5)
    assert learning_rate_factor(99, 100, 0.1, "constant") == 1.0


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule is linear; known: cosine, inverse_sqrt, constant"):
        learning_rate_factor(50, 100, 0.1, "linear")


def test_the_best_epoch_is_kept_and_patience_runs_out():
    stopping = EarlyStopping("ndcg@10", patience=2)
    assert [stopping.update(epoch, {"ndcg@10": value}) for epoch, value in enumerate([0.1, 0.3, 0.2], start=1)] == \
        [True, True, False]
    assert (stopping.best_epoch, stopping.exhausted) == (2, False)
    assert not stopping.update(4, {"ndcg@10": 0.3})
    assert stopping.exhausted


def test_a_lower_loss_is_better():
    stopping = EarlyStopping("loss", patience=1)
    assert [stopping.update(epoch, {"loss": value}) for epoch, value in enumerate([2.0, 1.0, 1.5], start=1)] == \
        [True, True, False]


def test_a_figure_that_was_not_measured_is_refused():
    with pytest.raises(ValueError, match="early_stopping is ndcg@7; known here: loss, ndcg@10"):
        EarlyStopping("ndcg@7", 1).update(1, {"loss": 1.0, "ndcg@10": 0.1})


def test_where_nothing_is_measured_each_epoch_takes_the_place_of_the_one_before():
    stopping = EarlyStopping("ndcg@10", patience=1)
    assert [stopping.update(epoch, {}) for epoch in (1, 2, 3)] == [True] * 3
    assert (stopping.best_epoch, stopping.exhausted) == (3, False)


@pytest.mark.parametrize(("figure", "values", "kept"), [
    ("loss", [2.0, 1.0, None, 1.0], 2), ("ndcg@10", [0.1, 0.3, None, 0.3], 2), ("loss", [None, None], 2)])
def test_the_kept_epoch_is_the_first_of_the_best_or_the_last_of_all(figure, values, kept):
    rows = [{"epoch": epoch} | ({} if value is None else {f"valid_{figure}": value})
            for epoch, value in enumerate(values, 1)]
    assert kept_row(rows, figure)["epoch"] == kept


@pytest.mark.parametrize(("later", "earlier", "undone"), [
    ([0.2], [0.1, 0.2], True), ([0.1, 0.3], [0.2], False), ([0.1], [], False), ([], [0.1], False), ([], [], False)])
def test_epochs_that_were_not_validated_are_no_worse_than_those_before(later, earlier, undone):
    rows = [[{"valid_ndcg@10": value} for value in values] or [{"train_loss": 1.0}] for values in (later, earlier)]
    assert no_better(*rows, "ndcg@10") == undone
