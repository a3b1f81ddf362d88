"""Codes of items, and of users, from masked vector quantization: parallel encoders with a codebook each (TokenRec).

Shapes: N items, U users, D dimensions, L levels (TokenRec's K sub-codebooks), K codewords per level (TokenRec's L).
Source: Qu et al. 2024, "TokenRec: Learning to Tokenize ID for LLM-based Generative Recommendations"; departures from
the authors' code are in `quantizers.parallel`. Codebooks start at k-means of all encoded vectors, not at that of the
first batch, and what is hardly used is revived after each epoch in place of their periodic k-means.

Tensors: those of `ParallelVAE` under ``items.`` and, where the source models users, of a second one under ``users.``:
``encoders.<level>.<i>.weight``, ``...bias``, ``quantizer.codebooks (L, K, H)``, ``decoder.<i>.weight``, ``...bias``,
``scale ()``. Users' codes are as chosen: ``collisions`` concerns items only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from pipeline_lib.evaluation.code_quality import describe_codes, mean_squared_error
from pipeline_lib.quantizers.codebook import squared_distances
from pipeline_lib.quantizers.parallel import ParallelVAE, decode_parallel, encode_parallel
from pipeline_lib.quantizers.residual_fitting import fit_autoencoder
from pipeline_lib.quantizers.residual_vae import scale_for
from pipeline_lib.ranges import NonNegativeFloat, PositiveFloat, PositiveInt, ShareBelowOne
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator, torch_generator
from pipeline_lib.tokenizers.discrete import flat_vectors, identifiers_of
from pipeline_lib.training.device import use_device


@dataclass(frozen=True)
class Config:
    """``mask`` is rho, ``commitment`` is beta, ``latent`` the width of a codeword; the decoder mirrors ``hidden``.

    The best epoch is chosen on ``validation_share`` of the rows, which are not trained on (0: on the trained ones);
    ``patience`` counts epochs without a better one. ``one_codebook``: in place of K of L codewords, one of K * L.
    """

    levels: PositiveInt = 3
    codebook_size: PositiveInt = 256
    hidden: tuple[PositiveInt, ...] = (128, 256)
    latent: PositiveInt = 64
    mask: ShareBelowOne = 0.2
    commitment: NonNegativeFloat = 0.25
    dropout: ShareBelowOne = 0.0
    epochs: PositiveInt = 300
    batch_size: PositiveInt = 512
    learning_rate: PositiveFloat = 0.003
    weight_decay: NonNegativeFloat = 0.01
    kmeans_init: bool = True
    revive_dead: bool = True
    patience: PositiveInt = 30
    validation_share: ShareBelowOne = 0.1
    one_codebook: bool = False


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Train on the vectors of items and give each its codes; the same for users, apart, where there are any.

    The users' instance is trained on the rows of ``inputs.train_users`` in ``inputs.users["valid"]``, not on users who
    are kept out of training, and encodes every part of ``inputs.users``. The description of its codes goes to
    ``config["users"]``.

    Raises:
        ValueError: if there are fewer vectors to train on than codewords, or no user has one.
    """
    if config.one_codebook:
        config = replace(config, levels=1, codebook_size=config.levels * config.codebook_size, one_codebook=False)
    vectors = flat_vectors(inputs.vectors)
    model, history = _fit(vectors, config, "items", seed)
    codes = _encode(model, vectors)
    sizes = (config.codebook_size,) * config.levels
    identifiers = identifiers_of(codes, sizes, collisions=collisions,
                                 last_level_distances=lambda: _last_level_distances(model, vectors),
                                 config={"kind": "mq", "dimensions": vectors.shape[1], **asdict(config)},
                                 tensors=_tensors(model, "items"), training=history,
                                 reconstruction_error=_reconstruction_error(model, vectors, codes))
    return _with_users(identifiers, inputs, config, seed) if inputs.users else identifiers


