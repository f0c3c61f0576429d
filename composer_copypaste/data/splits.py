"""Images drawn from a data set, alone or in groups, stratified by category: nested fractions, and disjoint parts."""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from composer_copypaste.data.annotation_checks import group_images_by_file
from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.balanced_order import USUAL_CUTS, ItemLabels, balanced_order, nearest_cuts
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.coco_write import write_new_coco
from composer_copypaste.data.image_groups import (
    Unit,
    equal_content,
    groups_in,
    images_to_units,
    locate_images,
    read_groups,
)
from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.errors import DataError, UserError, as_json, count_noun, first_few, warn_of_data
from composer_copypaste.output_folder import check_is_no_file

SHARES_TOLERANCE = 2e-3
"""By how much the sum of shares may differ from 1: thirds are written 0.333."""


def draw_fractions(
    annotations: CocoAnnotations | AnnotationFile, fractions: Sequence[float], *, seed: int, group: str | None = None
) -> dict[float, Unit]:
    """The ids of the images of each fraction, in the order of the file.

    Smaller fractions lie inside larger ones, and a fraction is the same whatever the others are. It holds about its
    share of each category's objects and images, and of the images without objects. The number of images is the nearest
    possible.

    Args:
        annotations: the data set.
        fractions: of the number of images, each more than 0 and at most 1.
        seed: 0 or more; another seed draws other images.
        group: a key of the images in the JSON file: those with the same value are drawn together. None: each image is
            drawn by itself.

    Raises:
        DataError: where images lack the key, or no image would be drawn.
        ValueError: where a fraction or the seed is out of range.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise ValueError(f"fractions: expected numbers more than 0 and at most 1, got {fraction!r}")
    groupings: list[Mapping[int, str]] = []
    if isinstance(annotations, AnnotationFile):
        content, annotations = annotations.content, annotations.annotations
        groupings += [] if group is None else [groups_in(content, annotations.path, group)]
    elif group is not None:
        groupings.append(read_groups(annotations.path, group))
    order = order_units(annotations, images_to_units([image.id for image in annotations.images], groupings), seed=seed)
    return {fraction: _draw_fraction(annotations, order, fraction, group) for fraction in fractions}


def order_units(
    annotations: CocoAnnotations, units: Sequence[Unit], *, seed: int, cuts: Sequence[float] = USUAL_CUTS
) -> list[Unit]:
    """The units in an order whose every beginning is stratified by category, best of all at these cuts.

    Raises:
        ValueError: where the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    order = balanced_order(_labels_of_units(annotations, units), seeded_generator(seed), cuts)
    return [units[index] for index in order]


def sizes_of(units: Sequence[Unit]) -> Int[ndarray, " n"]:
    """The number of images of each unit."""
    return np.array([len(unit) for unit in units], dtype=np.int64)


def _labels_of_units(annotations: CocoAnnotations, units: Sequence[Unit]) -> ItemLabels:
    """For each unit, and each category, the number of objects and of images; and of images without objects."""
    categories = {category.id: index for index, category in enumerate(annotations.categories)}
    empty = 2 * len(categories)
    rows: list[tuple[int, int, int]] = []
    for number, unit in enumerate(units):
        found: Counter[int] = Counter()
        for image in unit:
            objects = Counter(categories[a["category_id"]] for a in annotations.annotations[image])
            found.update({2 * category: count for category, count in objects.items()})
            found.update([2 * category + 1 for category in objects] or [empty])
        rows += [(number, label, found[label]) for label in sorted(found)]
    items, labels, counts = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    _, labels = np.unique(labels, return_inverse=True)
    return ItemLabels(sizes_of(units), items, labels, counts)


def _draw_fraction(annotations: CocoAnnotations, order: Sequence[Unit], fraction: float, group: str | None) -> Unit:
    """The images of the fraction's part of the order."""
    [end] = nearest_cuts(sizes_of(order), [fraction])
    if end == 0:
        total, first = len(annotations.images), len(order[0])
        unit = "" if group is None else f", and the first group that is drawn, by {as_json(group)}, has {first}"
        raise DataError(
            f"{annotations.path}: the fraction {fraction:g} of {count_noun(total, 'image')} is {fraction * total:.2g} "
            f"images{unit}: no image is drawn. Expected a fraction of at least {first / total:.2g}"
        )
    drawn = {image for unit in order[:end] for image in unit}
    return tuple(image.id for image in annotations.images if image.id in drawn)


