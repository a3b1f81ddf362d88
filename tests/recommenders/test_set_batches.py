"""Training rows: every position of a window, packed or one a sample."""

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.set_batches import packed_rows, single_rows
from pipeline_lib.records import Examples
from pipeline_lib.sequences.histories import next_item_examples


def examples_of(walks, max_items, train_targets="prefixes"):
    rows, histories, targets = next_item_examples(Ragged.from_rows(walks), max_items, train_targets)
    return Examples(np.array([7, 3, 5, 9], dtype=np.int32)[rows], histories, targets)


WALKS = [[1, 2, 3, 4, 5], [6], [7, 8], [2, 4, 6]]


def test_windows_worked_by_hand():
    packed = packed_rows(examples_of(WALKS, max_items=3))
    assert [row.tolist() for row in packed.histories] == [[2, 3, 4], [7], [2, 4]]
    assert [row.tolist() for row in packed.targets] == [[3, 4, 5], [8], [4, 6]]


def test_a_batch_worked_by_hand():
    batch = packed_rows(examples_of(WALKS, max_items=3)).collate(np.array([2, 0]))
    assert {name: value.tolist() for name, value in batch.items()} == {
        "items": [[2, 4, -1], [2, 3, 4]], "lengths": [2, 3], "seen": [[1, 2, 0], [1, 2, 3]], "targets": [4, 6, 3, 4, 5]}


def test_one_sample_a_target_has_what_stands_before_it():
    single = single_rows(packed_rows(examples_of(WALKS, max_items=3)))
    assert [row.tolist() for row in single.histories] == [[2], [2, 3], [2, 3, 4], [7], [2], [2, 4]]
    assert single.targets.values.tolist() == [3, 4, 5, 8, 4, 6]
    assert single.collate(np.array([1]))["seen"].tolist() == [[2]]


def test_where_only_the_last_item_is_a_target_so_it_is_here():
    packed = packed_rows(examples_of(WALKS, max_items=3, train_targets="last"))
    assert [row.tolist() for row in packed.targets] == [[5], [8], [6]]
    assert packed.collate(np.array([0]))["seen"].tolist() == [[3]]


def test_long_random_windows_equal_the_plain_cut():
    generator = np.random.default_rng(0)
    walks = [generator.integers(0, 50, size=length).tolist() for length in generator.integers(2, 12, size=4)]
    packed = packed_rows(examples_of(walks, max_items=5))
    for walk, history, targets in zip(walks, packed.histories, packed.targets, strict=True):
        window = walk[-6:]
        assert (history.tolist(), targets.tolist()) == (window[:-1], window[1:])


def test_no_rows_make_an_empty_batch():
    packed = packed_rows(examples_of(WALKS, max_items=3))
    batch = packed.collate(np.zeros(0, dtype=np.int64))
    assert batch["items"].shape == (0, 1)
    assert len(batch["targets"]) == 0
    empty = examples_of(WALKS, max_items=3).take(np.zeros(0, dtype=np.int64))
    assert len(packed_rows(empty)) == 0
