"""Popularity as an embedding source: one dimension, in which the dot product ranks items by their training count.

Shapes: U users, N items.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator

from pipeline_lib.embeddings.pairwise import count_users
from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Catalogue, Embedding, Split
from pipeline_lib.training.checkpoints import Checkpoints


@dataclass(frozen=True)
class Config:
    """Options under ``embed.popularity``: none."""


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Items are their training counts ``(N, 1)``, every user is 1 ``(U, 1)``, with or without training data.

    U is 1 + the largest user index of the split. Nothing is fitted: of the arguments only ``split`` is used.
    """
    users = np.ones((count_users(split), 1), dtype=np.float32)
    items = split.train_count[:, None].astype(np.float32)
    return Embedding(items, {"source": "popularity", "dimensions": 1, "options": {}}, users, users)


def embed_users(histories: Ragged, tensors: Mapping[str, np.ndarray], model_json: Mapping[str, Any]) -> np.ndarray:
    """A new user is 1, as all others are: ``(n, 1)``."""
    return np.ones((len(histories), 1), dtype=np.float32)
