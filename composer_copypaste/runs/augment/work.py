"""What an offline data set is made from: data that has been checked, and the new images that are to be made of it."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.annotation_json import ReadingOptions
from composer_copypaste.data.category_weights import with_counted_weights
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import check_images, describe_non_folder, with_file_names_in_folder
from composer_copypaste.data.image_inputs import images_below
from composer_copypaste.data.images import size_as_shown
from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.errors import DataError, RecipeError, format_problems
from composer_copypaste.files import UNFINISHED, name_path_in_errors
from composer_copypaste.functional.category_names import with_labels
from composer_copypaste.functional.keypoints import keypoint_pairs
from composer_copypaste.functional.scene import check_scene
from composer_copypaste.functional.sources import check_pool
from composer_copypaste.functional.transformed_objects import check_object_transform
from composer_copypaste.output_folder import Source
from composer_copypaste.recipes.schema import PoolSettings
from composer_copypaste.runs.augment.draws import BaseImage, DrawnImage, OfflineDraws
from composer_copypaste.runs.augment.entries import OfflineEntries
from composer_copypaste.runs.data import open_cut_outs, pool_digest
from composer_copypaste.settings import AugmentSettings, CopyPasteSettings, ImageSettings
from composer_copypaste.validation import type_adapter

_SUFFIXES = {"jpeg": ".jpg", "png": ".png"}


@dataclass(frozen=True)
class PlannedImage:
    """A new image that is to be made."""

    number: int
    """Among all new images, from 0."""
    base: BaseImage
    copy: int
    """Among those of its base image, from 1."""
    file_name: str
    """Relative to the folder of all images."""


@dataclass(frozen=True, eq=False)
class AugmentWork:
    """An offline data set that is to be written."""

    settings: AugmentSettings
    copy_paste: CopyPasteSettings
    """With labels in place of names."""
    reading: ImageSettings
    entries: OfflineEntries
    draws: OfflineDraws
    planned: tuple[PlannedImage, ...]
    source: Source
    """All that the bytes depend on."""

    @property
    def annotations(self) -> CocoAnnotations:
        """The annotations of the former data set, with file names that lie in the folder of images."""
        return self.entries.file.annotations

    @property
    def originals(self) -> list[str]:
        """The names of the image files of the former data set that the new one has too."""
        return [] if self.settings.originals == "omit" else [image.file_name for image in self.annotations.images]

    def place_original(self, name: str, folder: Path) -> None:
        """Copy or link an image file of the former data set into a folder, unless it is there."""
        former, placed = self.draws.folder / name, folder / name
        if self.settings.originals == "link":
            _link(former, placed)
        elif not (placed.exists() and placed.stat().st_size == former.stat().st_size):
            unfinished = placed.with_name(f".{placed.name}{UNFINISHED}")
            try:
                with name_path_in_errors(placed):
                    shutil.copyfile(former, unfinished)
                    unfinished.replace(placed)
            finally:
                unfinished.unlink(missing_ok=True)

    def draw(self, planned: PlannedImage, attempt: int, folder: Path) -> DrawnImage | None:
        """What a new image in this folder is made of; None where this attempt pastes nothing on it."""
        return self.draws.draw(planned.base, planned.copy, attempt, folder / planned.file_name)


def open_work(
    images: Path,
    annotations: Path,
    settings: AugmentSettings,
    pool: PoolSettings | None,
    reading: ReadingOptions,
    image_settings: ImageSettings,
) -> AugmentWork:
    """Check all that an offline data set is made from, and decide which new images it gets.

    Raises:
        DataError: listing what is wrong with annotations or images, or where no object may be pasted.
        RecipeError: where copy-paste names unknown categories, or excludes all cut-outs of the pool.
        MissingPackageError: where Numba does not work.
    """
    from composer_copypaste.functional.engines.compilation import check_can_compile  # 0.5 s to import

    check_can_compile("offline data sets")
    file = AnnotationFile.read(annotations, reading)
    data = with_file_names_in_folder(file.annotations, images)
    check_images(data, images, image_settings)
    entries = OfflineEntries(replace(file, annotations=data))
    names = [category.name for category in data.categories]
    copy_paste = _with_known_categories(settings, names, entries)
    if pool is None:
        _check_without_pool(copy_paste)
    read = partial(
        CocoAnnotations.load, crowds=reading.crowds, bad_objects=reading.bad_objects, spelling=reading.spelling
    )
    cut_outs = None if pool is None else open_cut_outs(pool, image_settings, copy_paste, names, read)
    draws = OfflineDraws(data, images, settings.seed, copy_paste, cut_outs, entries.keypoints())
    if not draws.can_paste:
        raise DataError(
            f"{annotations}: none of its objects may be pasted, as all are crowds or excluded by the settings of "
            "copy-paste, and there is no pool of cut-outs"
        )
    if len(data.images) == 1 and not settings.backgrounds and pool is None and copy_paste.source == "batch":
        raise DataError(
            f"{annotations}: has one image, and no other to copy objects from; give source=self for copies of its own, "
            "or a pool of cut-outs"
        )
    bases = _base_images(data, images, settings, image_settings)
    planned = tuple(_plan_images(_drawn_fraction(bases, settings), settings, data))
    source = _describe_source(entries.file, draws, bases, settings, pool, reading, image_settings)
    return AugmentWork(settings, copy_paste, image_settings, entries, draws, planned, source)


def _with_known_categories(
    settings: AugmentSettings, names: Sequence[str], entries: OfflineEntries
) -> CopyPasteSettings:
    """The settings of copy-paste, with labels in place of names, and the pairs of keypoints that the file names."""
    try:
        counted = with_counted_weights(settings.copy_paste, lambda: entries.file.annotations)
        copy_paste = with_labels(counted, names, stacklevel=2)
    except ValueError as error:
        raise RecipeError(f"copy_paste.{error}") from None
    check_scene(copy_paste)
    check_object_transform(copy_paste)
    named = {tuple(names) for names in entries.keypoint_names()}
    if copy_paste.keypoint_pairs is not None or len(named) != 1:
        return copy_paste
    try:
        return replace(copy_paste, keypoint_pairs=keypoint_pairs(named.pop()))
    except ValueError:  # names that do not tell left from right
        return copy_paste


def _check_without_pool(settings: CopyPasteSettings) -> None:
    try:
        check_pool(None, settings)
    except ValueError as error:
        raise RecipeError(f"copy_paste.{error}") from None


def _base_images(
    data: CocoAnnotations, folder: Path, settings: AugmentSettings, reading: ImageSettings
) -> list[BaseImage]:
    if settings.backgrounds is None:
        return [BaseImage.of_data(image, index, folder) for index, image in enumerate(data.images)]
    return _backgrounds(settings.backgrounds, reading)


def _backgrounds(folder: Path, reading: ImageSettings) -> list[BaseImage]:
    """The images in a folder and the folders inside it; other files, by their names, and hidden ones are left out."""
    if not folder.is_dir():
        raise DataError(f"{folder}: {describe_non_folder(folder)}")
    found, problems = [], []
    for path in images_below(folder):
        name = path.relative_to(folder).as_posix()
        try:
            found.append(BaseImage.background(name, folder, size_as_shown(path, reading)))
        except DataError as error:
            problems.append(str(error).removeprefix(f"{folder}/"))
    if problems:
        raise DataError(format_problems(f"{folder}: cannot be used as backgrounds", problems))
    if not found:
        raise DataError(f"{folder}: expected images for backgrounds, the folder has none")
    return found


def _drawn_fraction(bases: Sequence[BaseImage], settings: AugmentSettings) -> list[BaseImage]:
    """The fraction of the base images of which new images are made, in their order; at least one."""
    count = max(1, round(settings.fraction * len(bases)))
    order = torch.randperm(len(bases), generator=seeded_generator(settings.seed)).tolist()
    return [bases[place] for place in sorted(order[:count])]


def _plan_images(
    bases: Sequence[BaseImage], settings: AugmentSettings, data: CocoAnnotations
) -> Iterator[PlannedImage]:
    taken = {image.file_name.casefold() for image in data.images}
    copies = ((base, copy) for base in bases for copy in range(1, settings.per_image + 1))
    for number, (base, copy) in enumerate(copies):
        stem, suffix, more = PurePosixPath(base.file_name).with_suffix(""), _SUFFIXES[settings.format], 1
        name = f"{stem}_pasted{copy}{suffix}"
        while name.casefold() in taken:  # two base images may differ in their suffix alone
            more += 1
            name = f"{stem}_pasted{copy}_{more}{suffix}"
        taken.add(name.casefold())
        yield PlannedImage(number, base, copy, name)


def _describe_source(  # noqa: PLR0913 - each of its own kind
    file: AnnotationFile,
    draws: OfflineDraws,
    bases: Sequence[BaseImage],
    settings: AugmentSettings,
    pool: PoolSettings | None,
    reading: ReadingOptions,
    image_settings: ImageSettings,
) -> Source:
    """All that the bytes of the data set depend on, by the names that users know."""
    files = {draws.folder / image.file_name for image in draws.annotations.images} | {base.file.path for base in bases}
    sizes = [(str(path), path.stat().st_size) for path in sorted(files)]
    return {
        "annotations": hashlib.sha256(file.path.read_bytes()).hexdigest(),
        "image files": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
        **settings_to_json(settings),
        "pool": None if pool is None else pool_digest(pool),
        "crowds": reading.crowds,
        "bad objects": reading.bad_objects,
        "value range": image_settings.value_range and list(image_settings.value_range),
    }


def settings_to_json(settings: AugmentSettings) -> dict[str, Any]:
    """The settings as JSON has them."""
    plain: dict[str, Any] = type_adapter(AugmentSettings).dump_python(settings, mode="json")
    return plain


def _link(former: Path, placed: Path) -> None:
    """A hard link, or a symbolic one where the disk is another or has no hard links."""
    if placed.exists() or placed.is_symlink():
        return
    try:
        os.link(former, placed)
    except OSError:
        placed.symlink_to(former.resolve())
