from types import ModuleType

import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Identifiers, RecommenderInputs, Split
from pipeline_lib.serving import Source, next_cases, with_taken, with_users


NOTHING = Ragged.from_rows([[]] * 5)


def cases_of(*rows: tuple[int, list[int], list[int]]) -> Cases:
    users, histories, targets = zip(*rows, strict=True)
    return Cases(np.array(users, np.int32), Ragged.from_rows(histories), Ragged.from_rows(targets), np.ones(len(users), bool))


@pytest.fixture
def split():
    """User 0 is tested, user 1 validated alone, user 2 trained on alone; user 3 has a test case without history."""
    return Split(np.array([0, 2], np.int32), Ragged.from_rows([[1, 2], [6, 7]]), cases_of((0, [1, 2], [3]), (1, [5], [4])),
                 cases_of((0, [1, 2, 3], [8, 9]), (3, [], [6])), np.ones(10, np.int32), np.ones(10, bool),
                 np.ones(10, np.int8))


def test_a_user_moves_on_to_all_that_is_known_of_him_and_who_has_nothing_is_left_out(split):
    cases = next_cases(split, NOTHING)
    assert cases.users.tolist() == [0, 1, 2, 3]
    assert [row.tolist() for row in cases.histories] == [[1, 2, 3, 8, 9], [5, 4], [6, 7], [6]]
    assert cases.seen.tolist() == [True, False, True, False]


def test_whom_and_what_the_split_left_out_is_known_from_ingest_and_its_own_order_stays(split):
    cases = next_cases(split, Ragged.from_rows([[9, 8, 3, 2, 1], [5, 4], [0, 6, 7], [], [2, 2], []]))
    assert cases.users.tolist() == [0, 1, 2, 3, 4]
    assert [row.tolist() for row in cases.histories] == [[1, 2, 3, 8, 9], [5, 4], [0, 6, 7], [6], [2, 2]]
    assert cases.seen.tolist() == [True, False, True, False, False]


def test_what_a_user_took_of_the_added_items_is_behind_his_history(split):
    cases = with_taken(next_cases(split, NOTHING), Ragged.from_rows([[2, 0], [], [2, 4]]), 10)
    assert [row.tolist() for row in cases.histories] == [[1, 2, 3, 8, 9, 10], [5, 4], [6, 7, 10, 12], [6]]
    assert cases.histories.values.dtype == next_cases(split, NOTHING).histories.values.dtype


def sums() -> ModuleType:
    """A source of one dimension that embeds a user as the sum of his items, and a tokenizer that halves it."""
    module = ModuleType("sums")
    module.embed_users = lambda histories, tensors, model_json: np.array([[row.sum()] for row in histories], np.float32)
    module.encode_users = lambda vectors, tensors, config: (vectors // 2).astype(np.int32)
    return module


def test_users_get_vectors_and_codes_of_their_histories_and_others_keep_theirs(split):
    identifiers = Identifiers(None, (), {}, user_codes={"test": np.array([[7], [8]], np.int32)})
    inputs = RecommenderInputs({}, {}, identifiers, split, np.zeros((10, 1)), np.zeros((10, 1)),
                               users={"test": np.array([[1.0], [2.0]], np.float32)})
    made = with_users(inputs, np.array([1, 3]), Ragged.from_rows([[4, 6], [5]]), Source("sums", sums(), {}, {}), sums())
    np.testing.assert_array_equal(made.users["test"], [[1], [10], [np.nan], [5]])
    assert made.identifiers.user_codes["test"].tolist() == [[7], [5], [-1], [2]]
    assert inputs.users["test"].tolist() == [[1], [2]]


def test_inputs_without_users_stay_as_they_are(split):
    inputs = RecommenderInputs({}, {}, Identifiers(None, (), {}), split, np.zeros((10, 1)), np.zeros((10, 1)))
    assert with_users(inputs, np.array([1]), Ragged.from_rows([[4]]), Source("sums", sums(), {}, {}), sums()) is inputs
