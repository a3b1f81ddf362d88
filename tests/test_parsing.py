from dataclasses import dataclass

import pytest

from pipeline_lib.parsing import parse


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
