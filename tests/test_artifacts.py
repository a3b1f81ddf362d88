from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_lib import artifacts, plain_files, records
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Cases, Embedding, Examples, Identifiers, Model, Rankings, Split


@pytest.fixture
def split():
    users = np.array([0, 1], dtype=np.int32)
    cases = Cases(users, Ragged.from_rows([[0, 1], [2]]), Ragged.from_rows([[2], [0, 1]]), np.array([True, False]))
    return Split(users, Ragged.from_rows([[0, 1], []]), cases, cases, np.array([1, 1, 0], dtype=np.int32),
                 np.array([True, True, False]), np.array([1, 2, 5], dtype=np.int8))


def test_a_split_comes_back_as_it_was_written(tmp_path, split):
    artifacts.write_split(tmp_path / "split", split)
    found = artifacts.read_split(tmp_path / "split")
    assert [row.tolist() for row in found.train] == [[0, 1], []]
    assert [row.tolist() for row in found.test.targets] == [[2], [0, 1]]
    assert found.test.seen.tolist() == [True, False]
    assert found.warm.tolist() == [True, True, False]
    assert (found.train_count.dtype, found.popularity_group.dtype) == (np.int32, np.int8)


def test_candidates_and_their_scores_come_back_and_a_label_that_cannot_be_is_named(tmp_path, split):
    asked = records.Candidates(*(np.array(column, kind) for column, kind in (
        ([0, 0, 1], np.int32), ([1, 2, 0], np.int32), ([1, 0, 1], np.int8))))
    artifacts.write_split(tmp_path / "split", replace(split, candidates={"train": asked, "valid": asked.take([0])}))
    found = artifacts.read_split(tmp_path / "split").candidates
    assert set(found) == {"train", "valid"} and len(found["valid"]) == 1
    assert [found["train"].users.tolist(), found["train"].items.tolist(), found["train"].labels.tolist()] == [
        [0, 0, 1], [1, 2, 0], [1, 0, 1]]
    artifacts.write_scored(tmp_path / "out", {"test": asked}, {"test": np.array([0.5, 0.25, 1.0])},
                           {"prompt_tokens": {}})
    assert [column.tolist() for column in artifacts.read_scores(tmp_path / "out/test_scores.parquet", 3)] == [
        [0, 0, 1], [1, 2, 0], [1, 0, 1], [0.5, 0.25, 1.0]]
    with pytest.raises(ValueError, match="item of row 1 is not one of the 2 items"):
        artifacts.read_scores(tmp_path / "out/test_scores.parquet", 2)
    with pytest.raises(ValueError, match="scored given candidates .* and ranked no items"):
        artifacts.read_predictions(tmp_path / "out/test.parquet", 3)
    wrong = replace(asked, labels=np.array([0, 1, 2], np.int8))
    artifacts.write_split(tmp_path / "split", replace(split, candidates={"train": wrong}))
    with pytest.raises(ValueError, match="label of row 2 is not 0 or 1"):
        artifacts.read_split(tmp_path / "split")


def test_an_item_beyond_the_catalogue_is_named(tmp_path, split):
    broken = Split(split.train_users, Ragged.from_rows([[0], [7]]), split.valid, split.test, split.train_count,
                   split.warm, split.popularity_group)
    artifacts.write_split(tmp_path / "split", broken)
    with pytest.raises(ValueError,
                       match=r"train.parquet: column items, row 1: item 7 does not exist; there are 3 items"):
        artifacts.read_split(tmp_path / "split")


def test_a_missing_file_names_the_stage_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="stage quantize makes it: run `dvc repro quantize`"):
        artifacts.read_identifiers(tmp_path / "data" / "tokens")


def test_a_missing_column_and_a_wrong_type_are_named(tmp_path):
    path = tmp_path / "users.parquet"
    pq.write_table(pa.table({"user": pa.array([0], pa.int32())}), path)
    with pytest.raises(ValueError, match="users.parquet: column user_id is missing; found user"):
        artifacts.read_user_ids(path)
    pq.write_table(pa.table({"user": pa.array([0], pa.int64()), "user_id": ["a"]}), path)
    with pytest.raises(ValueError, match="column user is int64, expected int32"):
        artifacts.read_user_ids(path)


