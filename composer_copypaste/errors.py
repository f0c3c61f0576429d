"""The errors that tell a user what to change; the command line prints them as they are."""

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

SHOWN_CHARACTERS = 80
"""Longer values are cut off in messages."""

LISTED_PROBLEMS = 20
"""How many problems of one file are listed; the others are counted."""

_MAX_ALIKE = 3
"""Up to this many problems that differ only in their values have a line each; of more, only the first has."""
_VALUES = re.compile(r'"(?:[^"\\]|\\.)*(?:"|$)|-?\d[\d.]*(?:e[+-]?\d+)?|\b(?:true|false|null|NaN|Infinity)\b')
_LISTS = re.compile(r"[\[\]{}:,.\s]*\0[\[\]{}:,.\s\0]*")


class UserError(ValueError):
    """What the user gave cannot be used: the message says where, what was expected and what to do."""

    exit_code = 2
    """With which the command line ends."""


class RecipeError(UserError):
    """A recipe, or an override of it, is wrong."""


class DataError(UserError):
    """A data set, an annotation file or an image is wrong."""


class CheckpointError(UserError):
    """A checkpoint or a file of weights cannot be used."""


class MissingPackageError(UserError, ImportError):
    """An optional package is not installed: the message says how it is."""


class DivergedError(UserError):
    """A training's loss or weights are no longer finite; ``batch`` is the first whose loss was not."""

    exit_code = 1

    def __init__(self, message: str, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class ExportError(UserError):
    """A model cannot be exported, or its exported file does not compute what the model does."""

    exit_code = 1


class OutputError(UserError):
    """The output folder cannot be used."""


class DataWarning(UserWarning):
    """Something in a data set is probably a mistake; it is used as the message says."""


class SlowWarning(UserWarning):
    """Something takes much longer than it need: the message says why."""


class OldSettingWarning(DeprecationWarning):
    """A setting is given in the form of the former release, which this release still takes."""


def count_noun(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun: "1 category", "2 categories"; ``plural`` where it is not the noun with an "s"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def warn_of_data(text: str) -> None:
    """Warn of something in a data set; Python prints the same line once."""
    warnings.warn(text, DataWarning, stacklevel=2)


def as_json(value: object) -> str:
    """A value of a JSON file, as JSON, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except RecursionError:
        return "lists nested too deep to be shown"
    text = text.encode(errors="backslashreplace").decode()  # half a character, which JSON can spell, cannot be printed
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def either(items: Sequence[str]) -> str:
    """The items as a choice: "a", "a or b", "a, b or c"."""
    return " or ".join([", ".join(items[:-1]), *items[-1:]] if len(items) > 1 else items)


def similar_names(name: str, known: Iterable[str]) -> list[str]:
    """The known names that a wrong one most likely means: up to three that begin with it, or else a similar one."""
    names = list(known)
    longer = [each for each in names if each.startswith(name)] if len(name) > 1 else []
    return longer[:3] or get_close_matches(name, names, n=1)


def did_you_mean(name: str, known: Iterable[str], before: str = "") -> str:
    """The question whether one of the known names was meant, after ``before``; nothing where none is similar."""
    similar = similar_names(name, known)
    return f"{before}did you mean {either([*map(repr, similar)])}?" if similar else ""


def first_few(items: Sequence[object], most: int = 5) -> str:
    """The first items, and how many more there are."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


def format_problems(place: str, problems: Sequence[str]) -> str:
    """The problems at a place, such as a file: one line for one problem, else a heading and a line for each.

    Of many problems that differ only in their values, such as the same key in a thousand annotations, the first is
    shown, with the places of a few others. A problem begins with its own place: "annotation 7 (image 1): ...".
    """
    lines = group_problems(problems)
    if len(lines) == 1:
        return f"{place}: {lines[0]}"
    shown = [f"{place}: {len(problems)} problems", *(f"  {line}" for line in lines[:LISTED_PROBLEMS])]
    if len(lines) > LISTED_PROBLEMS:
        shown.append(f"  ... and {len(lines) - LISTED_PROBLEMS} more")
    return "\n".join(shown)


def group_problems(problems: Sequence[str]) -> list[str]:
    """A line for each problem; of many that differ only in their values, one line for all."""
    groups = defaultdict(list)
    for problem in problems:
        place, found, what = problem.partition(": ")
        groups[_LISTS.sub("\0", _VALUES.sub("\0", what if found else place))].append(problem)
    return [
        line
        for group in groups.values()
        for line in (group if len(group) <= _MAX_ALIKE else [_first_problem_and_places(group)])
    ]


def _first_problem_and_places(alike: Sequence[str]) -> str:
    """The first problem, and the places of others."""
    first, *others = alike
    places = [place for place, found, _ in (problem.partition(": ") for problem in others) if found]
    return f"{first}; likewise {first_few(places, _MAX_ALIKE) if places else f'{len(others)} more'}"


def in_one_line(text: str) -> str:
    """The text with line breaks, and what else no screen shows, written as in a string of Python."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def first_line(error: Exception) -> str:
    """The first line of an error's text, or its class where it has none."""
    return in_one_line(str(error).strip().split("\n")[0]) or type(error).__name__


def as_recipe_value(value: Any) -> str:
    """A value as a recipe writes it, shortened."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."
