from dataclasses import replace

import numpy as np
import pytest

from pipeline_lib.params import SequencesParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Identifiers, Split
from pipeline_lib.sequences.instruction_examples import build_examples

IDENTIFIERS = Identifiers(np.arange(6, dtype=np.int32)[:, None], (6,))


def cases(user, history, targets):
    users = np.array([user], dtype=np.int32)
    return Cases(users, Ragged.from_rows([history]), Ragged.from_rows([targets]), np.array([False]))


@pytest.fixture
def split():
    train = Ragged.from_rows([[0, 1, 2, 3], [4], [1, 4]])
    return Split(np.array([7, 8, 9], dtype=np.int32), train, cases(5, [0, 1, 2, 3], [4, 5]), cases(6, [1, 2], [3]),
                 np.ones(6, dtype=np.int32), np.arange(6) < 5, np.ones(6, dtype=np.int8))


def rows_of(examples):
    return list(zip(examples.users.tolist(), [row.tolist() for row in examples.histories],
                    [row.tolist() for row in examples.targets], examples.tasks, strict=True))


def test_one_sample_a_user_and_two_an_item_worked_by_hand(split):
    parts, vocabulary = build_examples(split, IDENTIFIERS, SequencesParams(2, "last"))
    rows = rows_of(parts["train"])
    assert rows[:2] == [(7, [1, 2], [3], "next_item"), (9, [1], [4], "next_item")]
    assert rows[2:8] == [(-1, [], [item], "text_to_item") for item in range(6)]
    assert rows[8:] == [(-1, [], [item], "item_to_text") for item in range(6)]
    assert rows_of(parts["valid"]) == [(5, [2, 3], [4, 5], "next_item")]
    assert rows_of(parts["test"]) == [(6, [1, 2], [3], "next_item")]
    assert vocabulary == {}


def test_prefixes_are_an_option(split):
    parts, _ = build_examples(split, IDENTIFIERS, SequencesParams(20, "prefixes"))
    assert rows_of(parts["train"])[:4] == [(7, [0], [1], "next_item"), (7, [0, 1], [2], "next_item"),
                                           (7, [0, 1, 2], [3], "next_item"), (9, [1], [4], "next_item")]


def test_long_histories_that_are_cut_are_named(split, caplog):
    build_examples(split, IDENTIFIERS, SequencesParams(2, "last"))  # 0 of (0, 1, 2, 3) is left out, nothing of (1, 4)
    assert caplog.messages == ["17% of the training items stand before their users' last 3 and train nothing; "
                               "sequences.train_targets=windows takes all"]


def test_windows_take_a_whole_history_in_pieces(split, caplog):
    parts, _ = build_examples(split, IDENTIFIERS, SequencesParams(2, "windows"))
    assert not caplog.messages
    assert rows_of(parts["train"])[:3] == [(7, [0], [1], "next_item"), (7, [1, 2], [3], "next_item"),
                                           (9, [1], [4], "next_item")]


def test_held_out_users_are_in_no_training_example(split):
    parts, _ = build_examples(split, IDENTIFIERS, SequencesParams(20, "last"))
    held = {*parts["valid"].users.tolist(), *parts["test"].users.tolist()}
    assert not held & set(parts["train"].users.tolist())


def test_users_of_one_item_each_leave_nothing_to_learn(split):
    lone = replace(split, train=Ragged.from_rows([[0], [1], [2]]))
    with pytest.raises(ValueError, match="no user has two training items"):
        build_examples(lone, IDENTIFIERS, SequencesParams(20, "last"))
