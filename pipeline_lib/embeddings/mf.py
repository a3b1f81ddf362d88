"""Matrix factorisation: a vector a user and an item, whose dot product ranks.

Shapes: U users, N items, n cases, D dimensions.
Source: Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback", section 4.3.1.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipeline_lib.embeddings.pairwise import (
    PairwiseModel, PairwiseOptions, Vectors, count_users, distinct_values, fit_pairwise,
    user_states,
)
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeFloat, PositiveInt
from pipeline_lib.records import Catalogue, Embedding, Split
from pipeline_lib.seeding import seed_everything
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import training_summary
from pipeline_lib.training.validation import EPOCH_FIGURE


@dataclass(frozen=True)
class Config(PairwiseOptions):
    """Options under ``embed.mf``. Without a graph that smooths them, vectors need a strong regularisation."""

    regularisation: NonNegativeFloat = 0.03
    batch_size: PositiveInt = 4096
    epochs: PositiveInt = 150


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Fit on the training histories; what a user took again counts once.

    Users without training data get the mean vector of their case's history, NaN without one. U is 1 + the largest user
    index of the split.

    Args:
        catalogue: not used; here since every embedding source takes the same arguments.

    Raises:
        ValueError: as `fit_pairwise`.
    """
    seed_everything(seed)
    model = PairwiseModel(count_users(split), split.num_items, config.dimensions, config.regularisation)
    rows = fit_pairwise(model, split, _vectors, config, checkpoints=checkpoints, accelerator=accelerator, seed=seed)
    with torch.no_grad():
        vectors = _vectors(model)
        meta = {"source": "mf", "dimensions": config.dimensions, "options": asdict(config),
                **training_summary(rows, EPOCH_FIGURE)}
        items = vectors.items.cpu().numpy()
        return Embedding(items, meta, *(user_states(vectors, cases, split) for cases in (split.valid, split.test)),
                         model={"items": items, "users": model.users.detach().cpu().numpy()})


def embed_users(histories: Ragged, tensors: Mapping[str, np.ndarray], model_json: Mapping[str, Any]) -> np.ndarray:
    """Vectors ``(n, D)`` of new users: the mean vector of their items, NaN without one."""
    return mean_of_neighbours(torch.from_numpy(tensors["items"]), histories).numpy()


def embed_new_items(catalogue: Catalogue, takers: Ragged, tensors: Mapping[str, np.ndarray],
                    model_json: Mapping[str, Any]) -> np.ndarray:
    """Vectors ``(n, D)`` of new items: the mean vector of the users who took each, NaN for one that nobody took."""
    return mean_of_neighbours(torch.from_numpy(tensors["users"]), takers).numpy()


def mean_of_neighbours(vectors: Tensor, neighbours: Ragged) -> Tensor:
    """Embed users who were not trained on: ``(n, D)``, the mean vector of the different items of each history.

    Args:
        vectors: ``(N, D)`` float, of items; of users for a new item.
        neighbours: n rows of them; a row without any gives NaN.
    """
    neighbours = distinct_values(neighbours)
    values, offsets = (torch.from_numpy(array).to(vectors.device, torch.int64)
                       for array in (neighbours.values, neighbours.offsets))
    means = F.embedding_bag(values, vectors, offsets, mode="mean", include_last_offset=True)
    return means.masked_fill((offsets.diff() == 0)[:, None], torch.nan)


def _vectors(model: PairwiseModel) -> Vectors:
    return Vectors(model.users.detach(), model.items.detach(), partial(mean_of_neighbours, model.items.detach()))
