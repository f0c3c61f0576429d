"""JSON files that others wrote, read with a clear line where they cannot be."""

import json
from pathlib import Path
from typing import Any

from composer_copypaste.data.file_kinds import is_json_lines, kind_of_bytes
from composer_copypaste.errors import DataError
from composer_copypaste.files import check_regular
from composer_copypaste.garbage_collection import garbage_collection_paused


def read_json(path: Path, what: str) -> Any:
    """What the file holds; ``what`` it should be, for the error.

    Raises:
        DataError: where there is no such file, or no JSON in it.
    """
    try:
        check_regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such {what}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with garbage_collection_paused():
            return json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "JSON Lines, an object in each line" if is_json_lines(content) else kind_of_bytes(content)
        if kind is not None:
            raise DataError(f"{path}: expected the {what}, got {kind}") from None
        raise DataError(f"{path}: {_reason(error)}") from None


def _reason(error: ValueError | RecursionError) -> str:
    """Why Python cannot read the JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid JSON: byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "not valid JSON here: its lists are nested too deeply"
    return f"not valid JSON here: {error}"  # a number of more digits than Python reads
