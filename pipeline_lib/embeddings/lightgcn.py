"""LightGCN: vectors of users and items, smoothed over the graph of training interactions, whose dot product ranks.

Shapes: U users, N items, n cases, D dimensions, Lg graph layers.
Source: He et al. 2020, "LightGCN: Simplifying and Powering Graph Convolution Network for Recommendation", section 3.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor

from pipeline_lib.backbones.graph import BipartiteGraph, mean_of_layers
from pipeline_lib.embeddings.mf import mean_of_neighbours
from pipeline_lib.embeddings.pairwise import (
    PairwiseModel, PairwiseOptions, Vectors, count_users, distinct_values, fit_pairwise,
    training_pairs, user_states,
)
from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import NonNegativeInt
from pipeline_lib.records import Catalogue, Embedding, Split
from pipeline_lib.seeding import seed_everything
from pipeline_lib.training.checkpoints import Checkpoints
from pipeline_lib.training.early_stopping import training_summary
from pipeline_lib.training.validation import EPOCH_FIGURE


@dataclass(frozen=True)
class Config(PairwiseOptions):
    """Options under ``embed.lightgcn``: ``layers`` is Lg; ``export`` propagated (mean of layers) or ego (layer 0)."""

    layers: NonNegativeInt = 3
    export: Literal["propagated", "ego"] = "propagated"


def embed_items(catalogue: Catalogue, split: Split, config: Config, *, checkpoints: Checkpoints,
                accelerator: Accelerator, seed: int) -> Embedding:
    """Fit on the graph of the training histories; what a user took again is one edge.

    The epoch is chosen by the propagated vectors under either ``export``, so that both export one fit. Users without
    training data are folded in from their case's history (`fold_in`; under ego, and without layers, the mean of its
    items' vectors), NaN without one. U is 1 + the largest user index of the split. ``model`` holds what a later user is
    folded in with.

    Args:
        catalogue: not used; here since every embedding source takes the same arguments.

    Raises:
        ValueError: as `fit_pairwise`.
    """
    seed_everything(seed)
    num_users = count_users(split)
    graph = BipartiteGraph(*training_pairs(split).T, num_users, split.num_items)
    model = PairwiseModel(num_users, split.num_items, config.dimensions, config.regularisation, graph, config.layers)
    rows = fit_pairwise(model, split, partial(_vectors, export="propagated"), config, checkpoints=checkpoints,
                        accelerator=accelerator, seed=seed)
    with torch.no_grad():
        vectors = _vectors(model, config.export)
        meta = {"source": "lightgcn", "dimensions": config.dimensions, "options": asdict(config),
                **training_summary(rows, EPOCH_FIGURE)}
        user_layers, item_layers = model.layers()
        tensors = {"item_layers": torch.stack(item_layers), "item_degrees": graph.item_degrees,
                   "user_layers": torch.stack(user_layers), "user_degrees": graph.user_degrees}
        return Embedding(vectors.items.cpu().numpy(), meta,
                         *(user_states(vectors, cases, split) for cases in (split.valid, split.test)),
                         model={name: value.cpu().numpy() for name, value in tensors.items()},
                         model_json={"fold_in": "layers" if config.export == "propagated" and config.layers else "mean"})


def embed_users(histories: Ragged, tensors: Mapping[str, np.ndarray], model_json: Mapping[str, Any]) -> np.ndarray:
    """Vectors ``(n, D)`` of new users, folded in as `embed_items` does with users that it was not fitted on."""
    return _embed_new("item", histories, tensors, model_json)


def embed_new_items(catalogue: Catalogue, takers: Ragged, tensors: Mapping[str, np.ndarray],
                    model_json: Mapping[str, Any]) -> np.ndarray:
    """Vectors ``(n, D)`` of new items, folded in from n rows of users who took them; NaN for one that nobody took.

    Args:
        catalogue: not used; here since every source that embeds new items takes the same arguments.
    """
    return _embed_new("user", takers, tensors, model_json)


def _embed_new(side: str, neighbours: Ragged, tensors: Mapping[str, np.ndarray],
               model_json: Mapping[str, Any]) -> np.ndarray:
    layers = torch.from_numpy(tensors[f"{side}_layers"])
    if model_json["fold_in"] == "mean":
        return mean_of_neighbours(layers[0], neighbours).numpy()
    return fold_in(layers, torch.from_numpy(tensors[f"{side}_degrees"]), neighbours).numpy()


def fold_in(layers: Tensor | Sequence[Tensor], degrees: Tensor, neighbours: Ragged) -> Tensor:
    """Embed users, or items, who were not trained on, as nodes that receive from neighbours and send nothing back.

    Equation 3 for a user with layer 0 = 0: layer l + 1 is the sum over its items i of layer l of i, divided by
    sqrt(number of its items * degree of i); the result is the mean over layers. A user of the training graph, folded in
    with its training items, gets its propagated vector less its own layer 0 / (Lg + 1). For an item, likewise.

    Args:
        layers: ``(Lg + 1, N, D)``, or as many ``(N, D)``: layers of the training graph, of items for a user.
        degrees: ``(N,)``, neighbours of each of them in that graph.
        neighbours: n rows of them. Repeats count once; those without an edge in training say nothing and are left out.

    Returns:
        ``(n, D)``: zeros where no neighbour is left, NaN for a row without any.
    """
    first = layers[0]
    neighbours = distinct_values(neighbours)
    values = torch.from_numpy(neighbours.values).to(first.device, torch.int64)
    offsets = torch.from_numpy(neighbours.offsets).to(first.device)
    rows = torch.from_numpy(neighbours.row_of_value).to(first.device)
    of_values = degrees.to(first)[values]
    connected = (of_values > 0).to(first)
    own = first.new_zeros(len(neighbours)).index_add_(0, rows, connected)
    weights = connected / (own[rows] * of_values).clamp(min=1).sqrt()
    received = sum(layers[1:-1], first) if len(layers) > 1 else torch.zeros_like(first)
    summed = F.embedding_bag(values, received, offsets, mode="sum", per_sample_weights=weights,
                             include_last_offset=True)
    return (summed / len(layers)).masked_fill((offsets.diff() == 0)[:, None], torch.nan)


def _vectors(model: PairwiseModel, export: str) -> Vectors:
    users, items = ([layer.detach() for layer in layers] for layers in model.layers())
    if export == "ego" or len(items) == 1:  # without layers nothing is received
        return Vectors(users[0], items[0], partial(mean_of_neighbours, items[0]))
    return Vectors(mean_of_layers(users), mean_of_layers(items), partial(fold_in, items, model.graph.item_degrees))
