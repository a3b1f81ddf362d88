import numpy as np
import pytest

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import TokenizerInputs
from pipeline_lib.tokenizers.semantic import Config, category_paths, tokenize_items

CATEGORIES = [["Hair", "Dry"], ["Skin"], [], ["Hair"], ["Hair", "Oily"], ["Skin", "Dry"], None, [""], ["Hair", "Dry"]]


def tokenize(categories, seed=0, attribute="categories", name="categories"):
    vectors = np.zeros((len(categories), 2), dtype=np.float32)
    attributes = {"title": ["x"] * len(categories), name: categories}
    inputs = TokenizerInputs(vectors, vectors, Ragged.from_rows([]), attributes)
    return tokenize_items(inputs, Config(attribute), collisions="suffix", seed=seed)


def test_paths_worked_by_hand():
    paths = category_paths(CATEGORIES, np.random.default_rng(0))
    assert paths[1] == [1, 1]  # Skin; number 0 there is the category Dry
    assert paths[3] == [0, 2]  # Hair; 0 and 1 are Dry and Oily
    assert paths[4] == [0, 1, 0] and paths[5] == [1, 0, 0]
    assert sorted([paths[0], paths[8]]) == [[0, 0, 0], [0, 0, 1]]
    assert sorted([paths[2], paths[6], paths[7]]) == [[2, 0], [2, 1], [2, 2]]  # without a category


def test_codes_are_padded_paths():
    identifiers = tokenize(CATEGORIES)
    assert identifiers.codes[3].tolist() == [0, 2, -1] and identifiers.codes[4].tolist() == [0, 1, 0]
    assert identifiers.level_sizes == (3, 3, 2)
    assert identifiers.config["attribute"] == "categories"


def random_categories(generator, num_items=300):
    lengths = generator.integers(0, 5, size=num_items)
    return [[str(name) for name in generator.integers(0, 3, size=length)] for length in lengths]


def test_identifiers_are_unique_and_none_is_the_beginning_of_another():
    generator = np.random.default_rng(1)
    paths = [tuple(path) for path in category_paths(random_categories(generator), generator)]
    beginnings = {path[:length] for path in paths for length in range(len(path))}
    assert len(set(paths)) == 300 and not beginnings & set(paths)


def test_items_share_a_code_exactly_as_long_as_they_share_categories():
    categories = random_categories(np.random.default_rng(3), 80)
    codes = tokenize(categories).codes
    for one in range(80):
        for other in range(one):
            shared = [a == b for a, b in zip(categories[one], categories[other])] + [False]
            wanted = shared.index(False) if categories[one] or categories[other] else 1  # the branch of those without
            equal = [a == b for a, b in zip(codes[one], codes[other])] + [False]
            assert equal.index(False) == wanted


def test_a_single_category_is_a_path_of_one():
    assert tokenize(["b", "a", ""]).codes.tolist() == [[1, 0], [0, 0], [2, 0]]


def test_the_order_within_a_category_is_not_that_of_the_catalogue():
    places = [tokenize([["all"]] * 40, seed).codes[:, 1] for seed in (0, 1)]
    assert sorted(places[0]) == list(range(40)) and abs(np.corrcoef(np.arange(40), places[0])[0, 1]) < 0.5
    assert not np.array_equal(*places)
    assert collision_rate(places[0][:, None]) == 0


def test_a_missing_attribute_is_refused_naming_those_there_are():
    with pytest.raises(ValueError, match="attribute is categories, which the items do not have; attributes they have: "
                                         "title, genres"):
        tokenize(CATEGORIES, name="genres")
