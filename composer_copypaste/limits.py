"""Whether the values of a settings dataclass have the types and are within the limits that its annotations state."""

from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from composer_copypaste.times import Spelling

_KINDS: dict[object, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    bool: (bool, "True or False"),
    NoneType: (NoneType, "None"),
}
"""What an annotation lets through, NumPy's numbers included, and what it is called."""


def check_limits(settings: object) -> None:
    """Compare every value in a settings dataclass, also inside a range, with what is annotated: its limits and type.

    Raises:
        ValueError: naming the field, the limit and the value.
        TypeError: naming the field, the type and the value.
    """
    for name, (hint, default) in _hints(type(settings)).items():  # type: ignore[arg-type]  # a class is hashable
        if (value := getattr(settings, name)) is not default:  # tests check the defaults
            check_value(name, value, hint)


def check_value(name: str, value: object, hint: object) -> None:
    """Compare the value of one setting with its annotation; as :func:`check_limits`."""
    _check_choice(name, value, hint)
    _check_numbers(name, value, hint)
    if not _is_of(value, hint):
        raise TypeError(f"{name}: expected {_called(hint)}, got {value!r}")


@cache
def _hints(kind: type) -> dict[str, tuple[object, object]]:
    """The annotation of each field, and its default."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: (hints[field.name], field.default) for field in fields(kind)}


def _check_choice(name: str, value: object, hint: object) -> None:
    """Compare a value with the choices that a ``Literal``, or a ``Literal | None``, allows."""
    parts = (hint, *get_args(hint))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    if choices and value not in choices and not (value is None and type(None) in parts):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_numbers(name: str, value: object, hint: object) -> None:
    """Compare a number, or each number of a tuple or among a dict's values, with the limits in its annotation."""
    for limit in getattr(hint, "__metadata__", ()):
        if isinstance(limit, Spelling) and value is not None:  # whether None is a choice, the type checker knows
            _check_spelling(name, value, limit)
        _check_limit(name, value, limit)
    for part in get_args(hint):  # what Annotated wraps, the choices of a union, the elements of a tuple
        for number in _numbers(value):
            _check_numbers(name, number, part)


def _numbers(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, tuple | list) else (value,)


def _check_spelling(name: str, text: object, spelling: Spelling) -> None:
    try:
        spelling.checked(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_limit(name: str, number: object, limit: object) -> None:
    if not isinstance(number, Real):
        return
    size = float(number)
    # "not size >= bound" rather than "size < bound", so that NaN fails too
    match limit:
        case Ge(ge=int() | float() as bound) if not size >= bound:
            raise ValueError(f"{name}: expected at least {bound}, got {number}")
        case Gt(gt=int() | float() as bound) if not size > bound:
            raise ValueError(f"{name}: expected more than {bound}, got {number}")
        case Le(le=int() | float() as bound) if not size <= bound:
            raise ValueError(f"{name}: expected at most {bound}, got {number}")


def _is_of(value: object, hint: object) -> bool:
    """Whether a value has the annotated type; a list will do for a tuple."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_of(value, parts[0])
    if origin in (Union, UnionType):
        return any(_is_of(value, part) for part in parts)
    if origin is tuple:
        return isinstance(value, tuple | list) and _are_of(value, parts)
    if origin is dict:
        return isinstance(value, dict) and all(_are_of(pair, parts) for pair in value.items())
    if origin is Literal:
        return True  # choices are checked before
    return isinstance(value, _KINDS[hint][0]) and isinstance(value, bool) == (hint is bool)


def _are_of(values: Sequence[object], hints: Sequence[object]) -> bool:
    """Whether the elements of a tuple have the annotated types, and are as many."""
    if hints[1:] == (...,):
        return all(_is_of(value, hints[0]) for value in values)
    return len(values) == len(hints) and all(map(_is_of, values, hints))


def _called(hint: object) -> str:
    """What values of an annotated type are called."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _called(parts[0])
    if origin in (Union, UnionType):
        return " or ".join(map(_called, parts))
    if origin is tuple:
        return f"a tuple of {'any length' if parts[1:] == (...,) else len(parts)}, each {_called(parts[0])}"
    if origin is dict:
        return f"a dict from {_called(parts[0])} to {_called(parts[1])}"
    return _KINDS[hint][1]


def check_range(name: str, bounds: tuple[float | int, float | int]) -> None:
    """Raise ``ValueError`` where the first of two bounds is the larger."""
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: expected (smallest, largest), got {bounds}")
