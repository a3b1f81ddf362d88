"""What tokenizers with an RQ-VAE share: training an autoencoder whose latent is quantized level by level, and encoding.

Shapes: N items, D dimensions, L levels, K codewords per level, H latent dimensions.
Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER), section 3.1. Departures: one
global scale for the input; k-means of all encoded items, not of the first batch; AdamW, not Adagrad; codewords that
are hardly used are revived.

Tensors: those of `ResidualVAE`: ``encoder.<i>.weight``, ``encoder.<i>.bias``, ``quantizer.codebooks (L, K, H)``,
``decoder.<i>.weight``, ``decoder.<i>.bias``, ``scale ()``.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from pipeline_lib.evaluation.code_quality import mean_squared_error
from pipeline_lib.quantizers.residual import encode_residual, last_level_distances
from pipeline_lib.quantizers.residual_fitting import Regulariser, fit_autoencoder
from pipeline_lib.quantizers.residual_vae import ResidualVAE, scale_for
from pipeline_lib.ranges import NonNegativeFloat, PositiveFloat, PositiveInt
from pipeline_lib.records import Identifiers
from pipeline_lib.seeding import torch_generator
from pipeline_lib.tokenizers.discrete import flat_vectors, identifiers_of, require_items
from pipeline_lib.training.device import use_device


@dataclass(frozen=True)
class ResidualConfig:
    """``commitment`` is beta; ``patience`` counts epochs without a better one; the rest is named as in the papers."""

    levels: PositiveInt = 3
    codebook_size: PositiveInt = 256
    hidden: tuple[PositiveInt, ...] = (512, 256, 128)
    latent: PositiveInt = 32
    commitment: NonNegativeFloat = 0.25
    epochs: PositiveInt = 100
    batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 0.002
    weight_decay: NonNegativeFloat = 0.0
    kmeans_init: bool = True
    revive_dead: bool = True
    patience: PositiveInt = 30


def fit_and_encode(kind: str, vectors: np.ndarray, config: ResidualConfig, *, collisions: str, seed: int,
                   regulariser: Regulariser | None = None) -> Identifiers:
    """Train on ``vectors (N, D)`` and give each its codes, for ``kind`` of tokenizer; equal seeds start alike in all.

    Raises:
        ValueError: if there are fewer items than codewords.
    """
    require_items(len(vectors), config.codebook_size, kind)
    table, device = torch.from_numpy(vectors), use_device()
    model = ResidualVAE(vectors.shape[1], config.hidden, config.latent, config.levels, config.codebook_size,
                        torch_generator(seed, "rqvae weights"), scale_for(table)).to(device)
    table = table.to(device)
    if regulariser:
        regulariser.to(device)
    history = fit_autoencoder(model, table, epochs=config.epochs, batch_size=config.batch_size,
                              learning_rate=config.learning_rate, weight_decay=config.weight_decay,
                              commitment=config.commitment, kmeans_init=config.kmeans_init,
                              revive_dead=config.revive_dead, patience=config.patience,
                              generator=torch_generator(seed, "rqvae training"), regulariser=regulariser)
    with torch.no_grad():
        latents, codebooks = model.latents(table), model.quantizer.codebooks
        codes, residual = encode_residual(latents, codebooks)
        error = mean_squared_error(vectors, model.decode(latents - residual).cpu().numpy())
    return identifiers_of(codes.cpu().numpy(), (config.codebook_size,) * config.levels, collisions=collisions,
                          config={"kind": kind, "dimensions": vectors.shape[1], **asdict(config)},
                          last_level_distances=lambda: last_level_distances(latents, codebooks).cpu().numpy(),
                          tensors={name: value.cpu().numpy() for name, value in model.state_dict().items()},
                          reconstruction_error=error, training=history)


@torch.no_grad()
def encode_items(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(N, L)`` int32 of vectors ``(N, D)`` or ``(N, v, D)``, before collisions are resolved.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was trained on vectors of another size.
    """
    table = torch.from_numpy(flat_vectors(vectors))
    if table.shape[1] != config["dimensions"]:
        raise ValueError(f"vectors have {table.shape[1]} dimensions, but the tokenizer was trained on "
                         f"{config['dimensions']}; embed them with the same source")
    model = ResidualVAE(config["dimensions"], config["hidden"], config["latent"], config["levels"],
                        config["codebook_size"], torch.Generator())
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in tensors.items()})
    return encode_residual(model.latents(table), model.quantizer.codebooks)[0].numpy().astype(np.int32)
