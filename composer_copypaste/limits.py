"""Whether the numbers, choices and times of a settings dataclass are within the limits that its annotations state."""

from collections.abc import Iterable
from dataclasses import fields
from functools import cache
from typing import Literal, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le

from composer_copypaste.times import Spelling


def check_limits(settings: object) -> None:
    """Compare every number in a settings dataclass, also inside a range, and every time with what is annotated.

    Raises:
        ValueError: naming the field, the limit and the value.
    """
    for name, hint in _hints(type(settings)).items():  # type: ignore[arg-type]  # a class is hashable
        _check_choice(name, getattr(settings, name), hint)
        _check_value(name, getattr(settings, name), hint)


@cache
def _hints(kind: type) -> dict[str, object]:
    """The annotation of each field."""
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind)}


def _check_choice(name: str, value: object, hint: object) -> None:
    """Compare a value with the choices that a ``Literal``, or a ``Literal | None``, allows."""
    parts = (hint, *get_args(hint))
    choices = [choice for part in parts if get_origin(part) is Literal for choice in get_args(part)]
    if choices and value not in choices and not (value is None and type(None) in parts):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def _check_value(name: str, value: object, hint: object) -> None:
    """Compare a number, or each number of a tuple or among a dict's values, with the limits in its annotation."""
    for limit in getattr(hint, "__metadata__", ()):
        if isinstance(limit, Spelling) and value is not None:  # whether None is a choice, the type checker knows
            _check_spelling(name, value, limit)
        _check_limit(name, value, limit)
    for part in get_args(hint):  # what Annotated wraps, the choices of a union, the elements of a tuple
        for number in _numbers(value):
            _check_value(name, number, part)


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
    if not isinstance(number, int | float):
        return
    # "not number >= bound" rather than "number < bound", so that NaN fails too
    match limit:
        case Ge(ge=int() | float() as bound) if not number >= bound:
            raise ValueError(f"{name}: expected at least {bound}, got {number}")
        case Gt(gt=int() | float() as bound) if not number > bound:
            raise ValueError(f"{name}: expected more than {bound}, got {number}")
        case Le(le=int() | float() as bound) if not number <= bound:
            raise ValueError(f"{name}: expected at most {bound}, got {number}")


def check_range(name: str, bounds: tuple[float | int, float | int]) -> None:
    """Raise ``ValueError`` where the first of two bounds is the larger."""
    if bounds[0] > bounds[1]:
        raise ValueError(f"{name}: expected (smallest, largest), got {bounds}")
