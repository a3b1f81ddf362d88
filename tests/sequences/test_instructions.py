import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.instructions import (
    DESCRIPTION, HISTORY, ITEM, ITEM_TO_TEXT, ITS_DESCRIPTION, ITS_ITEM, NEXT, NEXT_ITEM, TEXT_TO_ITEM,
    compile_instructions, identifier_tokens,
)

FIRST, END = 1000, 999
CODES = np.array([[0, 1], [2, 0], [2, 3], [1, 1]])
TEXTS = ["red", "blue and green", "", "brown"]


def encode(text):
    """A token a character, so that sequences can be read."""
    return [ord(letter) for letter in text]


def read(tokens):
    return "".join(chr(token) if token < END else "$" if token == END else f"[{token - FIRST}]" for token in tokens)


def instructions(codes=CODES, **changes):
    options = {"texts": TEXTS, "max_items": 3, "max_tokens": 200, "max_text": 8} | changes
    return compile_instructions(encode, end=END, first_code=FIRST, codes=codes, level_sizes=(3, 4), **options)


def test_the_next_item_worked_by_hand():
    made = instructions()
    histories, targets = Ragged.from_rows([[0, 1], [], [3]]), np.array([2, 1, 0])
    tokens, said = made.sequences(NEXT_ITEM, histories, targets, every_item=False)
    assert [read(row) for row in tokens] == [
        f"{HISTORY}\n(1)[0][4]\n(2)[2][3]{NEXT}[2][6]", f"{HISTORY}{NEXT}[2][3]", f"{HISTORY}\n(1)[1][4]{NEXT}[0][4]"]
    assert [read(tokens.values[said])] == ["[2][6][2][3][0][4]"]
    assert [read(row) for row in made.prompts(histories)] == [read(row)[: -len("[0][0]")] for row in tokens]


def test_every_code_of_a_history_is_said_where_wanted_and_no_word():
    histories, targets = Ragged.from_rows([[0, 1], [3]]), np.array([2, 0])
    tokens, said = instructions().sequences(NEXT_ITEM, histories, targets, every_item=True)
    assert read(tokens.values[said]) == "[0][4][2][3][2][6][1][4][0][4]"


def test_texts_and_items_worked_by_hand_with_a_text_that_is_cut():
    made, none = instructions(), Ragged.from_rows([[], []])
    tokens, said = made.sequences(TEXT_TO_ITEM, none, np.array([0, 1]), every_item=True)
    assert [read(row) for row in tokens] == [f"{DESCRIPTION} red{ITS_ITEM}[0][4]",
                                             f"{DESCRIPTION} blue an{ITS_ITEM}[2][3]"]
    assert read(tokens.values[said]) == "[0][4][2][3]"
    tokens, said = made.sequences(ITEM_TO_TEXT, none, np.array([0, 1]), every_item=True)
    assert [read(row) for row in tokens] == [f"{ITEM}[0][4]{ITS_DESCRIPTION} red$",
                                             f"{ITEM}[2][3]{ITS_DESCRIPTION} blue an$"]
    assert read(tokens.values[said]) == " red$ blue an$"
    assert made.has_text.tolist() == [True, True, False, True]


def test_the_last_items_are_kept_and_numbered_anew():
    prompts = instructions().prompts(Ragged.from_rows([[3, 2, 0, 1, 0]]))
    assert read(prompts[0]) == f"{HISTORY}\n(1)[0][4]\n(2)[2][3]\n(3)[0][4]{NEXT}"


def test_lines_without_numbers():
    prompts = instructions(numbered=False).prompts(Ragged.from_rows([[3, 2]]))
    assert read(prompts[0]) == f"{HISTORY}\n[1][4]\n[2][6]{NEXT}"


@pytest.mark.parametrize("max_tokens", [70, 73, 80, 85, 200])
def test_no_item_is_cut_and_nothing_is_longer_than_allowed(max_tokens):
    made = instructions(max_items=20, max_tokens=max_tokens, max_text=3)
    histories = Ragged.from_rows([[0, 1, 2, 3] * 5, [1, 2], []])
    tokens, _ = made.sequences(NEXT_ITEM, histories, np.array([0, 1, 2]), every_item=True)
    assert tokens.lengths.max() <= max_tokens
    kept = made.shortened(histories)
    for row, history in zip(kept, histories, strict=True):
        assert row.tolist() == history.tolist()[len(history) - len(row) :]
    room = max_tokens - len(HISTORY) - len(NEXT) - 2
    assert len(kept[0]) == min(20, room // (2 + len("\n(10)")))


def test_the_share_without_room_worked_by_hand():
    room_for_two = len(HISTORY) + len(NEXT) + 2 + 2 * 3
    made = instructions(texts=[], numbered=False, max_tokens=room_for_two)
    assert made.share_cut(Ragged.from_rows([[0, 1, 2, 3], [1], []])) == 0.25  # of the last three, and of one
    assert made.share_cut(Ragged.from_rows([[]])) == 0


def test_lengths_are_those_of_the_sequences():
    made, histories, targets = instructions(), Ragged.from_rows([[0, 1, 1, 2, 3], [], [3]]), np.array([2, 1, 0])
    for task in (NEXT_ITEM, TEXT_TO_ITEM, ITEM_TO_TEXT):
        tokens, said = made.sequences(task, histories, targets, every_item=True)
        assert made.lengths(task, histories, targets).tolist() == tokens.lengths.tolist()
        assert len(said) == len(tokens.values)


def test_a_plain_loop_puts_together_the_same():
    rng = np.random.default_rng(0)
    codes = np.array([[0, -1], [2, 0], [2, -1], [1, 1]])
    made = instructions(codes, max_items=4)
    histories = Ragged.from_rows([rng.integers(0, 4, size=rng.integers(0, 7)) for _ in range(30)])
    targets = rng.integers(0, 4, size=30)
    spelt = ["[0][7]", "[2][3][7]", "[2][7]", "[1][4][7]"]  # 7 is the end, since items differ in length
    tokens, _ = made.sequences(NEXT_ITEM, histories, targets, every_item=True)
    for row, history, target in zip(tokens, histories, targets, strict=True):
        lines = "".join(f"\n({place + 1}){spelt[item]}" for place, item in enumerate(history[-4:]))
        assert read(row) == HISTORY + lines + NEXT + spelt[target]


def test_code_ids_of_different_levels_never_overlap_and_lead_back_to_the_codes():
    codes = np.stack(np.meshgrid(range(3), range(4), range(2), indexing="ij"), -1).reshape(-1, 3)
    tokens = identifier_tokens(codes, (3, 4, 2), first=50).padded(-1)
    levels = [set(column) for column in tokens.T]
    assert sum(map(len, levels)) == len(set.union(*levels)) == 9
    assert np.array_equal(tokens - 50 - np.array([0, 3, 7]), codes)


def test_no_room_for_one_item_or_a_text_is_refused():
    needed = len(HISTORY) + len(NEXT) + len("\n(1)") + 4
    assert len(instructions(texts=[], max_tokens=needed).shortened(Ragged.from_rows([[0, 1]]))[0]) == 1
    with pytest.raises(ValueError, match=f"max_tokens is {needed - 1}.* take {needed}; raise it"):
        instructions(texts=[], max_tokens=needed - 1)
    with pytest.raises(ValueError, match="with a text of up to 100 tokens"):
        instructions(texts=["x" * 100] * 4, max_text=100, max_tokens=100)
