"""The two losses that tie a recommender's states to the tokenizer's item representations.

Shapes: U items, L levels, K codewords of a level, D dimensions.
Source: Liu et al. 2025, "Generative Recommender with End-to-End Learnable Item Tokenization" (ETEGRec), section 3.2.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

SIGNS = {"minus": -1.0, "plus": 1.0}


def sequence_item_alignment(item_distances: Tensor, sequence_distances: Tensor, sign: str = "minus") -> Tensor:
    """Symmetric Kullback-Leibler divergence of the two code distributions, a mean over items and levels (eq. 9).

    The paper prints a minus before the sum, which would push the distributions apart; this is the plus of its code. The
    mean over levels, where the formula has a sum, is the code's too, and what its weights belong to.

    Args:
        item_distances: ``(U, L, K)``, squared, of a target's residuals to the codewords.
        sequence_distances: likewise, of the sequence's latent.
        sign: ``minus``: P(k) = softmax(-distance), eq. 6; ``plus``: softmax(+distance), as the released code has it.
    """
    if sign not in SIGNS:
        raise ValueError(f"sia_sign is {sign}; known: {', '.join(SIGNS)}")
    item, sequence = (torch.log_softmax(SIGNS[sign] * distances, dim=-1)
                      for distances in (item_distances, sequence_distances))
    both_ways = (item.exp() - sequence.exp()) * (item - sequence)  # KL(p || q) + KL(q || p)
    return both_ways.sum(dim=-1).mean()


def preference_semantic_alignment(preferences: Tensor, semantics: Tensor, temperature: float) -> Tensor:
    """InfoNCE both ways between ``preferences (U, D)`` and ``semantics (U, D)``, in-batch negatives (eq. 11).

    Cosine similarity over ``temperature``; the mean over items of the sum of both directions.
    """
    logits = F.normalize(preferences, dim=-1) @ F.normalize(semantics, dim=-1).T / temperature
    own = torch.arange(len(logits), device=logits.device)
    return F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)
