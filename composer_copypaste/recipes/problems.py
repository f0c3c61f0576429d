"""The problems that pydantic finds in a recipe, in one line each: where, what was expected, and what was given."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from typing import get_args, get_type_hints

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from composer_copypaste.errors import as_recipe_value, either, in_one_line, similar_names
from composer_copypaste.recipes.schema import Recipe
from composer_copypaste.recipes.yaml12 import Place
from composer_copypaste.validation import EXPECTED, describe_expectation

_EXPECTED = {  # in YAML's words, by pydantic's type of error
    **EXPECTED,
    "bool_type": "true or false",
    "string_type": "text (put it in quotes)",
    "tuple_type": "a list",
    "dict_type": "a mapping, {{key: value}}",
    "int_parsing": "whole numbers as keys",  # a number elsewhere is never text that pydantic parses
    "none_required": "null",
}

LISTED_CHARACTERS = 110
"""The allowed keys of a section are listed where they are no longer; else it is said where they stand."""


def describe_problems(error: ValidationError, sources: Mapping[Place, str], root: type = Recipe) -> list[str]:
    """A line for each problem, in the order of the schema.

    Args:
        error: what pydantic raised.
        sources: where each key was given, "my.yaml:4" or "command line"; at the place () the recipe itself.
        root: the settings class that it raised this for.
    """
    by_place: dict[Place, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_place.setdefault(_place_of_problem(detail, sources, root), []).append(detail)
    return [_describe_problem(place, details, sources, root) for place, details in by_place.items()]


def _place_of_problem(detail: ErrorDetails, sources: Mapping[Place, str], root: type) -> Place:
    """Pydantic's location without what it adds for the members of a union; a wrong key is placed where it stands."""
    place: Place = ()
    is_unknown, is_of_key = detail["type"] == "unexpected_keyword_argument", detail["loc"][-1:] == ("[key]",)
    for part in detail["loc"][:-1] if is_unknown else detail["loc"]:
        is_given = not is_of_key and (*place, str(part)) in sources
        if isinstance(part, int) or is_given or part in _section_keys(_section_at(place, root)):
            place = (*place, str(part))
    return (*place, str(detail["loc"][-1])) if is_unknown else place


def _describe_problem(place: Place, details: Sequence[ErrorDetails], sources: Mapping[Place, str], root: type) -> str:
    kind, section = details[0]["type"], _section_at(place, root)
    if kind == "unexpected_keyword_argument":
        text = _describe_unknown_key(place, root)
    elif kind == "value_error":
        text = str(details[0]["ctx"]["error"]).replace("expected None", "expected null")
        key, colon, rest = text.partition(": ")
        # a section's own check begins with the key it is about
        if colon and key.split(".")[0] in _section_keys(section):
            place, text = (*place, *key.split(".")), rest
    elif section is not None and kind in {"dataclass_type", "missing"}:
        got = "nothing" if kind == "missing" else as_recipe_value(details[0]["input"])
        text = f"expected a section with some of the keys {', '.join(_section_keys(section))}, got {got}"
    else:
        text = describe_expectation(details, _EXPECTED, as_recipe_value) + _describe_default(place, details, root)
    around = (place[:length] for length in range(len(place), -1, -1))
    source = next(sources[outer] for outer in around if outer in sources)  # of the value, or the nearest section
    return f"{in_one_line('.'.join(place))}: {text} ({source})".removeprefix(": ")


def _describe_default(place: Place, details: Sequence[ErrorDetails], root: type) -> str:
    """What a key is when nobody gives it, for those who give null to say so."""
    section, own = _section_at(place[:-1], root), place[-1:]  # without a name where the recipe as a whole is wrong
    defaults = [] if section is None else [field.default for field in fields(section) if (field.name,) == own]
    if details[0]["input"] is None and defaults and defaults[0] is not None and defaults[0] is not MISSING:
        return f"; its default is {as_recipe_value(defaults[0])}"
    return ""


def _describe_unknown_key(place: Place, root: type) -> str:
    """What is allowed instead, and the key most likely meant: a similar one here, or the same in another section."""
    section = _section_at(place[:-1], root)
    of_trainings = getattr(section, "OF_TRAININGS", ())
    allowed = [key for key in _section_keys(section) if key not in of_trainings]
    similar = [(*place[:-1], key) for key in similar_names(place[-1], allowed)]
    elsewhere = [path for path in _key_places((), root) if path[-1] == place[-1]]
    guess = either([repr(".".join(path)) for path in similar or elsewhere[:1]])
    every, listing = ", ".join(allowed), "recipe show quickstart" if root is Recipe else "recipe schema --ablation"
    if len(every) > LISTED_CHARACTERS:
        every = f"{len(allowed)} keys, which 'copypaste {listing}' prints"
    return f"unknown key; {f'did you mean {guess}? ' if guess else ''}allowed: {every}"


def _section_at(place: Place, root: type) -> type | None:
    """The dataclass of the section at a place; None where there is no section."""
    section: type | None = root
    for key in place:
        hint = get_type_hints(section).get(key) if section is not None else None
        section = next(
            (kind for kind in (hint, *get_args(hint)) if is_dataclass(kind) and isinstance(kind, type)), None
        )
    return section


def _section_keys(section: type | None) -> list[str]:
    return [field.name for field in fields(section)] if section is not None else []


def _key_places(place: Place, root: type) -> Iterator[Place]:
    """The place of every key in a section and in those inside it."""
    for key in _section_keys(_section_at(place, root)):
        yield (*place, key)
        yield from _key_places((*place, key), root)
