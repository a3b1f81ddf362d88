"""Random numbers as identifiers: unique, all of the same length, without meaning (P5's RID).

Shapes: N items, L levels, K codes per level. No tensors: a new item draws its own.
Source: Hua et al. 2023, "How to Index Item IDs for Recommendation Foundation Models" (random indexing).
"""

from dataclasses import asdict, dataclass

from pipeline_lib.ranges import PositiveInt, TwoOrMore
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import unique_identifiers
from pipeline_lib.tokenizers.random import draw_codes


@dataclass(frozen=True)
class Config:
    """``digits`` of base ``codebook_size``: 100 is two decimal digits a token, as T5's sub-words cut numbers."""

    digits: PositiveInt = 3
    codebook_size: TwoOrMore = 100


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Draw a number for each item, no number twice.

    Raises:
        ValueError: if there are fewer numbers than items.
    """
    num_items, total = len(inputs.vectors), config.codebook_size**config.digits
    if total < num_items:
        raise ValueError(f"params: tokenizer.random_id.digits={config.digits} in base "
                         f"codebook_size={config.codebook_size} makes {total} numbers, too few for {num_items} items; "
                         "raise digits or codebook_size")
    codes = draw_codes(num_items, config.digits, config.codebook_size, numpy_generator(seed, "random numbers"))
    return unique_identifiers(codes, (config.codebook_size,) * config.digits, collisions=collisions,
                              config={"kind": "random_id", **asdict(config)})
