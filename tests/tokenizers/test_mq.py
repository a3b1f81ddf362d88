"""Codes of items and users by masked vector quantization.

Of TokenRec's checklist: 4 (no mask and no dependence on the batch when encoding), 5 (no mask at rho = 0), 6 (the
vectors stay as they are), 15 (one codebook runs through the same code), two instances that share nothing, and users
that cannot be embedded. 1 to 5 in detail are in quantizers/test_parallel.py.
"""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from pipeline_lib.artifacts import read_identifiers, write_identifiers
from pipeline_lib.evaluation.code_quality import describe_codes
from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers import mq

CONFIG = mq.Config(levels=2, codebook_size=16, hidden=(24,), latent=6, epochs=15, batch_size=32)
WITHOUT = [3, 50]  # users that cannot be embedded


def inputs_of(vectors, users=None, train_users=None):
    known = np.arange(len(users["valid"]) if users else 0) if train_users is None else train_users
    return TokenizerInputs(vectors, vectors, Ragged.from_rows([]), {}, users or {}, known)


def tokenize(vectors, users=None, collisions="none", seed=3, train_users=None, **changes):
    return mq.tokenize_items(inputs_of(vectors, users, train_users), replace(CONFIG, **changes), collisions=collisions,
                             seed=seed)


@pytest.fixture(scope="module")
def vectors():
    """``(240, 10)``: 24 kinds of 10 items, of which two are equal."""
    generator = np.random.default_rng(0)
    rows = np.repeat(generator.normal(size=(24, 10)), 10, axis=0) + 0.2 * generator.normal(size=(240, 10))
    rows[1::10] = rows[0::10]
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def users():
    """``(90, 10)``: a user moves a little between valid and test."""
    generator = np.random.default_rng(1)
    valid = generator.normal(size=(90, 10)).astype(np.float32)
    valid[WITHOUT] = np.nan
    return {"valid": valid, "test": valid + 0.3 * generator.normal(size=(90, 10)).astype(np.float32)}


@pytest.fixture(scope="module")
def both(vectors, users):
    return tokenize(vectors, users)


def test_codes_tell_kinds_apart_and_explain_the_vectors(both, vectors):
    codes = both.codes
    assert codes.shape == (240, 2) and codes.dtype == np.int32 and both.level_sizes == (16, 16)
    assert np.array_equal(codes[1::10], codes[0::10])
    kinds = codes.reshape(24, 10, 2)
    assert (kinds[:, 2:3] == kinds[:, 3:]).mean() > (kinds[:-1, 2:3] == kinds[1:, 3:]).mean() + 0.3
    assert both.reconstruction_error < 0.6 * np.square(vectors).mean()


def test_users_have_an_instance_of_their_own(both, vectors, users):
    alone = tokenize(vectors)
    assert np.array_equal(alone.codes, both.codes) and not alone.user_codes and "users" not in alone.config
    assert all(np.array_equal(both.tensors[name], value) for name, value in alone.tensors.items())
    other_items = tokenize(vectors[::-1] * 2, users)
    assert all(np.array_equal(other_items.tensors[name], value) for name, value in both.tensors.items()
               if name.startswith("users."))
    assert not np.array_equal(both.tensors["users.encoders.0.0.weight"], both.tensors["items.encoders.0.0.weight"])
    assert not np.array_equal(both.tensors["items.encoders.1.0.weight"], both.tensors["items.encoders.0.0.weight"])


def test_users_without_a_vector_have_no_code_and_do_not_disturb_the_others(both, vectors, users):
    finite = {part: np.delete(table, WITHOUT, axis=0) for part, table in users.items()}
    clean = tokenize(vectors, finite)
    for part in ("valid", "test"):
        codes = both.user_codes[part]
        assert codes.shape == (90, 2) and codes.dtype == np.int32
        assert (codes[WITHOUT] == -1).all()
        assert np.array_equal(np.delete(codes, WITHOUT, axis=0), clean.user_codes[part])
        assert clean.user_codes[part].min() >= 0 and clean.user_codes[part].max() < 16


def test_users_kept_out_of_training_have_codes_but_do_not_train(vectors, users):
    apart = np.arange(80, 90)
    moved = {part: table.copy() for part, table in users.items()}
    for table in moved.values():
        table[apart] *= 3
    one, other = (tokenize(vectors, tables, train_users=np.arange(80), epochs=3) for tables in (users, moved))
    assert all(np.array_equal(one.tensors[name], value) for name, value in other.tensors.items())
    assert (one.user_codes["test"][apart] >= 0).all()
    assert not np.array_equal(one.tensors["users.quantizer.codebooks"],
                              tokenize(vectors, users, epochs=3).tensors["users.quantizer.codebooks"])


def test_both_parts_of_users_are_encoded_by_the_instance_of_valid(both, vectors, users):
    assert not np.array_equal(both.user_codes["valid"], both.user_codes["test"])
    still = tokenize(vectors, {"valid": users["valid"], "test": users["valid"]})
    assert np.array_equal(still.user_codes["test"], still.user_codes["valid"])
    assert np.array_equal(still.user_codes["valid"], both.user_codes["valid"])


def test_the_quality_of_user_codes_is_described(both):
    codes = both.user_codes["valid"][both.user_codes["valid"][:, 0] >= 0]
    found = dict(both.config["users"])
    assert found.pop("reconstruction_error") > 0 and found.pop("epochs") == 15
    assert found == describe_codes(codes, (16, 16))


