"""Prompts: sentences with a slot for a user's tokens and one for the tokens of a history, put together as arrays.

Sentences are tokenized once, piece by piece; a batch is then one gather over pieces, users and items.
Shapes: n prompts, P templates, N items, L levels.
Source: Qu et al. 2024, "TokenRec: Learning to Tokenize ID for LLM-based Generative Recommendations", section 3.4.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.sequences.code_tokens import Vocabulary

SEEN_TEMPLATES = (
    "The user {user} has bought the items {items} so far. Which item comes next?",
    "Here is what {user} has chosen before: {items}. What will this user like?",
    "Given the purchase history {items} of the user {user}, predict the preferences of this user.",
    "Considering that {user} has interacted with {items}, describe what this user is looking for.",
    "After {items}, what would the user {user} choose?",
    "{user} likes {items}. Recommend an item to this user.",
    "Items {items} were taken by {user}. Tell what this user will take next.",
    "A user, {user}, was interested in {items}. Predict the next interest.",
    "Look at the history of {user}: {items}. Find an item for this user.",
    "What does {user} like, given the items {items} in the history?",
)
UNSEEN_TEMPLATE = "Considering the items {items}, recommend what {user} would like next."
USER_ONLY_TEMPLATE = "What will the user {user} like?"
TEMPLATES = (*SEEN_TEMPLATES, UNSEEN_TEMPLATE, USER_ONLY_TEMPLATE)
UNSEEN, USER_ONLY = len(SEEN_TEMPLATES), len(SEEN_TEMPLATES) + 1  # places in TEMPLATES
DECODER_SENTENCE = "The next item that this user will like is"
SLOTS = ("{user}", "{items}")


@dataclass(frozen=True)
class Templates:
    """``pieces``: 3 P rows, the text before, between and behind the slots of each template, the end token behind all.

    ``user_first (P,)``: which slot comes first; ``has_items (P,)``: whether there is a slot for a history at all.
    """

    pieces: Ragged
    user_first: np.ndarray
    has_items: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """``(P,)`` int64: the tokens of a template's text, its end included."""
        return self.pieces.lengths.reshape(-1, 3).sum(axis=1)


def compile_templates(templates: Sequence[str], encode: Callable[[str], list[int]], end: int) -> Templates:
    """Tokenize the text of templates.

    Args:
        templates: each with the slot ``{user}`` once, and ``{items}`` once or not at all.
        encode: text -> token ids, without special tokens.
        end: the token that closes a prompt.

    Raises:
        ValueError: for a template with other slots.
    """
    pieces, user_first, has_items = [], [], []
    for template in templates:
        parts = re.split(r"(\{\w*\})", template)
        text, slots = parts[::2], tuple(parts[1::2])
        if slots not in (SLOTS, SLOTS[::-1], SLOTS[:1]):
            raise ValueError(f"template {template!r} has the slots {', '.join(slots) or 'none'}; expected {{user}} "
                             "once, and {items} at most once")
        rows = [encode(piece.strip()) if piece.strip() else [] for piece in (text + [""])[:3]]
        rows[-1] = [*rows[-1], end]
        pieces += rows
        user_first.append(slots[0] == SLOTS[0])
        has_items.append(SLOTS[1] in slots)
    return Templates(Ragged.from_rows(pieces), np.array(user_first), np.array(has_items))


def assemble_prompts(templates: Templates, chosen: np.ndarray, users: Ragged, items: Ragged) -> Ragged:
    """Fill in templates.

    Args:
        chosen: ``(n,)`` int, the template of each prompt; one without a slot for items takes none.
        users: n rows of tokens, empty ones for users without.
        items: n rows of tokens, all items of a prompt one behind the other.
    """
    count, before = len(chosen), len(templates.pieces)
    pool = _joined(templates.pieces, users, _without(items, ~templates.has_items[chosen]))
    user, item = before + np.arange(count), before + count + np.arange(count)
    user_first = templates.user_first[chosen]
    first, second = np.where(user_first, user, item), np.where(user_first, item, user)
    text = 3 * chosen
    together = pool.take(np.stack([text, first, text + 1, second, text + 2], axis=1).ravel())
    return Ragged(together.values, together.offsets[::5])


def recent_items(histories: Ragged, item_lengths: np.ndarray, room: np.ndarray, max_items: int) -> Ragged:
    """The most recent items of n histories that have tokens and fit, oldest first; no item is cut.

    Args:
        item_lengths: ``(N,)`` int, the tokens of each item; 0 for items without, which are left out.
        room: ``(n,)`` int, the tokens that there is room for.
        max_items: items of a prompt at most.
    """
    tokens = item_lengths[histories.values]
    to_end = [_sums_to_row_end(values, histories) for values in (tokens, tokens > 0)]
    kept = (tokens > 0) & (to_end[0] <= np.repeat(room, histories.lengths)) & (to_end[1] <= max_items)
    return Ragged(histories.values[kept], _running(kept)[histories.offsets])


def shuffled(rows: Ragged, seeds: np.ndarray) -> Ragged:
    """Each of n rows in an order that its own seed ``(n,)`` uint64 alone decides, whatever rows stand beside it."""
    place = np.arange(len(rows.values)) - np.repeat(rows.offsets[:-1], rows.lengths)
    keys = _mixed(np.repeat(seeds, rows.lengths) + place.astype(np.uint64))
    return Ragged(rows.values[np.lexsort((keys, rows.row_of_value))], rows.offsets)


def tokens_of_items(items: Ragged, item_tokens: Ragged) -> Ragged:
    """Replace the items of each row by their tokens, ``item_tokens`` having a row for each of the N items."""
    parts = item_tokens.take(items.values)
    return Ragged(parts.values, parts.offsets[items.offsets])


def code_token_names(entity: str, level_sizes: Sequence[int]) -> list[str]:
    """Names of the tokens of all codes, level after level, such as ``<item-0-17>``."""
    return [f"<{entity}-{level}-{code}>" for level, size in enumerate(level_sizes) for code in range(size)]


def code_tokens(codes: np.ndarray, level_sizes: Sequence[int], first: int) -> Ragged:
    """Tokens of each row of codes ``(N, L)``, where those of `code_token_names` begin at ``first``; none for -1."""
    offsets = first + np.cumsum([0, *level_sizes[:-1]])
    return Vocabulary(tuple(level_sizes), tuple(offsets.tolist()), 0, 0).item_tokens(codes)


def _without(rows: Ragged, emptied: np.ndarray) -> Ragged:
    return Ragged(rows.values[~np.repeat(emptied, rows.lengths)], _running(np.where(emptied, 0, rows.lengths)))


def _joined(*parts: Ragged) -> Ragged:
    return Ragged(np.concatenate([part.values for part in parts]),
                  _running(np.concatenate([part.lengths for part in parts])))


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(values, dtype=np.int64)])


def _sums_to_row_end(values: np.ndarray, rows: Ragged) -> np.ndarray:
    """The sum from each value to the end of its row."""
    total = _running(values)
    return np.repeat(total[rows.offsets[1:]], rows.lengths) - total[:-1]


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): neighbouring numbers come out unrelated."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
