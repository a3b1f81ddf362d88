import numpy as np
import pytest

from pipeline_lib.backbones.text_tokenizer import train_word_tokenizer
from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.prompts import (
    SEEN_TEMPLATES, TEMPLATES, UNSEEN, UNSEEN_TEMPLATE, USER_ONLY, assemble_prompts, code_token_names, code_tokens,
    compile_templates, recent_items, shuffled, tokens_of_items,
)

END, LEVELS = 1, (3, 2)
TEXT = [template.replace("{user}", " ").replace("{items}", " ") for template in TEMPLATES]


@pytest.fixture(scope="module")
def tokenizer():
    return train_word_tokenizer(TEXT).with_tokens(code_token_names("item", LEVELS) + code_token_names("user", LEVELS))


@pytest.fixture
def histories():
    generator = np.random.default_rng(0)
    return Ragged.from_rows([generator.integers(0, 9, size=length) for length in generator.integers(0, 12, size=200)])


def test_a_prompt_worked_by_hand():
    words = {"see": 5, "took": 6, ".": 7, "now": 8}
    templates = compile_templates(["see {user} took {items} .", "{items} now {user}", "see {user}"],
                                  lambda text: [words[word] for word in text.split()], END)
    prompts = assemble_prompts(templates, np.array([0, 1, 2, 0]), Ragged.from_rows([[20], [21], [22], []]),
                               Ragged.from_rows([[30, 31], [32], [33], []]))
    assert [row.tolist() for row in prompts] == [[5, 20, 6, 30, 31, 7, 1], [32, 8, 21, 1], [5, 22, 1], [5, 6, 7, 1]]
    assert templates.lengths.tolist() == [4, 2, 2]


def test_recent_items_worked_by_hand():
    lengths = np.array([0, 1, 2, 2])  # item 0 has no tokens
    rows = Ragged.from_rows([[1, 2, 0, 3], [1, 2, 0, 3], [1, 1, 1, 0], [0], []])
    kept = recent_items(rows, lengths, np.array([9, 4, 9, 9, 9]), max_items=2)
    assert [row.tolist() for row in kept] == [[2, 3], [2, 3], [1, 1], [], []]
    kept = recent_items(rows, lengths, np.array([3, 1, 2, 9, 9]), max_items=9)
    assert [row.tolist() for row in kept] == [[3], [], [1, 1], [], []]


def test_arrays_give_what_the_tokenizer_makes_of_the_whole_sentence(tokenizer, histories):
    generator = np.random.default_rng(1)
    codes = np.stack([generator.integers(0, size, size=9) for size in LEVELS], axis=1)
    users = np.stack([generator.integers(0, size, size=200) for size in LEVELS], axis=1)
    users[::7] = -1
    chosen = generator.integers(0, len(TEMPLATES), size=200)
    item_tokens = code_tokens(codes, LEVELS, tokenizer.id_of("<item-0-0>"))
    prompts = assemble_prompts(compile_templates(TEMPLATES, tokenizer.encode, END), chosen,
                               code_tokens(users, LEVELS, tokenizer.id_of("<user-0-0>")),
                               tokens_of_items(histories, item_tokens))

    def named(entity, row):
        return "".join(f"<{entity}-{level}-{code}>" for level, code in enumerate(row) if code >= 0)

    for row in range(200):
        sentence = TEMPLATES[chosen[row]].replace("{user}", named("user", users[row]))
        sentence = sentence.replace("{items}", "".join(named("item", codes[item]) for item in histories[row]))
        assert prompts[row].tolist() == [*tokenizer.encode(sentence), END]


def test_recent_items_equal_a_slow_reference(histories):
    generator = np.random.default_rng(2)
    lengths, room = np.array([0, 3, 1, 2, 3, 0, 1, 1, 2]), generator.integers(0, 15, size=200)
    kept = recent_items(histories, lengths, room, max_items=5)
    for row in range(200):
        wanted, used = [], 0
        for item in histories[row][::-1]:
            if lengths[item]:
                used += lengths[item]
                if used > room[row] or len(wanted) == 5:
                    break
                wanted.insert(0, item)
        assert kept[row].tolist() == wanted


def test_shuffling_keeps_the_items_of_each_row(histories):
    seeds = np.random.default_rng(3).integers(0, 2**64, size=200, dtype=np.uint64)
    moved = shuffled(histories, seeds)
    assert all(sorted(one) == sorted(two) for one, two in zip(histories, moved, strict=True))
    assert not np.array_equal(moved.values, histories.values)


def test_a_row_is_shuffled_alike_whatever_stands_beside_it(histories):
    seeds = np.random.default_rng(3).integers(0, 2**64, size=200, dtype=np.uint64)
    rows = np.array([17, 3, 99, 150])
    alone = shuffled(histories.take(rows), seeds[rows])
    assert np.array_equal(shuffled(histories, seeds).take(rows).values, alone.values)


def test_every_order_is_as_likely():
    seeds = np.random.default_rng(4).integers(0, 2**64, size=12000, dtype=np.uint64)
    orders = shuffled(Ragged(np.tile(np.arange(3, dtype=np.int32), 12000), np.arange(12001) * 3), seeds).padded(-1)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert np.abs(counts - 2000).max() < 5 * np.sqrt(2000 * 5 / 6)


def test_there_are_ten_seen_templates_and_others_apart():
    assert len(set(TEMPLATES)) == 12
    assert len(SEEN_TEMPLATES) == 10
    assert TEMPLATES[UNSEEN] == UNSEEN_TEMPLATE
    assert all(template.count("{user}") == template.count("{items}") == 1 for template in TEMPLATES[:USER_ONLY])
    assert "{items}" not in TEMPLATES[USER_ONLY]


def test_the_words_of_the_unseen_template_occur_in_seen_ones():
    seen = train_word_tokenizer(TEXT[:UNSEEN])
    assert seen.id_of("<unk>") not in seen.encode(TEXT[UNSEEN]) + seen.encode(TEXT[USER_ONLY])


def test_a_template_with_other_slots_is_refused():
    with pytest.raises(ValueError, match=r"has the slots \{items\}; expected \{user\} once"):
        compile_templates(["what of {items}?"], lambda text: [2], END)
