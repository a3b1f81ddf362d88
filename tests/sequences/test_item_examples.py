import numpy as np
import pytest

from pipeline_lib.params import SequencesParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Identifiers, Split
from pipeline_lib.sequences.item_examples import build_examples

NO_CODES = Identifiers(None, ())


@pytest.fixture
def split():
    """Users 7 and 8 of training and testing; user 9 has one training item."""
    def cases(histories, targets):
        return Cases(np.array([7, 8], dtype=np.int32), Ragged.from_rows(histories), Ragged.from_rows(targets),
                     np.array([True, True]))

    counts = np.ones(6, dtype=np.int32)
    return Split(np.array([9, 7, 8], dtype=np.int32), Ragged.from_rows([[4], [0, 1, 2], [3, 5]]),
                 cases([[0, 1, 2], [3, 5]], [[3], [0]]), cases([[0, 1, 2, 3], [3, 5, 0]], [[4, 5], [1]]),
                 counts, counts > 0, counts.astype(np.int8))


def rows_of(examples):
    return list(zip(examples.users.tolist(), [row.tolist() for row in examples.histories],
                    [row.tolist() for row in examples.targets], strict=True))


def test_training_examples_hold_no_held_out_item(split):
    parts, vocabulary = build_examples(split, NO_CODES, SequencesParams(20, "prefixes"))
    assert rows_of(parts["train"]) == [(7, [0], [1]), (7, [0, 1], [2]), (8, [3], [5])]
    parts, _ = build_examples(split, NO_CODES, SequencesParams(20, "last"))
    assert rows_of(parts["train"]) == [(7, [0, 1], [2]), (8, [3], [5])]
    assert vocabulary == {}


def test_the_model_sees_the_most_recent_items_only(split):
    parts, _ = build_examples(split, NO_CODES, SequencesParams(1, "prefixes"))
    assert rows_of(parts["train"]) == [(7, [0], [1]), (7, [1], [2]), (8, [3], [5])]
    assert rows_of(parts["valid"]) == [(7, [2], [3]), (8, [5], [0])]
    assert rows_of(parts["test"]) == [(7, [3], [4, 5]), (8, [0], [1])]
