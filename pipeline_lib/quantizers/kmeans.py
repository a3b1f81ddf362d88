"""K-means: Lloyd's algorithm in torch for codebooks that are trained further, and Faiss's for large tables.

Shapes: N vectors, K codewords, D dimensions.
"""

import numpy as np
import torch
from torch import Tensor

from pipeline_lib.quantizers.codebook import nearest_codeword

FAISS_SAMPLE = 1024  # vectors a codeword that Faiss trains on, at most


def refuse_few_vectors(num_vectors: int, codebook_size: int) -> None:
    """Refuse a codebook that has more codewords than there are vectors.

    Raises:
        ValueError: naming both numbers.
    """
    if num_vectors < codebook_size:
        raise ValueError(f"{num_vectors} vectors cannot fill a codebook of {codebook_size} codewords; "
                         f"set codebook_size to {num_vectors} or less")


@torch.no_grad()
def fit_codebook(vectors: Tensor, codebook_size: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from randomly drawn vectors; an empty cluster restarts at a randomly drawn vector.

    Args:
        vectors: ``(N, D)``, at least ``codebook_size`` of them.
        codebook_size: K.
        iterations: rounds of assignment and mean.
        generator: draws the start, on the CPU.

    Returns:
        ``(K, D)``.

    Raises:
        ValueError: if there are fewer vectors than codewords.
    """
    refuse_few_vectors(len(vectors), codebook_size)
    codebook = vectors[_draw(len(vectors), codebook_size, generator).to(vectors.device)].clone()
    for _ in range(iterations):
        codes = nearest_codeword(vectors, codebook)
        usage = torch.bincount(codes, minlength=codebook_size)
        sums = torch.zeros_like(codebook).index_add_(0, codes, vectors)
        codebook = sums / usage.clamp_min(1).unsqueeze(-1)
        empty = torch.nonzero(usage == 0).flatten()
        codebook[empty] = vectors[_draw(len(vectors), len(empty), generator).to(vectors.device)]
    return codebook


def fit_codebook_faiss(vectors: np.ndarray, codebook_size: int, iterations: int, seed: int) -> np.ndarray:
    """The same with Faiss, on at most 1024 vectors a codeword.

    Args:
        vectors: ``(N, D)`` float32, at least ``codebook_size`` of them.

    Returns:
        ``(K, D)`` float32.

    Raises:
        ValueError: if there are fewer vectors than codewords.
    """
    import faiss  # only these tokenizers need it

    refuse_few_vectors(len(vectors), codebook_size)
    kmeans = faiss.Kmeans(vectors.shape[1], codebook_size, niter=iterations, seed=seed % 2**31,
                          min_points_per_centroid=1, max_points_per_centroid=FAISS_SAMPLE)
    kmeans.train(np.ascontiguousarray(vectors, dtype=np.float32))
    return kmeans.centroids


def _draw(population: int, size: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(population, generator=generator)[:size]
