"""Quantised latents drawn towards the items' collaborative vectors, each to its own and away from the batch's others.

Shapes: N items, B batch, H latent dimensions, C dimensions of a collaborative vector.
Source: Wang et al. 2024, "Learnable Item Tokenization for Generative Recommendation" (LETTER), collaborative
regularisation. The paper's two sizes are equal (H = C = 32); where they differ, a linear map C -> H without a bias is
trained along. The collaborative vectors themselves stay as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CollaborativeAlignment(nn.Module):
    """The collaborative vectors of all items, and the map into the latent space.

    Args:
        cf_vectors: ``(N, C)``, neither scaled nor trained.
        known: ``(N,)`` bool, the items that have a collaborative vector worth following; others take no part.
        latent: H.
        generator: draws the map, Glorot-normal.
    """

    def __init__(self, cf_vectors: Tensor, known: Tensor, latent: int, generator: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("cf_vectors", cf_vectors)
        self.register_buffer("known", known)
        self.projection = nn.Identity()
        if cf_vectors.shape[1] != latent:
            self.projection = nn.utils.skip_init(nn.Linear, cf_vectors.shape[1], latent, bias=False)
            nn.init.xavier_normal_(self.projection.weight, generator=generator)

    def forward(self, rows: Tensor, quantized: Tensor) -> Tensor:
        """`in_batch_alignment` of ``quantized (B, H)``, the latents of items ``rows (B,)``; 0 where none is known."""
        known = self.known[rows]
        if not known.any():
            return quantized.new_zeros(())
        return in_batch_alignment(quantized[known], self.projection(self.cf_vectors[rows[known]]))


def in_batch_alignment(quantized: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row's own target among all of the batch, a mean over rows.

    L_CF = -1/B sum_i log softmax_j(z_i . h_j)[i]: dot products as they are, no norm and no temperature.

    Args:
        quantized: ``(B, H)``, z: with a straight-through gradient they move the encoder.
        targets: ``(B, H)``, h; row i belongs to row i.
    """
    similarities = quantized @ targets.T  # (B, B)
    return F.cross_entropy(similarities, torch.arange(len(similarities), device=similarities.device))
