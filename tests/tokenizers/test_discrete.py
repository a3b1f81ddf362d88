import numpy as np
import pytest

from pipeline_lib.evaluation.code_quality import describe_codes
from pipeline_lib.tokenizers.discrete import flat_vectors, identifiers_of, require_items


def test_several_vectors_an_item_are_put_one_after_the_other():
    vectors = np.arange(12.0).reshape(2, 3, 2)
    flat = flat_vectors(vectors)
    assert flat.tolist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]] and flat.dtype == np.float32
    assert np.array_equal(flat_vectors(flat), flat)
    with pytest.raises(ValueError, match=r"shape \(12,\)"):
        flat_vectors(np.arange(12.0))


def test_identifiers_remember_the_codes_before_resolution():
    codes = np.array([[0], [1], [1]])
    identifiers = identifiers_of(codes, (2,), collisions="suffix", config={"kind": "plain"})
    assert identifiers.codes.tolist() == [[0, 0], [1, 0], [1, 1]] and identifiers.level_sizes == (2, 2)
    assert identifiers.config == {"kind": "plain", "collisions": "suffix",
                                  "before_resolution": describe_codes(codes, (2,))}


def test_refusals_name_the_parameter():
    with pytest.raises(ValueError, match="tokenizer.opq.codebook_size=16, but there are only 9 items"):
        require_items(9, 16, "opq")
    require_items(16, 16, "opq")
