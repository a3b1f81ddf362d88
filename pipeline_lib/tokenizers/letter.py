"""Semantic IDs from an RQ-VAE that is also drawn to collaborative vectors, and whose codewords are kept apart.

L = L_recon + L_rq + cf_weight * L_CF + diversity_weight * L_Div, the last summed over levels as L_rq is. Otherwise
everything is as in `tokenizers.rqvae`: with both weights 0 the codes are the same, bit for bit.

Shapes: N items, L levels, K codewords per level, H latent dimensions.
Source: Wang et al. 2024, "Learnable Item Tokenization for Generative Recommendation" (LETTER). Departures: those of
`tokenizers.residual_codes`; a trained linear map where collaborative vectors and latents differ in size; items without
training data are not aligned; clusters go on from those of the epoch before, not from random centres; colliding items
move at the end only (``tokenizer.collisions=sinkhorn``), while the authors' last level is also trained with such codes.

Tensors: those of `tokenizers.residual_codes`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_lib.quantizers.codeword_diversity import CodewordDiversity
from pipeline_lib.quantizers.collaborative_alignment import CollaborativeAlignment
from pipeline_lib.quantizers.residual import Quantized
from pipeline_lib.ranges import NonNegativeFloat, PositiveInt
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import torch_generator
from pipeline_lib.tokenizers import residual_codes
from pipeline_lib.tokenizers.discrete import flat_vectors

encode_items = residual_codes.encode_items


@dataclass(frozen=True)
class Config(residual_codes.ResidualConfig):
    """``cf_weight`` is alpha, ``diversity_weight`` beta, ``commitment`` mu; ``clusters``: of each codebook."""

    levels: PositiveInt = 4
    cf_weight: NonNegativeFloat = 0.01
    diversity_weight: NonNegativeFloat = 0.0001
    clusters: PositiveInt = 10


class Regularisation(nn.Module):
    """The two losses beside the autoencoder's own, a `residual_fitting.Regulariser`."""

    def __init__(self, alignment: CollaborativeAlignment, diversity: CodewordDiversity, cf_weight: float,
                 diversity_weight: float) -> None:
        super().__init__()
        self.alignment, self.diversity = alignment, diversity
        self.weights = {"cf": cf_weight, "diversity": diversity_weight}

    def begin_epoch(self, codebooks: Tensor) -> None:
        """Cluster the codewords of ``codebooks (L, K, H)``."""
        self.diversity.update(codebooks)

    def forward(self, rows: Tensor, quantized: Quantized, codebooks: Tensor) -> Mapping[str, Tensor]:
        """L_CF and L_Div, unweighted, of items ``rows (B,)``."""
        return {"cf": self.alignment(rows, quantized.vectors),
                "diversity": self.diversity.loss(quantized.codes, codebooks)}


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Train on the vectors of all items and give each its codes.

    Args:
        inputs: items of ``inputs.train`` are aligned with their ``inputs.cf_vectors``.

    Raises:
        ValueError: if there are fewer items than codewords, fewer than two codewords a cluster, or no item with
            training data to align, or if an option is out of range.
    """
    check_config(config)
    cf_vectors = flat_vectors(inputs.cf_vectors)
    known = np.bincount(inputs.train.values, minlength=len(cf_vectors)) > 0
    if config.cf_weight and not known.any():
        raise ValueError("no item is in a training history, so none can be aligned with its collaborative vector; set "
                         "tokenizer.letter.cf_weight=0, or re-run split")
    alignment = CollaborativeAlignment(torch.from_numpy(cf_vectors), torch.from_numpy(known), config.latent,
                                       torch_generator(seed, "letter projection"))
    diversity = CodewordDiversity(config.clusters, torch_generator(seed, "letter clusters"))
    regulariser = Regularisation(alignment, diversity, config.cf_weight, config.diversity_weight)
    return residual_codes.fit_and_encode("letter", flat_vectors(inputs.vectors), config, collisions=collisions,
                                         seed=seed, regulariser=regulariser)


def check_config(config: Config) -> None:
    """Refuse options that cannot be.

    Raises:
        ValueError: naming the first of them.
    """
    most = config.codebook_size // 2
    if not 1 <= config.clusters <= most:
        raise ValueError(f"params: tokenizer.letter.clusters={config.clusters}, but a codebook of "
                         f"{config.codebook_size} makes from 1 to {most} clusters of two codewords or more")
