"""Candidates as prompts that ask for YES or NO, in batches, and their scores.

Shapes: m candidates, B prompts of a batch, T tokens.
"""

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor

from pipeline_lib.interactions.candidates import training_cases
from pipeline_lib.ragged import Ragged
from pipeline_lib.recommenders.yes_no_network import YesNoLM
from pipeline_lib.records import Candidates, Split
from pipeline_lib.sequences.batches import in_order_batches
from pipeline_lib.sequences.yes_no_prompts import YesNoPrompts

PADDING = 0  # any word: nothing looks at what is behind a prompt


class Pairs:
    """The candidates of a part, as prompts: each user's history once, cut to what a prompt has room for."""

    def __init__(self, prompts: YesNoPrompts, split: Split, part: str, candidates: Candidates) -> None:
        cases = training_cases(split) if part == "train" else getattr(split, part)
        users, self.rows = np.unique(candidates.users, return_inverse=True)
        place = np.searchsorted(cases.users, users).clip(max=len(cases) - 1)
        strangers = users[cases.users[place] != users]
        if len(strangers):
            raise ValueError(f"{part}_candidates.parquet: user {strangers[0]} is not a user of that part; re-run split")
        self.prompts, self.candidates = prompts, candidates
        self.histories = prompts.shortened(cases.histories.take(place))
        self.lengths = prompts.lengths(self.histories, self.rows, candidates.items.astype(np.int64))

    def collate(self, chosen: np.ndarray) -> dict[str, Tensor]:
        """``input_ids`` and ``said (B, T)``, padded on the right, ``lengths`` and ``labels (B,)``."""
        items = self.candidates.items[chosen].astype(np.int64)
        histories, labels = self.histories.take(self.rows[chosen]), self.candidates.labels[chosen]
        tokens, said = self.prompts.prompts(histories, items), self.prompts.said(histories, items, labels == 1)
        return {"input_ids": torch.from_numpy(tokens.padded(PADDING)).long(),
                "lengths": torch.from_numpy(tokens.lengths), "labels": torch.from_numpy(labels),
                "said": torch.from_numpy(Ragged(said, tokens.offsets).padded(0)).bool()}


@torch.inference_mode()
def score_pairs(network: YesNoLM, pairs: Pairs, batch_size: int, accelerator: Accelerator) -> np.ndarray:
    """``(m,)`` float32; each process takes every n-th batch, and all get the whole result."""
    network.eval()
    batches, parts = in_order_batches(pairs.lengths, batch_size), []
    for rows in batches[accelerator.process_index :: accelerator.num_processes]:
        batch = {name: value.to(accelerator.device) for name, value in pairs.collate(rows).items()}
        with accelerator.autocast():
            parts.append((rows, network.scores(batch).float().cpu().numpy()))
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    scores = np.empty(len(pairs.candidates), dtype=np.float32)
    for rows, values in parts:
        scores[rows] = values
    return scores
