"""One seed for all generators: the only place where randomness starts."""

import random

import numpy as np


def numpy_generator(seed: int, purpose: str) -> np.random.Generator:
    """A generator of its own for each purpose, so that one more draw in one place changes nothing elsewhere.

    Args:
        seed: the run's seed, ``seed`` of params.yaml.
        purpose: any fixed text, e.g. ``"split"``.
    """
    return np.random.default_rng([seed, *purpose.encode()])


def torch_generator(seed: int, purpose: str):
    """The same for torch: a CPU ``torch.Generator``."""
    import torch  # stages that only move tables never pay for this import

    derived = int(numpy_generator(seed, purpose).integers(2**62))
    return torch.Generator().manual_seed(derived)


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch, which models use for initial weights and dropout."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
