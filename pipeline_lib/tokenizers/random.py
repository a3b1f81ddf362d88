"""Codes without meaning, drawn uniformly: what a tokenizer must beat.

Shapes: N items, L levels, K codewords per level. No tensors: a new item draws its own.
"""

from dataclasses import asdict, dataclass

import numpy as np

from pipeline_lib.quantizers.collisions import place_in_bucket
from pipeline_lib.ranges import PositiveInt
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import identifiers_of


@dataclass(frozen=True)
class Config:
    levels: PositiveInt = 3
    codebook_size: PositiveInt = 256


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Draw codes, different ones for all items while there are enough."""
    codes = draw_codes(len(inputs.vectors), config.levels, config.codebook_size, numpy_generator(seed, "random codes"))
    return identifiers_of(codes, (config.codebook_size,) * config.levels, collisions=collisions,
                          config={"kind": "random", **asdict(config)})


def draw_codes(num_items: int, levels: int, codebook_size: int, generator: np.random.Generator) -> np.ndarray:
    """``(N, L)`` int32, uniform; no row twice if ``K ** L`` is at least N, else each row as often as any other, +-1."""
    total = codebook_size**levels  # exact: Python's integers do not overflow
    if total <= 4 * num_items:  # few enough to shuffle; drawing again and again would take long
        numbers = np.concatenate([generator.permutation(total) for _ in range(-(-num_items // total))])[:num_items]
        return np.stack(np.unravel_index(numbers, (codebook_size,) * levels), axis=1).astype(np.int32)
    codes = generator.integers(codebook_size, size=(num_items, levels), dtype=np.int32)
    while len(repeated := np.flatnonzero(place_in_bucket(codes))):
        codes[repeated] = generator.integers(codebook_size, size=(len(repeated), levels), dtype=np.int32)
    return codes
