import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.instruction_batches import TaskBatches, prompt_tensors, sequence_tensors
from pipeline_lib.records import Examples
from pipeline_lib.sequences.instructions import TASKS, compile_instructions

FIRST = 1000
NEXT, TO_ITEM, TO_TEXT = TASKS


@pytest.fixture(scope="module")
def instructions():
    return compile_instructions(lambda text: [ord(letter) for letter in text], end=999, first_code=FIRST,
                                codes=np.arange(4)[:, None], level_sizes=(4,), texts=["a", "long text", "", "b"],
                                max_items=9, max_tokens=200, max_text=9)


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 4, size=size) for size in rng.integers(1, 9, size=20)] + [[]] * 8
    targets = [[target] for target in rng.integers(0, 4, size=20)] + [[item] for item in range(4)] * 2
    return Examples(np.arange(28, dtype=np.int32), Ragged.from_rows(histories), Ragged.from_rows(targets),
                    tasks=[NEXT] * 20 + [TO_ITEM] * 4 + [TO_TEXT] * 4)


def batches_of(instructions, examples, tasks, **changes):
    options = {"every_item": True, "batch_size": 3, "bucket_batches": 2, "seed": 0} | changes
    return TaskBatches(instructions, examples, tasks, **options)


@pytest.mark.parametrize("tasks", [(NEXT,), (NEXT, TO_ITEM), TASKS])
def test_an_epoch_holds_each_example_of_its_tasks_once_and_each_batch_is_of_one_task(instructions, examples, tasks):
    batches = batches_of(instructions, examples, tasks).begin(1)
    without_text = {22, 26}
    wanted = [row for row, task in enumerate(examples.tasks) if task in tasks and row not in without_text]
    assert sorted(np.concatenate(batches)) == wanted
    assert all(len({examples.tasks[row] for row in batch}) == 1 for batch in batches)


def test_epochs_differ_and_equal_seeds_do_not(instructions, examples):
    one, two, other = (batches_of(instructions, examples, TASKS).begin(epoch) for epoch in (1, 1, 2))
    assert all(np.array_equal(*pair) for pair in zip(one, two, strict=True))
    assert not all(np.array_equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("every_item", [True, False])
def test_only_what_is_to_be_said_is_labelled(instructions, examples, every_item):
    batches = batches_of(instructions, examples, TASKS, every_item=every_item)
    for rows in ([0, 1, 2], [20, 21], [24, 25]):
        batch = batches.collate(np.array(rows))
        labelled = batch["labels"] >= 0
        assert (batch["labels"][labelled] == batch["input_ids"][labelled]).all()
        for row, count in zip(rows, labelled.sum(1).tolist(), strict=True):
            history = len(examples.histories[row]) if every_item else 0
            assert count == {NEXT: history + 1, TO_ITEM: 1, TO_TEXT: {24: 3, 25: 10}.get(row)}[examples.tasks[row]]


def test_losses_of_tasks_with_texts_have_their_weight_and_that_of_the_next_item_one(instructions, examples):
    batches = batches_of(instructions, examples, TASKS, alignment_weight=0.25)
    assert [batches.collate(np.array([row]))["weight"].item() for row in (0, 20, 24)] == [1.0, 0.25, 0.25]
    assert batches_of(instructions, examples, TASKS).collate(np.array([20]))["weight"].item() == 1.0


def test_a_share_without_rows_is_empty_tensors(instructions, examples):
    batch = batches_of(instructions, examples, TASKS).collate(np.array([], dtype=np.int64))
    assert [len(batch[name]) for name in ("input_ids", "labels")] == [0, 0]


def test_padding_is_on_the_right_worked_by_hand():
    tokens = Ragged.from_rows([[5, 6, 7], [8]])
    batch = sequence_tensors(tokens, np.array([False, False, True, True]))
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, 7], [8, -100, -100]]
    assert prompt_tensors(tokens)["attention_mask"].tolist() == [[True, True, True], [True, False, False]]


def test_a_task_without_examples_is_refused(instructions, examples):
    with pytest.raises(ValueError, match="names text_to_item, of which there is no example"):
        batches_of(instructions, examples.take(np.arange(20)), (NEXT, TO_ITEM))
