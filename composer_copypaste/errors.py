"""The errors that tell a user what to change; the command line prints them as they are."""

import json
import warnings
from collections.abc import Sequence

SHOWN_CHARACTERS = 80
"""Longer values are cut in messages."""

LISTED_PROBLEMS = 20
"""So many problems of one file are listed; of the rest the count is given."""


class UserError(ValueError):
    """What the user gave cannot be used: the message says where, what was expected and what to do.

    ``exit_code`` is that of the command line. torch's DataLoader raises a worker's error again with the worker's
    traceback as its message: that is cut off.
    """

    exit_code = 2

    def __init__(self, message: str) -> None:
        if message.startswith("Caught "):  # torch._utils.ExceptionWrapper
            message = message.rpartition(f"\n{type(self).__module__}.{type(self).__qualname__}: ")[2].rstrip("\n")
        super().__init__(message)


class RecipeError(UserError):
    """A recipe, or an override of it, is wrong."""


class DataError(UserError):
    """A data set, an annotation file or a picture is wrong."""


class CheckpointError(UserError):
    """A checkpoint or a file of weights cannot be used."""


class DivergedError(UserError):
    """A training's loss or weights are no longer finite; ``batch`` is the first whose loss was not."""

    exit_code = 1

    def __init__(self, message: str, batch: int) -> None:
        super().__init__(message)
        self.batch = batch


class OutputError(UserError):
    """The output folder cannot be used."""


class DataWarning(UserWarning):
    """Something in a data set that is probably not meant so; it is used as the message says."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """The number and the noun: "1 category", "2 categories"; ``plural`` where it is not the noun with an "s"."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def warn_of_data(text: str) -> None:
    """Say a line about a data set; Python says the same line once."""
    warnings.warn(text, DataWarning, stacklevel=2)


def as_json(value: object) -> str:
    """A value of a JSON file as it is written there, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
    except RecursionError:
        return "lists nested too deep to be shown"
    text = text.encode(errors="backslashreplace").decode()  # half a character, which JSON can spell, cannot be printed
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 3]}..."


def first_few(items: Sequence[object], most: int = 5) -> str:
    """The first items, and how many more there are."""
    more = len(items) - most
    return ", ".join(map(str, items[:most])) + (f" and {more} more" if more > 0 else "")


def listed(place: str, problems: Sequence[str]) -> str:
    """One line for one problem; for several a heading, a line for each of the first, and a count of those left out."""
    if len(problems) == 1:
        return f"{place}: {problems[0]}"
    lines = [f"{place}: {len(problems)} problems", *(f"  {problem}" for problem in problems[:LISTED_PROBLEMS])]
    if len(problems) > LISTED_PROBLEMS:
        lines.append(f"  ... and {len(problems) - LISTED_PROBLEMS} more")
    return "\n".join(lines)