def test_codes_that_do_not_fit_their_level_are_refused(tmp_path):
    with pytest.raises(ValueError, match="code 9 at level 1 does not fit a codebook of 4"):
        artifacts.write_identifiers(tmp_path / "tokens", Identifiers(np.array([[0, 9]], dtype=np.int32), (4, 4)))
    assert not (tmp_path / "tokens").exists()


def test_identifiers_come_back_with_tensors_and_config(tmp_path):
    codes = np.array([[0, 1], [3, -1]], dtype=np.int32)
    artifacts.write_identifiers(tmp_path / "tokens",
                                Identifiers(codes, (4, 4), {"codebooks": np.ones((2, 4, 3))}, {"kind": "x"}))
    found = artifacts.read_identifiers(tmp_path / "tokens")
    assert found.codes.tolist() == codes.tolist() and found.level_sizes == (4, 4)
    assert found.tensors["codebooks"].shape == (2, 4, 3) and found.config == {"kind": "x"}


def test_item_vectors_must_be_finite_and_one_an_item(tmp_path):
    artifacts.write_embedding(tmp_path / "text", Embedding(np.array([[1.0], [np.nan]]), {}))
    with pytest.raises(ValueError, match="vector of row 1 is not finite"):
        artifacts.read_item_vectors(tmp_path / "text", 2)
    with pytest.raises(ValueError, match=r"items.npy: shape \(2, 1\), expected a row of numbers for each of 3 items"):
        artifacts.read_item_vectors(tmp_path / "text", 3)


def test_sequences_and_models_come_back(tmp_path):
    rows = Ragged.from_rows([[1, 2], [3]])
    examples = Examples(np.array([0, 1], dtype=np.int32), rows, rows, rows, rows, ["next_item"] * 2)
    artifacts.write_sequences(tmp_path / "sequences", {"train": examples}, {"size": 4})
    assert [r.tolist() for r in artifacts.read_examples(tmp_path / "sequences/train.parquet").labels] == [[1, 2], [3]]
    model = Model({"w": np.eye(2, dtype=np.float32)}, {"kind": "seq2seq"},
                  [{"epoch": 1, "loss": 0.5}, {"epoch": 2, "x": 1}])
    artifacts.write_model(tmp_path / "model", model)
    assert artifacts.read_model(tmp_path / "model").tensors["w"].tolist() == [[1, 0], [0, 1]]
    assert (tmp_path / "model/training.csv").read_text() == "epoch,loss,x\n1,0.5,\n2,,1\n"


def test_codes_that_training_changed_win_over_those_of_quantize(tmp_path):
    model, tokens = tmp_path / "model", tmp_path / "tokens"
    artifacts.write_identifiers(tokens, Identifiers(None, ()))
    assert artifacts.read_final_codes(model, tokens, 3) is None
    artifacts.write_identifiers(tokens, Identifiers(np.full((3, 1), 1, np.int32), (4,)))
    assert artifacts.read_final_codes(model, tokens, 3).tolist() == [[1]] * 3
    model.mkdir()
    np.save(model / "item_codes.npy", np.full((3, 1), 2, np.int32))
    assert artifacts.read_final_codes(model, tokens, 3).tolist() == [[2]] * 3


def model_codes(folder, codes):
    """Folders of a model that left these codes, and of tokens of three items with two levels of four."""
    artifacts.write_identifiers(folder / "tokens", Identifiers(np.zeros((3, 2), np.int32), (4, 4)))
    (folder / "model").mkdir()
    np.save(folder / "model/item_codes.npy", np.array(codes, np.int32))
    return folder / "model", folder / "tokens"


@pytest.mark.parametrize(("codes", "message"), [
    ([0, 1, 2], r"shape \(3,\), expected a row of numbers for each of 3 items"),
    ([[0, 0], [4, 0], [0, 0]], "code 4 at level 0 does not fit a codebook of 4"),
    ([[0, 0], [-1, 0], [0, 0]], "the identifier of row 1 is not codes with -1 only behind them"),
    ([[0], [1], [2]], r"codes of shape \(3, 1\), but 2 level sizes"),
    ([[0, 0], [1, 0]], r"shape \(2, 2\), expected a row of numbers for each of 3 items"),
])
def test_codes_that_training_left_in_another_form_are_refused(tmp_path, codes, message):
    with pytest.raises(ValueError, match=f"model/item_codes.npy: .*{message}"):
        artifacts.read_final_codes(*model_codes(tmp_path, codes), 3)


