"""Instructions for decoder-only language models: words and code tokens in one sequence, and what of it is to be said.

A prompt is short, since a model that is trained on it needs no explanation, and its words are the same for every user:
an item costs its codes and a number. Ids below ``first_code`` are words; from there on, codes level after level, and
the end of an identifier where identifiers vary in length.

Shapes: n examples, N items, L levels, P pieces.
Source: Liu et al. 2024, "STORE: Streamlining Semantic Tokenization and Generative Recommendation with a Single LLM",
section 3.3; the wording is our own. Item to text: Zheng et al. 2024, "Adapting Large Language Models by Integrating
Collaborative Semantics for Recommendation" (LC-Rec), section 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.prompts import code_tokens, recent_items, tokens_of_items

NEXT_ITEM, TEXT_TO_ITEM, ITEM_TO_TEXT = TASKS = ("next_item", "text_to_item", "item_to_text")
HISTORY, NEXT = "User history:", "\nNext item:"
DESCRIPTION, ITS_ITEM = "Find the item. Description:", "\nItem:"
ITEM, ITS_DESCRIPTION = "Describe the item:", "\nDescription:"
WORDS = (HISTORY, NEXT, DESCRIPTION, ITS_ITEM, ITEM, ITS_DESCRIPTION)
NUMBERED, PLAIN = "\n({number})", "\n"


@dataclass(frozen=True)
class Instructions:
    """What sequences are put together from; build it with `compile_instructions`.

    ``pieces``: P rows, those of `WORDS`, the end of a text, the beginnings of lines, the N items, their N texts, of
    which ``first_line``, ``first_item`` and ``first_text`` are the first. Ids from ``first_code`` on are code tokens.
    """

    pieces: Ragged
    first_line: int
    first_item: int
    first_text: int
    first_code: int
    max_items: int
    max_tokens: int

    @property
    def has_text(self) -> np.ndarray:
        """``(N,)`` bool: which items have a text at all."""
        return self.pieces.lengths[self.first_text :] > 0

    def shortened(self, histories: Ragged) -> Ragged:
        """The most recent items of n histories that fit beside the words and a target, oldest first; none is cut."""
        lengths = self.pieces.lengths
        items = lengths[self.first_item : self.first_text]
        taken = lengths[WORDS.index(HISTORY)] + lengths[WORDS.index(NEXT)] + items.max()
        line = lengths[self.first_line : self.first_item].max()
        return recent_items(histories, items + line, np.full(len(histories), self.max_tokens - taken), self.max_items)

    def share_cut(self, histories: Ragged) -> float:
        """Of the most recent ``max_items`` of each history, the share of items that ``max_tokens`` has no room for."""
        wanted = int(np.minimum(histories.lengths, self.max_items).sum())
        return 1 - len(self.shortened(histories).values) / wanted if wanted else 0.0

    def prompts(self, histories: Ragged) -> Ragged:
        """Token ids of n prompts that ask for the next item of histories of any length."""
        return tokens_of_items(self._history_parts(histories), self.pieces)

    def parts(self, task: str, histories: Ragged, targets: np.ndarray) -> Ragged:
        """The pieces of each of n examples of one task, the target's at the end; ``targets (n,)``: an item each."""
        if task == NEXT_ITEM:
            asked = self._history_parts(histories)
            ends = asked.offsets + np.arange(len(asked.offsets))
            return Ragged(np.insert(asked.values, asked.offsets[1:], self.first_item + targets), ends)
        word, item, text = WORDS.index, self.first_item + targets, self.first_text + targets
        columns = {TEXT_TO_ITEM: (word(DESCRIPTION), text, word(ITS_ITEM), item),
                   ITEM_TO_TEXT: (word(ITEM), item, word(ITS_DESCRIPTION), text, len(WORDS))}[task]
        rows = np.column_stack(np.broadcast_arrays(*columns))
        return Ragged(rows.ravel(), np.arange(len(targets) + 1) * len(columns))

    def lengths(self, task: str, histories: Ragged, targets: np.ndarray) -> np.ndarray:
        """``(n,)`` int64: tokens of each example, as `sequences` makes it."""
        parts = self.parts(task, histories, targets)
        total = np.concatenate([[0], np.cumsum(self.pieces.lengths[parts.values])])
        return np.diff(total[parts.offsets])

    def sequences(self, task: str, histories: Ragged, targets: np.ndarray,
                  every_item: bool) -> tuple[Ragged, np.ndarray]:
        """Token ids of n examples of one task, and which of them the model is to say.

        Args:
            every_item: of ``next_item``, the codes of history items are to be said too, not the target's alone.

        Returns:
            tokens: n rows.
            said: bool, one for each of ``tokens.values``.
        """
        parts = self.parts(task, histories, targets)
        if task == NEXT_ITEM and every_item:
            wanted = parts.values >= self.first_item
        else:
            from_end = np.repeat(parts.offsets[1:], parts.lengths) - np.arange(len(parts.values))
            wanted = from_end <= (2 if task == ITEM_TO_TEXT else 1)  # a text and its end, or an item
        return tokens_of_items(parts, self.pieces), np.repeat(wanted, self.pieces.lengths[parts.values])

    def _history_parts(self, histories: Ragged) -> Ragged:
        """The heading, a line and an item by turns, the question."""
        kept = self.shortened(histories)
        place = np.arange(len(kept.values)) - np.repeat(kept.offsets[:-1], kept.lengths)
        inner = np.stack([self.first_line + place, self.first_item + kept.values], axis=1).ravel()
        around = np.tile([WORDS.index(HISTORY), WORDS.index(NEXT)], len(kept))
        ends = np.stack([kept.offsets[:-1], kept.offsets[1:]], axis=1).ravel()  # of each row, both
        values = np.insert(inner, 2 * ends, around)
        return Ragged(values, 2 * kept.offsets + 2 * np.arange(len(kept) + 1))


