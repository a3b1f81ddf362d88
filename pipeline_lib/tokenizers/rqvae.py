"""Semantic IDs from an RQ-VAE: an autoencoder whose latent is quantized level by level.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.1; departures and tensors
are those of `tokenizers.residual_codes`.
"""

from dataclasses import dataclass

from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.tokenizers import residual_codes
from pipeline_lib.tokenizers.discrete import flat_vectors
from pipeline_lib.tokenizers.residual_codes import ResidualConfig

encode_items = residual_codes.encode_items


@dataclass(frozen=True)
class Config(ResidualConfig):
    """Options under ``tokenizer.rqvae``."""


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Train on the vectors of all items and give each its codes.

    Raises:
        ValueError: if there are fewer items than codewords.
    """
    return residual_codes.fit_and_encode("rqvae", flat_vectors(inputs.vectors), config, collisions=collisions,
                                         seed=seed)
