"""JSON files that others wrote, read with a clear line where they cannot be."""

import json
from pathlib import Path
from typing import Any

from composer_copypaste.errors import DataError
from composer_copypaste.files import check_regular


def read_json(path: Path, what: str) -> Any:
    """What the file holds; ``what`` it should be, for the error.

    Raises:
        DataError: where there is no such file, or no JSON in it.
    """
    try:
        check_regular(path)
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such {what}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON: byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise DataError(f"{path}: not valid JSON here: its lists are nested too deeply") from None
    except ValueError as error:  # a number of more digits than Python reads
        raise DataError(f"{path}: not valid JSON here: {error}") from None
