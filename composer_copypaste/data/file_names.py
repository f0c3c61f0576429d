"""File names of images as tools write them, absolute or from another folder, found in the folder of the images."""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from composer_copypaste.data.json_files import kind_of_bytes
from composer_copypaste.data.records import CocoImage
from composer_copypaste.errors import DataError, as_json, first_few, listed, warn_of_data

_URL = re.compile(r"data:|(?!file:)[A-Z][A-Z0-9+.-]+://", re.I)
"""But file: URLs, which name local files."""


def located(images: Sequence[CocoImage], folder: Path, place: str) -> tuple[CocoImage, ...]:
    """The images with file names that lie in the folder.

    A name that leads out of the folder (an absolute one, also of Windows or as a file: URL, or one with "..") stands
    for the file that the longest end of its path leads to from the folder. So do relative names where none of them is
    found as it stands.

    Args:
        images: as the annotations have them.
        folder: of the images.
        place: the annotation file, for messages.

    Raises:
        DataError: listing the names of which no end is found, URLs, and different names that lead to the same file.
    """
    names = dict.fromkeys(image.file_name for image in images)
    outside = [name for name in names if _leaves_the_folder(name)]
    inside = [name for name in names if not _leaves_the_folder(name)]
    if any(os.path.isfile(folder / name) for name in inside):
        inside = []
    if not folder.is_dir() and outside:
        raise DataError(f"{folder}: {no_folder(folder)}")
    if not outside and not inside:
        return tuple(images)
    found = _ends_found([*outside, *inside], folder)
    if problems := [*_not_found(outside, found, folder), *_ambiguous(found)]:
        raise DataError(listed(place, problems))
    if found:
        name, taken = next(iter(found.items()))
        warn_of_data(
            f"{place}: {len(found)} of {len(names)} file names do not lead from {folder} to an image; the longest end "
            f"of each that does is taken: {taken} for {as_json(name)}"
        )
    return tuple(replace(image, file_name=found.get(image.file_name, image.file_name)) for image in images)


def no_folder(path: Path) -> str:
    """What is given in place of a folder of images."""
    if not path.is_file():
        return "there is no such folder of images"
    with path.open("rb") as file:
        return f"expected a folder of images, got {kind_of_bytes(file.read(512)) or 'a file'}"


def _leaves_the_folder(name: str) -> bool:
    """Whether a file name could point outside the folder it is joined to, on Linux or Windows, or is none."""
    parts = name.replace("\\", "/").split("/")
    leaves = parts[0] == "" or parts[0].lower() == "file:" or ".." in parts or ":" in parts[0][1:2]
    return leaves or "\0" in name or _URL.match(name) is not None


def _ends_found(names: Sequence[str], folder: Path) -> dict[str, str]:
    """The end of each name that is found in the folder, the longest one."""
    is_folder = cache(lambda path: os.path.isdir(folder / path))
    own = folder.absolute().parts[1:]

    def end_of(path: str) -> str | None:
        parts = [part for part in path.replace("\\", "/").rpartition("../")[2].split("/") if part not in ("", ".")]
        begin = len(own) if tuple(parts[: len(own)]) == own and path.startswith("/") else 0
        ends = ("/".join(parts[start:]) for start in range(begin, len(parts)))
        return next((e for e in ends if is_folder(os.path.dirname(e)) and os.path.isfile(folder / e)), None)

    found = {}
    for name in names:
        if "\0" in name or _URL.match(name):
            continue
        path = urlsplit(name).path if name.lower().startswith("file:") else name.replace("/?d=", "/")
        end = end_of(path) or end_of(unquote(path))  # Label Studio writes /data/local-files/?d=sub/my%20image.png
        if end is not None:
            found[name] = end
    return found


def _not_found(names: Sequence[str], found: dict[str, str], folder: Path) -> list[str]:
    return [
        f"file_name {as_json(name)} is a URL; fetch the images into a folder, and name the files in it"
        if _URL.match(name)
        else f"file_name {as_json(name)} leaves the image folder, and no end of it is found there; expected a path "
        f"relative to {folder}, without '..'"
        for name in names
        if name not in found
    ]


def _ambiguous(found: dict[str, str]) -> list[str]:
    names = defaultdict(list)
    for name, end in found.items():
        names[end].append(as_json(name))
    return [
        f"{end} is all that is found of {len(same)} different file names: {first_few(same)}"
        for end, same in names.items()
        if len(same) > 1
    ]
