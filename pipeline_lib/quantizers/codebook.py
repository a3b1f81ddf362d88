"""One codebook: nearest codewords, straight-through gradients, the two losses and the revival of unused codewords.

Shapes: N vectors, K codewords, D dimensions. Residual and parallel quantizers are built from these.
Source: van den Oord et al. 2017, "Neural Discrete Representation Learning".
"""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS_AT_ONCE = 65536  # bounds the (N, K) distances that are held at a time


def squared_distances(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Squared Euclidean distances, differentiable in both arguments.

    Args:
        vectors: ``(N, D)``.
        codebook: ``(K, D)``.

    Returns:
        ``(N, K)``, never negative.

    Raises:
        ValueError: if the two differ in ``D``.
    """
    if vectors.shape[-1] != codebook.shape[-1]:
        raise ValueError(f"vectors have {vectors.shape[-1]} dimensions but codebooks have {codebook.shape[-1]}; "
                         "were they trained on another embedding?")
    centre = codebook.detach().mean(dim=0)  # far from the origin the squares below would cancel
    vectors, codebook = vectors - centre, codebook - centre
    squares = vectors.square().sum(dim=-1, keepdim=True) + codebook.square().sum(dim=-1)
    return (squares - 2 * vectors @ codebook.T).clamp_min(0)


@torch.no_grad()
def nearest_codeword(vectors: Tensor, codebook: Tensor) -> Tensor:
    """``(N,)`` int64: the code of each vector ``(N, D)`` in a codebook ``(K, D)``."""
    return torch.cat([squared_distances(part, codebook).argmin(dim=-1) for part in vectors.split(ROWS_AT_ONCE)])


def straight_through(vectors: Tensor, codewords: Tensor) -> Tensor:
    """The codewords, bit for bit, with the gradient of ``vectors``: identity to them, none to the codebook.

    Source: van den Oord et al. 2017, section 3.2.
    """
    return codewords.detach() + (vectors - vectors.detach())


def codebook_loss(vectors: Tensor, codewords: Tensor) -> Tensor:
    """Moves the chosen codewords ``(N, D)`` to their vectors: mean over rows and dimensions (eq. 3, second term)."""
    return F.mse_loss(codewords, vectors.detach())


def commitment_loss(vectors: Tensor, codewords: Tensor) -> Tensor:
    """Moves the vectors ``(N, D)`` towards their codewords: mean over rows and dimensions (eq. 3, third term)."""
    return F.mse_loss(vectors, codewords.detach())


@torch.no_grad()
def revive_dead(codebook: Tensor, usage: Tensor, candidates: Tensor, generator: torch.Generator,
                least: float = 1.0) -> int:
    """Put randomly drawn candidates in place of the codewords that too few vectors use; changes ``codebook``.

    Random vectors come from crowded places more often, so each revival also splits what shares too few codewords.

    Args:
        codebook: ``(K, D)``.
        usage: ``(K,)`` how many vectors chose each codeword.
        candidates: ``(N, D)`` vectors that this codebook has to encode.
        generator: draws the candidates, on the CPU.
        least: a codeword with less usage counts as dead.

    Returns:
        The number of codewords that were replaced.

    Source: Dhariwal et al. 2020, "Jukebox", section 3.1 (random restarts below a usage threshold).
    """
    dead = torch.nonzero(usage < least).flatten()
    chosen = torch.randperm(len(candidates), generator=generator)[: len(dead)].to(candidates.device)
    codebook[dead[: len(chosen)]] = candidates[chosen]
    return len(chosen)