def test_training_may_leave_more_items_to_be_told_apart_by_the_last_level(tmp_path):
    codes = [[0, 0], [0, 9], [1, 0]]
    assert artifacts.read_final_codes(*model_codes(tmp_path, codes), 3).tolist() == codes


def test_arrays_of_another_shape_are_refused_where_they_are_read(tmp_path):
    artifacts.write_embedding(tmp_path / "mf", Embedding(np.ones((2, 3)), {}, np.ones(4), np.ones((4, 3))))
    with pytest.raises(ValueError, match=r"users_valid.npy: shape \(4,\), expected rows"):
        artifacts.read_user_vectors(tmp_path / "mf")
    artifacts.write_model(tmp_path / "model", Model({}, {}, [], item_vectors=np.ones(3, np.float32)))
    with pytest.raises(ValueError, match=r"item_vectors.npy: shape \(3,\), expected rows"):
        artifacts.read_model(tmp_path / "model")
    plain_files.write_json(tmp_path / "tokens/config.json", {})
    with pytest.raises(ValueError, match="tokens/config.json: level_sizes is missing; re-run quantize"):
        artifacts.read_identifiers(tmp_path / "tokens")


def test_predictions_come_back_by_candidate_set(tmp_path):
    path = tmp_path / "test.parquet"
    users = np.array([4, 5], dtype=np.int32)
    lists = [Rankings(users, Ragged.from_rows([[2, 0], [1]]), np.array([-1, -2, -3], dtype=np.float32)),
             Rankings(users, Ragged.from_rows([[0], []]), np.array([-2], dtype=np.float32), "warm")]
    artifacts.write_predictions(path, lists)
    found = artifacts.read_predictions(path, 3)
    assert [r.tolist() for r in found["all"].items] == [[2, 0], [1]]
    assert found["all"].scores.tolist() == [-1, -2, -3]
    assert [r.tolist() for r in found["warm"].items] == [[0], []]
    assert found["warm"].scores.tolist() == [-2]


def test_a_list_with_an_item_twice_is_refused(tmp_path):
    path = tmp_path / "test.parquet"
    artifacts.write_predictions(path,
                                [Rankings(np.array([0]), Ragged.from_rows([[1, 1]]), np.zeros(2, dtype=np.float32))])
    with pytest.raises(ValueError, match="holds an item twice"):
        artifacts.read_predictions(path, 3)


@pytest.mark.parametrize(("scores", "message"), [
    ([-2, -1], "row 0 of candidates=all is not best first"), ([-1], "2 items but 1 scores"),
    ([-1, np.nan], "row 0 of candidates=all .* has a score that is no number"),
])
def test_a_list_in_another_order_or_without_its_scores_is_refused(tmp_path, scores, message):
    path = tmp_path / "test.parquet"
    table = pa.table({"user": [0], "candidates": ["all"], "items": [[1, 2]], "scores": [scores]},
                     schema=artifacts.PREDICTIONS)
    pq.write_table(table, path)
    with pytest.raises(ValueError, match=message):
        artifacts.read_predictions(path, 3)


@pytest.mark.parametrize(("change", "message"), [
    ({"train_count": np.array([1, -4, 0], dtype=np.int32)}, "train_count of row 1 is not 0 or more"),
    ({"popularity_group": np.array([1, 2, 9], dtype=np.int8)}, "popularity_group of row 2 is not from 1 to 5"),
])
def test_columns_out_of_their_range_are_refused(tmp_path, split, change, message):
    artifacts.write_split(tmp_path / "split", replace(split, **change))
    with pytest.raises(ValueError, match=message):
        artifacts.read_split(tmp_path / "split")


