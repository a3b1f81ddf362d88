"""Sets of continuous tokens: an item's collaborative vector projected to one, its text vector autoencoded to several.

One encoder yields all N semantic tokens, cut out of one wide code; its mirrored decoder rebuilds the text vector.
Shapes: I items, D dimensions of a text vector, C of a collaborative one, N semantic tokens, M tokens in all (the
collaborative one first), W width of a token.
Source: Lin et al. 2025, "Order-agnostic Identifier for Large Language Model-based Generative Recommendation",
section 3.1, equations 3 and 4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipeline_lib.quantizers.residual_vae import perceptron


class SetAutoencoder(nn.Module):
    """``C -> W`` and ``D -> hidden -> N * W`` with a mirrored decoder; ReLU between layers.

    Vectors are multiplied by a scale at the door, one factor for all dimensions, unlike the authors' code: entries of
    unit-length text vectors are so small that their squared errors would weigh nothing beside the other loss.

    Args:
        dimensions: D.
        cf_dimensions: C; 0 for sets without a collaborative token.
        hidden: of the encoder.
        tokens: N; 0 for sets without semantic tokens.
        width: W.
        generator: draws the weights, Glorot-normal; biases start at 0.
        scale, cf_scale: of both kinds of vectors, see `residual_vae.scale_for`.
    """

    def __init__(self, dimensions: int, cf_dimensions: int, hidden: Sequence[int], tokens: int, width: int,
                 generator: torch.Generator, scale: float = 1.0, cf_scale: float = 1.0) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        sizes = [dimensions, *hidden, tokens * width]
        self.projection = perceptron([cf_dimensions, width], generator) if cf_dimensions else None
        self.encoder = perceptron(sizes, generator) if tokens else None
        self.decoder = perceptron(sizes[::-1], generator) if tokens else None
        self.register_buffer("scale", torch.tensor(scale))
        self.register_buffer("cf_scale", torch.tensor(cf_scale))

    @property
    def set_size(self) -> int:
        """M."""
        return (self.projection is not None) + self.tokens

    def forward(self, vectors: Tensor, cf_vectors: Tensor) -> Tensor:
        """Token sets ``(I, M, W)`` of ``vectors (I, D)`` and ``cf_vectors (I, C)``: eq. 3 behind the projection."""
        parts = []
        if self.projection is not None:
            parts.append(self.projection(cf_vectors * self.cf_scale).unsqueeze(1))
        if self.encoder is not None:
            parts.append(self.semantic_tokens(vectors))
        return torch.cat(parts, dim=1)

    def semantic_tokens(self, vectors: Tensor) -> Tensor:
        """``(I, D) -> (I, N, W)``."""
        return self.encoder(vectors * self.scale).unflatten(-1, (self.tokens, self.width))

    def reconstruction_errors(self, vectors: Tensor, semantic_tokens: Tensor) -> Tensor:
        """``(I,)``: squared error a dimension, in scaled units, of ``vectors (I, D)`` as rebuilt: eq. 4."""
        rebuilt = self.decoder(semantic_tokens.flatten(1))
        return (rebuilt - vectors * self.scale).square().mean(dim=-1)
