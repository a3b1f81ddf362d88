"""Residual quantization: each level encodes what the levels before it missed.

Shapes: N items, L levels, K codewords per level, D dimensions.
Source: Lee et al. 2022, "Autoregressive Image Generation using Residual Quantization".
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline_lib.quantizers.codebook import (
    codebook_loss, commitment_loss, nearest_codeword, revive_dead, squared_distances, straight_through,
)
from pipeline_lib.quantizers.kmeans import fit_codebook

RESIDUAL_GRADIENTS = ("identity", "zero")


@dataclass(frozen=True)
class Quantized:
    """What a residual quantizer makes of N vectors.

    ``codes (N, L)`` int64; ``vectors (N, D)``: the sum of the codewords, with a straight-through gradient;
    ``distances (N, L, K)``: squared, from each level's residual to its codewords; ``codebook_losses`` and
    ``commitment_losses (L,)``: a mean over rows and dimensions for each level.
    """

    codes: Tensor
    vectors: Tensor
    distances: Tensor
    codebook_losses: Tensor
    commitment_losses: Tensor


@torch.no_grad()
def encode_residual(vectors: Tensor, codebooks: Tensor) -> tuple[Tensor, Tensor]:
    """Encode vectors greedily, one code per level (Lee et al. 2022, eq. 2).

    Args:
        vectors: ``(N, D)`` float, the item embeddings.
        codebooks: ``(L, K, D)`` float, one codebook per level.

    Returns:
        codes: ``(N, L)`` int64, each in ``[0, K)``; column 0 is the coarsest.
        residual: ``(N, D)`` float, what no level could explain.

    Raises:
        ValueError: if ``vectors`` and ``codebooks`` differ in ``D``.
    """
    residual, codes = vectors, []
    for codebook in codebooks:
        code = nearest_codeword(residual, codebook)  # (N,)
        residual = residual - codebook[code]
        codes.append(code)
    return torch.stack(codes, dim=-1), residual


def decode_residual(codes: Tensor, codebooks: Tensor) -> Tensor:
    """``(N, D)``: the sum of the codewords that ``codes (N, L)`` choose from ``codebooks (L, K, D)``."""
    return sum(codebook[code] for codebook, code in zip(codebooks, codes.unbind(dim=-1), strict=True))


@torch.no_grad()
def last_level_distances(vectors: Tensor, codebooks: Tensor) -> Tensor:
    """``(N, K)``: squared distances of what the earlier levels leave of ``vectors`` to the last level's codewords."""
    residual = encode_residual(vectors, codebooks[:-1])[1] if len(codebooks) > 1 else vectors
    return squared_distances(residual, codebooks[-1])


class ResidualQuantizer(nn.Module):
    """Trainable codebooks ``(L, K, D)``, one a level.

    ``residual_gradient``: ``identity`` subtracts the codeword as a constant, so that every level's losses and distances
    reach the encoder, as the formula says; ``zero`` subtracts the straight-through value as several public
    implementations do, so that only level 0 does. Values are the same.
    """

    def __init__(self, levels: int, codebook_size: int, dimensions: int, generator: torch.Generator,
                 residual_gradient: str = "identity") -> None:
        super().__init__()
        if residual_gradient not in RESIDUAL_GRADIENTS:
            raise ValueError(f"residual_gradient is {residual_gradient}; known: {', '.join(RESIDUAL_GRADIENTS)}")
        self.residual_gradient = residual_gradient
        start = torch.rand(levels, codebook_size, dimensions, generator=generator)
        self.codebooks = nn.Parameter((2 * start - 1) / codebook_size)

    def forward(self, vectors: Tensor) -> Quantized:
        """Quantize ``(N, D)`` vectors; codes are chosen by the nearest codeword."""
        residual, codes, distances, towards, committed = vectors, [], [], [], []
        for codebook in self.codebooks:
            distance = squared_distances(residual, codebook)  # (N, K)
            code = distance.argmin(dim=-1)
            codeword = codebook[code]
            codes.append(code)
            distances.append(distance)
            towards.append(codebook_loss(residual, codeword))
            committed.append(commitment_loss(residual, codeword))
            residual = residual - codeword.detach()
            if self.residual_gradient == "zero":
                residual = residual.detach()
        codes = torch.stack(codes, dim=-1)
        return Quantized(codes, straight_through(vectors, decode_residual(codes, self.codebooks)),
                         torch.stack(distances, dim=1), torch.stack(towards), torch.stack(committed))

    @torch.no_grad()
    def fit_codebooks(self, vectors: Tensor, iterations: int, generator: torch.Generator) -> None:
        """K-means level by level: each codebook starts at the clusters of the residuals ``(N, D)`` that it will see."""
        residual = vectors
        for codebook in self.codebooks:
            codebook.copy_(fit_codebook(residual, len(codebook), iterations, generator))
            residual = residual - codebook[nearest_codeword(residual, codebook)]

    @torch.no_grad()
    def revive_dead(self, vectors: Tensor, usage: Tensor, least: float, generator: torch.Generator) -> int:
        """Replace codewords with less than ``least`` usage ``(L, K)`` by residuals of ``vectors (N, D)``; how many."""
        residual, revived = vectors, 0
        for codebook, used in zip(self.codebooks, usage, strict=True):
            revived += revive_dead(codebook, used, residual, generator, least)
            residual = residual - codebook[nearest_codeword(residual, codebook)]
        return revived
