"""No identifiers: items are known by their vectors alone."""

from dataclasses import dataclass

from pipeline_lib.records import Identifiers, TokenizerInputs



@dataclass(frozen=True)
class Config:
    """There is nothing to choose."""


def tokenize_items(inputs: TokenizerInputs, config: Config, *, collisions: str, seed: int) -> Identifiers:
    """Identifiers without codes; the arguments are those of every tokenizer, and none is used."""
    return Identifiers(None, (), config={"kind": "none"})
