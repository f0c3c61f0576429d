"""How far masks reach, from their outlines: many at a time, without drawing them."""

from collections.abc import Sequence
from math import ceil, floor

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from pycocotools import mask as coco_mask

from composer_copypaste.data.outlines import Segmentation, stencil

_AT_ONCE = 50_000
"""Outlines whose points are laid side by side: some hundred megabytes at most."""


def mask_extents(segmentations: Sequence[Segmentation]) -> Float[ndarray, "n 4"]:
    """(x1, y1, x2, y2) of each mask: of its polygons' corners, or of its run lengths' pixels.

    Polygons may reach beyond their image; run lengths without a pixel have zeros.
    """
    extents = np.zeros((len(segmentations), 4))
    for start in range(0, len(segmentations), _AT_ONCE):
        part = segmentations[start : start + _AT_ONCE]
        polygons = [number for number, outline in enumerate(part) if isinstance(outline, list)]
        codes = [number for number, outline in enumerate(part) if not isinstance(outline, list)]
        if polygons:
            extents[start + np.array(polygons)] = _extents_of_polygons([part[number] for number in polygons])
        if codes:
            boxes = coco_mask.toBbox([part[number] for number in codes])
            extents[start + np.array(codes)] = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    return extents


def enclosing(
    boxes: Float[ndarray, "n 4"], segmentations: Sequence[Segmentation], size: tuple[int, int]
) -> Float[ndarray, "n 4"]:
    """Boxes (x1, y1, x2, y2) in an image of this (height, width), those widened that would cut pixels off their masks.

    Such are boxes that were cut to whole pixels, as many tools write them. Only masks that reach beyond their box are
    drawn.
    """
    masks = mask_extents(segmentations)
    beyond = (np.ceil(masks[:, :2] - 0.5) < np.floor(boxes[:, :2])) | (
        np.floor(masks[:, 2:] + 0.5) > np.ceil(boxes[:, 2:])
    )
    widened = boxes.copy()
    for number in np.flatnonzero(beyond.any(axis=1)).tolist():
        drawn = stencil(segmentations[number], size)
        if drawn is not None:
            x1, y1, x2, y2 = boxes[number].tolist()
            left, top, right, bottom = drawn.box
            widened[number] = (
                left if left < floor(x1) else x1,
                top if top < floor(y1) else y1,
                right if right > ceil(x2) else x2,
                bottom if bottom > ceil(y2) else y2,
            )
    return widened


def _extents_of_polygons(outlines: Sequence[Segmentation]) -> Float[ndarray, "n 4"]:
    points = np.concatenate([part for outline in outlines for part in outline]).reshape(-1, 2)
    counts = [sum(map(len, outline)) // 2 for outline in outlines]
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)
