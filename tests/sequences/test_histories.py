import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.histories import next_item_examples


def random_users():
    generator = np.random.default_rng(0)
    return [generator.integers(0, 50, size=generator.integers(0, 12)).tolist() for _ in range(60)]


def test_prefixes_worked_by_hand():
    rows, histories, targets = next_item_examples(Ragged.from_rows([[7, 8, 9], [5], [1, 2]]), 20, train_targets="prefixes")
    assert rows.tolist() == [0, 0, 2]
    assert [row.tolist() for row in histories] == [[7], [7, 8], [1]]
    assert [row.tolist() for row in targets] == [[8], [9], [2]]


def test_only_the_last_item_is_a_target_where_prefixes_are_not_wanted():
    rows, histories, targets = next_item_examples(Ragged.from_rows([[7, 8, 9], [], [1, 2]]), 20, train_targets="last")
    assert rows.tolist() == [0, 2]
    assert [row.tolist() for row in histories] == [[7, 8], [1]]
    assert [row.tolist() for row in targets] == [[9], [2]]


def test_windows_worked_by_hand():
    users = Ragged.from_rows([[1, 2, 3, 4, 5, 6, 7, 8], [9], [3, 4, 5, 6, 7]])
    rows, histories, targets = next_item_examples(users, 3, "windows")
    assert rows.tolist() == [0, 0, 0, 2, 2]
    assert [row.tolist() for row in histories] == [[1], [2, 3, 4], [5, 6, 7], [3], [4, 5, 6]]
    assert targets.values.tolist() == [2, 5, 8, 4, 7]


def test_windows_show_each_item_after_the_first_behind_another_once():
    users = random_users()
    rows, histories, targets = next_item_examples(Ragged.from_rows(users), 4, "windows")
    shown = [[] for _ in users]
    for row, history, target in zip(rows, histories, targets.values, strict=True):
        shown[row] += [*history[1:].tolist(), int(target)]
    assert shown == [items[1:] for items in users]


def test_an_unknown_choice_of_targets_is_refused():
    with pytest.raises(ValueError, match="train_targets is all; known: prefixes, last, windows"):
        next_item_examples(Ragged.from_rows([[1, 2]]), 4, "all")


def test_agrees_with_a_plain_loop_on_random_histories():
    users = random_users()
    rows, histories, targets = next_item_examples(Ragged.from_rows(users), 4, train_targets="prefixes")
    expected = [(row, items[max(0, place - 4):place], items[place])
                for row, items in enumerate(users) for place in range(1, len(items))]
    found = list(zip(rows.tolist(), [h.tolist() for h in histories], targets.values.tolist(), strict=True))
    assert found == expected
