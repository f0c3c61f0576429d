"""Writes COCO annotation files: the one writer of all commands that make data sets."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.files import atomic_write, check_regular_file

_ENTRIES_AT_ONCE = 10_000
_FIRST_KEYS = ("info", "licenses", "categories", "images", "annotations")


class EncodedJson(str):
    """JSON that is written as it is: outlines are long lists of numbers, which take long to be written."""


def write_coco(path: Path, content: Mapping[str, Any]) -> None:
    """Write a COCO annotation file: complete, or not at all; equal contents are equal bytes.

    Each image, annotation and category has a line of its own, so that two files can be compared line by line. The short
    lists come first; keys that are not COCO's come last, as they are. All characters are ASCII, as some tools read
    files in the encoding of the machine.

    Args:
        path: the file; its folder exists.
        content: the file's top-level keys and values, such as "images" and "annotations".

    Raises:
        DataError: where a value cannot be written as JSON, such as NaN.
    """
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        try:
            for text in _lines(content):
                file.write(text)
        except ValueError as error:
            raise DataError(f"{path}: cannot be written as JSON: {error}") from error


def write_coco_results(path: Path, results: Iterable[EncodedJson]) -> None:
    """Write a COCO results file, a list with a line for each result: complete, or not at all.

    Args:
        path: the file; its folder exists.
        results: as ``encode_entry`` gives them; they are written one by one.
    """
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="\n") as file:
        file.write("[")
        for number, result in enumerate(results):
            file.write(f",\n{result}" if number else f"\n{result}")
        file.write("\n]\n")


def write_new_coco(files: Mapping[Path, Mapping[str, Any]]) -> None:
    """Write COCO annotation files, but replace none: one that holds its content already is left alone.

    Folders are made as needed. Nothing is written where any of the files cannot be.

    Raises:
        DataError: where a value cannot be written as JSON, such as NaN.
        OutputError: naming a file that is there and holds something else.
    """
    missing = []
    for path, content in files.items():
        if not path.exists():
            missing.append(path)
        elif not _holds(path, content):
            raise OutputError(f"{path}: is there already, and holds something else: remove it, or name another output")
    for path in missing:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_coco(path, files[path])


def _holds(path: Path, content: Mapping[str, Any]) -> bool:
    """Whether the file has the bytes that ``write_coco`` would write."""
    check_regular_file(path)
    with path.open("rb") as file:
        same = all(file.read(len(text)) == text.encode() for text in _lines(content))  # ASCII: a byte a character
        return same and not file.read(1)


def _lines(content: Mapping[str, Any]) -> Iterator[str]:
    keys = [key for key in _FIRST_KEYS if key in content] + [key for key in content if key not in _FIRST_KEYS]
    yield "{"
    for number, key in enumerate(keys):
        yield f"{',' if number else ''}\n{_as_text(key)}: "
        value = content[key]
        if isinstance(value, list) and value:
            for start in range(0, len(value), _ENTRIES_AT_ONCE):
                yield "[\n" if start == 0 else ",\n"
                yield ",\n".join(map(_as_text, value[start : start + _ENTRIES_AT_ONCE]))
            yield "\n]"
        else:
            yield _as_text(value)
    yield "\n}\n"


def encode_entry(entry: Mapping[str, Any]) -> EncodedJson:
    """An image, an annotation or a category as `write_coco` writes it; values that are encoded already come last."""
    encoded = {key: value for key, value in entry.items() if isinstance(value, EncodedJson)}
    plain = _encode({key: value for key, value in entry.items() if key not in encoded})
    parts = [*([plain[1:-1]] if len(plain) > 2 else []), *(f"{_encode(key)}:{value}" for key, value in encoded.items())]
    return EncodedJson(f"{{{','.join(parts)}}}")


_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


def _as_text(value: object) -> str:
    if isinstance(value, EncodedJson):
        return value
    if isinstance(value, dict) and any(isinstance(inner, EncodedJson) for inner in value.values()):
        return encode_entry(value)
    return _encode(value)
