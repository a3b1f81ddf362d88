"""Types of parameters with the range that a value must lie in; `parsing.convert` checks it wherever one is read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """``expected``: the range in words, for the message."""

    expected: str
    holds: Callable[[float], bool]

    def check(self, value: float, where: str) -> None:
        """Refuse a value outside, a NaN among them.

        Raises:
            ValueError: naming the parameter.
        """
        if not self.holds(value):
            raise ValueError(f"params: {where} is {value}; expected {self.expected}")


PositiveInt = Annotated[int, Range("1 or more", lambda value: value >= 1)]
NonNegativeInt = Annotated[int, Range("0 or more", lambda value: value >= 0)]
TwoOrMore = Annotated[int, Range("2 or more", lambda value: value >= 2)]
PositiveFloat = Annotated[float, Range("more than 0", lambda value: value > 0)]
NonNegativeFloat = Annotated[float, Range("0 or more", lambda value: value >= 0)]
Share = Annotated[float, Range("a share from 0 to 1", lambda value: 0 <= value <= 1)]
ShareBelowOne = Annotated[float, Range("a share from 0 to below 1", lambda value: 0 <= value < 1)]
