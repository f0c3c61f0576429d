"""Which images of a data set belong together: by a key of the JSON file, or since their files are equal."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_json import as_whole_number
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import describe_non_folder, map_in_threads, with_file_names_in_folder
from composer_copypaste.data.images import MISSING_FILE
from composer_copypaste.errors import DataError, as_json, count_noun, first_few, format_problems
from composer_copypaste.files import read_json
from composer_copypaste.progress import Progress

Unit = tuple[int, ...]
"""The ids of images that belong together, in the order of the file."""

_THREADS = 16


def read_groups(path: Path, key: str) -> dict[int, str]:
    """The group of each image id of an annotation file: the value of a key of its images, as JSON.

    Raises:
        DataError: naming images without a value.
    """
    return groups_in(read_json(path, "annotation file"), path, key)


def groups_in(content: Mapping[str, Any], path: Path, key: str) -> dict[int, str]:
    """The group of each image id, of an annotation file whose content is known to be valid."""
    images = content["images"]
    without = [as_whole_number(image["id"]) for image in images if image.get(key) is None]
    if without:
        raise DataError(
            f"{path}: {len(without)} of {count_noun(len(images), 'image')} have no {as_json(key)} to group them by: "
            f"images {first_few(without)}; the keys of the first image are {first_few(list(images[0]), 20)}"
        )
    return {int(image["id"]): json.dumps(image[key], sort_keys=True) for image in images}


def images_to_units(images: Sequence[int], groupings: Sequence[Mapping[int, Hashable]]) -> list[Unit]:
    """The images, those together that are in one group of any of the groupings, directly or through other images."""
    joined = {image: image for image in images}

    def first_of(image: int) -> int:
        while joined[image] != image:
            joined[image] = joined[joined[image]]
            image = joined[image]
        return image

    for grouping in groupings:
        first_in: dict[Hashable, int] = {}
        for image in images:
            if image in grouping:
                joined[first_of(image)] = first_of(first_in.setdefault(grouping[image], image))
    units: dict[int, list[int]] = {}
    for image in images:
        units.setdefault(first_of(image), []).append(image)
    return [tuple(unit) for unit in units.values()]


# ---- equal files


@dataclass(frozen=True)
class LocatedImage:
    """An image of an annotation file, and where its file is."""

    id: int
    folder: Path
    file_name: str
    """Relative to the folder."""

    @property
    def path(self) -> Path:
        """The image's file."""
        return self.folder / self.file_name


def locate_images(annotations: CocoAnnotations, folder: Path) -> list[LocatedImage]:
    """The images with their files in the folder, where names that lead out of it are looked for.

    Raises:
        DataError: where there is no such folder, or listing the files that are not there.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: {describe_non_folder(folder)}")
    images = with_file_names_in_folder(annotations, folder).images
    found = map_in_threads(lambda image: (folder / image.file_name).is_file(), images, _THREADS)
    missing = [
        f"{image.file_name} (image {image.id}): {MISSING_FILE}"
        for image, is_there in zip(images, found, strict=True)
        if not is_there
    ]
    if missing:
        raise DataError(format_problems(str(folder), missing))
    return [LocatedImage(image.id, folder, image.file_name) for image in images]


def equal_content(sets: Sequence[Sequence[LocatedImage]]) -> list[dict[int, str]]:
    """For each set of images, a text for each image id: equal texts stand for equal bytes.

    Of one set, equal images are found in it; of several, those that are in two sets. Only files are read whose size is
    that of another file in question.
    """
    path_of = {image: os.path.realpath(image.path) for images in sets for image in images}
    paths = list(dict.fromkeys(path_of.values()))
    size_of = dict(zip(paths, map_in_threads(os.path.getsize, paths, _THREADS), strict=True))
    in_sets = [{path_of[image] for image in images} for images in sets]
    sizes = [[size_of[path] for path in of_set] for of_set in in_sets]
    frequency = Counter(sizes[0] if len(sizes) == 1 else [size for of_set in sizes for size in set(of_set)])
    alike = [path for path in paths if frequency[size_of[path]] > 1]
    with Progress("comparing files", "images", len(alike)) as bar:

        def checksum_of(path: str) -> str:
            with open(path, "rb") as file:
                checksum = hashlib.file_digest(file, "sha256").hexdigest()
            bar.advance()
            return checksum

        checksums = dict(zip(alike, map_in_threads(checksum_of, alike, _THREADS), strict=True))
    return [{image.id: checksums.get(path_of[image], path_of[image]) for image in images} for images in sets]
