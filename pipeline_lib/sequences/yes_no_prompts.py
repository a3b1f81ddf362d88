"""Prompts that ask whether a user wants one item: instruction, history, candidate, answer cue.

Items are given by any tokens, those of their codes or of their texts; a prompt is one gather over pieces.
Shapes: n prompts, u histories, N items.
Source: Liu et al. 2024, "STORE: Streamlining Semantic Tokenization and Generative Recommendation with a Single LLM",
section 3.3, the scoring task; the wording is our own.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.prompts import recent_items, tokens_of_items

YES, NO = "YES", "NO"
INSTRUCTION = f"You recommend items. Say {YES} if the user wants the candidate item, or {NO} if not.\nUser history:"
CANDIDATE, ANSWER = "\nCandidate item:", "\nAnswer:"
WORDS = (INSTRUCTION, CANDIDATE, ANSWER)
NUMBERED, PLAIN = "\n({number})", "\n"


@dataclass(frozen=True)
class YesNoPrompts:
    """What prompts are put together from; build it with `compile_yes_no_prompts`.

    ``pieces``: those of `WORDS`, the beginnings of lines, then the N items, of which ``first_item`` is the first.
    """

    pieces: Ragged
    first_item: int
    max_items: int
    max_tokens: int

    def shortened(self, histories: Ragged) -> Ragged:
        """The most recent items of u histories that fit beside the words and any candidate, oldest first."""
        lengths = self.pieces.lengths
        items = lengths[self.first_item :]
        line = lengths[len(WORDS) : self.first_item].max()
        taken = lengths[: len(WORDS)].sum() + items.max()
        room = np.full(len(histories), self.max_tokens - taken)
        return recent_items(histories, np.where(items > 0, items + line, 0), room, self.max_items)

    def prompts(self, histories: Ragged, candidates: np.ndarray) -> Ragged:
        """Token ids of n prompts.

        Args:
            histories: n rows, as `shortened` leaves them.
            candidates: ``(n,)``, an item each.
        """
        return tokens_of_items(self._parts(histories, candidates), self.pieces)

    def said(self, histories: Ragged, candidates: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Bool, one for each token of `prompts`: those of items, but not of candidates that are not ``wanted (n,)``."""
        parts = self._parts(histories, candidates)
        chosen = parts.values >= self.first_item
        chosen[parts.offsets[1:] - 2] = wanted
        return np.repeat(chosen, self.pieces.lengths[parts.values])

    def lengths(self, histories: Ragged, rows: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """``(n,)`` int64: tokens of prompts for ``rows (n,)`` of u histories, without making them."""
        item_lengths = self.pieces.lengths[self.first_item :]
        parts = self._parts(histories, np.zeros(len(histories), dtype=np.int64))
        total = np.concatenate([[0], np.cumsum(self.pieces.lengths[parts.values])])
        of_history = np.diff(total[parts.offsets]) - item_lengths[0]
        return of_history[rows] + item_lengths[candidates]

    def _parts(self, histories: Ragged, candidates: np.ndarray) -> Ragged:
        """The instruction, a line and an item by turns, the heading of the candidate, the candidate, the cue."""
        place = np.arange(len(histories.values)) - np.repeat(histories.offsets[:-1], histories.lengths)
        inner = np.stack([len(WORDS) + place, self.first_item + histories.values], axis=1).ravel()
        count, word = len(histories), WORDS.index
        before = np.full((count, 1), word(INSTRUCTION))
        behind = np.column_stack([np.full(count, word(CANDIDATE)), self.first_item + candidates,
                                  np.full(count, word(ANSWER))])
        around = np.concatenate([before, behind], axis=1).ravel()
        starts, ends = 2 * histories.offsets[:-1], 2 * histories.offsets[1:]
        values = np.insert(inner, np.stack([starts, ends, ends, ends], axis=1).ravel(), around)
        return Ragged(values, 2 * histories.offsets + 4 * np.arange(count + 1))


def compile_yes_no_prompts(encode: Callable[[str], list[int]], item_tokens: Ragged, *, max_items: int, max_tokens: int,
                           numbered: bool = True) -> YesNoPrompts:
    """Tokenize the words once.

    Args:
        encode: text -> ids.
        item_tokens: N rows of ids; an item without any is left out of histories.
        max_items: items of a history at most.
        max_tokens: tokens of a prompt at most: older items are left out, never half an item.
        numbered: whether lines of a history have numbers.

    Raises:
        ValueError: if no item has tokens, or the words and two items do not fit into ``max_tokens``.
    """
    if not len(item_tokens.values):
        raise ValueError("no item has a text that could be shown; set ingest.text or ingest.title, or "
                         "recommender.scoring_lm.inputs=codes")
    lines = [encode((NUMBERED if numbered else PLAIN).format(number=place + 1)) for place in range(max_items)]
    before = Ragged.from_rows([*(encode(words) for words in WORDS), *lines])
    needed = before.lengths[: len(WORDS)].sum() + before.lengths[len(WORDS) :].max() + 2 * item_tokens.lengths.max()
    if needed > max_tokens:
        raise ValueError(f"params: max_tokens is {max_tokens}, but the words of a prompt with one item and a candidate "
                         f"take up to {needed}; raise it")
    pieces = Ragged(np.concatenate([before.values, item_tokens.values]),
                    np.concatenate([before.offsets, before.offsets[-1] + item_tokens.offsets[1:]]))
    return YesNoPrompts(pieces, len(before), max_items, max_tokens)


def text_tokens(encode_all: Callable[[list[str]], list[list[int]]], texts: list[str], max_text: int) -> Ragged:
    """N rows of ids: each text behind a space, cut to ``max_text``; nothing for an empty one."""
    rows = encode_all([f" {text}" for text in texts])
    return Ragged.from_rows([row[:max_text] if text else [] for row, text in zip(rows, texts, strict=True)])
