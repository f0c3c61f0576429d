"""Categories whose objects lie inside those of another, such as windows in facades: pasted facades hide them."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.rle import Rle, mask_boxes, rle_of_polygons
from composer_copypaste.settings import CopyPasteSettings

INSIDE_FRACTION = 0.9
"""An object is inside another where at least this fraction of it lies in the other's mask."""
NESTED_FRACTION = 0.75
"""A category is nested in another where at least this fraction of its objects are inside the other's."""
MIN_OBJECTS = 10
"""A category with fewer objects than this is not judged."""
SAMPLED_IMAGES = 200
"""Number of images, spread over the data set, that are searched for nested categories."""


@dataclass(frozen=True)
class Nesting:
    """A category that is nested in another."""

    outer: str
    inner: str
    share: float
    """Fraction of the inner category's objects that lie inside an object of the outer one."""


def nested_categories(annotations: CocoAnnotations) -> list[Nesting]:
    """The categories that are nested in another, from a sample of images; crowds are left out."""
    shown = [image for image in annotations.images if annotations.annotations[image.id]]
    count = min(SAMPLED_IMAGES, len(shown))
    objects: Counter[int] = Counter()
    inside: Counter[tuple[int, int]] = Counter()
    for image in (shown[i * len(shown) // count] for i in range(count)):
        group = [annotation for annotation in annotations.annotations[image.id] if not annotation["iscrowd"]]
        objects.update(annotation["category_id"] for annotation in group)
        inside.update(_categories_inside_others(image, group))
    names = {category.id: category.name for category in annotations.categories}
    return [
        Nesting(names[outer], names[inner], found / objects[inner])
        for (outer, inner), found in inside.items()
        if objects[inner] >= MIN_OBJECTS and found >= NESTED_FRACTION * objects[inner]
    ]


def _categories_inside_others(image: CocoImage, group: Sequence[CocoAnnotation]) -> list[tuple[int, int]]:
    """The categories (outer, inner) of each object that lies inside one of another category."""
    categories = np.array([annotation["category_id"] for annotation in group])
    boxes = mask_boxes([annotation["segmentation"] for annotation in group])
    may_hold = (categories[:, None] != categories) & (_box_overlap_fractions(boxes) >= INSIDE_FRACTION)
    needed = np.flatnonzero(may_hold.any(axis=0) | may_hold.any(axis=1))
    rles = {int(number): _rle_of_annotation(image, group[number]) for number in needed}
    found = []
    for inner in np.flatnonzero(may_hold.any(axis=0)):
        outer = np.flatnonzero(may_hold[:, inner])
        shares = coco_mask.iou([rles[int(inner)]], [rles[int(number)] for number in outer], [1] * len(outer))[0]
        found += [
            (int(category), int(categories[inner])) for category in set(categories[outer[shares >= INSIDE_FRACTION]])
        ]
    return found


def _box_overlap_fractions(boxes: Float[ndarray, "n 4"]) -> Float[ndarray, "n n"]:
    """In row i and column j, the fraction of box j that lies in box i."""
    sides = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return sides.clip(0).prod(axis=2) / np.maximum(areas, 1e-9)


def _rle_of_annotation(image: CocoImage, annotation: CocoAnnotation) -> Rle:
    outline = annotation["segmentation"]
    return rle_of_polygons(outline, (image.height, image.width)) if isinstance(outline, list) else outline


def nesting_advice(annotations: CocoAnnotations, settings: CopyPasteSettings | None) -> Iterator[str]:
    """A line for each category that is nested in another, whose objects hide it where they are pasted."""
    if settings is None or settings.categories is not None or settings.labels is not None:
        return
    for nested in nested_categories(annotations):
        yield (
            f"{nested.share:.0%} of {nested.inner!r} lie inside {nested.outer!r}: a pasted {nested.outer!r} hides what "
            f"lies under it, and shows no {nested.inner!r} unless these are pasted with it; copy_paste.categories "
            f"without {nested.outer!r} leaves it in place"
        )
