"""Items numbered as users meet them, so that what is bought together shares leading digits (P5's SID).

Shapes: N items, L levels, K codes per level. No tensors: a new item would get the next number.
Source: Hua et al. 2023, "How to Index Item IDs for Recommendation Foundation Models" (sequential indexing).
Only training histories are walked: numbering held-out items as users meet them would put them beside the history that
they are to be predicted from.
"""

from dataclasses import asdict, dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.ranges import TwoOrMore
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import unique_identifiers


@dataclass(frozen=True)
class Config:
    """``codebook_size``: the base that numbers are written in."""

    codebook_size: TwoOrMore = 100


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Write each item's number with as many digits as the largest needs, most significant first."""
    numbers = numbers_by_appearance(inputs.train, len(inputs.vectors), numpy_generator(seed, "sequential"))
    codes = digits_of(numbers, config.codebook_size)
    first, digits = int(codes[:, 0].max()) + 1, codes.shape[1]
    return unique_identifiers(codes, (first,) + (config.codebook_size,) * (digits - 1), collisions=collisions,
                              config={"kind": "sequential", **asdict(config)})


def numbers_by_appearance(train: Ragged, num_items: int, generator: np.random.Generator) -> np.ndarray:
    """``(N,)`` int64: 0, 1, ... by first appearance in the histories, one user after the other; then, in random order,
    items that no history holds (the order of the catalogue may come from held-out data)."""
    seen, first = np.unique(train.values, return_index=True)
    unseen = generator.permutation(np.setdiff1d(np.arange(num_items), seen))
    numbers = np.empty(num_items, dtype=np.int64)
    numbers[np.concatenate([seen[np.argsort(first)], unseen])] = np.arange(num_items)
    return numbers


def digits_of(numbers: np.ndarray, base: int) -> np.ndarray:
    """``(N, L)`` int32: numbers ``(N,)`` with the fewest digits that the largest of them fits in."""
    digits = 1
    while base**digits <= numbers.max():
        digits += 1
    return np.stack(np.unravel_index(numbers, (base,) * digits), axis=1).astype(np.int32)
