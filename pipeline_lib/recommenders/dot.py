"""An embedding source ranks by itself: the similarity of a user's vector and an item's. Nothing is trained here.

Shapes: n users, U all users, N items, D dimensions.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
import torch
from accelerate import Accelerator

from pipeline_lib.decoding.grounding import SIMILARITIES
from pipeline_lib.decoding.ranking import Grounder, RankedUsers, ground_cases, make_grounder
from pipeline_lib.params import DecodeParams, TrainingParams
from pipeline_lib.records import Cases, Examples, Model, RecommenderInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.training.checkpoints import Checkpoints


@dataclass(frozen=True)
class Config:
    """Options under ``recommender.dot``."""

    similarity: Literal[*SIMILARITIES] = "dot"


def train(inputs: RecommenderInputs, config: Config, training: TrainingParams, *, checkpoints: Checkpoints,
          accelerator: Accelerator, seed: int) -> Model:
    """A model without weights: what it ranks with are the vectors of the embedding source."""
    return Model({}, {"kind": "dot", **asdict(config)}, [{"epoch": 0}])


class Ranker:
    """User vectors of each part of the split, and all items."""

    def __init__(self, users: Mapping[str, np.ndarray], grounder: Grounder, batch_size: int,
                 accelerator: Accelerator) -> None:
        self.users, self.grounder, self.batch_size, self.accelerator = users, grounder, batch_size, accelerator

    def rank(self, examples: Examples, cases: Cases, part: str = "test") -> RankedUsers:
        """Ranked items of each case, by the user's state before the targets of ``part``.

        Raises:
            ValueError: if a user has no vector.
        """
        users = self.users[part]
        missing = ~np.isfinite(users[cases.users]).all(axis=1)
        if missing.any():
            raise ValueError(f"users_{part}.npy: user {cases.users[np.argmax(missing)]} has no vector, nor have "
                             f"{int(missing.sum()) - 1} others that are ranked for; set split.min_history=1 or more")
        batches = [rows for rows in np.array_split(np.arange(len(cases)), -(-len(cases) // self.batch_size))]
        device = self.accelerator.device
        return ground_cases(cases, batches, lambda rows: torch.from_numpy(users[cases.users[rows]]).to(device),
                            self.grounder, self.accelerator)


def load_ranker(model: Model, inputs: RecommenderInputs, decode: DecodeParams, *, accelerator: Accelerator,
                seed: int) -> Ranker:
    """A ranker over the vectors of ``tokenizer.source``."""
    grounder = make_grounder(inputs.vectors, inputs.split, decode, model.config["similarity"], accelerator.device,
                             numpy_generator(seed, "items of equal score"))
    return Ranker(inputs.users, grounder, decode.batch_size, accelerator)
