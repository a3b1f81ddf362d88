"""The vocabulary of code tokens: one entry for each (level, code), and for hashed users.

Layout: padding, end, the codes of level 0, of level 1, ..., then the user buckets. Shapes: N items, L levels.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from pipeline_lib.ragged import Ragged

PAD, END, FIRST_CODE = 0, 1, 2


@dataclass(frozen=True)
class Vocabulary:
    """``level_offsets[l] + code`` is the token of a code; ``user_offset + bucket`` that of a user."""

    level_sizes: tuple[int, ...]
    level_offsets: tuple[int, ...]
    user_offset: int
    user_buckets: int

    @classmethod
    def build(cls, level_sizes: tuple[int, ...], user_buckets: int = 0) -> "Vocabulary":
        ends = FIRST_CODE + np.cumsum(level_sizes)
        offsets = tuple(int(end - size) for end, size in zip(ends, level_sizes, strict=True))
        return cls(tuple(level_sizes), offsets, int(ends[-1]), user_buckets)

    @classmethod
    def from_json(cls, tree: Mapping) -> "Vocabulary":
        return cls(tuple(tree["level_sizes"]), tuple(tree["level_offsets"]), tree["user_offset"], tree["user_buckets"])

    def to_json(self) -> dict:
        return {"pad": PAD, "end": END, **asdict(self), "size": self.size}

    @property
    def size(self) -> int:
        return self.user_offset + self.user_buckets

    def item_tokens(self, codes: np.ndarray) -> Ragged:
        """Tokens of each item, from ``(N, L)`` codes; the -1 of shorter identifiers is left out."""
        tokens = codes + np.array(self.level_offsets, dtype=np.int32)
        present = codes >= 0
        offsets = np.zeros(len(codes) + 1, dtype=np.int64)
        np.cumsum(present.sum(axis=1), out=offsets[1:])
        return Ragged(tokens[present].astype(np.int32), offsets)

    def user_tokens(self, users: np.ndarray) -> np.ndarray:
        """``(n,)`` int32: the bucket of each user, by multiplicative hashing, so that neighbours in number part."""
        buckets = (users.astype(np.uint64) * np.uint64(2654435761) % np.uint64(2**32)) % np.uint64(self.user_buckets)
        return (self.user_offset + buckets).astype(np.int32)


def tokens_of_histories(histories: Ragged, item_tokens: Ragged, first: np.ndarray | None = None) -> Ragged:
    """Replace the items of each history by their tokens, behind one token of ``first (n,)`` where given."""
    parts = item_tokens.take(histories.values)
    ends = np.concatenate([[0], np.cumsum(parts.lengths)])
    offsets = ends[histories.offsets]
    if first is None:
        return Ragged(parts.values, offsets)
    return Ragged(np.insert(parts.values, offsets[:-1], first), offsets + np.arange(len(offsets)))
