"""Categories whose objects lie inside those of another, as windows do in a facade: pasted, the outer ones hide them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco import CocoAnnotations
from composer_copypaste.data.mask_extents import mask_extents
from composer_copypaste.data.outlines import Rle, rle_of_polygons
from composer_copypaste.data.records import CocoAnnotation, CocoImage

INSIDE = 0.9
"""An object of which this fraction lies in another's mask is inside it."""
OFTEN = 0.75
"""A category of whose objects this fraction is inside those of one other category is nested in it."""
FEWEST = 10
"""Fewer objects than these tell nothing of a category."""
_IMAGES = 200
"""So many images are looked at, spread over the data set."""


@dataclass(frozen=True)
class Nesting:
    """A category that is nested in another."""

    outer: str
    inner: str
    share: float
    """Fraction of the inner category's objects that lie inside one of the outer."""


def nested_categories(annotations: CocoAnnotations) -> list[Nesting]:
    """The nested categories, from a sample of images; crowds are left out."""
    shown = [image for image in annotations.images if annotations.annotations[image.id]]
    count = min(_IMAGES, len(shown))
    objects: Counter[int] = Counter()
    inside: Counter[tuple[int, int]] = Counter()
    for image in (shown[i * len(shown) // count] for i in range(count)):
        group = [annotation for annotation in annotations.annotations[image.id] if not annotation["iscrowd"]]
        objects.update(annotation["category_id"] for annotation in group)
        inside.update(_inside(image, group))
    names = {category.id: category.name for category in annotations.categories}
    return [
        Nesting(names[outer], names[inner], found / objects[inner])
        for (outer, inner), found in inside.items()
        if objects[inner] >= FEWEST and found >= OFTEN * objects[inner]
    ]


def _inside(image: CocoImage, group: Sequence[CocoAnnotation]) -> list[tuple[int, int]]:
    """The categories (outer, inner) of each object that lies inside one of another category."""
    categories = np.array([annotation["category_id"] for annotation in group])
    boxes = mask_extents([annotation["segmentation"] for annotation in group])
    may_hold = (categories[:, None] != categories) & (_shares(boxes) >= INSIDE)
    needed = np.flatnonzero(may_hold.any(axis=0) | may_hold.any(axis=1))
    codes = {int(number): _rle(image, group[number]) for number in needed}
    found = []
    for inner in np.flatnonzero(may_hold.any(axis=0)):
        outer = np.flatnonzero(may_hold[:, inner])
        shares = coco_mask.iou([codes[int(inner)]], [codes[int(number)] for number in outer], [1] * len(outer))[0]
        found += [(int(category), int(categories[inner])) for category in set(categories[outer[shares >= INSIDE]])]
    return found


def _shares(boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n n"]:
    """Which fraction of the box of the column lies in the box of the row."""
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return sides.clip(0).prod(axis=2) / np.maximum(areas, 1e-9)


def _rle(image: CocoImage, annotation: CocoAnnotation) -> Rle:
    outline = annotation["segmentation"]
    return rle_of_polygons(outline, (image.height, image.width)) if isinstance(outline, list) else outline
