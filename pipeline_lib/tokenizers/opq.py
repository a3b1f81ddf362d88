"""Semantic IDs from optimized product quantization: rotate, cut into L parts, quantize each part by itself.

Shapes: N items, D dimensions, L levels, K codewords per level, S = D' / L dimensions of a part; D' is D rounded up to a
multiple of L, the new dimensions being 0.
Source: Ge et al. 2013, "Optimized Product Quantization"; for items: Hou et al. 2023 (VQ-Rec), section 3.1.

Tensors: ``rotation (D', D')``, applied as ``vectors @ rotation.T``; ``codebooks (L, K, S)``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline_lib.evaluation.code_quality import mean_squared_error
from pipeline_lib.quantizers.codebook import nearest_codeword, squared_distances
from pipeline_lib.ranges import PositiveInt, TwoOrMore
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import flat_vectors, identifiers_of, require_items


@dataclass(frozen=True)
class Config:
    """``codebook_size`` is a power of two: Faiss counts codes in bits."""

    levels: PositiveInt = 4
    codebook_size: TwoOrMore = 256
    iterations: PositiveInt = 25


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Fit the rotation and one codebook a part on the vectors of all items.

    Raises:
        ValueError: if there are fewer items than codewords, or ``codebook_size`` is not a power of two.
    """
    vectors = flat_vectors(inputs.vectors)
    check_config(config)
    require_items(len(vectors), config.codebook_size, "opq")
    padded = _padded(vectors, config.levels)
    rotation, codebooks = _fit(padded, config, int(numpy_generator(seed, "opq").integers(2**31)))
    codes, parts = _encode(padded, rotation, codebooks)
    chosen = np.concatenate([codebook[code] for codebook, code in zip(codebooks, codes.T)], axis=1)  # (N, D')
    return identifiers_of(codes, (config.codebook_size,) * config.levels, collisions=collisions,
                          config={"kind": "opq", "dimensions": vectors.shape[1], **asdict(config)},
                          last_level_distances=lambda: squared_distances(
                              torch.from_numpy(parts[-1]), torch.from_numpy(codebooks[-1])).numpy(),
                          tensors={"rotation": rotation, "codebooks": codebooks},
                          reconstruction_error=mean_squared_error(vectors, (chosen @ rotation)[:, : vectors.shape[1]]))


def encode_items(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(N, L)`` int32 of vectors ``(N, D)`` or ``(N, v, D)``, before collisions are resolved.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was trained on vectors of another size.
    """
    table = flat_vectors(vectors)
    if table.shape[1] != config["dimensions"]:
        raise ValueError(f"vectors have {table.shape[1]} dimensions, but the tokenizer was trained on "
                         f"{config['dimensions']}; embed them with the same source")
    return _encode(_padded(table, config["levels"]), tensors["rotation"], tensors["codebooks"])[0]


def _fit(vectors: np.ndarray, config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rotation ``(D', D')`` and codebooks ``(L, K, S)``."""
    import faiss  # only the tokenizers that need it load it

    dimensions, bits = vectors.shape[1], config.codebook_size.bit_length() - 1
    inner, quantizer = (faiss.ProductQuantizer(dimensions, config.levels, bits) for _ in range(2))
    for each in (inner, quantizer):
        each.cp.seed, each.cp.min_points_per_centroid = seed, 1
    quantizer.cp.niter = config.iterations
    transform = faiss.OPQMatrix(dimensions, config.levels)
    transform.pq, transform.niter = inner, config.iterations
    transform.train(vectors)
    rotation = faiss.vector_to_array(transform.A).reshape(dimensions, dimensions).copy()
    quantizer.train(vectors @ rotation.T)
    return rotation, faiss.vector_to_array(quantizer.centroids).reshape(config.levels, config.codebook_size, -1).copy()


def _encode(vectors: np.ndarray, rotation: np.ndarray, codebooks: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Codes ``(N, L)`` int32, and the L parts ``(N, S)`` that they stand for."""
    parts = [np.ascontiguousarray(part) for part in np.split(vectors @ rotation.T, len(codebooks), axis=1)]
    codes = [nearest_codeword(torch.from_numpy(part), torch.from_numpy(np.array(codebook))).numpy()
             for part, codebook in zip(parts, codebooks)]
    return np.stack(codes, axis=1).astype(np.int32), parts


def _padded(vectors: np.ndarray, levels: int) -> np.ndarray:
    return np.pad(vectors, ((0, 0), (0, -vectors.shape[1] % levels)))


def check_config(config: Config) -> None:
    """Refuse a codebook whose codes Faiss cannot count in bits.

    Raises:
        ValueError: if its size is not a power of two.
    """
    if config.codebook_size & (config.codebook_size - 1):
        raise ValueError(f"params: tokenizer.opq.codebook_size={config.codebook_size} is not a power of two; "
                         "take 64, 128, 256, 512 ...")
