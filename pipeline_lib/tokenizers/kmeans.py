"""Semantic IDs from several vectors an item: PCA, then clusters, for each of the vectors by itself.

Positions are independent: no level encodes what another one missed. Different items may get equal codes.

Shapes: N items, v positions (the levels), D dimensions of a vector, d of a projected one, K codewords a position.
Source: Liu et al. 2024, "STORE: Streamlining Semantic Tokenization and Generative Recommendation with a Single LLM".
The paper does not say whether PCA is one for all positions: here each has its own.

Tensors: ``means (v, D)``, ``components (v, d, D)``, ``codebooks (v, K, d)``.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from sklearn.decomposition import PCA

from pipeline_lib.evaluation.code_quality import mean_squared_error
from pipeline_lib.quantizers.codebook import nearest_codeword, squared_distances
from pipeline_lib.quantizers.kmeans import fit_codebook_faiss
from pipeline_lib.ranges import PositiveInt
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import identifiers_of, require_items

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """``dimensions``: after PCA; ``positions``: what a single vector an item is cut into, see `by_position`."""

    codebook_size: PositiveInt = 256
    dimensions: PositiveInt = 32
    iterations: PositiveInt = 25
    positions: PositiveInt = 1


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Fit a projection and a codebook a position on the vectors of all items.

    Raises:
        ValueError: if there are fewer items than codewords, or `by_position` refuses.
    """
    vectors = by_position(inputs.vectors, config.positions)
    require_items(len(vectors), config.codebook_size, "kmeans")
    num_positions = vectors.shape[1]
    seeds = numpy_generator(seed, "kmeans").integers(2**31, size=num_positions).tolist()
    dimensions = min(config.dimensions, len(vectors), vectors.shape[2])
    if dimensions < config.dimensions:
        log.warning("tokenizer.kmeans.dimensions=%d is more than the vectors have; taking %d", config.dimensions,
                    dimensions)
    fitted = [PCA(dimensions, svd_solver="full").fit(vectors[:, position]) for position in range(num_positions)]
    tensors = {"means": np.stack([pca.mean_ for pca in fitted]).astype(np.float32),
               "components": np.stack([pca.components_ for pca in fitted]).astype(np.float32)}
    projected = _project(vectors, tensors)
    codebooks = np.stack([fit_codebook_faiss(part, config.codebook_size, config.iterations, position_seed)
                          for part, position_seed in zip(projected, seeds, strict=True)])
    codes = _nearest(projected, codebooks)
    chosen = np.stack([codebook[code] for codebook, code in zip(codebooks, codes.T)])  # (v, N, d)
    restored = (chosen @ tensors["components"] + tensors["means"][:, None]).swapaxes(0, 1)
    return identifiers_of(codes, (config.codebook_size,) * num_positions, collisions=collisions,
                          config={"kind": "kmeans", "shape": list(vectors.shape[1:]), **asdict(config)},
                          last_level_distances=lambda: squared_distances(
                              torch.from_numpy(projected[-1]), torch.from_numpy(codebooks[-1])).numpy(),
                          tensors={**tensors, "codebooks": codebooks},
                          reconstruction_error=mean_squared_error(vectors.reshape(len(vectors), -1),
                                                                  restored.reshape(len(vectors), -1)))


def encode_items(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(N, v)`` int32 of vectors ``(N, v, D)`` or ``(N, v * D)``, before collisions are resolved.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was trained on vectors of another shape.
    """
    shape = tuple(config["shape"])
    if vectors.shape[1:] not in (shape, (math.prod(shape),)):
        raise ValueError(f"items have vectors of shape {vectors.shape[1:]}, but the tokenizer was trained on "
                         f"{shape}; embed them with the same source")
    parts = np.ascontiguousarray(vectors.reshape(len(vectors), *shape), dtype=np.float32)
    return _nearest(_project(parts, tensors), tensors["codebooks"])


def by_position(vectors: np.ndarray, positions: int) -> np.ndarray:
    """``(N, v, D)`` float32: vectors that are so already, or the v equal parts of each of ``(N, v * D)``.

    Args:
        positions: the number of parts; with several vectors an item, 1 or their number.

    Raises:
        ValueError: for one vector an item that is to stay whole, and would be told by one code alone, or that cannot be
            cut into equal parts, or for several vectors and another number of parts.
    """
    if vectors.ndim == 3:
        if positions not in (1, vectors.shape[1]):
            raise ValueError(f"params: tokenizer.kmeans.positions={positions}, but items have {vectors.shape[1]} "
                             "vectors each, which are the positions; set it to 1")
        return np.ascontiguousarray(vectors, dtype=np.float32)
    if vectors.ndim != 2:
        raise ValueError(f"item vectors of shape {vectors.shape}, expected (items, dimensions) or "
                         "(items, vectors, dimensions); re-run embed")
    if positions == 1:
        raise ValueError("tokenizer.kind=kmeans gives a code a vector, and these items have one vector each; set "
                         "tokenizer.kmeans.positions above 1 to cut it into that many parts, or tokenizer.source=dense")
    if vectors.shape[1] % positions:
        raise ValueError(f"params: tokenizer.kmeans.positions={positions} does not divide the {vectors.shape[1]} "
                         "dimensions of the items' vectors; take a number that does")
    return np.ascontiguousarray(vectors.reshape(len(vectors), positions, -1), dtype=np.float32)


def _project(vectors: np.ndarray, tensors: Mapping[str, np.ndarray]) -> np.ndarray:
    """``(v, N, d)``."""
    return (vectors.swapaxes(0, 1) - tensors["means"][:, None]) @ tensors["components"].swapaxes(1, 2)


def _nearest(projected: np.ndarray, codebooks: np.ndarray) -> np.ndarray:
    """``(N, v)`` int32."""
    codes = [nearest_codeword(torch.from_numpy(part), torch.from_numpy(np.array(codebook))).numpy()
             for part, codebook in zip(projected, codebooks, strict=True)]
    return np.stack(codes, axis=1).astype(np.int32)
