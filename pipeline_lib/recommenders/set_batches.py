"""Training rows of the set recommender: a user's window with all its targets in one pass, or one sample a target.

Shapes: n rows, B rows of a batch, T items, Q targets of a row, P targets of a batch.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Examples


@dataclass(frozen=True)
class TargetRows:
    """``histories`` and ``targets`` of n rows each: the q targets of a row with t items stand behind its first
    t - q + 1, ..., t items."""

    histories: Ragged
    targets: Ragged

    def __len__(self) -> int:
        return len(self.histories)

    def collate(self, rows: np.ndarray) -> dict[str, Tensor]:
        """``items (B, T)`` with -1 behind a row's ``lengths (B,)``; ``seen (B, Q)``, the items in front of each target,
        0 where there is none; the ``targets (P,)``, row after row."""
        histories, targets = self.histories.take(rows), self.targets.take(rows)
        place = np.arange(max(1, int(targets.lengths.max(initial=0))))  # a process may get no row of a batch
        first = histories.lengths - targets.lengths + 1
        seen = np.where(place < targets.lengths[:, None], first[:, None] + place, 0)
        return item_tensors(histories) | {"seen": torch.from_numpy(seen),
                                          "targets": torch.from_numpy(targets.values).long()}


def item_tensors(histories: Ragged) -> dict[str, Tensor]:
    """``items (B, T)``, -1 behind a row's ``lengths (B,)``; T at least 1."""
    padded = histories.padded(-1, max(1, int(histories.lengths.max(initial=0))))
    return {"items": torch.from_numpy(padded).long(), "lengths": torch.from_numpy(histories.lengths)}


def packed_rows(examples: Examples) -> TargetRows:
    """One row a user: the history of the user's last example; as many of its items are targets as there are examples.

    Args:
        examples: one target each, those of a user one after the other, oldest first, as `sequences.item_examples` makes
            them; rows without a history are left out.
    """
    kept = examples.take(np.flatnonzero(examples.histories.lengths > 0))
    last = np.flatnonzero(np.append(kept.users[1:] != kept.users[:-1], np.ones(min(1, len(kept)), dtype=bool)))
    histories = kept.histories.take(last)
    counts = np.minimum(np.diff(np.concatenate([[-1], last])), histories.lengths)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ends = kept.targets.values[kept.targets.offsets[last]]
    # the window without its first item, whose last values are the targets
    place = np.arange(offsets[-1]) - np.repeat(offsets[1:], counts)  # -q .. -1
    inside = np.repeat(histories.offsets[1:], counts) + place + 1
    inside = np.where(place == -1, 0, inside)
    values = np.where(place == -1, np.repeat(ends, counts), histories.values[inside])
    return TargetRows(histories, Ragged(values.astype(np.int32), offsets))


def single_rows(packed: TargetRows) -> TargetRows:
    """The same targets in the same order, one a row, each with the part of the window that stands before it."""
    counts = packed.targets.lengths
    rows = packed.targets.row_of_value
    place = np.arange(len(rows)) - np.repeat(packed.targets.offsets[:-1], counts)
    lengths = packed.histories.lengths[rows] - counts[rows] + 1 + place
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    source = np.arange(offsets[-1]) + np.repeat(packed.histories.offsets[:-1][rows] - offsets[:-1], lengths)
    return TargetRows(Ragged(packed.histories.values[source], offsets),
                      Ragged(packed.targets.values, np.arange(len(rows) + 1, dtype=np.int64)))