# ---- disjoint parts


def split_annotations(
    annotations: Path | str | AnnotationFile,
    output: Path | str,
    parts: Mapping[str, float],
    *,
    images: Path | str | None = None,
    group: str | None = None,
    seed: int = 0,
) -> dict[str, AnnotationFile]:
    """Divide the images of a COCO file among new files, such as ``train.json`` and ``val.json``; return their content.

    Each part has about its share of each category's objects and images. All else stays as it is in the file. A part
    that is there already is left alone.

    Args:
        annotations: a COCO file.
        output: the folder to write the parts to.
        parts: the share of the images of each part, by name; together 1.
        images: the folder of the images. With it, files that are equal byte by byte stay in one part.
        group: a key of the images in the JSON file: those with the same value stay in one part.
        seed: 0 or more; another seed gives other parts.

    Raises:
        DataError: where the file is broken, images lack the key or are missing, or a part would have no image.
        OutputError: where a part is there, and holds something else, or ``output`` is named like a file.
        UserError: where the shares are not those of a whole.
    """
    _check_parts(parts)
    check_is_no_file(Path(output), "parts")
    file = annotations if isinstance(annotations, AnnotationFile) else AnnotationFile.read(annotations)
    same_names = enumerate(group_images_by_file(file.annotations.images))
    groupings: list[Mapping[int, Hashable]] = [{image: number for number, same in same_names for image in same}]
    if group is not None:
        groupings.append(groups_in(file.content, file.path, group))
    if images is not None:
        groupings.append(_equal_images(file, Path(images)))
    units = images_to_units([image.id for image in file.annotations.images], groupings)
    drawn = _divide(file, units, parts, seed)
    contents = {name: file.with_images(drawn[name]) for name in parts}
    write_new_coco({Path(output) / f"{name}.json": part.content for name, part in contents.items()})
    return contents


def _check_parts(parts: Mapping[str, float]) -> None:
    """Raise ``UserError`` where the parts are not those of a whole, or a name is none of a file."""
    for name, share in parts.items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError(f"parts: expected names of files, such as train, got {name!r}")
        if not 0 < share < 1:
            raise UserError(f"parts: expected shares between 0 and 1, got {name}={share:g}")
    if abs(sum(parts.values()) - 1) > SHARES_TOLERANCE:
        raise UserError(f"parts: expected shares that add up to 1, got {sum(parts.values()):g}")


def _equal_images(file: AnnotationFile, folder: Path) -> dict[int, str]:
    """For each image what its file holds; warns of equal files."""
    [contents] = equal_content([locate_images(file.annotations, folder)])
    names: dict[str, list[str]] = defaultdict(list)
    for image in file.annotations.images:
        names[contents[image.id]].append(image.file_name)
    equal = [" = ".join(same) for same in names.values() if len(same) > 1]
    if equal:
        warn_of_data(f"{folder}: files that are equal byte by byte stay in one part: {first_few(equal)}")
    return contents


def _divide(file: AnnotationFile, units: Sequence[Unit], parts: Mapping[str, float], seed: int) -> dict[str, list[int]]:
    """The images of each part. The smallest parts come first, since large groups are not at the beginning."""
    ascending = sorted(parts, key=lambda name: parts[name])
    shares = list(accumulate(parts[name] for name in ascending[:-1]))
    order = order_units(file.annotations, units, seed=seed, cuts=shares)
    cuts = [0, *nearest_cuts(sizes_of(order), shares), len(order)]
    drawn = {
        name: [image for unit in order[start:end] for image in unit]
        for name, start, end in zip(ascending, cuts, cuts[1:], strict=False)
    }
    for name, ids in drawn.items():
        if not ids:
            total, largest = len(file.annotations.images), max(map(len, order))
            together = f", of which up to {largest} stay together," if largest > 1 else ""
            share = f"{name}={parts[name]:g} of {count_noun(total, 'image')}"
            raise DataError(f"{file.path}: the part {share}{together} has no image: expected a larger share")
    return drawn


def category_shares(part: CocoAnnotations, whole: CocoAnnotations) -> dict[str, float]:
    """Which share of its objects in the whole each category has in a part; categories without objects are left out."""
    found, total = (
        Counter(annotation["category_id"] for group in data.annotations.values() for annotation in group)
        for data in (part, whole)
    )
    return {c.name: found[c.id] / total[c.id] for c in whole.categories if total[c.id]}
