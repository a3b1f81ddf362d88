import numpy as np
import pytest
import torch

from pipeline_lib.decoding.trie import build_trie

CODES = np.array([[1, 0, 2], [0, 1, 1], [1, 0, 0], [0, 1, 1]])  # items 1 and 3 share an identifier
SIZES = (2, 2, 3)


def random_codes(num_items: int, level_sizes: tuple[int, ...], seed: int, shortest: int | None = None) -> np.ndarray:
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, num_items) for size in level_sizes], axis=1)
    if shortest is not None:
        lengths = rng.integers(shortest, len(level_sizes) + 1, num_items)
        codes[np.arange(len(level_sizes)) >= lengths[:, None]] = -1
    return codes


def test_masks_steps_and_items_worked_by_hand():
    trie = build_trie(CODES, SIZES)
    assert [trie.num_nodes(level) for level in range(4)] == [1, 2, 2, 3]
    assert trie.allowed(0, torch.tensor([0])).tolist() == [[True, True]]
    assert trie.allowed(1, torch.tensor([0, 1])).tolist() == [[False, True], [True, False]]
    assert trie.allowed(2, torch.tensor([[0], [1]])).tolist() == [[[False, True, False]], [[True, False, True]]]
    assert trie.step(2, torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2])).tolist() == [0, 1, 2]
    assert [trie.leaf_items(leaf).tolist() for leaf in range(3)] == [[1, 3], [2], [0]]


def test_an_identifier_may_be_the_prefix_of_another():
    trie = build_trie(np.array([[1, 2], [1, -1], [0, -1]]), (2, 3))
    assert trie.has_ends and trie.num_choices == (3, 4)
    assert trie.allowed(0, torch.tensor([0])).tolist() == [[True, True, False]]
    assert trie.allowed(1, torch.tensor([0, 1])).tolist() == [[False] * 3 + [True], [False, False, True, True]]
    assert trie.find(torch.tensor([[0, -1], [1, 2], [1, -1], [1, 0], [0, 2]])).tolist() == [0, 1, 2, -1, -1]
    assert [trie.leaf_items(leaf).tolist() for leaf in range(3)] == [[2], [0], [1]]


def test_a_last_level_without_codes_lets_every_identifier_end():
    trie = build_trie(np.array([[1, 2, -1], [1, -1, -1]]), (2, 3, 0))
    assert trie.num_choices == (3, 4, 1)
    assert trie.find(torch.tensor([[1, 2, -1], [1, -1, -1]])).tolist() == [0, 1]


@pytest.mark.parametrize("shortest", [None, 1])
def test_masks_and_leaves_equal_a_dict_of_prefixes(shortest):
    sizes = (9, 20, 3)
    codes = random_codes(400, sizes, seed=0, shortest=shortest)
    trie = build_trie(codes, sizes)
    choices = np.where(codes < 0, sizes, codes)
    prefixes = {(): 0}
    for level in range(3):
        following: dict[tuple, set] = {}
        for row in choices.tolist():
            following.setdefault(tuple(row[:level]), set()).add(row[level])
        for prefix, node in prefixes.items():
            expected = [choice in following[prefix] for choice in range(trie.num_choices[level])]
            assert trie.allowed(level, torch.tensor(node)).tolist() == expected
        prefixes = {(*prefix, choice): trie.step(level, torch.tensor(node), torch.tensor(choice)).item()
                    for prefix, node in prefixes.items() for choice in following[prefix]}
        assert sorted(prefixes.values()) == list(range(trie.num_nodes(level + 1)))
        assert [prefixes[prefix] for prefix in sorted(prefixes)] == sorted(prefixes.values())  # lower code, lower node
    for prefix, leaf in prefixes.items():
        expected = [item for item, row in enumerate(choices.tolist()) if tuple(row) == prefix]
        assert trie.leaf_items(leaf).tolist() == expected


@pytest.mark.parametrize("shortest", [None, 2])
def test_every_item_is_found_at_its_own_leaf(shortest):
    sizes = (5, 6, 7)
    codes = random_codes(150, sizes, seed=1, shortest=shortest)
    trie = build_trie(codes, sizes)
    for item, leaf in enumerate(trie.find(torch.from_numpy(codes)).tolist()):
        assert item in trie.leaf_items(leaf)


def test_identifiers_that_no_item_has_are_not_found():
    trie = build_trie(CODES, SIZES)
    strangers = torch.tensor([[1, 1, 0], [0, 1, 2], [1, 0, 3], [-1, 0, 0], [9, 9, 9]])
    assert trie.find(strangers).tolist() == [-1] * 5


def test_many_long_identifiers_that_do_not_fit_one_number_are_sorted_alike():
    codes = random_codes(60, (2,) * 3, seed=2)
    wide = np.concatenate([codes, np.zeros((60, 5), dtype=int)], axis=1)
    narrow, long = build_trie(codes, (2,) * 3), build_trie(wide, (2,) * 3 + (2**20,) * 5)
    assert narrow.items.tolist() == long.items.tolist()
    assert narrow.item_offsets.tolist() == long.item_offsets.tolist()


def test_a_trie_of_some_items_keeps_their_numbers():
    trie = build_trie(CODES[[0, 3]], SIZES, items=np.array([0, 3]))
    assert trie.items.tolist() == [3, 0]


def test_a_part_of_the_items_can_keep_the_choices_of_all():
    whole = build_trie(np.array([[0, 1], [1, -1]]), (2, 2))
    part = build_trie(np.array([[0, 1]]), (2, 2), has_ends=True)
    assert part.num_choices == whole.num_choices
    assert part.allowed(1, torch.tensor([0])).tolist() == [[False, True, False]]


@pytest.mark.parametrize(("codes", "sizes", "message"), [
    ([[0, 3]], (2, 3), "item 0 has code 3 at level 1, which does not fit a level of 3 codes"),
    ([[0, -2]], (2, 3), "item 0 has code -2 at level 1"),
    ([[-1, 2]], (2, 3), r"item 0 has codes \[-1, 2\], with a code behind a -1"),
    ([[0, 1]], (2, 3, 4), r"identifiers have shape \(1, 2\), expected \(items, 3\)"),
    ([[0, 1], [-1, -1]], (2, 3), "item 1 has no code at all"),
    (np.empty((0, 2), dtype=int), (2, 3), "no item to build a trie of"),
])
def test_bad_identifiers_are_named(codes, sizes, message):
    with pytest.raises(ValueError, match=message):
        build_trie(np.array(codes), sizes)


def test_wrong_number_of_items_and_of_codes_are_named():
    with pytest.raises(ValueError, match=r"items have shape \(1,\), expected \(4,\)"):
        build_trie(CODES, SIZES, items=np.array([7]))
    with pytest.raises(ValueError, match="2 codes, but the trie has 3 levels"):
        build_trie(CODES, SIZES).find(torch.zeros(1, 2, dtype=torch.int64))
