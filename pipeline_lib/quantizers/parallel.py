"""An autoencoder whose encoders stand side by side, each with a codebook of its own (masked vector quantization).

Parallel, not residual: every level sees the same vector, and the decoder sees the mean of the chosen codewords.
Shapes: B batch, D dimensions of a vector, L levels (TokenRec's K), K codewords per level (TokenRec's L), H dimensions
of a codeword.
Source: Qu et al. 2024, "TokenRec: Learning to Tokenize ID for LLM-based Generative Recommendations", section on the
MQ-Tokenizer. Departures from the authors' code, which leaves its encoders untrained: the straight-through value
reaches the decoder, the commitment loss counts, every entry is masked for itself, and there is no batch normalisation,
so that a vector's codes do not depend on its batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline_lib.quantizers.codebook import (
    codebook_loss, commitment_loss, nearest_codeword, revive_dead, squared_distances, straight_through,
)
from pipeline_lib.quantizers.kmeans import fit_codebook
from pipeline_lib.quantizers.residual import Quantized
from pipeline_lib.quantizers.residual_vae import Losses, perceptron


def mask_entries(vectors: Tensor, share: float) -> Tensor:
    """``vectors (B, D)`` with each entry put to 0 with probability ``share``, without rescaling what is left.

    Draws from the global generator of torch, as dropout does. Source: TokenRec, q' = q * (1 - E), E ~ Bernoulli(rho).
    """
    return vectors * (torch.rand_like(vectors) >= share)


@torch.no_grad()
def encode_parallel(latents: Tensor, codebooks: Tensor) -> Tensor:
    """``(N, L)`` int64: for each level the nearest codeword of ``latents (N, L, H)`` in ``codebooks (L, K, H)``."""
    return torch.stack([nearest_codeword(latent, codebook)
                        for latent, codebook in zip(latents.unbind(dim=1), codebooks, strict=True)], dim=1)


def decode_parallel(codes: Tensor, codebooks: Tensor) -> Tensor:
    """``(N, H)``: the mean of the codewords that ``codes (N, L)`` choose from ``codebooks (L, K, H)``."""
    return torch.stack([codebook[code] for code, codebook in zip(codes.unbind(dim=1), codebooks, strict=True)],
                       dim=1).mean(dim=1)


class ParallelQuantizer(nn.Module):
    """Trainable codebooks ``(L, K, H)``, one a level, each for the latents of its own encoder."""

    def __init__(self, levels: int, codebook_size: int, dimensions: int, generator: torch.Generator) -> None:
        super().__init__()
        start = torch.rand(levels, codebook_size, dimensions, generator=generator)
        self.codebooks = nn.Parameter((2 * start - 1) / codebook_size)

    def forward(self, latents: Tensor) -> Quantized:
        """Quantize ``(B, L, H)``; ``vectors`` of the result is the mean of the codewords, straight-through."""
        codes, distances, passed, towards, committed = [], [], [], [], []
        for latent, codebook in zip(latents.unbind(dim=1), self.codebooks, strict=True):
            distance = squared_distances(latent, codebook)  # (B, K)
            code = distance.argmin(dim=-1)
            codeword = codebook[code]
            codes.append(code)
            distances.append(distance)
            passed.append(straight_through(latent, codeword))
            towards.append(codebook_loss(latent, codeword))
            committed.append(commitment_loss(latent, codeword))
        return Quantized(torch.stack(codes, dim=1), torch.stack(passed, dim=1).mean(dim=1),
                         torch.stack(distances, dim=1), torch.stack(towards), torch.stack(committed))

    @torch.no_grad()
    def fit_codebooks(self, latents: Tensor, iterations: int, generator: torch.Generator) -> None:
        """K-means for each level on its own latents ``(N, L, H)``."""
        for latent, codebook in zip(latents.unbind(dim=1), self.codebooks, strict=True):
            codebook.copy_(fit_codebook(latent, len(codebook), iterations, generator))

    @torch.no_grad()
    def revive_dead(self, latents: Tensor, usage: Tensor, least: float, generator: torch.Generator) -> int:
        """Replace codewords with less than ``least`` usage ``(L, K)`` by latents ``(N, L, H)``; how many."""
        return sum(revive_dead(codebook, used, latent, generator, least)
                   for codebook, used, latent in zip(self.codebooks, usage, latents.unbind(dim=1), strict=True))


class ParallelVAE(nn.Module):
    """L encoders D -> hidden -> H, a codebook each, one mirrored decoder of the mean; ReLU, dropout between layers.

    While training, entries of the input are masked and layers drop out; in evaluation neither happens. ``scale`` is
    that of `ResidualVAE`: one factor at the door that gives the vectors a mean square of 1.
    """

    def __init__(self, dimensions: int, hidden: Sequence[int], latent: int, levels: int, codebook_size: int,
                 generator: torch.Generator, scale: float = 1.0, mask: float = 0.0, dropout: float = 0.0) -> None:
        super().__init__()
        sizes = [dimensions, *hidden, latent]
        self.mask = mask
        self.encoders = nn.ModuleList(_dropping_out(perceptron(sizes, generator), dropout) for _ in range(levels))
        self.quantizer = ParallelQuantizer(levels, codebook_size, latent, generator)
        self.decoder = _dropping_out(perceptron(sizes[::-1], generator), dropout)
        self.register_buffer("scale", torch.tensor(scale))

    def latents(self, vectors: Tensor) -> Tensor:
        """``(B, D) -> (B, L, H)``; all encoders see the same mask."""
        vectors = vectors * self.scale
        if self.training and self.mask:
            vectors = mask_entries(vectors, self.mask)
        return torch.stack([encoder(vectors) for encoder in self.encoders], dim=1)

    def decode(self, quantized: Tensor) -> Tensor:
        """``(B, H) -> (B, D)``, in the scale of the input."""
        return self.decoder(quantized) / self.scale

    def forward(self, vectors: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions ``(B, D)``, and what the quantizer made of the latents."""
        quantized = self.quantizer(self.latents(vectors))
        return self.decode(quantized.vectors), quantized

    def losses(self, vectors: Tensor, reconstructed: Tensor, quantized: Quantized, commitment: float) -> Losses:
        """L_recon to the unmasked ``vectors (B, D)``, and L_cb + ``commitment`` * L_cm summed over levels.

        Means over rows and dimensions, not sums, so that the weights do not depend on D and H.
        """
        return Losses(F.mse_loss(reconstructed * self.scale, vectors * self.scale),
                      (quantized.codebook_losses + commitment * quantized.commitment_losses).sum())


def _dropping_out(layers: nn.Sequential, share: float) -> nn.Sequential:
    """The same layers with dropout behind each activation."""
    spread = []
    for layer in layers:
        spread += [layer, nn.Dropout(share)] if isinstance(layer, nn.ReLU) else [layer]
    return nn.Sequential(*spread)