def test_written_tokenizers_encode_to_the_same_codes_in_any_batch(both, vectors, users, tmp_path):
    write_identifiers(tmp_path / "tokens", both)
    read = read_identifiers(tmp_path / "tokens")
    assert np.array_equal(mq.encode_items(vectors, read.tensors, read.config), both.codes)
    assert np.array_equal(mq.encode_items(vectors[7:9], read.tensors, read.config), both.codes[7:9])
    for part, table in users.items():
        assert np.array_equal(read.user_codes[part], both.user_codes[part])
        assert np.array_equal(mq.encode_users(table, read.tensors, read.config), both.user_codes[part])


def test_vectors_of_another_size_and_missing_users_are_refused(both, vectors, users):
    with pytest.raises(ValueError, match="9 dimensions, but the tokenizer was trained on 10"):
        mq.encode_items(vectors[:, :9], both.tensors, both.config)
    items_only = {name: value for name, value in both.tensors.items() if name.startswith("items.")}
    with pytest.raises(ValueError, match="not trained on users"):
        mq.encode_users(users["valid"], items_only, both.config)


def test_equal_seeds_give_equal_bits_and_leave_the_global_generator_alone(both, vectors, users):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    again = tokenize(vectors, users)
    assert torch.equal(torch.rand(3), expected)
    assert again.config == both.config and again.tensors.keys() == both.tensors.keys()
    assert all(np.array_equal(again.tensors[name], value) for name, value in both.tensors.items())
    assert not np.array_equal(tokenize(vectors, seed=4).codes, both.codes)


@pytest.mark.parametrize("entity", ["items", "users"])
@pytest.mark.parametrize("changes", [{"mask": 0.0}, {"dropout": 0.3}, {"commitment": 3.0}])
def test_masking_dropout_and_commitment_change_what_is_learned(vectors, users, entity, changes):
    one, other = (tokenize(vectors, users, epochs=2, **options).tensors for options in ({}, changes))
    weights = f"{entity}.encoders.0.0.weight"
    assert not np.array_equal(one[weights], other[weights])


def test_the_commitment_loss_is_trained_on_with_its_weight(vectors):
    without, heavy = (tokenize(vectors, commitment=weight, epochs=2, batch_size=240).training for weight in (0.0, 3.0))
    # before the first step it is as large as the codebook loss, only its gradient is another
    assert heavy[0]["quantization_loss"] == pytest.approx(4 * without[0]["quantization_loss"], rel=1e-4)
    assert heavy[1]["reconstruction_loss"] != without[1]["reconstruction_loss"]


def test_vectors_stay_as_they_are(vectors, users):
    before = [table.tobytes() for table in (vectors, *users.values())]
    tokenize(vectors, users, epochs=2)
    assert [table.tobytes() for table in (vectors, *users.values())] == before


def test_held_out_rows_are_not_trained_on_and_0_holds_none_out(vectors):
    with pytest.raises(ValueError, match="only 15 items to learn it from; set it to 15 or less"):
        tokenize(vectors[:20], validation_share=0.25)
    assert tokenize(vectors[:20], validation_share=0.0, epochs=1).codes.shape == (20, 2)


def test_too_few_users_are_refused_by_name(vectors, users):
    with pytest.raises(ValueError, match="only 9 users to learn it from; set it to 9 or less"):
        tokenize(vectors, {part: table[10:20] for part, table in users.items()}, epochs=1)
    with pytest.raises(ValueError, match="none of the 90 training users has a vector"):
        tokenize(vectors, {"valid": np.full_like(users["valid"], np.nan), "test": users["test"]}, epochs=1)


def test_new_users_without_a_vector_are_encoded_as_such(both):
    nobody = np.full((2, 10), np.nan, dtype=np.float32)
    assert mq.encode_users(nobody, both.tensors, both.config).tolist() == [[-1, -1]] * 2


@pytest.mark.parametrize("collisions, added", [("suffix", 1), ("sinkhorn", 0)])
def test_collisions_are_resolved_for_items_only(both, vectors, users, collisions, added):
    resolved = tokenize(vectors, users, collisions)
    assert resolved.codes.shape[1] == 2 + added
    assert collision_rate(resolved.codes) < 0.5 * collision_rate(both.codes)
    assert np.array_equal(resolved.user_codes["valid"], both.user_codes["valid"])
    assert resolved.config["before_resolution"] == both.config["before_resolution"]


def test_one_codebook_of_all_codewords_is_a_point_of_the_same_grid(vectors):
    single = tokenize(vectors, levels=1, codebook_size=32)
    assert single.codes.shape == (240, 1) and single.level_sizes == (32,)
    assert np.array_equal(mq.encode_items(vectors, single.tensors, single.config), single.codes)
    same = tokenize(vectors, levels=4, codebook_size=8, one_codebook=True)
    assert np.array_equal(same.codes, single.codes) and same.level_sizes == (32,)
    assert np.array_equal(mq.encode_items(vectors, same.tensors, same.config), same.codes)


def test_config_holds_the_options(both):
    assert both.config["kind"] == "mq" and both.config["dimensions"] == 10
    assert {name: both.config[name] for name in asdict(CONFIG)} == asdict(CONFIG)
