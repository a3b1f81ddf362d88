"""The category path of an item as its identifier, and a number within the category (P5's SemID).

Shapes: N items, L levels. Identifiers vary in length, as paths do. No tensors.
Source: Hua et al. 2023, "How to Index Item IDs for Recommendation Foundation Models" (semantic indexing).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pipeline_lib.ragged import Ragged
from pipeline_lib.records import Identifiers, TokenizerInputs
from pipeline_lib.seeding import numpy_generator
from pipeline_lib.tokenizers.discrete import unique_identifiers


@dataclass(frozen=True)
class Config:
    """``attribute``: the one that holds an item's categories, from the widest to the narrowest."""

    attribute: str = "categories"


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Number categories within their parents, and items within their categories.

    Raises:
        ValueError: if the data has no such attribute.
    """
    if config.attribute not in inputs.attributes:
        known = ", ".join(inputs.attributes) or "none; give an item file"
        raise ValueError(f"params: tokenizer.semantic.attribute is {config.attribute}, which the items do not have; "
                         f"attributes they have: {known}")
    paths = category_paths(inputs.attributes[config.attribute], numpy_generator(seed, "semantic"))
    codes = Ragged.from_rows(paths).padded(-1)
    return unique_identifiers(codes, tuple((codes.max(axis=0) + 1).tolist()), collisions=collisions,
                              config={"kind": "semantic", **asdict(config)})


def category_paths(categories: Sequence[Sequence[str] | str | None], generator: np.random.Generator) -> list[list[int]]:
    """Codes of each item: one a category, numbered by name within its parent, then the item's number among the items
    that stand directly in the last one, in random order (the order of the catalogue may come from held-out data).

    These numbers follow those of the category's own children, so that a code means one thing under each parent and no
    identifier is the beginning of another. Items without a category share a branch behind all others.

    Args:
        categories: of each of N items; a str is a path of one, empty names are left out.
    """
    names = [tuple(name for name in ([path] if isinstance(path, str) else path or ()) if name) for path in categories]
    children: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
    for path in set(names):
        for level, name in enumerate(path):
            children[path[:level]].add(name)
    number = {(*parent, name): place
              for parent, inside in children.items() for place, name in enumerate(sorted(inside))}
    free = {path: len(children[path]) if path else 0 for path in set(names)}
    no_category = [len(children[()])]
    paths = [[number[path[: level + 1]] for level in range(len(path))] or list(no_category) for path in names]
    for item in generator.permutation(len(names)):
        paths[item].append(free[names[item]])
        free[names[item]] += 1
    return paths
