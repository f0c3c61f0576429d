"""What should be known before a recipe is trained: objects that cannot be found, nested categories, memory."""

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.rle import Rle, mask_extents, rle_of_polygons
from composer_copypaste.errors import DataWarning
from composer_copypaste.models.mask_rcnn import resized_sides
from composer_copypaste.recipes.schema import Recipe

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


def warn_of_many_objects(annotations: CocoAnnotations, recipe: Recipe) -> None:
    """Warn where images that are evaluated on have more objects than are detected, or than are scored of a category."""
    per_image: Counter[int] = Counter()
    per_category: Counter[tuple[int, int]] = Counter()
    for image, group in annotations.annotations.items():
        for annotation in group:
            if not annotation["iscrowd"]:
                per_image[image] += 1
                per_category[image, annotation["category_id"]] += 1
    detected, counted = recipe.model.detections_per_image, recipe.evaluation.max_dets[-1]
    most, most_of_category = max(per_image.values(), default=0), max(per_category.values(), default=0)
    changes = [f"model.detections_per_image={most}"] if most > detected else []
    if most_of_category > counted:
        limits = [*(limit for limit in recipe.evaluation.max_dets[:-1]), most_of_category]
        changes.append(f"evaluation.max_dets=[{','.join(map(str, limits))}]")
    if not changes:
        return
    beyond = sum(count > min(detected, counted) for count in per_image.values())
    warnings.warn(
        f"{annotations.path}: up to {most} objects in an image (more than {min(detected, counted)} in {beyond} of "
        f"{len(annotations.images)}), but at most {detected} are detected (model.detections_per_image), and at most "
        f"{counted} of a category are scored (the last of evaluation.max_dets): the others count as missed. "
        f"{' '.join(changes)} makes room for all",
        DataWarning,
        stacklevel=2,
    )


def nesting(annotations: CocoAnnotations, recipe: Recipe) -> Iterator[str]:
    """Lines on categories that hold objects of others, which they hide where they are pasted."""
    settings = recipe.copy_paste
    if settings is None or settings.categories is not None or settings.labels is not None:
        return
    for nested in nested_categories(annotations):
        yield (
            f"{nested.share:.0%} of {nested.inner!r} lie inside {nested.outer!r}: a pasted {nested.outer!r} hides what "
            f"lies under it, and shows no {nested.inner!r} unless these are pasted with it; copy_paste.categories "
            f"without {nested.outer!r} leaves it in place"
        )


def batch_memory(annotations: CocoAnnotations, recipe: Recipe) -> str:
    """The memory of the largest training batch, about, in words: as it is loaded, and where it is trained on."""
    loaded, trained = _batch_bytes(annotations, recipe)
    device = "on the training device" if recipe.training.device != "cpu" else "in training"
    held = f" (the loading processes hold up to {2 * workers})" if (workers := recipe.data.workers) else ""
    return (
        f"up to {_gigabytes(loaded)} for a loaded batch{held}, {_gigabytes(trained)} {device} besides the model's own"
    )


def _batch_bytes(annotations: CocoAnnotations, recipe: Recipe) -> tuple[int, int]:
    """Bytes of images and masks of the largest batch, as loaded and at the peak of a training step.

    A pixel of an image is 3 bytes, of a mask 1. Copy-paste adds the masks of what is pasted, at most as many as an
    image of the batch has, in a batch beside the loaded one. Where the model resizes, it holds the images as they were
    and resized, with 4 bytes for each value, and the resized masks.
    """
    canvas = None if recipe.data.jitter is None else recipe.data.jitter.size
    on_device = recipe.data.jitter_on == "device"
    shapes = []
    for image in annotations.images:
        stored, shown = (image.height, image.width), canvas or (image.height, image.width)
        pixels = math.prod(stored if on_device else shown), math.prod(shown), _resized_pixels(shown, recipe)
        shapes.append((len(annotations.annotations[image.id]), *pixels))
    largest = sorted(shapes, key=lambda shape: (3 + shape[0]) * max(shape[1:]))[-recipe.data.batch_size :]
    loaded = sum((3 + objects) * pixels for objects, pixels, _, _ in largest)
    most = max(objects for objects, *_ in largest)
    pasted = 0 if recipe.copy_paste is None else min(most, recipe.copy_paste.max_copied_instances or most)
    trained = loaded
    if recipe.copy_paste is not None or on_device:
        trained += sum((3 + objects + pasted) * pixels for objects, _, pixels, _ in largest)
    if recipe.model.resize_training:
        trained += sum(3 * 4 * (pixels + resized) for _, _, pixels, resized in largest)
        trained += sum((objects + pasted) * resized for objects, *_, resized in largest)
    return loaded, trained


def _resized_pixels(size: tuple[int, int], recipe: Recipe) -> int:
    """The pixels of an image that the model has resized."""
    shorter, longer = resized_sides(recipe.model)
    return round(math.prod(size) * min(shorter / min(size), longer / max(size)) ** 2)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{size / 1e6:.0f} MB"
