"""Images and objects that a COCO file has twice, under different ids, by which scores are wrong."""

import posixpath
from collections.abc import Hashable, Iterable, Mapping, Sequence

import numpy as np
from pycocotools import mask as coco_mask

from composer_copypaste.data.outlines import Segmentation, rle_of
from composer_copypaste.data.records import CocoAnnotation, CocoImage

Groups = Mapping[int, Sequence[CocoAnnotation]]
"""The annotations of each image id."""

_NEAR = 2.0
"""Pixels by which boxes of one object may differ: position and size cut to whole pixels, one after the other."""
_SAME = 0.9
"""Intersection over union of two masks from which on they are one object's."""


def images_of_one_file(images: Iterable[CocoImage]) -> list[list[int]]:
    """The ids of images that name the same file, also by another spelling of its path; empty names are none."""
    ids: dict[str, list[int]] = {}
    for image in images:
        if image.file_name:
            ids.setdefault(posixpath.normpath(image.file_name.replace("\\", "/")), []).append(image.id)
    return [same for same in ids.values() if len(same) > 1]


def have_same_objects(ids: Sequence[int], groups: Groups) -> bool:
    """Whether images show the same objects, in any order: an image that is repeated, not one that is torn apart."""
    first, *others = ({_looks(annotation) for annotation in groups[image]} for image in ids)
    return all(other == first for other in others)


def repeated_objects(images: Mapping[int, CocoImage], groups: Groups) -> dict[int, int]:
    """The id of each annotation that repeats another of its image, with that one's: category and mask are the same.

    Nearly the same: they are found though one is written as polygons and one as run lengths, or one is rounded.
    """
    annotations = [annotation for group in groups.values() for annotation in group]
    repeated: dict[int, int] = {}
    for one, other in _near(annotations):
        first, again = annotations[one], annotations[other]
        if again["id"] not in repeated and _same_object(first, again, images[first["image_id"]]):
            repeated[again["id"]] = repeated.get(first["id"], first["id"])
    return repeated


def _near(annotations: Sequence[CocoAnnotation]) -> list[tuple[int, int]]:
    """The pairs of one image and category whose boxes differ by a few pixels, by their places in the list."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    kinds = np.array([(a["image_id"], a["category_id"]) for a in annotations], dtype=np.int64).reshape(-1, 2)
    order = np.lexsort((boxes[:, 0], kinds[:, 1], kinds[:, 0]))
    boxes, kinds = boxes[order], kinds[order]
    pairs, start = [], np.arange(len(order))
    for distance in range(1, len(order)):  # from each box to the next ones to the right of its left side
        start = start[start + distance < len(order)]
        ahead = start + distance
        together = (kinds[ahead] == kinds[start]).all(axis=1) & (boxes[ahead, 0] - boxes[start, 0] <= _NEAR)
        start, ahead = start[together], ahead[together]
        if not len(start):
            break
        near = (np.abs(boxes[ahead] - boxes[start]) <= _NEAR).all(axis=1)
        pairs += np.sort(order[np.stack([start[near], ahead[near]], axis=1)]).tolist()
    return sorted((one, other) for one, other in pairs)


def _same_object(one: CocoAnnotation, other: CocoAnnotation, image: CocoImage) -> bool:
    if _looks(one) == _looks(other):
        return True
    if not one["segmentation"] or not other["segmentation"]:
        return False
    size = image.height, image.width
    masks = [rle_of(annotation["segmentation"], size) for annotation in (one, other)]
    return bool(coco_mask.iou(masks[:1], masks[1:], [0]) >= _SAME)


def _looks(annotation: CocoAnnotation) -> Hashable:
    """What is equal for two annotations of the same object."""
    return (annotation["category_id"], *annotation["bbox"], _outline(annotation["segmentation"]))


def _outline(segmentation: Segmentation) -> Hashable:
    if isinstance(segmentation, list):
        return tuple(part.tobytes() for part in segmentation)
    return segmentation["counts"]
