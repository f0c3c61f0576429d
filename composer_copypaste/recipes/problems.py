"""What pydantic finds wrong in a recipe, in one line a problem: where, what was expected, what came, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import get_args, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from composer_copypaste.errors import shown
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.recipes.yaml12 import Place

_EXPECTED = {  # pydantic's type of error -> what was expected instead
    "missing": "a value",
    "literal_error": "{expected}",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "whole numbers as keys",  # of a mapping: all other numbers are no text that is parsed
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "string_pattern_mismatch": "text that matches {pattern}",
    "path_type": "a path",
    "tuple_type": "a list",
    "dict_type": "a mapping such as {{3: 5}}",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "none_required": "null",
}


def problems(error: ValidationError, sources: Mapping[Place, str]) -> list[str]:
    """A line for each problem, in the order of the schema.

    Args:
        error: what pydantic raised for a ``Recipe``.
        sources: where each key was given, "my.yaml:4" or "command line"; at the place () the recipe itself.
    """
    by_place: dict[Place, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_place.setdefault(_place(detail), []).append(detail)
    return [_line(place, details, sources) for place, details in by_place.items()]


def _line(place: Place, details: Sequence[ErrorDetails], sources: Mapping[Place, str]) -> str:
    first = details[0]
    if first["type"] == "unexpected_keyword_argument":
        text = _unknown_key(place)
    elif first["type"] == "value_error":
        place, text = _own_words(place, str(first["ctx"]["error"]))
    else:
        text = _expectation(place, details)
    return f"{'.'.join(place)}: {text} ({_source(place, sources)})".removeprefix(": ")


def _expectation(place: Place, details: Sequence[ErrorDetails]) -> str:
    """What was expected, of any choice that a union gives, and what came."""
    expected = " or ".join(_expected(place, detail) for detail in details)
    missing = details[0]["type"] == "missing"
    return f"expected {expected}, got {'nothing' if missing else shown(details[0]['input'])}"


def _expected(place: Place, detail: ErrorDetails) -> str:
    kind, section = detail["type"], _section(place)
    if section is not None and kind in {"dataclass_type", "missing"}:
        return f"a section with some of the keys {', '.join(_keys(section))}"
    if kind == "literal_error":
        choices = str(detail["ctx"]["expected"]).replace(" or ", ", ")
        return f"one of {choices}" if "," in choices else choices
    if kind in _EXPECTED:
        return _EXPECTED[kind].format(**{name: _plain(value) for name, value in detail.get("ctx", {}).items()})
    return f"something else ({detail['msg']})"


def _own_words(place: Place, message: str) -> tuple[Place, str]:
    """The place and text of an error that one of our dataclasses raised: it may begin with the field it is about."""
    head, colon, rest = message.partition(": ")
    section = _section(place)
    if colon and section is not None and head.split(".")[0] in _keys(section):
        return (*place, *head.split(".")), rest
    return place, message


def _unknown_key(place: Place) -> str:
    section = _section(place[:-1])
    allowed = _keys(section) if section is not None else []
    guess = _guess(place, allowed)
    return "unknown key; " + (f"did you mean {guess!r}? " if guess else "") + f"allowed: {', '.join(allowed)}"


def _guess(place: Place, siblings: Sequence[str]) -> str | None:
    """The key most likely meant: a similar one of the same section, else one of that name in another."""
    similar = get_close_matches(place[-1], siblings, n=1)
    if similar:
        return ".".join((*place[:-1], similar[0]))
    return next((path for path in _paths(Recipe, ()) if path.endswith(f".{place[-1]}")), None)


def _place(detail: ErrorDetails) -> Place:
    """Pydantic's location without what it adds for unions."""
    place: Place = ()
    for part in detail["loc"]:
        section = _section(place)
        if isinstance(part, int) or (section is not None and part in _keys(section)):
            place = (*place, str(part))
    unknown = detail["type"] == "unexpected_keyword_argument"
    return (*place, str(detail["loc"][-1])) if unknown else place


def _section(place: Place) -> type | None:
    """The dataclass of a section; None where the place is no section."""
    section: type | None = Recipe
    for key in place:
        hint = get_type_hints(section).get(key) if section is not None else None
        section = next(
            (kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None
        )
    return section


def _keys(section: type) -> list[str]:
    return [field.name for field in fields(section)]


def _paths(section: type, place: Place) -> list[str]:
    paths = []
    for key in _keys(section):
        inner = _section((*place, key))
        paths += [".".join((*place, key)), *(_paths(inner, (*place, key)) if inner else [])]
    return paths


def _source(place: Place, sources: Mapping[Place, str]) -> str:
    """Where the value at a place was given, or else the nearest section around it."""
    around = (place[:length] for length in range(len(place), -1, -1))
    return next(sources[outer] for outer in around if outer in sources)


def _plain(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
