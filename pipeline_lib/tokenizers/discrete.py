"""What all tokenizers that yield codes share: the form of their input, and the way from raw codes to identifiers.

Shapes: N items, D dimensions, v vectors an item, L levels, K codewords per level.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_lib.evaluation.code_quality import describe_codes
from pipeline_lib.quantizers.collisions import resolve_collisions
from pipeline_lib.records import Identifiers


def flat_vectors(vectors: np.ndarray) -> np.ndarray:
    """One vector an item, ``(N, D)`` float32: the v vectors of ``(N, v, D)`` one after the other, ``(N, v * D)``.

    Squared distances of items are then the sum of those of their v vectors. Nothing is centred: clusters move with
    their vectors, and networks have biases. `tokenizers.kmeans` alone keeps the vectors apart.

    Raises:
        ValueError: for any other number of axes.
    """
    if vectors.ndim not in (2, 3):
        raise ValueError(f"item vectors of shape {vectors.shape}, expected (items, dimensions) or "
                         "(items, vectors, dimensions); re-run embed")
    return np.ascontiguousarray(vectors.reshape(len(vectors), -1), dtype=np.float32)


def require_items(num_items: int, codebook_size: int, kind: str) -> None:
    """Refuse a codebook that the items cannot fill.

    Raises:
        ValueError: naming the parameter to change.
    """
    if num_items < codebook_size:
        raise ValueError(f"params: tokenizer.{kind}.codebook_size={codebook_size}, but there are only {num_items} "
                         f"items to learn it from; set it to {num_items} or less")


def identifiers_of(codes: np.ndarray, level_sizes: Sequence[int], *, collisions: str, config: Mapping[str, Any],
                   last_level_distances: Callable[[], np.ndarray] | None = None,
                   tensors: Mapping[str, np.ndarray] | None = None, reconstruction_error: float | None = None,
                   training: Sequence[Mapping[str, float]] = ()) -> Identifiers:
    """Resolve collisions, and keep a description of the codes as they were before.

    Args:
        codes: ``(N, L)`` as the quantizer chose them.
        level_sizes: codewords of each level.
        collisions: ``suffix``, ``sinkhorn`` or ``none``.
        config: what config.json shall hold, ``kind`` and the options; ``collisions`` and ``before_resolution``
            (`describe_codes` of ``codes``) are added.
        last_level_distances: makes ``(N, K)``, which ``sinkhorn`` alone needs.
    """
    distances = last_level_distances() if last_level_distances and collisions == "sinkhorn" else None
    resolved, resolved_sizes = resolve_collisions(codes, tuple(level_sizes), collisions, distances)
    before = describe_codes(codes, level_sizes)
    return Identifiers(resolved, resolved_sizes, tensors or {},
                       {**config, "collisions": collisions, "before_resolution": before},
                       reconstruction_error, training)


def unique_identifiers(codes: np.ndarray, level_sizes: Sequence[int], *, collisions: str,
                       config: Mapping[str, Any]) -> Identifiers:
    """Identifiers that are unique as they are: ``suffix`` has nothing to add, so it and ``none`` leave them alone.

    Args:
        codes: ``(N, L)`` int, no row twice, shorter ones right-padded with -1.
        level_sizes: codes of each level.
        collisions: ``none`` or ``suffix``; config.json says ``none``, which is what was done.
        config: what config.json shall hold, ``kind`` and the options.

    Raises:
        ValueError: for another ``collisions``.
    """
    if collisions not in ("none", "suffix"):
        raise ValueError(f"params: tokenizer.collisions={collisions} does not fit tokenizer.kind={config['kind']}, "
                         "whose identifiers never collide; set tokenizer.collisions=none")
    return identifiers_of(codes, level_sizes, collisions="none", config=config)
