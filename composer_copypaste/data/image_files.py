"""The files of a data set's images: found in the image folder, and checked before training starts."""

import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import unquote, urlsplit

from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.images import (
    FULL_RANGE,
    HOW_TO_GIVE_RANGE,
    MISSING_FILE,
    ImageHeader,
    largest_pixel_value,
    read_header,
)
from composer_copypaste.errors import DataError, as_json, first_few, format_problems, warn_of_data
from composer_copypaste.files import describe_missing, describe_non_json
from composer_copypaste.settings import ImageSettings

Item = TypeVar("Item")
Result = TypeVar("Result")


def describe_non_folder(path: Path) -> str:
    """What a path is instead of a folder of images, for messages."""
    if not path.is_file():
        return describe_missing(path, "folder of images")
    with path.open("rb") as file:
        return f"expected a folder of images, got {describe_non_json(file.read(512)) or 'a file'}"


# ---- names that lead out of the folder, as many tools write them

_URL = re.compile(r"data:|(?!file:)[A-Z][A-Z0-9+.-]+://", re.I)
"""All URLs but those that begin with file:, which name local files."""


def with_file_names_in_folder(annotations: CocoAnnotations, folder: Path) -> CocoAnnotations:
    """The annotations with file names that lie in the folder.

    A name that leads out of the folder (an absolute one, also of Windows or as a file: URL, or one with "..") is
    replaced by the longest end of its path that leads from the folder to a file. So are relative names, if none of them
    is found as it stands.

    Raises:
        DataError: listing URLs, names of which no end is found, and different names that lead to the same file.
    """
    names = dict.fromkeys(image.file_name for image in annotations.images)
    outside = [name for name in names if _points_outside(name)]
    inside = [name for name in names if not _points_outside(name)]
    if any(os.path.isfile(folder / name) for name in inside):
        inside = []
    if not folder.is_dir() and outside:
        raise DataError(f"{folder}: {describe_non_folder(folder)}")
    if not outside and not inside:
        return annotations
    found = _find_name_ends([*outside, *inside], folder)
    if problems := [*_describe_missing_files(outside, found, folder), *_describe_ambiguous_files(found)]:
        raise DataError(format_problems(str(annotations.path), problems))
    if found:
        name, taken = next(iter(found.items()))
        warn_of_data(
            f"{annotations.path}: {len(found)} of {len(names)} file names do not lead from {folder} to an image; the "
            f"longest end of each name that does is used: {taken} for {as_json(name)}"
        )
    located = (replace(image, file_name=found.get(image.file_name, image.file_name)) for image in annotations.images)
    return replace(annotations, images=tuple(located))


def _points_outside(name: str) -> bool:
    """Whether a file name, joined to a folder, may point outside it on Linux or Windows, or cannot name a file."""
    parts = name.replace("\\", "/").split("/")
    leaves = parts[0] == "" or parts[0].lower() == "file:" or ".." in parts or ":" in parts[0][1:2]
    return leaves or "\0" in name or _URL.match(name) is not None


def _find_name_ends(names: Sequence[str], folder: Path) -> dict[str, str]:
    """The longest end of each name that leads from the folder to a file; names without one are left out."""
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


def _describe_missing_files(names: Sequence[str], found: dict[str, str], folder: Path) -> list[str]:
    return [
        f"file_name {as_json(name)} is a URL; fetch the images into a folder, and name the files in it"
        if _URL.match(name)
        else f"file_name {as_json(name)} leaves the image folder, and no end of it is found there; expected a path "
        f"relative to {folder}, without '..'"
        for name in names
        if name not in found
    ]


def _describe_ambiguous_files(found: dict[str, str]) -> list[str]:
    names = defaultdict(list)
    for name, end in found.items():
        names[end].append(as_json(name))
    return [
        f"{len(same)} different file names lead to the same file, {end}: {first_few(same)}"
        for end, same in names.items()
        if len(same) > 1
    ]


# ---- checks before training starts

SUSPICIOUS_MAXIMUM = 2**14
"""If no value of a data set's images of 16 bits reaches this, the images use 14 bits or fewer: a quarter of the range
or less."""

_THREADS = 16
_MAX_DECODED_FILES = 64
"""At most this many files of more than 8 bits, spread over the data set, are decoded to see which range they use."""


