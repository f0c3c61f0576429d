"""Images drawn from a data set, alone or in groups: nested fractions, stratified by category."""

import json
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from composer_copypaste.data.annotation_json import as_whole_number
from composer_copypaste.data.balanced_order import ItemLabels, balanced_order
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.errors import DataError, as_json, count_noun, first_few
from composer_copypaste.files import read_json

Unit = tuple[int, ...]
"""The ids of images that are drawn together, in the order of the file."""


def draw_fractions(
    annotations: CocoAnnotations, fractions: Sequence[float], *, seed: int, group: str | None = None
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
    groupings = [] if group is None else [read_groups(annotations.path, group)]
    order = order_units(annotations, images_to_units([image.id for image in annotations.images], groupings), seed=seed)
    return {fraction: _draw_fraction(annotations, order, fraction, group) for fraction in fractions}


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


def order_units(annotations: CocoAnnotations, units: Sequence[Unit], *, seed: int) -> list[Unit]:
    """The units in an order whose every beginning is stratified by category.

    Raises:
        ValueError: where the seed is negative.
    """
    if seed < 0:
        raise ValueError(f"seed: expected 0 or more, got {seed}")
    order = balanced_order(_labels_of_units(annotations, units), seeded_generator(seed))
    return [units[index] for index in order]


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
    return ItemLabels(np.array([len(unit) for unit in units], dtype=np.int64), items, labels, counts)


def _draw_fraction(annotations: CocoAnnotations, order: Sequence[Unit], fraction: float, group: str | None) -> Unit:
    """The images of the fraction's part of the order."""
    [end] = nearest_cuts(order, [fraction])
    if end == 0:
        total, smallest = len(annotations.images), min(map(len, order), default=0)
        unit = "" if group is None else f", and the smallest group by {as_json(group)} has {smallest}"
        raise DataError(
            f"{annotations.path}: the fraction {fraction:g} of {count_noun(total, 'image')} is {fraction * total:.2g} "
            f"images{unit}: no image is drawn. Expected a fraction of at least {smallest / total:.2g}"
        )
    drawn = {image for unit in order[:end] for image in unit}
    return tuple(image.id for image in annotations.images if image.id in drawn)


def nearest_cuts(order: Sequence[Unit], shares: Sequence[float]) -> list[int]:
    """After how many units each of these shares of all images is reached as nearly as possible."""
    images = np.cumsum([0, *map(len, order)])
    return [len(order) - int(np.abs(images - share * images[-1])[::-1].argmin()) for share in shares]
