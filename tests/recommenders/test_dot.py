import numpy as np
import pytest

from pipeline_lib.params import DecodeParams
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Identifiers, Model, RecommenderInputs, Split
from pipeline_lib.recommenders.dot import load_ranker


def first_items(items, users, asked, accelerator, part="test", similarity="dot"):
    """The best item of each of the users ``asked``, whose vectors are ``users[part]``."""
    count = len(asked)
    cases = Cases(np.array(asked, np.int32), Ragged.from_rows([[]] * count), Ragged.from_rows([[0]] * count),
                  np.ones(count, bool))
    once = np.ones(len(items), np.int32)
    split = Split(cases.users, cases.histories, cases, cases, once, once > 0, once.astype(np.int8))
    items, users = np.array(items, np.float32), {name: np.array(rows, np.float32) for name, rows in users.items()}
    inputs = RecommenderInputs({}, {}, Identifiers(None, ()), split, items, items, users=users)
    decode = DecodeParams("ground", top_k=1, filter_history=False)
    ranker = load_ranker(Model({}, {"kind": "dot", "similarity": similarity}), inputs, decode, accelerator=accelerator,
                         seed=0)
    return ranker.rank(None, cases, part).rankings[0].items.values.tolist()


@pytest.mark.parametrize(("part", "expected"), [("valid", [3, 1]), ("test", [1, 3])])
def test_a_case_is_ranked_by_the_vector_of_its_user_before_the_targets_of_its_part(part, expected, accelerator):
    """Users 3 and 1 of five, not the first two, and not in order; the other part has the rows reversed."""
    users = {"valid": np.eye(5, 4), "test": np.eye(5, 4)[::-1]}
    assert first_items(np.eye(4), users, [3, 1], accelerator, part) == expected


@pytest.mark.parametrize(("similarity", "expected"), [("dot", 1), ("cosine", 0)])
def test_a_long_vector_comes_first_by_dot_product_alone(similarity, expected, accelerator):
    assert first_items([[1, 0], [5, 5]], {"test": [[1, 0]]}, [0], accelerator, similarity=similarity) == [expected]


def test_a_user_without_a_vector_is_named(accelerator):
    with pytest.raises(ValueError, match="users_test.npy: user 1 has no vector, nor have 0 others"):
        first_items(np.eye(2), {"test": [[1, 0], [np.nan, 0]]}, [0, 1], accelerator)