def check_images(annotations: CocoAnnotations, images: Path | str, image_settings: ImageSettings | None = None) -> None:
    """Look at the header of every image, and at the values of some that have more than 8 bits.

    Warns of images that viewers turn, and of files with more than one page.

    Args:
        annotations: which images there are, and their sizes.
        images: the folder that the file names are relative to.
        image_settings: how the image files are read; None: the default settings.

    Raises:
        DataError: listing the files that are missing, are not images, or have another size than the annotations say; or
            where images of more than 8 bits would come out nearly black.
    """
    folder, settings = Path(images), image_settings or ImageSettings()
    if not folder.is_dir():
        raise DataError(f"{folder}: {describe_non_folder(folder)}")
    headers = _read_headers(annotations, folder, settings)

    def names(has: Callable[[ImageHeader], bool]) -> list[str]:
        pairs = zip(annotations.images, headers, strict=True)
        return [image.file_name for image, header in pairs if has(header)]

    if turned := names(lambda header: header.may_be_turned):
        warn_of_data(
            f"{folder}: {_files_have(turned)} an orientation tag, by which viewers turn or mirror the image, and the "
            "size does not tell if it was annotated so: pixels are taken as they are stored, as COCO does. If the "
            "annotations were made on turned images, turn the files themselves, such as with ImageOps.exif_transpose"
        )
    if paged := names(lambda header: header.has_more_pages):
        warn_of_data(
            f"{folder}: {_files_have(paged)} more than one page or frame: the first is used. To use others, save each "
            "to a file of its own"
        )
    need_range = names(lambda header: header.needs_range)
    if need_range and settings.value_range is None:
        check_value_range(str(folder), need_range, [folder / name for name in need_range], settings)


def _read_headers(annotations: CocoAnnotations, folder: Path, settings: ImageSettings) -> list[ImageHeader]:
    """The header of each image; ``DataError`` listing the files that are missing, or are not these images."""
    names_in = cache(_file_names_by_stem)

    def read(image: CocoImage) -> ImageHeader | str:
        try:
            return read_header(folder / image.file_name, (image.height, image.width), settings)
        except DataError as error:
            hint = _hint_at_similar_file(folder / image.file_name, names_in) if str(error) == MISSING_FILE else ""
            return f"{image.file_name} (image {image.id}): {error}{hint}"

    found = map_in_threads(read, annotations.images, _THREADS)
    problems = [problem for problem in found if isinstance(problem, str)]
    if problems:
        raise DataError(format_problems(str(folder), problems))
    return [header for header in found if isinstance(header, ImageHeader)]


def _hint_at_similar_file(path: Path, names_in: Callable[[Path], Mapping[str, str]]) -> str:
    """A hint at a file whose name differs from a missing one's in case or extension alone; empty if there is none."""
    name = names_in(path.parent).get(path.stem.casefold())
    return "" if name is None else f", but {as_json(name)} is there"


def _file_names_by_stem(folder: Path) -> dict[str, str]:
    """The names of a folder's files, by their names in lower case without the extension."""
    return {path.stem.casefold(): path.name for path in folder.iterdir()} if folder.is_dir() else {}


def _files_have(names: Sequence[str]) -> str:
    return f"{first_few(names, 3)} {'has' if len(names) == 1 else 'have'}"


def check_value_range(place: str, names: Sequence[str], paths: Sequence[Path], settings: ImageSettings) -> None:
    """Raise ``DataError`` where files of 16 bits use only the lowest values, as those of 10, 12 or 14 bits do.

    Args:
        place: where the files are, for the message.
        names: the files' names, for the message.
        paths: the files; of many, some are decoded.
        settings: how they are read.
    """
    count = min(_MAX_DECODED_FILES, len(paths))
    decoded = [paths[i * len(paths) // count] for i in range(count)]
    largest = max(map_in_threads(lambda path: largest_pixel_value(path, settings), decoded, _THREADS))
    if 0 < largest < SUSPICIOUS_MAXIMUM:
        raise DataError(
            f"{place}: {_files_have(names)} more than 8 bits, but the largest value in {count} of them "
            f"is {largest}, of {FULL_RANGE[1]}: they would be nearly black. {HOW_TO_GIVE_RANGE}; "
            f"{list(FULL_RANGE)} where they are meant to be dark"
        )


def map_in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """The results of a function for each item, in the order of the items, computed in several threads.

    Unlike with ``ThreadPoolExecutor``, neither Ctrl-C nor the end of the program waits for a call that hangs, such as
    one that opens a file on a dead network disk.

    Raises:
        Exception: what the function raised, for the first item for which it raised anything.
    """
    futures: list[Future[Result]] = [Future() for _ in items]
    work = iter(list(zip(items, futures, strict=True)))  # its next() is atomic
    stopped = False

    def call() -> None:
        for item, future in work:
            if stopped:
                return
            try:
                future.set_result(function(item))
            except BaseException as error:  # noqa: BLE001 - raised again by result()
                future.set_exception(error)

    for _ in range(min(threads, len(items))):
        Thread(target=call, daemon=True).start()
    try:
        return [future.result() for future in futures]
    finally:
        stopped = True
