"""Sinkhorn-Knopp: the entropic optimal transport plan between rows and columns.

Shapes: any leading dimensions, n rows (items), K columns (codewords).
Source: Cuturi 2013, "Sinkhorn Distances"; for codes: Zheng et al. 2024 (LC-Rec), eq. 6-7.
"""

import numpy as np


def transport_plan(distances: np.ndarray, epsilon: float = 0.003, iterations: int = 50) -> np.ndarray:
    """Spread rows over columns at small distance, each column receiving as much as any other.

    Args:
        distances: ``(..., n, K)``; ``inf`` forbids a pair, a column of ``inf`` takes no part. Each problem's finite
            distances are first brought to [-1, 1], as the authors do, so that ``epsilon`` needs no tuning.
        epsilon: how soft the plan is.
        iterations: rounds of column and row scaling.

    Returns:
        ``(..., n, K)`` float64: rows sum to ``1/n``, open columns to ``1/(number of them)`` where iterations suffice.

    Raises:
        ValueError: if a row has no finite distance.
    """
    distances = np.asarray(distances, dtype=np.float64)
    allowed = np.isfinite(distances)
    if not allowed.any(axis=-1).all():
        raise ValueError("a row of the distances has no finite entry: nothing is left to assign it to")
    lowest = np.min(distances, axis=(-2, -1), keepdims=True, where=allowed, initial=np.inf)
    highest = np.max(distances, axis=(-2, -1), keepdims=True, where=allowed, initial=-np.inf)
    scaled = np.where(allowed, distances - lowest, np.inf) * (2 / np.maximum(highest - lowest, 1e-12))
    nearest = scaled.min(axis=-1, keepdims=True)
    plan = np.exp(-(scaled - nearest) / epsilon)  # a factor a row changes nothing, and keeps exp from underflowing
    rows, columns = plan.shape[-2], allowed.any(axis=-2, keepdims=True).sum(axis=-1, keepdims=True)
    tiny = np.finfo(np.float64).tiny
    for _ in range(iterations):
        plan /= np.maximum(plan.sum(axis=-2, keepdims=True), tiny) * columns
        plan /= np.maximum(plan.sum(axis=-1, keepdims=True), tiny) * rows
    return plan
