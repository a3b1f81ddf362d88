"""An autoencoder with a residual quantizer in the middle (RQ-VAE).

Shapes: B batch, D dimensions of a vector, H dimensions of its latent, L levels, K codewords per level.
Source: Lee et al. 2022, eq. 5-8; sizes and use for items: Rajput et al. 2023 (TIGER), section 3.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline_lib.quantizers.residual import Quantized, ResidualQuantizer


@dataclass(frozen=True)
class Losses:
    """Scalars of a batch: the squared error a dimension, and the quantizer's loss summed over levels."""

    reconstruction: Tensor
    quantization: Tensor


class ResidualVAE(nn.Module):
    """Encoder D -> hidden -> H, residual quantizer, mirrored decoder; ReLU between layers.

    Vectors are multiplied by ``scale`` at the door, and divided by it on the way out: one factor for all dimensions,
    because unit-length text vectors have entries so small that squared errors, gradients and latents vanish.
    """

    def __init__(self, dimensions: int, hidden: Sequence[int], latent: int, levels: int, codebook_size: int,
                 generator: torch.Generator, scale: float = 1.0, residual_gradient: str = "identity") -> None:
        super().__init__()
        sizes = [dimensions, *hidden, latent]
        self.encoder = perceptron(sizes, generator)
        self.quantizer = ResidualQuantizer(levels, codebook_size, latent, generator, residual_gradient)
        self.decoder = perceptron(sizes[::-1], generator)
        self.register_buffer("scale", torch.tensor(scale))

    def encode(self, vectors: Tensor) -> tuple[Tensor, Quantized]:
        """Latents ``(B, H)`` of ``vectors (B, D)``, and what the quantizer makes of them."""
        latents = self.latents(vectors)
        return latents, self.quantizer(latents)

    def latents(self, vectors: Tensor) -> Tensor:
        """``(B, D) -> (B, H)``."""
        return self.encoder(vectors * self.scale)

    def decode(self, quantized: Tensor) -> Tensor:
        """``(B, H) -> (B, D)``, in the scale of the input."""
        return self.decoder(quantized) / self.scale

    def forward(self, vectors: Tensor) -> tuple[Tensor, Quantized]:
        """Reconstructions ``(B, D)``, and what the quantizer made of the latents."""
        quantized = self.encode(vectors)[1]
        return self.decode(quantized.vectors), quantized

    def losses(self, vectors: Tensor, reconstructed: Tensor, quantized: Quantized, commitment: float) -> Losses:
        """Reconstruction error in scaled units, and codebook + ``commitment`` * commitment loss summed over levels."""
        return Losses(F.mse_loss(reconstructed * self.scale, vectors * self.scale),
                      (quantized.codebook_losses + commitment * quantized.commitment_losses).sum())


def perceptron(sizes: Sequence[int], generator: torch.Generator) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` to ``sizes[-1]`` with ReLU between; Glorot-normal weights, zero biases."""
    layers = []
    for inputs, outputs in zip(sizes, sizes[1:]):
        linear = nn.utils.skip_init(nn.Linear, inputs, outputs)  # leaves the global generator alone
        nn.init.xavier_normal_(linear.weight, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def scale_for(vectors: Tensor) -> float:
    """The factor that gives ``vectors (N, D)`` a mean squared entry of 1; 1 where all are zero."""
    power = vectors.square().mean().sqrt().item()
    return 1 / power if power > 0 else 1.0