def compile_instructions(encode: Callable[[str], list[int]], *, end: int, first_code: int, codes: np.ndarray,
                         level_sizes: Sequence[int], texts: Sequence[str], max_items: int, max_tokens: int,
                         max_text: int, numbered: bool = True) -> Instructions:
    """Tokenize words, items and texts once.

    Args:
        encode: text -> ids below ``first_code``.
        end: the id that closes a text.
        first_code: the id of the first code.
        codes: ``(N, L)`` int, right-padded with -1.
        level_sizes: codes of each level.
        texts: N of them, or none at all.
        max_items: items of a history at most.
        max_tokens: tokens of a sequence at most, the target included.
        max_text: tokens of a text at most, which is cut.
        numbered: whether lines of a history have numbers.

    Raises:
        ValueError: if the words, and one item or a text, do not fit into ``max_tokens``.
    """
    line = NUMBERED if numbered else PLAIN
    lines = [encode(line.format(number=place + 1)) for place in range(max_items)]
    before = [*(encode(words) for words in WORDS), [end], *lines]
    items = identifier_tokens(codes, level_sizes, first_code)
    described = [encode(f" {text}")[:max_text] if text else [] for text in texts] or [[]] * len(codes)
    pieces = Ragged.from_rows([*before, *items, *described])
    first_item = len(before)
    lengths, longest = [len(row) for row in before], int(items.lengths.max())
    history = sum(lengths[:2]) + max(map(len, lines)) + 2 * longest
    longest_text = max(map(len, described))
    description = max(sum(lengths[2:4]), sum(lengths[4:6])) + longest + longest_text + 1
    needed = max(history, description if longest_text else 0)
    if needed > max_tokens:
        raise ValueError(f"params: max_tokens is {max_tokens}, but the words of an instruction with one item, or with "
                         f"a text of up to {max_text} tokens, take {needed}; raise it")
    return Instructions(pieces, len(WORDS) + 1, first_item, first_item + len(codes), first_code, max_items, max_tokens)


def identifier_tokens(codes: np.ndarray, level_sizes: Sequence[int], first: int) -> Ragged:
    """N rows of ids from ``first`` on: the codes of each item, and behind them the end where items differ in length."""
    tokens = code_tokens(codes, level_sizes, first)
    if not (codes < 0).any():
        return tokens
    return Ragged(np.insert(tokens.values, tokens.offsets[1:], first + sum(level_sizes)),
                  tokens.offsets + np.arange(len(tokens.offsets)))
