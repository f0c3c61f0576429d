"""The rows of ``metrics.jsonl``, as they are read back."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from composer_copypaste.errors import OutputError

Number = float | int | None
Row = Mapping[str, Number]
"""Numbers by their name; None for what was not finite."""


def read_rows(path: Path, most: int | None = None) -> list[Row]:
    """The rows of a file, the first ``most``; None: all of them. Where there is no file, there are none.

    Raises:
        OutputError: naming the line where something else stands.
    """
    lines = path.read_bytes().splitlines()[:most] if path.exists() else []
    return [_row(line, f"{path}: line {number}") for number, line in enumerate(lines, start=1)]


def as_lines(rows: Iterable[Row]) -> str:
    """The text that holds these rows."""
    return "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def _row(line: bytes, place: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if isinstance(row, dict) and all(value is None or isinstance(value, int | float) for value in row.values()):
        return row
    raise OutputError(f"{place}: expected numbers by their name, as JSON; without the file, rows and curves begin anew")
