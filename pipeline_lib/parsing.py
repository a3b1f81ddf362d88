"""Mappings -> frozen dataclasses: unknown keys and wrong types are refused, naming what is known."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

T = TypeVar("T")


def parse(config: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a frozen dataclass from a mapping.

    Args:
        config: the dataclass; fields without a default must be there.
        values: what params.yaml holds at ``where``.
        where: dotted path for messages, e.g. ``tokenizer.rqvae``.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"params: {where} is {values!r}, expected a mapping")
    hints = typing.get_type_hints(config, include_extras=True)
    refuse_unknown(values, hints.keys(), where)
    for f in dataclasses.fields(config):
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and f.name not in values:
            raise ValueError(f"params: {where}.{f.name} is missing")
    return config(**{name: convert(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def refuse_missing(values: Mapping[str, Any], names: set[str], where: str) -> None:
    """One line for the first of ``names`` that ``values`` lacks."""
    for name in sorted(names):
        if name not in values:
            raise ValueError(f"params: {where}.{name} is missing")


def refuse_unknown(values: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    """One line for the first key of ``values`` that is none of ``known``."""
    for name in values:
        if name not in known:
            place = f"{where}.{name}" if where else name
            raise ValueError(f"params: {place} is not known; {known_names(name, sorted(known))}")


def known_names(name: Any, known: Iterable[str]) -> str:
    """What there is in place of a name that is not known, and which of it was probably meant."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=1)
    return f"known: {', '.join(names)}" + (f"; did you mean {close[0]}?" if close else "")


def convert(hint: Any, value: Any, where: str) -> Any:
    """Check a YAML value against a type, and the range that it may have (`ranges`), and give it that type."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        converted = convert(args[0], value, where)
        for limit in args[1:]:
            limit.check(converted, where)
        return converted
    if origin in (typing.Union, types.UnionType):
        inner = next(arg for arg in args if arg is not type(None))
        return None if value is None and type(None) in args else convert(inner, value, where)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"params: {where} is {value}; {known_names(value, args)}")
        return value
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(convert(args[0], element, f"{where}[{place}]") for place, element in enumerate(value))
    if origin in (dict, Mapping) or origin is typing.get_origin(Mapping[str, str]):
        if isinstance(value, Mapping):
            return {str(key): convert(args[1], element, f"{where}.{key}") for key, element in value.items()}
    if hint is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            return float(value)
        except ValueError:
            pass
    if hint in (int, str, bool) and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    raise ValueError(f"params: {where} is {value!r}, expected {expected}")