def encode_items(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(N, L)`` int32 of vectors ``(N, D)`` or ``(N, v, D)``, before collisions are resolved.

    Args:
        tensors, config: as in tokenizer.safetensors and config.json.

    Raises:
        ValueError: if the tokenizer was trained on vectors of another size.
    """
    return _encode(_load("items", tensors, config, flat_vectors(vectors).shape[1]), flat_vectors(vectors))


def encode_users(vectors: np.ndarray, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]) -> np.ndarray:
    """Codes ``(U, L)`` int32 of users' vectors ``(U, D)``; a row of -1 for each that is not finite.

    Raises:
        ValueError: if the tokenizer has no users, or was trained on vectors of another size.
    """
    return _encode_finite(_load("users", tensors, config, vectors.shape[1]), vectors)


def _with_users(identifiers: Identifiers, inputs: TokenizerInputs, config: Config, seed: int) -> Identifiers:
    users = inputs.users
    known = users["valid"][inputs.train_users]
    known = known[np.isfinite(known).all(axis=1)]
    if not len(known):
        raise ValueError(f"none of the {len(inputs.train_users)} training users has a vector to learn codes from; "
                         "re-run embed with a source that models users")
    model, history = _fit(known, config, "users", seed)
    codes = _encode(model, known)
    quality = describe_codes(codes, (config.codebook_size,) * config.levels, _reconstruction_error(model, known, codes))
    return replace(identifiers, tensors={**identifiers.tensors, **_tensors(model, "users")},
                   config={**identifiers.config, "users": {**quality, "epochs": len(history)}},
                   user_codes={part: _encode_finite(model, vectors) for part, vectors in users.items()})


def _fit(vectors: np.ndarray, config: Config, entity: str, seed: int) -> tuple[ParallelVAE, list[dict[str, float]]]:
    """A model of ``vectors (N, D)`` in evaluation mode, and its figures by epoch; leaves the global generator alone."""
    order = numpy_generator(seed, f"mq {entity} validation").permutation(len(vectors))
    held_out, trained = np.split(order, [round(config.validation_share * len(vectors))])
    if len(trained) < config.codebook_size:
        raise ValueError(f"params: tokenizer.mq.codebook_size={config.codebook_size}, but there are only "
                         f"{len(trained)} {entity} to learn it from; set it to {len(trained)} or less")
    table, held, device = torch.from_numpy(vectors[trained]), torch.from_numpy(vectors[held_out]), use_device()
    model = ParallelVAE(vectors.shape[1], config.hidden, config.latent, config.levels, config.codebook_size,
                        torch_generator(seed, f"mq {entity} weights"), scale_for(table), config.mask,
                        config.dropout).to(device)
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):  # masks and dropout draw from the global generator
        torch.manual_seed(torch_generator(seed, f"mq {entity} masks").initial_seed())
        history = fit_autoencoder(model, table.to(device), epochs=config.epochs, batch_size=config.batch_size,
                                  learning_rate=config.learning_rate, weight_decay=config.weight_decay,
                                  commitment=config.commitment, kmeans_init=config.kmeans_init,
                                  revive_dead=config.revive_dead, patience=config.patience,
                                  generator=torch_generator(seed, f"mq {entity} training"),
                                  validation=held.to(device) if len(held) else None)
    return model.cpu(), history


@torch.no_grad()
def _encode(model: ParallelVAE, vectors: np.ndarray) -> np.ndarray:
    latents = model.latents(torch.from_numpy(vectors))
    return encode_parallel(latents, model.quantizer.codebooks).numpy().astype(np.int32)


def _encode_finite(model: ParallelVAE, vectors: np.ndarray) -> np.ndarray:
    finite = np.isfinite(vectors).all(axis=1)
    codes = np.full((len(vectors), len(model.encoders)), -1, dtype=np.int32)
    codes[finite] = _encode(model, vectors[finite])
    return codes


@torch.no_grad()
def _last_level_distances(model: ParallelVAE, vectors: np.ndarray) -> np.ndarray:
    last = model.latents(torch.from_numpy(vectors))[:, -1]
    return squared_distances(last, model.quantizer.codebooks[-1]).numpy()


@torch.no_grad()
def _reconstruction_error(model: ParallelVAE, vectors: np.ndarray, codes: np.ndarray) -> float:
    chosen = decode_parallel(torch.from_numpy(codes).long(), model.quantizer.codebooks)
    return mean_squared_error(vectors, model.decode(chosen).numpy())


def _tensors(model: ParallelVAE, entity: str) -> dict[str, np.ndarray]:
    return {f"{entity}.{name}": value.numpy() for name, value in model.state_dict().items()}


def _load(entity: str, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], dimensions: int) -> ParallelVAE:
    state = {name.removeprefix(f"{entity}."): torch.from_numpy(np.array(value))
             for name, value in tensors.items() if name.startswith(f"{entity}.")}
    if not state:
        raise ValueError(f"this tokenizer was not trained on {entity}; re-run quantize with a source that models them")
    trained_on = state["encoders.0.0.weight"].shape[1]
    if dimensions != trained_on:
        raise ValueError(f"vectors have {dimensions} dimensions, but the tokenizer was trained on {trained_on}; "
                         "embed them with the same source")
    model = ParallelVAE(dimensions, config["hidden"], config["latent"], config["levels"], config["codebook_size"],
                        torch.Generator())
    model.load_state_dict(state)
    return model.eval()
