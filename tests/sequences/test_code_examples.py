import numpy as np
import pytest

from pipeline_lib.params import SequencesParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Identifiers, Split
from pipeline_lib.sequences.code_examples import build_examples
from pipeline_lib.sequences.code_tokens import END

IDENTIFIERS = Identifiers(np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.int32), (2, 2))


@pytest.fixture
def split():
    def cases(histories, targets):
        return Cases(np.array([0, 1], dtype=np.int32), Ragged.from_rows(histories), Ragged.from_rows(targets),
                     np.array([True, True]))

    counts = np.ones(4, dtype=np.int32)
    return Split(np.array([0, 1], dtype=np.int32), Ragged.from_rows([[0, 1, 2], [3]]),
                 cases([[0, 1, 2], [3]], [[3], [0]]), cases([[0, 1, 2, 3], [3, 0]], [[0], [1]]),
                 counts, counts > 0, counts.astype(np.int8))


def test_training_examples_hold_no_held_out_item(split):
    parts, _ = build_examples(split, IDENTIFIERS, SequencesParams(20, "prefixes", 0))
    assert [row.tolist() for row in parts["train"].histories] == [[0], [0, 1]]
    assert [row.tolist() for row in parts["train"].targets] == [[1], [2]]
    assert [row.tolist() for row in parts["train"].input_ids] == [[2, 4, END], [2, 4, 2, 5, END]]
    assert [row.tolist() for row in parts["train"].labels] == [[2, 5], [3, 4]]


def test_the_model_sees_the_most_recent_items_only(split):
    parts, _ = build_examples(split, IDENTIFIERS, SequencesParams(2, "prefixes", 0))
    assert [row.tolist() for row in parts["test"].histories] == [[2, 3], [3, 0]]


def test_user_tokens_stand_first(split):
    parts, tree = build_examples(split, IDENTIFIERS, SequencesParams(20, "last", 7))
    assert tree["size"] == 2 + 4 + 7
    assert all(row[0] >= tree["user_offset"] and row[-1] == END for part in parts.values() for row in part.input_ids)


def test_histories_of_one_item_leave_nothing_to_learn(split):
    short = Split(split.train_users, Ragged.from_rows([[0], [3]]), split.valid, split.test, split.train_count,
                  split.warm, split.popularity_group)
    with pytest.raises(ValueError, match="nothing to learn from"):
        build_examples(short, IDENTIFIERS, SequencesParams())


def test_labels_close_with_the_end_exactly_where_identifiers_vary_in_length(split):
    varying = Identifiers(np.array([[0, 0], [0, 1], [1, -1], [2, 1]], dtype=np.int32), (3, 2))
    parts, tree = build_examples(split, varying, SequencesParams(20, "prefixes", 0))
    assert tree["has_ends"] and [row.tolist() for row in parts["train"].labels] == [[2, 6, 1], [3, 1]]
    assert [row.tolist() for row in parts["test"].labels] == [[2, 5, 1], [2, 6, 1]]
    _, fixed = build_examples(split, IDENTIFIERS, SequencesParams(20, "prefixes", 0))
    assert "has_ends" not in fixed
