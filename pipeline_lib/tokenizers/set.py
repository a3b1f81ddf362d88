"""Order-agnostic token sets (SETRec): one collaborative and N semantic tokens an item, vectors instead of codes.

The tokens are trained inside the recommender, since its loss reaches them; here their inputs are checked and their
initial weights drawn. Tensors: those of `quantizers.set_autoencoder.SetAutoencoder`.

Shapes: I items, D dimensions of a text vector, C of a collaborative one, M tokens an item, W width of a token.
Source: Lin et al. 2025, "Order-agnostic Identifier for Large Language Model-based Generative Recommendation".
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline_lib.quantizers.residual_vae import scale_for
from pipeline_lib.quantizers.set_autoencoder import SetAutoencoder
from pipeline_lib.ranges import NonNegativeInt, PositiveInt
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import torch_generator
from pipeline_lib.tokenizers.discrete import flat_vectors


@dataclass(frozen=True)
class Config:
    """``tokens``: N semantic ones, 0 for none; ``width``: the backbone's; the decoder mirrors ``hidden``."""

    tokens: NonNegativeInt = 4
    width: PositiveInt = 512
    hidden: tuple[PositiveInt, ...] = (512, 256, 128)


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Initial weights of the projection of ``inputs.cf_vectors`` and of the autoencoder of ``inputs.vectors``.

    Args:
        collisions: not used: sets of vectors are as different as their items are.

    Raises:
        ValueError: for vectors that are all the same.
    """
    vectors, cf_vectors = flat_vectors(inputs.vectors), flat_vectors(inputs.cf_vectors)
    for name, table in (("source", vectors), ("cf_source", cf_vectors)):
        if len(table) > 1 and not np.ptp(table, axis=0).any():
            raise ValueError(f"tokenizer.{name}: the vectors of all {len(table)} items are equal, so no set could tell "
                             "them apart; re-run embed, or take another source")
    made = {"kind": "set", **asdict(config), "hidden": list(config.hidden), "dimensions": vectors.shape[1],
            "cf_dimensions": cf_vectors.shape[1]}
    sets = _build(made, torch_generator(seed, "set weights"), scale_for(torch.from_numpy(vectors)),
                  scale_for(torch.from_numpy(cf_vectors)))
    return Identifiers(None, (), {name: value.detach().numpy() for name, value in sets.state_dict().items()}, made)


def tokens_of_items(vectors: np.ndarray, cf_vectors: np.ndarray, tensors: Mapping[str, np.ndarray],
                    config: Mapping[str, Any]) -> np.ndarray:
    """Token sets ``(I, M, W)`` float32 of ``vectors (I, D)`` and ``cf_vectors (I, C)``.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was made for vectors of another size.
    """
    vectors, cf_vectors = flat_vectors(vectors), flat_vectors(cf_vectors)
    for name, table in (("dimensions", vectors), ("cf_dimensions", cf_vectors)):
        if table.shape[1] != config[name]:
            raise ValueError(f"vectors have {table.shape[1]} dimensions, but the tokenizer was made for "
                             f"{name}={config[name]}; embed them with the same source")
    sets = _build(config, torch.Generator())
    sets.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    with torch.inference_mode():
        return sets(torch.from_numpy(vectors), torch.from_numpy(cf_vectors)).numpy()


def _build(config: Mapping[str, Any], generator: torch.Generator, scale: float = 1.0,
           cf_scale: float = 1.0) -> SetAutoencoder:
    return SetAutoencoder(config["dimensions"], config["cf_dimensions"], config["hidden"], config["tokens"],
                          config["width"], generator, scale, cf_scale)
