"""Prompts that ask for one candidate; a letter is a token."""

import numpy as np
import pytest

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.yes_no_prompts import (
    ANSWER, CANDIDATE, INSTRUCTION, WORDS, compile_yes_no_prompts, text_tokens,
)

WORDS_LENGTH = sum(map(len, WORDS))
ITEMS = Ragged.from_rows([list(map(ord, name)) for name in ("ab", "cde", "", "f", "ghij")])


def encode(text):
    return [ord(letter) for letter in text]


def compiled(**changes):
    return compile_yes_no_prompts(encode, ITEMS, **{"max_items": 3, "max_tokens": WORDS_LENGTH + 60} | changes)


def asked(prompts, histories, candidates):
    rows = prompts.prompts(prompts.shortened(Ragged.from_rows(histories)), np.array(candidates))
    return ["".join(map(chr, row)) for row in rows]


def test_prompts_worked_by_hand():
    assert asked(compiled(), [[0, 1], [], [4]], [3, 0, 2]) == [
        f"{INSTRUCTION}\n(1)ab\n(2)cde{CANDIDATE}f{ANSWER}", f"{INSTRUCTION}{CANDIDATE}ab{ANSWER}",
        f"{INSTRUCTION}\n(1)ghij{CANDIDATE}{ANSWER}"]
    assert asked(compiled(numbered=False), [[1]], [0]) == [f"{INSTRUCTION}\ncde{CANDIDATE}ab{ANSWER}"]


def test_the_last_items_are_kept_and_those_without_tokens_take_no_place():
    assert asked(compiled(), [[4, 1, 0, 2, 3, 2]], [0]) == [f"{INSTRUCTION}\n(1)cde\n(2)ab\n(3)f{CANDIDATE}ab{ANSWER}"]


def test_no_prompt_is_longer_than_allowed_and_no_item_is_cut():
    rng = np.random.default_rng(0)
    histories = [rng.integers(0, 5, size=rng.integers(0, 9)) for _ in range(200)]
    candidates = rng.integers(0, 5, size=200)
    for room in (12, 17, 25):
        prompts = compiled(max_tokens=WORDS_LENGTH + room)
        rows = asked(prompts, histories, candidates)
        assert max(map(len, rows)) <= WORDS_LENGTH + room
        for row, history, candidate in zip(rows, histories, candidates, strict=True):
            names = ["".join(map(chr, ITEMS[item])) for item in history if len(ITEMS[item])]
            wanted = "".join(map(chr, ITEMS[candidate]))
            suffixes = [names[start:] for start in range(len(names) + 1)]
            lines = ["".join(f"\n({place + 1}){name}" for place, name in enumerate(suffix)) for suffix in suffixes]
            assert row in {f"{INSTRUCTION}{line}{CANDIDATE}{wanted}{ANSWER}" for line in lines}


def test_lengths_are_those_of_the_prompts():
    prompts, rows, candidates = compiled(), np.array([1, 0, 1, 2]), np.array([4, 1, 2, 0])
    histories = prompts.shortened(Ragged.from_rows([[0, 1], [], [4, 2, 3]]))
    made = prompts.prompts(histories.take(rows), candidates)
    assert prompts.lengths(histories, rows, candidates).tolist() == made.lengths.tolist()


def test_items_are_said_but_not_unwanted_candidates():
    prompts, histories = compiled(), Ragged.from_rows([[0, 1], [0, 1], []])
    candidates, wanted = np.array([4, 4, 0]), np.array([True, False, True])
    said, tokens = prompts.said(histories, candidates, wanted), prompts.prompts(histories, candidates)
    assert "".join(map(chr, tokens.values[said])) == "abcdeghij" + "abcde" + "ab"


def test_texts_are_cut_and_an_empty_one_has_no_token():
    tokens = text_tokens(lambda texts: [encode(text) for text in texts], ["abc", "", "d"], 3)
    assert ["".join(map(chr, row)) for row in tokens] == [" ab", "", " d"]


def test_too_few_tokens_and_items_without_any_are_refused():
    with pytest.raises(ValueError, match=f"max_tokens is 99, but .* take up to {WORDS_LENGTH + 12}; raise it"):
        compiled(max_tokens=99)
    assert compiled(max_tokens=WORDS_LENGTH + 12).max_tokens
    with pytest.raises(ValueError, match="no item has a text that could be shown"):
        compile_yes_no_prompts(encode, Ragged.from_rows([[], []]), max_items=3, max_tokens=500)
