"""Batches of similar lengths: little padding, yet a new random order each epoch."""

import numpy as np


def length_bucketed_batches(lengths: np.ndarray, batch_size: int, bucket_batches: int,
                            generator: np.random.Generator) -> list[np.ndarray]:
    """Shuffle, then sort by length within buckets of ``bucket_batches`` batches, then shuffle the batches.

    Args:
        lengths: ``(n,)`` tokens an example.
        batch_size: examples a batch; the last one of the epoch may be smaller.
        bucket_batches: 1 for plainly random batches; larger means less padding and a less random order.

    Returns:
        Index arrays that together hold each example once.
    """
    order = generator.permutation(len(lengths))
    bucket = batch_size * max(bucket_batches, 1)
    batches = []
    for start in range(0, len(order), bucket):
        part = order[start : start + bucket]
        part = part[np.argsort(lengths[part], kind="stable")]
        batches += [part[at : at + batch_size] for at in range(0, len(part), batch_size)]
    return [batches[place] for place in generator.permutation(len(batches))]


def in_order_batches(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Batches sorted by length, longest first: for evaluation, where order is free and memory should peak early."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
