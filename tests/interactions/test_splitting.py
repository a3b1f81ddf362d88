from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from pipeline_lib import artifacts
from pipeline_lib.interactions.given_split import read_given_split
from pipeline_lib.interactions.indexing import index_tables
from pipeline_lib.interactions.splitting import popularity_groups, split_interactions
from pipeline_lib.params import SplitParams

DATASETS = Path(__file__).resolve().parents[2].parent / "shared" / "datasets"


def log_of(histories, times=None):
    """Interactions of users 0, 1, ...; times are places in the history where none are given."""
    times = times or [range(len(history)) for history in histories]
    lengths = [len(history) for history in histories]
    return pa.table([np.repeat(np.arange(len(histories)), lengths), np.concatenate(histories),
                     np.concatenate([list(part) for part in times]), [None] * sum(lengths)],
                    names=artifacts.INTERACTIONS.names).cast(artifacts.INTERACTIONS)


def split_of(histories, kind="leave_one_out", num_items=10, times=None, order="time", given=None, seed=0, **options):
    return split_interactions(log_of(histories, times), num_items, SplitParams(kind, **options), order=order,
                              given=given, seed=seed)


def given_of(rows, columns=("user", "item", "part")):
    """Rows of user, item, part and, maybe, position."""
    return pl.DataFrame(rows, schema={name: pl.Int64 if name == "position" else pl.Int32 for name in columns},
                        orient="row").with_columns(pl.col("part").cast(pl.Int8))


def cases_of(cases):
    return {int(user): (history.tolist(), targets.tolist(), bool(seen)) for user, history, targets, seen
            in zip(cases.users, cases.histories, cases.targets, cases.seen, strict=True)}


def train_of(split):
    return {int(user): items.tolist() for user, items in zip(split.train_users, split.train, strict=True)}


