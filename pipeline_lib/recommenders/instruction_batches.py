"""Batches of instructions, each of one task, so that each task's loss is a mean of its own.

Shapes: n examples, B rows of a batch, T tokens.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.instruction_network import IGNORED
from pipeline_lib.records import Examples
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.sequences.batches import length_bucketed_batches
from pipeline_lib.sequences.instructions import NEXT_ITEM, Instructions

PADDING = 0  # any word: nothing looks at what is behind a sequence


class TaskBatches:
    """The examples of some tasks; those that ask for the text of an item without one, or tell it, are left out.

    Args:
        tasks: which, of `TASKS`; each has batches in proportion to its examples.
        every_item: whether the codes of history items are to be said too.
        alignment_weight: of the losses of tasks other than the next item, beside its own.

    Raises:
        ValueError: if a task has no example.
    """

    def __init__(self, instructions: Instructions, examples: Examples, tasks: Sequence[str], *, every_item: bool,
                 batch_size: int, bucket_batches: int, seed: int, alignment_weight: float = 1.0) -> None:
        self.instructions, self.histories = instructions, examples.histories
        self.alignment_weight = alignment_weight
        self.every_item, self.batch_size, self.bucket_batches, self.seed = every_item, batch_size, bucket_batches, seed
        self.targets = examples.targets.values[examples.targets.offsets[:-1]].astype(np.int64)
        self.task_of = np.array(examples.tasks)
        self.rows, self.lengths = {}, {}
        for task in tasks:
            chosen = self.task_of == task
            if task != NEXT_ITEM:
                chosen &= instructions.has_text[self.targets]
            rows = np.flatnonzero(chosen)
            if not len(rows):
                raise ValueError(f"params: recommender.instruction_lm.tasks names {task}, of which there is no "
                                 "example; do items have texts? set tasks=[next_item], or ingest.text")
            self.rows[task] = rows
            self.lengths[task] = instructions.lengths(task, examples.histories.take(rows), self.targets[rows])

    def begin(self, epoch: int) -> list[np.ndarray]:
        """The epoch's batches, the same on every process: tasks in a random order, each batch of one task."""
        generator, batches = numpy_generator(self.seed, f"instructions of epoch {epoch}"), []
        for task, rows in self.rows.items():
            batches += [rows[places] for places in length_bucketed_batches(self.lengths[task], self.batch_size,
                                                                           self.bucket_batches, generator)]
        return [batches[place] for place in generator.permutation(len(batches))]

    def collate(self, rows: np.ndarray) -> dict[str, Tensor]:
        """``input_ids`` and ``labels (B, T)`` of rows of one task, and ``weight ()``, that of its loss."""
        task = str(self.task_of[rows[0]]) if len(rows) else NEXT_ITEM
        sequences = self.instructions.sequences(task, self.histories.take(rows), self.targets[rows], self.every_item)
        weight = 1.0 if task == NEXT_ITEM else self.alignment_weight
        return sequence_tensors(*sequences) | {"weight": torch.tensor(weight)}


def sequence_tensors(tokens: Ragged, said: np.ndarray) -> dict[str, Tensor]:
    """``input_ids`` and ``labels (B, T)``, padded on the right; labels -100 where nothing is to be said."""
    labels = Ragged(np.where(said, tokens.values, IGNORED), tokens.offsets)
    return {"input_ids": torch.from_numpy(tokens.padded(PADDING)).long(),
            "labels": torch.from_numpy(labels.padded(IGNORED)).long()}


def prompt_tensors(tokens: Ragged) -> dict[str, Tensor]:
    """``input_ids`` and ``attention_mask (B, T)``, padded on the right to the longest."""
    input_ids, lengths = torch.from_numpy(tokens.padded(PADDING)).long(), torch.from_numpy(tokens.lengths)
    return {"input_ids": input_ids, "attention_mask": torch.arange(input_ids.shape[1]) < lengths[:, None]}
