import numpy as np
import pytest

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.random_id import Config, tokenize_items, unique_identifiers


def tokenize(num_items=60, collisions="none", seed=0, **options):
    vectors = np.zeros((num_items, 2), dtype=np.float32)
    inputs = TokenizerInputs(vectors, vectors, Ragged.from_rows([]), {})
    return tokenize_items(inputs, Config(**options), collisions=collisions, seed=seed)


@pytest.mark.parametrize("digits, base", [(2, 8), (6, 2), (3, 100)])
def test_every_item_has_a_number_of_its_own(digits, base):
    identifiers = tokenize(digits=digits, codebook_size=base)
    assert identifiers.codes.shape == (60, digits) and identifiers.codes.dtype == np.int32
    assert identifiers.level_sizes == (base,) * digits
    assert identifiers.codes.min() >= 0 and identifiers.codes.max() < base
    assert collision_rate(identifiers.codes) == 0


def test_numbers_are_taken_to_the_last_one():
    numbers = tokenize(64, digits=3, codebook_size=4).codes @ [16, 4, 1]
    assert sorted(numbers) == list(range(64)) and numbers.tolist() != list(range(64))


def test_too_few_numbers_are_refused():
    with pytest.raises(ValueError, match="digits=2 in base codebook_size=7 makes 49 numbers, too few for 60 items"):
        tokenize(digits=2, codebook_size=7)


def test_the_seed_decides():
    assert np.array_equal(tokenize(seed=1).codes, tokenize(seed=1).codes)
    assert not np.array_equal(tokenize(seed=1).codes, tokenize(seed=2).codes)


def test_unique_identifiers_stay_as_they_are_and_sinkhorn_is_refused():
    codes = np.array([[0, 1, -1], [0, 0, 2]])
    for collisions in ("none", "suffix"):
        identifiers = unique_identifiers(codes, (1, 2, 3), collisions=collisions, config={"kind": "cid"})
        assert identifiers.codes.tolist() == codes.tolist() and identifiers.level_sizes == (1, 2, 3)
        assert identifiers.config["collisions"] == "none"
    with pytest.raises(ValueError, match="collisions=sinkhorn does not fit tokenizer.kind=cid, whose"):
        unique_identifiers(codes, (1, 2, 3), collisions="sinkhorn", config={"kind": "cid"})
