"""A look at the file of every image before training starts: whether it can be used, and what should be known of it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from threading import Thread
from typing import TypeVar

from composer_copypaste.data.dataset import CocoAnnotations
from composer_copypaste.data.file_names import no_folder
from composer_copypaste.data.images import FULL_RANGE, HOW_TO_GIVE, MISSING, Header, largest_value, read_header
from composer_copypaste.data.records import CocoImage
from composer_copypaste.errors import DataError, DataWarning, as_json, listed
from composer_copypaste.settings import ImageSettings

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(function: Callable[[Item], Result], items: Sequence[Item], threads: int) -> list[Result]:
    """What a function gives for each item, in their order, called in several threads.

    Unlike with ``ThreadPoolExecutor``, neither Ctrl-C nor the end of the program waits for a call that hangs, as one
    does that opens a file of a dead network disk.

    Raises:
        Exception: what the function raised for the first item that it raised anything for.
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


DARK = 2**14
"""Where no value of a data set's deep files reaches it, they hold at most 14 bits: a quarter of the range of 16."""

_THREADS = 16
_DECODED = 64
"""So many files of more than 8 bits, spread over the data set, are decoded to see what range they use."""
_NAMED = 3


def check_images(annotations: CocoAnnotations, folder: Path, settings: ImageSettings | None = None) -> None:
    """Look at the header of every image, and at the values of some that have more than 8 bits.

    Warns of images that viewers turn, and of files with further pages.

    Raises:
        DataError: listing the files that are missing, no images, or of another size than the annotations say; or
            where images of more than 8 bits would come out nearly black.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {no_folder(folder)}")
    settings = settings or ImageSettings()

    names_in = cache(_names_in)

    def look(image: CocoImage) -> Header | str:
        try:
            return read_header(folder / image.file_name, (image.height, image.width), settings)
        except DataError as error:
            hint = _file_instead(folder / image.file_name, names_in) if str(error) == MISSING else ""
            return f"{image.file_name} (image {image.id}): {error}{hint}"

    found = in_threads(look, annotations.images, _THREADS)
    problems = [problem for problem in found if isinstance(problem, str)]
    if problems:
        raise DataError(listed(str(folder), problems))

    def names(has: Callable[[Header], bool]) -> list[str]:
        pairs = zip(annotations.images, found, strict=True)
        return [image.file_name for image, header in pairs if isinstance(header, Header) and has(header)]

    _warn_of_turned(folder, names(lambda header: header.may_be_turned))
    _warn_of_pages(folder, names(lambda header: header.has_more_pages))
    if settings.value_range is None:
        _check_range(folder, names(lambda header: header.needs_range), settings)


def _file_instead(path: Path, names_in: Callable[[Path], Mapping[str, str]]) -> str:
    """What file there is in place of a missing one, with letters of another case or another extension; else nothing."""
    name = names_in(path.parent).get(path.stem.casefold())
    return "" if name is None else f", but {as_json(name)} is there"


def _names_in(folder: Path) -> dict[str, str]:
    """The names of a folder's files by what they are but for case and extension."""
    return {path.stem.casefold(): path.name for path in folder.iterdir()} if folder.is_dir() else {}


def _warn_of_turned(folder: Path, names: Sequence[str]) -> None:
    if names:
        warnings.warn(
            f"{folder}: {_counted(names)} an orientation tag, by which viewers turn or mirror the image, and the size "
            "does not tell if it was annotated so: pixels are taken as they are stored, as COCO does. If the "
            "annotations were made on turned images, turn the files themselves, such as with ImageOps.exif_transpose",
            DataWarning,
            stacklevel=3,
        )


def _warn_of_pages(folder: Path, names: Sequence[str]) -> None:
    if names:
        warnings.warn(
            f"{folder}: {_counted(names)} more than one page or frame: the first is used. To use others, save each "
            "to a file of its own",
            DataWarning,
            stacklevel=3,
        )


def _counted(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{shown}{more} {'has' if len(names) == 1 else 'have'}"


def _check_range(folder: Path, names: Sequence[str], settings: ImageSettings) -> None:
    """Raise ``DataError`` where files of 16 bits use only the lowest values: those of 10, 12 or 14 bits."""
    if not names:
        return
    count = min(_DECODED, len(names))
    decoded = [folder / names[i * len(names) // count] for i in range(count)]
    largest = max(in_threads(lambda path: largest_value(path, settings), decoded, _THREADS))
    if 0 < largest < DARK:
        raise DataError(
            f"{folder}: {_counted(names)} more than 8 bits, but the largest value in {count} of them "
            f"is {largest}, of {FULL_RANGE[1]}: they would be nearly black. {HOW_TO_GIVE}; "
            f"{list(FULL_RANGE)} where they are meant to be dark"
        )
