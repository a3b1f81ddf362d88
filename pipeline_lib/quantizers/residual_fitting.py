"""Training of a quantizing autoencoder, residual or parallel, on a table of vectors that stays in memory as a whole.

Shapes: N vectors, D dimensions, L levels, K codewords per level.
"""

import logging
import time
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_lib.quantizers.collisions import collision_rate
from pipeline_lib.quantizers.parallel import ParallelVAE
from pipeline_lib.quantizers.residual import Quantized
from pipeline_lib.quantizers.residual_vae import ResidualVAE

KMEANS_ITERATIONS = 10
RARE = 0.2  # a codeword that is used less than this share of the average is revived
REVIVAL_SAMPLE = 8  # vectors a codeword that revival draws from
MEASURE_EVERY = 5  # epochs between two looks at all vectors

log = logging.getLogger(__name__)


class Regulariser(Protocol):
    """Losses beside the model's own; ``weights``: what each of them counts, by name."""

    weights: Mapping[str, float]

    def to(self, device: torch.device) -> Any:
        """Move to the device of the model, before training."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """What is trained together with the model; none of the model's own."""

    def begin_epoch(self, codebooks: Tensor) -> None:
        """See ``codebooks (L, K, D)`` as the coming epoch finds them."""

    def __call__(self, rows: Tensor, quantized: Quantized, codebooks: Tensor) -> Mapping[str, Tensor]:
        """Unweighted losses of a batch, by the names of ``weights``; ``rows (B,)``: which of the vectors it holds."""


def fit_autoencoder(model: ResidualVAE | ParallelVAE, vectors: Tensor, *, epochs: int, batch_size: int,
                    learning_rate: float, weight_decay: float, commitment: float, kmeans_init: bool,
                    revive_dead: bool, patience: int, generator: torch.Generator, validation: Tensor | None = None,
                    regulariser: Regulariser | None = None) -> list[dict[str, float]]:
    """Train with AdamW; leave the model in the state of its best epoch.

    The best epoch has the smallest sum of the unexplained share of the vectors' squares and of the share of items
    that collide: either alone is misleading (random codes collide least, an autoencoder that ignores rare items
    reconstructs well). Both are measured every fifth epoch, and training stops ``patience`` epochs after the best.
    Only batches see the model in training mode, and it ends in evaluation mode.

    Args:
        model: changed in place.
        vectors: ``(N, D)`` on the model's device; ``N`` at least K.
        commitment: weight of the commitment loss (beta).
        kmeans_init: start the codebooks at k-means of all encoded vectors, level by level.
        revive_dead: after each epoch, put random latents or residuals in place of codewords that are hardly used.
        generator: on the CPU; orders the batches, starts k-means, draws residuals.
        validation: ``(M, D)``, what the best epoch is chosen on; the trained vectors where there is none.
        regulariser: adds losses to train on; the best epoch is chosen as without it.

    Returns:
        A mapping an epoch: losses, ``loss`` being their weighted sum, the lowest utilisation of a level, and where
        measured ``unexplained`` and ``collision_rate``.

    Raises:
        ValueError: if an epoch's loss is not a finite number.
    """
    trained = [*model.parameters(), *(regulariser.parameters() if regulariser else ())]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=weight_decay)
    codebook_size = model.quantizer.codebooks.shape[1]
    measured = vectors if validation is None else validation
    model.eval()
    if kmeans_init:
        with torch.no_grad():
            model.quantizer.fit_codebooks(model.latents(vectors), KMEANS_ITERATIONS, generator)
    history, best, best_epoch, best_state, started = [], np.inf, 0, None, time.perf_counter()
    for epoch in range(1, epochs + 1):
        if regulariser:
            regulariser.begin_epoch(model.quantizer.codebooks.detach())
        row, usage = _run_epoch(model, optimizer, vectors, batch_size, commitment, generator, regulariser)
        row = {"epoch": epoch, **row}
        if not np.isfinite(row["loss"]):
            raise ValueError(f"the loss of the quantizer is {row['loss']} in epoch {epoch}; lower its learning_rate "
                             f"(now {learning_rate})")
        if epoch % MEASURE_EVERY == 0 or epoch == epochs:
            row |= measure(model, measured)
            score = row["unexplained"] + row["collision_rate"]
            if score < best:
                best, best_epoch = score, epoch
                best_state = {name: value.clone() for name, value in model.state_dict().items()}
            log.info("epoch %d: %s, %.1f s", epoch, ", ".join(f"{name} {value:.4f}" for name, value in row.items()
                                                              if name != "epoch"), time.perf_counter() - started)
        history.append(row)
        if epoch - best_epoch >= max(patience, MEASURE_EVERY):
            break
        if revive_dead:
            sample = torch.randperm(len(vectors), generator=generator)[: REVIVAL_SAMPLE * codebook_size]
            with torch.no_grad():
                latents = model.latents(vectors[sample.to(vectors.device)])
            model.quantizer.revive_dead(latents, usage, RARE * len(vectors) / codebook_size, generator)
    if best_state is not None:
        model.load_state_dict(best_state)
    log.info("kept epoch %d of %d", best_epoch, len(history))
    return history


@torch.no_grad()
def measure(model: ResidualVAE | ParallelVAE, vectors: Tensor, rows_at_once: int = 65536) -> dict[str, float]:
    """The share of the squares of ``vectors (N, D)`` that is not reconstructed, and the share of colliding items."""
    missed, codes = 0.0, []
    for part in vectors.split(rows_at_once):
        reconstructed, quantized = model(part)
        missed += (reconstructed - part).square().sum().item()
        codes.append(quantized.codes)
    return {"unexplained": missed / max(vectors.square().sum().item(), 1e-30),
            "collision_rate": collision_rate(torch.cat(codes).cpu().numpy())}


def _run_epoch(model: ResidualVAE | ParallelVAE, optimizer: torch.optim.Optimizer, vectors: Tensor, batch_size: int,
               commitment: float, generator: torch.Generator,
               regulariser: Regulariser | None) -> tuple[dict[str, float], Tensor]:
    """One pass in random order: mean losses, and how often each codeword ``(L, K)`` was chosen."""
    codebooks = model.quantizer.codebooks
    levels, codebook_size, _ = codebooks.shape
    level_start = torch.arange(levels, device=vectors.device) * codebook_size
    usage = torch.zeros(levels * codebook_size, dtype=torch.int64, device=vectors.device)
    weights = {"reconstruction": 1.0, "quantization": 1.0, **(regulariser.weights if regulariser else {})}
    totals = torch.zeros(len(weights), device=vectors.device)
    model.train()
    for rows in torch.randperm(len(vectors), generator=generator).to(vectors.device).split(batch_size):
        batch = vectors[rows]
        reconstructed, quantized = model(batch)
        own = model.losses(batch, reconstructed, quantized, commitment)
        losses = {"reconstruction": own.reconstruction, "quantization": own.quantization}
        if regulariser:
            losses |= regulariser(rows, quantized, codebooks)
        optimizer.zero_grad(set_to_none=True)
        sum(weight * losses[name] for name, weight in weights.items()).backward()
        optimizer.step()
        usage += torch.bincount((quantized.codes + level_start).flatten(), minlength=len(usage))
        totals += torch.stack([losses[name] for name in weights]).detach() * len(rows)
    model.eval()
    usage = usage.view(levels, codebook_size)
    means = dict(zip(weights, (totals / len(vectors)).tolist()))
    return {"loss": sum(weight * means[name] for name, weight in weights.items()),
            **{f"{name}_loss": value for name, value in means.items()},
            "utilisation": (usage > 0).float().mean(dim=1).min().item()}, usage