@pytest.fixture
def many():
    """40 users with 1 to 20 interactions with 30 items at distinct times, repeats among them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 21, size=40)
    moments = rng.permutation(lengths.sum())
    return ([rng.integers(30, size=length) for length in lengths],
            [np.sort(part) for part in np.split(moments, np.cumsum(lengths)[:-1])])


# --- worked by hand -------------------------------------------------------------------------------------------------


def test_leave_one_out_worked_by_hand():
    split = split_of([[1, 2, 3, 4], [5, 6], [7, 7, 8]], num_items=9)
    assert train_of(split) == {0: [1, 2], 1: [5, 6], 2: [7]}
    assert cases_of(split.valid) == {0: ([1, 2], [3], True), 2: ([7], [7], True)}
    assert cases_of(split.test) == {0: ([1, 2, 3], [4], True), 2: ([7, 7], [8], True)}
    assert split.train_count.tolist() == [0, 1, 1, 0, 0, 1, 1, 1, 0]
    assert split.warm.tolist() == [False, True, True, False, False, True, True, True, False]
    assert split.popularity_group.tolist() == [5, 1, 2, 5, 5, 3, 4, 5, 5]


def test_global_time_makes_one_cut_for_everybody():
    # times 0 to 9: training below 6, validation below 8; user 1 comes in only then
    histories, times = [[0, 1, 2, 3, 4, 5, 6], [7, 8], [9]], [[0, 1, 2, 3, 4, 6, 8], [7, 9], [5]]
    split = split_of(histories, "ratio", ratios=(0.6, 0.2, 0.2), times=times)
    assert train_of(split) == {0: [0, 1, 2, 3, 4], 2: [9]}
    assert cases_of(split.valid) == {0: ([0, 1, 2, 3, 4], [5], True)}
    assert cases_of(split.test) == {0: ([0, 1, 2, 3, 4, 5], [6], True), 1: ([7], [8], False)}
    strangers = split_of(histories, "ratio", ratios=(0.6, 0.2, 0.2), times=times, min_history=0)
    assert cases_of(strangers.valid)[1] == ([], [7], False)


def test_ratio_of_each_history_worked_by_hand():
    split = split_of([list(range(10)), [1, 2, 3, 4, 5], [6]], "ratio", by="history", order="position",
                     ratios=(0.6, 0.2, 0.2))
    assert train_of(split) == {0: [0, 1, 2, 3, 4, 5], 1: [1, 2, 3]}
    assert cases_of(split.valid) == {0: ([0, 1, 2, 3, 4, 5], [6, 7], True), 1: ([1, 2, 3], [4], True)}
    assert cases_of(split.test) == {0: (list(range(8)), [8, 9], True), 1: ([1, 2, 3, 4], [5], True)}


def test_by_user_holds_out_whole_users():
    histories = [[user % 10, 1, 2, 3] for user in range(10)]
    split = split_of(histories, "by_user", test_users=0.3, valid_users=0.2)
    train, valid, test = train_of(split), cases_of(split.valid), cases_of(split.test)
    assert (len(train), len(valid), len(test)) == (5, 2, 3)
    assert sorted([*train, *valid, *test]) == list(range(10))
    assert all(items == histories[user] for user, items in train.items())
    assert all(case == (histories[user][:-1], [3], False) for user, case in (valid | test).items())


def test_given_split_with_positions_worked_by_hand():
    # file order is not history order; user 1 has no validation item
    rows = [(0, 3, 0, 1), (0, 2, 0, 0), (0, 5, 2, 3), (0, 4, 1, 2), (0, 6, 2, 4), (1, 2, 0, 0), (1, 3, 2, 1)]
    split = split_of([[9, 9]], "given", given=given_of(rows, ("user", "item", "part", "position")), order="position")
    assert train_of(split) == {0: [2, 3], 1: [2]}
    assert cases_of(split.valid) == {0: ([2, 3], [4], True)}
    assert cases_of(split.test) == {0: ([2, 3, 4], [5, 6], True), 1: ([2], [3], True)}
    assert split.num_items == 10 and split.train_count[9] == 0  # item 9 is not in the file but keeps its number
    parts = {name: np.flatnonzero(mask).tolist() for name, mask in split.parts.items()}
    assert parts == {"warm": [2, 3], "cold": [4, 5, 6]}  # item 3 is warm, though it is user 1's target; 9 is neither


def test_given_split_without_positions_takes_the_order_of_the_interactions():
    rows = [(0, 3, 0), (0, 1, 0), (0, 2, 0), (0, 4, 2)]
    split = split_of([[1, 2, 3, 4]], "given", given=given_of(rows))
    assert train_of(split) == {0: [1, 2]}
    assert cases_of(split.valid) == {0: ([1, 2], [3], True)}
    assert cases_of(split.test) == {0: ([1, 2, 3], [4], True)}


def test_repeats_in_a_given_split_without_positions_stand_for_theirs_in_time():
    rows = [(0, 1, 0), (0, 1, 0), (0, 2, 0), (0, 3, 0), (0, 4, 2)]
    split = split_of([[1, 2, 3, 1, 4]], "given", given=given_of(rows))
    assert train_of(split) == {0: [1, 2, 3]} and cases_of(split.valid) == {0: ([1, 2, 3], [1], True)}


def test_the_most_recent_interactions_are_not_looked_for_where_there_is_no_order():
    given = given_of([(0, item, 2 * (item == 9)) for item in range(10)])
    with pytest.raises(ValueError, match="split.max_history=4 keeps the most recent .* leave it null"):
        split_of([[0]], "given", given=given, order="none", max_history=4)
    placed = given.with_columns(position=pl.col("item").cast(pl.Int64))
    assert train_of(split_of([[0]], "given", given=placed, order="none", max_history=4)) == {0: [6, 7]}


def test_without_order_histories_get_a_random_one_unless_the_file_has_positions():
    rows = [(user, item, 0) for user in range(8) for item in range(8)] + [(user, 9, 2) for user in range(8)]
    found = [list(train_of(split_of([[0]], "given", given=given_of(rows), order="none", seed=seed)).values())
             for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert any(items != sorted(items) for items in found[0]) and len({tuple(items) for items in found[0]}) > 1
    placed = given_of(rows).with_columns(position=pl.lit(-1) * pl.col("item"))
    assert set(map(tuple, train_of(split_of([[0]], "given", given=placed, order="none")).values())) == \
        {(7, 6, 5, 4, 3, 2, 1)}


def test_without_order_a_random_training_item_validates():
    rows = [(user, item, 0) for user in range(8) for item in range(8)] + [(user, 9, 2) for user in range(9)]
    rows += [(8, 0, 0)]  # one training item only: it stays
    found = [split_of([[0]], "given", given=given_of(rows), order="none", seed=seed) for seed in (0, 0, 1)]
    chosen = [[targets.tolist() for targets in split.valid.targets] for split in found]
    assert chosen[0] == chosen[1] != chosen[2]
    assert len({item for (item,) in chosen[0]}) > 1
    assert found[0].valid.users.tolist() == list(range(8)) and train_of(found[0])[8] == [0]
    for user, (history, (target,), seen) in cases_of(found[0].valid).items():
        assert sorted([*history, target]) == list(range(8)) and seen
        assert sorted(cases_of(found[0].test)[user][0]) == list(range(8))


def test_unseen_users_are_the_shortest_that_can_be_tested():
    histories = [[1, 2, 3, 4, 5], [1, 2, 3], [6], [7, 8], [1, 2, 3, 9]]
    split = split_of(histories, unseen_user_share=0.4)
    assert train_of(split) == {0: [1, 2, 3], 2: [6], 4: [1, 2]}
    assert list(cases_of(split.valid)) == [0, 4]
    assert cases_of(split.test) == {0: ([1, 2, 3, 4], [5], True), 1: ([1, 2], [3], False), 3: ([7], [8], False),
                                    4: ([1, 2, 3], [9], True)}
    assert not split.warm[7]  # only an unseen user has it


def test_popularity_groups_worked_by_hand():
    counts = np.array([0, 9, 9, 1, 5, 0, 7, 8, 2, 3, 4, 6])  # 10 warm items, two a group
    assert popularity_groups(counts).tolist() == [5, 1, 1, 5, 3, 5, 2, 2, 5, 4, 4, 3]


def test_refitting_trains_on_the_validation_items_worked_by_hand():
    split = split_of([[1, 2, 3, 4], [5, 6], [7, 7, 8]], num_items=9, refit=True)
    assert train_of(split) == {0: [1, 2, 3], 1: [5, 6], 2: [7, 7]}
    assert len(split.valid) == 0 and list(split.held_out) == ["test"]
    assert cases_of(split.test) == {0: ([1, 2, 3], [4], True), 2: ([7, 7], [8], True)}
    assert split.train_count.tolist() == [0, 1, 1, 1, 0, 1, 1, 2, 0]
    assert split.warm.tolist() == [False, True, True, True, False, True, True, True, False]
    assert split.popularity_group.tolist() == [5, 1, 2, 3, 5, 4, 5, 1, 5]


def test_refitting_makes_training_users_of_those_held_out_for_validation():
    histories = [[user % 10, 1, 2, 3] for user in range(10)]
    plain, refitted = (split_of(histories, "by_user", test_users=0.3, valid_users=0.2, refit=refit)
                       for refit in (False, True))
    assert train_of(refitted) == train_of(plain) | {int(user): histories[user] for user in plain.valid.users}
    assert cases_of(refitted.test) == cases_of(plain.test)


# --- laws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"kind": "leave_one_out"}, {"kind": "leave_one_out", "max_history": 7, "unseen_user_share": 0.2},
    {"kind": "ratio", "by": "time"}, {"kind": "ratio", "by": "history", "min_history": 0},
    {"kind": "ratio", "by": "time", "unseen_user_share": 0.1, "min_history": 2}, {"kind": "by_user", "min_history": 3},
])
def test_histories_and_targets_are_slices_of_the_log_in_order(many, options):
    histories, times = many
    split = split_of(histories, times=times, num_items=30, **options)
    cut = [list(history)[-options.get("max_history", 99):] for history in histories]
    train = train_of(split)
    for cases in (split.valid, split.test):
        assert (np.diff(cases.users) > 0).all()
        for user, (history, targets, seen) in cases_of(cases).items():
            assert cut[user][: len(history) + len(targets)] == history + targets
            assert len(history) >= options.get("min_history", 1)
            assert seen == (user in train)
            assert not seen or history[: len(train[user])] == train[user]
    for user, (history, targets, _) in cases_of(split.test).items():
        assert history + targets == cut[user]
    assert all(items == cut[user][: len(items)] for user, items in train.items())
    assert split.train_count.tolist() == np.bincount(np.concatenate(list(train.values())), minlength=30).tolist()


GIVEN = [(user, item, part) for user in range(8)
         for item, part in enumerate((0, 0, 0, 0, 1, 1, 2, 2) if user % 2 else (0, 0, 0, 0, 0, 2, 2))]


@pytest.mark.parametrize("options", [
    {}, {"max_history": 7, "unseen_user_share": 0.2}, {"kind": "ratio", "by": "time", "min_history": 0},
    {"kind": "ratio", "by": "history", "unseen_user_share": 0.1}, {"kind": "by_user", "min_history": 3},
    {"kind": "given", "given": given_of(GIVEN), "order": "none"},
    {"kind": "given", "given": given_of([row for row in GIVEN if row[2] != 1]), "order": "none"},
])
def test_refitting_adds_what_is_held_out_for_validation_to_training_and_leaves_test_cases_as_they_are(many, options):
    histories, times = many
    plain, refitted = (split_of(histories, times=times, num_items=30, refit=refit, **options)
                       for refit in (False, True))
    for name in ("users", "histories", "targets"):
        one, two = (getattr(split.test, name) for split in (plain, refitted))
        assert [np.array(row).tolist() for row in one] == [np.array(row).tolist() for row in two]
    trained, before = train_of(refitted), train_of(plain)
    assert refitted.test.seen.tolist() == [user in trained for user in refitted.test.users]
    for user, (history, targets, _) in cases_of(plain.valid).items():
        assert sorted(trained[user]) == sorted([*history, *targets])
    assert all(sorted(trained[user]) == sorted(items) for user, items in before.items() if user not in plain.valid.users)
    for user, (history, _, seen) in cases_of(refitted.test).items():
        assert not seen or history == trained[user]  # so that no target is trained on
    count = np.bincount(refitted.train.values, minlength=30)
    assert len(refitted.valid) == 0 and refitted.train_count.tolist() == count.tolist()
    assert refitted.warm.tolist() == (count > 0).tolist()
    assert refitted.popularity_group.tolist() == popularity_groups(count).tolist()


def test_ratio_by_time_trains_on_nothing_later_than_a_target(many):
    histories, times = many
    split = split_of(histories, "ratio", times=times, num_items=30, ratios=(0.7, 0.15, 0.15), min_history=0)
    moments = np.sort(np.concatenate(times))
    sizes = [len(split.train.values), len(split.valid.targets.values), len(split.test.targets.values)]
    assert sum(sizes) == len(moments)
    assert sizes[0] == int(0.7 * len(moments)) and sizes[2] == len(moments) - int(0.85 * len(moments))
    for user, (history, _, _) in cases_of(split.test).items():
        assert all(moment < moments[-sizes[2]] for moment in times[user][: len(history)])


def test_leave_one_out_equals_a_plain_loop(many):
    histories, times = many
    split = split_of(histories, times=times, num_items=30, max_history=9, min_history=2)
    cut = {user: history[-9:].tolist() for user, history in enumerate(histories)}
    assert train_of(split) == {user: items[:-2] if len(items) >= 3 else items for user, items in cut.items()}
    assert cases_of(split.test) == {user: (items[:-1], items[-1:], True) for user, items in cut.items()
                                    if len(items) >= 3}
    assert cases_of(split.valid) == {user: (items[:-2], items[-2:-1], True) for user, items in cut.items()
                                     if len(items) >= 4}


def test_the_seed_alone_decides_who_is_held_out(many):
    chosen = [split_of(many[0], "by_user", num_items=30, seed=seed).test.users.tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]


def test_equal_lengths_of_unseen_users_are_drawn_by_seed():
    chosen = [split_of([[1, 2, 3]] * 20, unseen_user_share=0.25, seed=seed) for seed in (1, 1, 2)]
    unseen = [split.test.users[~split.test.seen].tolist() for split in chosen]
    assert unseen[0] == unseen[1] != unseen[2] and len(unseen[0]) == 5


@pytest.mark.parametrize("num_warm", [1, 4, 5, 23])
def test_popularity_groups_are_equal_and_ordered(num_warm):
    counts = np.concatenate([np.random.default_rng(0).integers(1, 9, size=num_warm), [0, 0]])
    groups = popularity_groups(counts)
    sizes = np.bincount(groups[:num_warm], minlength=6)[1:]
    assert sizes.max() - sizes.min() <= 1 and groups[-2:].tolist() == [5, 5]
    for first in range(1, 5):
        there, behind = counts[groups == first], counts[groups == first + 1]
        assert not len(there) or not len(behind) or there.min() >= behind.max()


@pytest.mark.parametrize("refit", [False, True])
def test_a_split_survives_its_artifact(many, tmp_path, refit):
    split = split_of(many[0], num_items=30, refit=refit)
    artifacts.write_split(tmp_path / "split", split)
    again = artifacts.read_split(tmp_path / "split")
    assert len(again.valid) == len(split.valid) and (len(again.valid) == 0) == refit
    assert train_of(again) == train_of(split)
    assert cases_of(again.test) == cases_of(split.test)
    assert again.popularity_group.tolist() == split.popularity_group.tolist()


# --- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options, message", [
    ({"kind": "ratio", "ratios": (0.9, 0.1, 0.0), "by": "history"}, "no test target.*raise its share"),
    ({"kind": "by_user", "test_users": 0.1, "valid_users": 0.5}, "no test target.*raise split.test_users"),
    ({"kind": "given"}, "set split.file"),
    ({"max_history": 2, "refit": True}, "no valid target"),
    ({"max_history": 2}, r"no valid target \(2 users with 2 to 2 interactions\); a user needs at least 3"),
    ({"min_history": 9}, "nobody to evaluate for valid.*min_history=9"),
])
def test_what_cannot_be_split_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        split_of([[1, 2, 3, 4, 5], [1, 2, 3, 4]], **options)


def test_interactions_out_of_order_are_refused():
    log = log_of([[1, 2, 3], [1, 2, 3]]).take([3, 4, 5, 0, 1, 2])
    with pytest.raises(ValueError, match="not sorted by user; re-run ingest"):
        split_interactions(log, 4, SplitParams("leave_one_out"), order="time", seed=0)


def test_a_given_pair_without_a_known_time_is_refused():
    with pytest.raises(ValueError, match="1 rows whose user and item are not among the interactions.*row 2"):
        split_of([[1, 2]], "given", given=given_of([(0, 1, 0), (0, 7, 2)]))


# --- published protocols on real data -------------------------------------------------------------------------------


def read_real(name):
    path = DATASETS / name / f"{name}.inter.gz"
    if not path.exists():
        pytest.skip(f"needs real data: {path.parent} is not here")
    log = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False)
    log = log.select(user_id="user_id:token", item_id="item_id:token",
                     timestamp=pl.col("timestamp:float").cast(pl.Int64), rating=pl.lit(None, pl.Float32))
    return index_tables(log, None)


@pytest.mark.parametrize("name, left", [("lastfm", 37_080), ("beauty", 197_861)])
def test_histories_cut_to_100_leave_the_interactions_that_tokenrec_counts(name, left):
    log, items, _ = read_real(name)
    split = split_interactions(log, len(items), SplitParams("leave_one_out", max_history=100), order="position", seed=0)
    assert len(split.train.values) + len(split.valid) + len(split.test) == left


def test_setrec_split_of_beauty_has_the_counts_of_the_paper():
    log, items, users = read_real("beauty")
    given = read_given_split(DATASETS / "beauty" / "setrec_split.tsv.gz", users, items)
    split = split_interactions(log, len(items), SplitParams("given"), order="position", given=given, seed=0)
    assert (len(split.train.values), len(split.valid.targets.values)) == (132_990, 16_641)
    assert (len(split.test.targets.values), len(split.train_users), len(split.test)) == (17_579, 18_136, 6_424)
    assert split.warm.sum() == 11_407
    cold = np.setdiff1d(given["item"].unique().to_numpy(), np.flatnonzero(split.warm))
    # 77 items are not in the split
    assert len(cold) == 617 and np.array_equal(np.flatnonzero(split.parts["cold"]), cold)
    assert sum(np.isin(targets, cold).any() for targets in split.test.targets) == 2_239
