import numpy as np
import polars as pl
import pytest

from pipeline_lib.interactions.filtering import filter_interactions, rows_of_core


def interactions(pairs, ratings=None, timestamps=None):
    schema = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64, "rating": pl.Float32}
    return pl.DataFrame({"user_id": [user for user, _ in pairs], "item_id": [item for _, item in pairs],
                         "timestamp": timestamps or list(range(len(pairs))), "rating": ratings}, schema=schema)


def slow_core(pairs, user_core, item_core):
    """One row after another, until none must go."""
    pairs = list(enumerate(pairs))
    while True:
        for place, (_, (user, item)) in enumerate(pairs):
            if (sum(user == other for _, (other, _) in pairs) < user_core
                    or sum(item == other for _, (_, other) in pairs) < item_core):
                del pairs[place]
                break
        else:
            return [row for row, _ in pairs]


def test_a_rare_item_takes_its_user_along():
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), ("c", "x"), ("c", "z")]  # without z, c has one item left
    kept = filter_interactions(interactions(pairs), user_core=2, item_core=2)
    assert kept["timestamp"].to_list() == [0, 1, 2, 3]
    assert kept["user_id"].cast(pl.String).to_list() == ["a", "a", "b", "b"]


def test_rating_and_window_are_cut_by_hand():
    table = interactions([("a", "x")] * 5, ratings=[5, 3, None, 4, 5], timestamps=[10, 20, 30, 40, 50])
    assert filter_interactions(table, min_rating=4)["timestamp"].to_list() == [10, 40, 50]
    assert filter_interactions(table, after=20, before=50)["timestamp"].to_list() == [20, 30, 40]


def test_rating_is_cut_before_the_core_is_taken():
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("b", "y")]
    with pytest.raises(ValueError, match="4 read, 3 after min_rating, 0 after k_core"):
        filter_interactions(interactions(pairs, ratings=[5, 5, 5, 1]), min_rating=3, user_core=2, item_core=2)


def test_nothing_asked_changes_nothing():
    table = interactions([("b", "x"), ("a", "y"), ("b", "x")])
    assert filter_interactions(table).equals(table)
    assert filter_interactions(table, user_core=1, item_core=1).equals(table)


def test_core_equals_dropping_one_row_at_a_time():
    rng = np.random.default_rng(0)
    kept_something = 0
    for user_core, item_core in ((2, 2), (3, 2), (0, 3), (3, 0), (4, 4)):
        pairs = list(zip(rng.integers(12, size=45).tolist(), rng.integers(10, size=45).tolist(), strict=True))
        users, items = np.array(pairs).T
        rows = rows_of_core(users, items, user_core, item_core)
        assert rows.tolist() == slow_core(pairs, user_core, item_core)
        kept_something += 0 < len(rows) < 45
    assert kept_something >= 3


def test_a_core_is_its_own_core():
    rng = np.random.default_rng(1)
    users, items = rng.integers(300, size=2000), rng.integers(200, size=2000)
    rows = rows_of_core(users, items, 5, 7)
    assert 0 < len(rows) < 2000
    assert np.bincount(users[rows])[users[rows]].min() >= 5
    assert np.bincount(items[rows])[items[rows]].min() >= 7
    assert len(rows_of_core(users[rows], items[rows], 5, 7)) == len(rows)


@pytest.mark.parametrize("options, message", [
    ({"min_rating": 6}, r"ingest.min_rating=6 leaves no interactions \(2 read, 0 after min_rating\).*from 3 to 5"),
    ({"after": 1, "before": 1}, r"ingest.before=1 leaves no interactions \(2 read, 1 after after, 0 after before\)"),
    ({"user_core": 3}, r"ingest.k_core=\{user: 3, item: 0\} leaves no interactions"),
])
def test_an_empty_result_names_the_filter_and_what_each_step_left(options, message):
    with pytest.raises(ValueError, match=message):
        filter_interactions(interactions([("a", "x"), ("b", "x")], ratings=[3, 5]), **options)


def test_a_threshold_without_ratings_says_so():
    with pytest.raises(ValueError, match="this data has no rating: set it to null"):
        filter_interactions(interactions([("a", "x")]), min_rating=4)
