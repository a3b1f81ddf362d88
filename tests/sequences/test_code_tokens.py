import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.code_tokens import END, FIRST_CODE, Vocabulary, tokens_of_histories

CODES = np.array([[0, 2], [3, 0], [1, -1]], dtype=np.int32)


@pytest.fixture
def vocabulary():
    return Vocabulary.build((4, 3), user_buckets=5)


def test_layout_worked_by_hand(vocabulary):
    assert vocabulary.level_offsets == (FIRST_CODE, FIRST_CODE + 4)
    assert vocabulary.user_offset == FIRST_CODE + 7
    assert vocabulary.size == FIRST_CODE + 12
    assert [row.tolist() for row in vocabulary.item_tokens(CODES)] == [[2, 8], [5, 6], [3]]


def test_every_level_and_code_has_a_token_of_its_own(vocabulary):
    tokens = [offset + code for offset, size in zip(vocabulary.level_offsets, vocabulary.level_sizes, strict=True)
              for code in range(size)] + list(range(vocabulary.user_offset, vocabulary.size))
    assert tokens == list(range(FIRST_CODE, vocabulary.size))


def test_histories_become_tokens_between_the_users_token_and_the_end(vocabulary):
    histories = Ragged.from_rows([[1, 2], [], [0]])
    item_tokens = vocabulary.item_tokens(CODES)
    assert [row.tolist() for row in tokens_of_histories(histories, item_tokens)] == [[5, 6, 3, END], [END], [2, 8, END]]
    first = np.array([9, 10, 11], dtype=np.int32)
    rows = [row.tolist() for row in tokens_of_histories(histories, item_tokens, first)]
    assert rows == [[9, 5, 6, 3, END], [10, END], [11, 2, 8, END]]


def test_user_buckets_are_evenly_filled():
    vocabulary = Vocabulary.build((4,), user_buckets=20)
    counts = np.bincount(vocabulary.user_tokens(np.arange(20_000)) - vocabulary.user_offset, minlength=20)
    assert counts.min() > 700 and counts.max() < 1300


def test_vocabulary_survives_json(vocabulary):
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_labels_close_with_the_end_where_identifiers_vary_in_length():
    vocabulary = Vocabulary.build((4, 3), user_buckets=5, has_ends=True)
    assert [row.tolist() for row in vocabulary.label_tokens(CODES)] == [[2, 8, END], [5, 6, END], [3, END]]
    assert [row.tolist() for row in vocabulary.item_tokens(CODES)] == [[2, 8], [5, 6], [3]]
    assert vocabulary.search_levels == ((2, 6, END), (4, 3, 0))
    assert Vocabulary.from_json(vocabulary.to_json()) == vocabulary


def test_identifiers_of_one_length_know_nothing_of_ends(vocabulary):
    assert [row.tolist() for row in vocabulary.label_tokens(CODES[:2])] == [[2, 8], [5, 6]]
    assert vocabulary.search_levels == (vocabulary.level_offsets, vocabulary.level_sizes)
    assert "has_ends" not in vocabulary.to_json()
