"""Semantic IDs from residual k-means: clusters of the vectors, then of what the clusters before them missed.

Shapes: N items, D dimensions, L levels, K codewords per level.
Source: Deng et al. 2025, "OneRec", section 3.1 (RQ-Kmeans); Ju et al. 2025, "GRID" (RK-means).

Tensors: ``codebooks (L, K, D)``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline_lib.evaluation.code_quality import mean_squared_error
from pipeline_lib.quantizers.codebook import nearest_codeword
from pipeline_lib.quantizers.kmeans import fit_codebook_faiss
from pipeline_lib.quantizers.residual import encode_residual, last_level_distances
from pipeline_lib.ranges import PositiveInt
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import flat_vectors, identifiers_of, require_items


@dataclass(frozen=True)
class Config:
    levels: PositiveInt = 3
    codebook_size: PositiveInt = 256
    iterations: PositiveInt = 25


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Cluster the vectors of all items level by level.

    Raises:
        ValueError: if there are fewer items than codewords.
    """
    vectors = flat_vectors(inputs.vectors)
    require_items(len(vectors), config.codebook_size, "rqkmeans")
    seeds = numpy_generator(seed, "rqkmeans").integers(2**31, size=config.levels)
    table = residual = torch.from_numpy(vectors)
    codebooks = []
    for level_seed in seeds.tolist():
        codebook = torch.from_numpy(fit_codebook_faiss(residual.numpy(), config.codebook_size, config.iterations,
                                                       level_seed))
        residual = residual - codebook[nearest_codeword(residual, codebook)]
        codebooks.append(codebook)
    codebooks = torch.stack(codebooks)
    codes, residual = encode_residual(table, codebooks)
    return identifiers_of(codes.numpy(), (config.codebook_size,) * config.levels, collisions=collisions,
                          config={"kind": "rqkmeans", "dimensions": vectors.shape[1], **asdict(config)},
                          last_level_distances=lambda: last_level_distances(table, codebooks).numpy(),
                          tensors={"codebooks": codebooks.numpy()},
                          reconstruction_error=mean_squared_error(vectors, (table - residual).numpy()))


def encode_items(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(N, L)`` int32 of vectors ``(N, D)`` or ``(N, v, D)``, before collisions are resolved.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was trained on vectors of another size.
    """
    codebooks = torch.from_numpy(np.array(tensors["codebooks"]))
    return encode_residual(torch.from_numpy(flat_vectors(vectors)), codebooks)[0].numpy().astype(np.int32)
