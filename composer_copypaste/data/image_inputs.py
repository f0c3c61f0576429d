"""The images that a model is given: files, folders, patterns, or the images of a COCO file."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from PIL import Image

from composer_copypaste.data.annotation_json import Category, Json
from composer_copypaste.data.coco_json import images_without_annotations
from composer_copypaste.data.image_files import (
    check_value_range,
    describe_non_folder,
    map_in_threads,
    with_file_names_in_folder,
)
from composer_copypaste.data.images import ImageHeader, Size, read_header, size_as_shown
from composer_copypaste.errors import DataError, RecipeError, as_json, count_noun, first_few, warn_of_data
from composer_copypaste.files import describe_missing, expand_home, read_json
from composer_copypaste.settings import ImageSettings

_HEADER_THREADS = 16


@dataclass(frozen=True)
class InputImage:
    """An image file, and what names it in results."""

    id: int
    """The id in the COCO file, or the place in the list of files, counted from 1."""
    file_name: str
    """The path relative to the folder of all images, with slashes."""
    path: Path
    size: Size | None = None
    """The (height, width) that a COCO file states, or that a viewer shows; None where the file cannot be read."""
    problem: str | None = None
    """Why the file cannot be read; None where it can, as far as its header tells."""


@dataclass(frozen=True)
class ImageInputs:
    """Images, in the order of their ids in results."""

    images: tuple[InputImage, ...]
    categories: tuple[Category, ...] = ()
    """The categories that the COCO file has, if any."""
    content: Json = field(default_factory=dict, repr=False)
    """The COCO file, without annotations; empty where the images are files, folders or patterns."""


def find_images(
    arguments: Sequence[Path | str], *, folder: Path | None = None, without: Path | None = None
) -> ImageInputs:
    """The images that paths and patterns name.

    Args:
        arguments: image files, folders (with those below them), patterns such as "photos/**/*.jpg"; or one COCO file.
        folder: the folder that the COCO file's names are relative to; for a COCO file only.
        without: a folder whose images do not count, as the one that is written to.

    Raises:
        DataError: where nothing is found, or the COCO file cannot be used.
        RecipeError: where the arguments do not fit each other.
    """
    listed = [argument for argument in arguments if Path(argument).suffix.lower() == ".json"]
    if listed:
        if len(arguments) == 1 and folder is None:
            raise RecipeError(
                f"{listed[0]}: a COCO file lists the names of images; give --images FOLDER, the folder of these"
            )
        if len(arguments) > 1 or folder is None:
            raise RecipeError(
                f"command line: expected a COCO file alone and --images FOLDER, which its names are relative to, got "
                f"{first_few(arguments)}" + ("" if folder is None else f" and --images {folder}")
            )
        return _images_of_coco_file(Path(listed[0]), folder)
    if folder is not None:
        raise RecipeError("command line: --images names the folder of a COCO file's images; expected a COCO file")
    excluded = None if without is None else without.resolve()
    paths = [path for path in _expand_all(arguments) if excluded is None or excluded not in path.resolve().parents]
    if not paths:
        raise DataError(f"{first_few(arguments)}: there is no image")
    common = _common_folder(paths)
    names = [path.absolute().relative_to(common).as_posix() for path in paths]
    return ImageInputs(tuple(InputImage(i, n, p) for i, (n, p) in enumerate(zip(names, paths, strict=True), start=1)))


def _images_of_coco_file(path: Path, folder: Path) -> ImageInputs:
    """The images of a COCO file, whose annotations are not looked at; test sets have none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {describe_non_folder(folder)}")
    content = read_json(path, "COCO file")
    listed = images_without_annotations(content, path)
    located = with_file_names_in_folder(listed, folder)
    images = [
        InputImage(image.id, image.file_name, folder / image.file_name, (image.height, image.width))
        for image in located.images
    ]
    if images and not any(image.path.exists() for image in images):
        raise DataError(
            f"{folder}: has none of the {count_noun(len(images), 'image')} of {path}, such as "
            f"{as_json(images[0].file_name)}; give the folder that their names are relative to"
        )
    kept = {key: value for key, value in content.items() if key != "annotations"}
    return ImageInputs(tuple(images), listed.categories, kept)


def _expand_all(arguments: Iterable[Path | str]) -> list[Path]:
    """The image files of all arguments in their order, each once."""
    found: dict[str, Path] = {}
    for argument in arguments:
        for path in _expand(argument):
            found.setdefault(os.path.abspath(path), path)
    return list(found.values())


def _expand(argument: Path | str) -> Iterator[Path]:
    path = expand_home(argument)
    if path.is_dir():
        yield from images_below(path)
    elif path.exists():
        yield path
    elif glob.has_magic(str(path)):
        for name in sorted(glob.glob(str(path), recursive=True)):
            match = Path(name)
            if match.is_dir() and "**" not in path.parts:
                yield from images_below(match)
            elif _is_named_as_image(match):
                yield match
    else:
        raise DataError(f"{argument}: {describe_missing(path, 'file or folder')}")


def images_below(folder: Path) -> Iterator[Path]:
    """The files in a folder and the folders below it that are images by their names, but for hidden ones, sorted."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if _is_named_as_image(Path(name)) and not name.startswith("."):
                yield Path(parent) / name


def _is_named_as_image(path: Path) -> bool:
    return path.suffix.lower() in _image_suffixes()


@cache
def _image_suffixes() -> frozenset[str]:
    """The endings of the files that Pillow can read, but for documents."""
    suffixes = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return frozenset(suffixes - {".pdf", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".fits", ".fit"})


def _common_folder(paths: Sequence[Path]) -> Path:
    return Path(os.path.commonpath([path.absolute().parent for path in paths]))


# ---- headers


def with_headers(inputs: ImageInputs, settings: ImageSettings) -> ImageInputs:
    """The inputs after a look at the header of every file: with sizes, and with problems of those that are unreadable.

    Warns of files whose orientation their size does not tell, and of those with more than one page.

    Raises:
        DataError: where images of more than 8 bits would come out nearly black.
    """

    def look(image: InputImage) -> tuple[InputImage, ImageHeader | None]:
        try:
            size = image.size or size_as_shown(image.path, settings)
            return replace(image, size=size), read_header(image.path, size, settings)
        except DataError as error:
            return replace(image, problem=str(error).removeprefix(f"{image.path}: ")), None

    found = map_in_threads(look, inputs.images, _HEADER_THREADS)
    readable = [(image, header) for image, header in found if header is not None]
    _warn_of_orientation([image.file_name for image, header in readable if header.may_be_turned])
    _warn_of_pages([image.file_name for image, header in readable if header.has_more_pages])
    deep = [image for image, header in readable if header.needs_range]
    if deep and settings.value_range is None:
        names, paths = [image.file_name for image in deep], [image.path for image in deep]
        check_value_range(str(_common_folder(paths)), names, paths, settings)
    return replace(inputs, images=tuple(image for image, _ in found))


def _warn_of_orientation(names: Sequence[str]) -> None:
    if names:
        warn_of_data(
            f"{first_few([as_json(name) for name in names], 3)}: an orientation tag turns or mirrors the image for "
            "viewers, and the size does not tell: pixels and results are as they are stored, as COCO has them"
        )


def _warn_of_pages(names: Sequence[str]) -> None:
    if names:
        warn_of_data(
            f"{first_few([as_json(name) for name in names], 3)}: more than one page or frame; the first is used"
        )
