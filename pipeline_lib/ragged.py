"""Rows of different lengths in two flat arrays: histories, targets, token sequences."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """``n`` rows of int32, row ``i`` being ``values[offsets[i]:offsets[i + 1]]``.

    Args:
        values: ``(total,)``, int32 unless said.
        offsets: ``(n + 1,)`` int64, from 0 to ``total``, never falling.
    """

    values: np.ndarray
    offsets: np.ndarray

    @classmethod
    def from_rows(cls, rows: Iterable[Sequence[int]]) -> "Ragged":
        arrays = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(arrays) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in arrays], out=offsets[1:])
        values = np.concatenate(arrays) if arrays else np.empty(0, dtype=np.int32)
        return cls(values, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def lengths(self) -> np.ndarray:
        """``(n,)`` int64."""
        return np.diff(self.offsets)

    @property
    def row_of_value(self) -> np.ndarray:
        """``(total,)`` int64: the row that each value stands in."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> "Ragged":
        """The given rows, each a number from 0, in the given order; as fast however many others there are."""
        starts = self.offsets[rows]
        lengths = self.offsets[np.add(rows, 1)] - starts
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Ragged(self.values[source], offsets)

    def last(self, length: int) -> "Ragged":
        """The last ``length`` values of each row, or all of a shorter one."""
        lengths = np.minimum(self.lengths, length)
        offsets = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.arange(offsets[-1]) + np.repeat(self.offsets[1:] - lengths - offsets[:-1], lengths)
        return Ragged(self.values[source], offsets)

    def padded(self, fill: int, width: int | None = None) -> np.ndarray:
        """``(n, width)`` int32, each row at the left, ``fill`` behind it."""
        width = int(self.lengths.max(initial=0)) if width is None else width
        matrix = np.full((len(self), width), fill, dtype=np.int32)
        matrix[np.arange(width) < self.lengths[:, None]] = self.values
        return matrix
