from dataclasses import dataclass

import pytest

from pipeline_lib.parsing import parse
from pipeline_lib.ranges import NonNegativeFloat, PositiveInt, Share


@dataclass(frozen=True)
class Sizes:
    width: int
    rate: float = 0.1
    names: tuple[str, ...] = ()
    limit: int | None = None


def test_values_get_the_types_of_their_fields():
    assert parse(Sizes, {"width": 3, "rate": 1, "names": ["a"], "limit": None}, "x") == Sizes(3, 1.0, ("a",), None)
    assert parse(Sizes, {"width": 3, "rate": "1e-3", "limit": 4}, "x") == Sizes(3, 0.001, (), 4)


@pytest.mark.parametrize(("values", "message"), [
    ({"width": 3, "widht": 4}, "x.widht is not known; known: limit, names, rate, width"),
    ({}, "x.width is missing"),
    ({"width": "3"}, "x.width is '3', expected int"),
    ({"width": True}, "x.width is True, expected int"),
    ({"width": 3, "rate": "fast"}, "x.rate is 'fast', expected float"),
    ({"width": 3, "names": "a"}, "x.names is 'a', expected"),
    ({"width": 3, "names": [1]}, r"x.names\[0\] is 1, expected str"),
    (None, "x is None, expected a mapping"),
])
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        parse(Sizes, values, "x")


@dataclass(frozen=True)
class Limited:
    layers: tuple[PositiveInt, ...] = (1,)
    limit: PositiveInt | None = None
    decay: NonNegativeFloat = 0.0
    share: Share = 0.0


def test_values_at_the_ends_of_a_range_are_taken():
    found = parse(Limited, {"layers": [1, 9], "limit": None, "decay": 0, "share": "1e0"}, "x")
    assert found == Limited((1, 9), None, 0.0, 1.0) and parse(Limited, {"limit": 1, "share": 0}, "x") == Limited(limit=1)


@pytest.mark.parametrize(("values", "message"), [
    ({"layers": [1, 0]}, r"x.layers\[1\] is 0; expected 1 or more"), ({"limit": 0}, "x.limit is 0; expected 1 or more"),
    ({"decay": -0.1}, "x.decay is -0.1; expected 0 or more"), ({"decay": "nan"}, "x.decay is nan; expected 0 or more"),
    ({"share": 1.1}, "x.share is 1.1; expected a share from 0 to 1"), ({"limit": 1.5}, "x.limit is 1.5, expected int"),
])
def test_values_out_of_their_range_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        parse(Limited, values, "x")