@pytest.mark.parametrize(("file", "column", "values", "message"), [
    ("items", "item", [2, 1, 0], "item of row 0 is not the row's own number"),
    ("train", "user", [-7], "user of row 0 is not 0 or more"),
    ("valid", "user", [-1], "user of row 0 is not 0 or more"),
])
def test_numbers_of_a_split_that_cannot_be_are_refused(tmp_path, split, file, column, values, message):
    artifacts.write_split(tmp_path / "split", split)
    path = tmp_path / f"split/{file}.parquet"
    table = pq.read_table(path, memory_map=False)
    changed = pa.array([*values, *table[column].to_pylist()[len(values):]], pa.int32())
    pq.write_table(table.set_column(table.column_names.index(column), table.schema.field(column), changed), path)
    with pytest.raises(ValueError, match=f"{file}.parquet: {message}"):
        artifacts.read_split(tmp_path / "split")


def test_numbers_that_are_not_those_of_ingest_are_refused(tmp_path):
    pq.write_table(pa.table({"user": [0, 2], "user_id": ["a", "b"]}, schema=artifacts.USERS),
                   tmp_path / "users.parquet")
    with pytest.raises(ValueError, match="user of row 1 is not the row's own number"):
        artifacts.read_user_ids(tmp_path / "users.parquet")
    log = pa.table({"user": [0], "item": [-1], "timestamp": [0], "rating": [None]}, schema=artifacts.INTERACTIONS)
    pq.write_table(log, tmp_path / "log.parquet")
    with pytest.raises(ValueError, match="item of row 0 is not 0 or more"):
        artifacts.read_interactions(tmp_path / "log.parquet")
    rows = Ragged.from_rows([[1, 2], [999]])
    examples = Examples(np.array([0, 1], dtype=np.int32), rows, rows)
    artifacts.write_sequences(tmp_path / "sequences", {"train": examples}, {})
    with pytest.raises(ValueError, match="column history, row 1: item 999 does not exist; there are 3 items"):
        artifacts.read_examples(tmp_path / "sequences/train.parquet", 3)


def test_a_code_behind_the_end_of_its_identifier_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the identifier of row 1 is not codes with -1 only behind them"):
        artifacts.write_identifiers(tmp_path / "tokens",
                                    Identifiers(np.array([[0, 1], [-1, 2]], dtype=np.int32), (4, 4)))


@pytest.mark.parametrize("content", [b"", b'{"cut": "of', b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_or"])
def test_damaged_files_are_refused_in_one_line_that_names_the_stage(tmp_path, content):
    for name, read in (("items.npy", lambda path: plain_files.read_array(path, np.float32)),
                       ("model.safetensors", plain_files.read_tensors), ("decode.json", plain_files.read_json),
                       ("train.parquet", lambda path: plain_files.read_table(path, artifacts.TRAIN))):
        for folder, hint in (("model", "re-run stage finetune, which makes it: `dvc repro finetune`"),
                             ("elsewhere", "remove it, and make it anew")):
            path = tmp_path / folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            with pytest.raises(ValueError, match=f"{name}: damaged .*; {hint}") as refused:
                read(path)
            assert "\n" not in str(refused.value)


def test_an_array_that_was_cut_off_is_refused(tmp_path):
    np.save(tmp_path / "items.npy", np.ones((9, 3), np.float32))
    whole = (tmp_path / "items.npy").read_bytes()
    (tmp_path / "items.npy").write_bytes(whole[:-40])
    with pytest.raises(ValueError, match="items.npy: damaged .*remove it"):
        plain_files.read_array(tmp_path / "items.npy", np.float32)


def test_a_writer_that_fails_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "a.json"
    plain_files.write_json(path, {"old": 1})
    with pytest.raises(RuntimeError), plain_files.writing_file(path) as place:
        place.write_text("half")
        raise RuntimeError("killed")
    with pytest.raises(RuntimeError), plain_files.writing_folder(tmp_path / "folder") as place:
        (place / "x").write_text("half")
        raise RuntimeError("killed")
    assert plain_files.read_json(path) == {"old": 1}
    assert [child.name for child in tmp_path.iterdir()] == ["a.json"]


def test_pickled_arrays_are_never_loaded(tmp_path):
    np.save(tmp_path / "items.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"items.npy: damaged \(not an array of numbers\)"):
        plain_files.read_array(tmp_path / "items.npy", np.float32)
