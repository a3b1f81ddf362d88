"""How well identifiers use their codebooks, and how many items they cannot tell apart.

Shapes: N items, L levels. Needs no torch, so that any stage can report.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_lib.quantizers.collisions import bucket_of_item


def describe_codes(codes: np.ndarray, level_sizes: Sequence[int],
                   reconstruction_error: float | None = None) -> dict[str, Any]:
    """Figures on a table of codes; one mapping a measure, with keys ``level_0`` ... for those that have one a level.

    * ``utilisation``: the share of the level's codes that some item has.
    * ``perplexity``: exp of the entropy of the level's codes: the size of an evenly used codebook as informative.
    * ``prefix_entropy``: bits of the identifiers cut after this level; at most log2 N, reached without collisions.
    * ``collision_rate``: the share of items whose identifier another item has too.
    * ``distinct``: identifiers that are in use; ``largest_bucket``: the most items that share one.
    * ``buckets``: how many identifiers are shared by 1, 2, 3-4, 5-8, ... items.

    Args:
        codes: ``(N, L)`` int, shorter identifiers right-padded with -1.
        level_sizes: codes of each level.
        reconstruction_error: mean squared error a vector dimension, where something is reconstructed.
    """
    counts = [_usage(column, size) for column, size in zip(codes.T, level_sizes, strict=True)]
    sizes = np.bincount(bucket_of_item(codes)) if len(codes) else np.zeros(0, dtype=np.int64)
    prefixes = [np.bincount(bucket_of_item(codes[:, : level + 1])) for level in range(len(level_sizes))]
    description = {
        "items": len(codes),
        "level_sizes": _by_level(level_sizes),
        "utilisation": _by_level([float((count > 0).mean()) for count in counts]),
        "perplexity": _by_level([float(np.exp(_entropy(count))) for count in counts]),
        "prefix_entropy": _by_level([float(_entropy(count) / np.log(2)) for count in prefixes]),
        "collision_rate": float(sizes[sizes > 1].sum() / max(len(codes), 1)),
        "distinct": len(sizes),
        "largest_bucket": int(sizes.max(initial=0)),
        "buckets": _histogram(sizes),
    }
    if reconstruction_error is not None:
        description["reconstruction_error"] = reconstruction_error
    return description


def code_usage_rows(codes: np.ndarray, level_sizes: Sequence[int]) -> list[dict[str, int]]:
    """Rows ``level, rank, count`` for a plot: how many items have each code, most used first, unused codes too."""
    rows = []
    for level, size in enumerate(level_sizes):
        counts = np.sort(_usage(codes[:, level], size))[::-1]
        rows += [{"level": level, "rank": rank, "count": count} for rank, count in enumerate(counts.tolist(), 1)]
    return rows


def check_code_quality(description: Mapping[str, Any], max_collision_rate: float, min_utilisation: float) -> None:
    """Stop before anything expensive runs on poor identifiers.

    Args:
        description: of the final codes, which collisions are judged by; utilisation is judged by its
            ``before_resolution`` (the codes that the quantizer itself chose) where there is one.
        max_collision_rate: ``tokenizer.max_collision_rate``.
        min_utilisation: ``tokenizer.min_utilisation``, for each level.

    Raises:
        ValueError: with what was measured and what to do.
    """
    for level, share in description.get("before_resolution", description)["utilisation"].items():
        if share < min_utilisation:
            raise ValueError(f"tokenizer: {share:.1%} of the codes are used at {level}, below "
                             f"tokenizer.min_utilisation={min_utilisation:g}; take a smaller codebook_size, "
                             "train longer, or lower min_utilisation")
    rate = description["collision_rate"]
    if rate > max_collision_rate:
        raise ValueError(f"tokenizer: {rate:.1%} of the items share their identifier, above "
                         f"tokenizer.max_collision_rate={max_collision_rate:g}; set tokenizer.collisions=suffix, take "
                         "more levels or a larger codebook_size, or raise max_collision_rate")


def mean_squared_error(vectors: np.ndarray, reconstructed: np.ndarray) -> float:
    """The reconstruction error that tokenizers report: mean over items and dimensions, in the vectors' own units."""
    return float(np.mean(np.square(vectors - reconstructed, dtype=np.float64)))


def _by_level(values: Sequence) -> dict[str, Any]:
    return {f"level_{level}": value for level, value in enumerate(values)}


def _usage(column: np.ndarray, size: int) -> np.ndarray:
    """``(size,)``: items of each code, padding left out."""
    return np.bincount(column[column >= 0], minlength=size)


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def _histogram(sizes: np.ndarray) -> dict[str, int]:
    """Identifiers by bucket size, in classes that double: 1, 2, 3-4, 5-8 ..."""
    histogram, lowest, highest = {}, 1, 1
    while lowest <= sizes.max(initial=0):
        name = str(lowest) if lowest == highest else f"{lowest}-{highest}"
        histogram[name] = int(((sizes >= lowest) & (sizes <= highest)).sum())
        lowest, highest = highest + 1, highest * 2
    return histogram
