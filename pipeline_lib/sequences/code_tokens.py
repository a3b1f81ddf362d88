"""The vocabulary of code tokens: one entry for each (level, code), and for hashed users.

Layout: padding, end, the codes of level 0, of level 1, ..., then the user buckets. Labels close with the end where
identifiers vary in length, and only there. Shapes: N items, L levels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pipeline_lib.ragged import Ragged

PAD, END, FIRST_CODE = 0, 1, 2


@dataclass(frozen=True)
class Vocabulary:
    """``level_offsets[l] + code`` is the token of a code; ``user_offset + bucket`` that of a user.

    ``has_ends``: whether identifiers vary in length, so that the model has to say where one ends.
    """

    level_sizes: tuple[int, ...]
    level_offsets: tuple[int, ...]
    user_offset: int
    user_buckets: int
    has_ends: bool = False

    @classmethod
    def build(cls, level_sizes: tuple[int, ...], user_buckets: int = 0, has_ends: bool = False) -> "Vocabulary":
        ends = FIRST_CODE + np.cumsum(level_sizes)
        offsets = tuple(int(end - size) for end, size in zip(ends, level_sizes, strict=True))
        return cls(tuple(level_sizes), offsets, int(ends[-1]), user_buckets, has_ends)

    @classmethod
    def from_json(cls, tree: Mapping) -> "Vocabulary":
        return cls(tuple(tree["level_sizes"]), tuple(tree["level_offsets"]), tree["user_offset"], tree["user_buckets"],
                   tree.get("has_ends", False))

    def to_json(self) -> dict:
        """``has_ends`` is written only where it is true."""
        tree = {"pad": PAD, "end": END, **asdict(self), "size": self.size}
        return tree if self.has_ends else {name: value for name, value in tree.items() if name != "has_ends"}

    @property
    def size(self) -> int:
        return self.user_offset + self.user_buckets

    @property
    def search_levels(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Offsets and sizes of the levels that decoding goes through: with ends, one more, which has no code."""
        return self.level_offsets + (END,) * self.has_ends, self.level_sizes + (0,) * self.has_ends

    def item_tokens(self, codes: np.ndarray) -> Ragged:
        """Tokens of each item, from ``(N, L)`` codes; the -1 of shorter identifiers is left out."""
        tokens = codes + np.array(self.level_offsets, dtype=np.int32)
        present = codes >= 0
        offsets = np.zeros(len(codes) + 1, dtype=np.int64)
        np.cumsum(present.sum(axis=1), out=offsets[1:])
        return Ragged(tokens[present].astype(np.int32), offsets)

    def label_tokens(self, codes: np.ndarray) -> Ragged:
        """What the model is to say for each item: its tokens, and the end behind them where there are ends."""
        tokens = self.item_tokens(codes)
        if not self.has_ends:
            return tokens
        offsets = tokens.offsets + np.arange(len(tokens.offsets))
        return Ragged(np.insert(tokens.values, tokens.offsets[1:], END), offsets)

    def user_tokens(self, users: np.ndarray) -> np.ndarray:
        """``(n,)`` int32: the bucket of each user, by multiplicative hashing, so that neighbours in number part."""
        buckets = (users.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)) % np.uint64(self.user_buckets)
        return (self.user_offset + buckets).astype(np.int32)


def tokens_of_histories(histories: Ragged, item_tokens: Ragged, first: np.ndarray | None = None) -> Ragged:
    """Replace the items of each history by their tokens, behind one token of ``first (n,)`` where given, before END.

    An encoder with relative positions alone, such as T5's, finds the most recent item by the end token beside it.
    """
    parts = item_tokens.take(histories.values)
    ends = np.concatenate([[0], np.cumsum(parts.lengths)])
    offsets = ends[histories.offsets]
    tokens, offsets = np.insert(parts.values, offsets[1:], END), offsets + np.arange(len(offsets))
    if first is None:
        return Ragged(tokens, offsets)
    return Ragged(np.insert(tokens, offsets[:-1], first), offsets + np.arange(len(offsets)))
