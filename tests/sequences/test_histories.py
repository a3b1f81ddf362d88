import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.histories import next_item_examples


def test_prefixes_worked_by_hand():
    rows, histories, targets = next_item_examples(Ragged.from_rows([[7, 8, 9], [5], [1, 2]]), 20, every_position=True)
    assert rows.tolist() == [0, 0, 2]
    assert [row.tolist() for row in histories] == [[7], [7, 8], [1]]
    assert [row.tolist() for row in targets] == [[8], [9], [2]]


def test_only_the_last_item_is_a_target_where_prefixes_are_not_wanted():
    rows, histories, targets = next_item_examples(Ragged.from_rows([[7, 8, 9], [], [1, 2]]), 20, every_position=False)
    assert rows.tolist() == [0, 2]
    assert [row.tolist() for row in histories] == [[7, 8], [1]]
    assert [row.tolist() for row in targets] == [[9], [2]]


def test_agrees_with_a_plain_loop_on_random_histories():
    generator = np.random.default_rng(0)
    users = [generator.integers(0, 50, size=generator.integers(0, 12)).tolist() for _ in range(60)]
    rows, histories, targets = next_item_examples(Ragged.from_rows(users), 4, every_position=True)
    expected = [(row, items[max(0, place - 4):place], items[place])
                for row, items in enumerate(users) for place in range(1, len(items))]
    found = list(zip(rows.tolist(), [h.tolist() for h in histories], targets.values.tolist(), strict=True))
    assert found == expected
