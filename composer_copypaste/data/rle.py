"""COCO's masks, polygons or run-length encodings (RLE), and the pixels inside them.

Only the part of a mask inside its object's box is decoded: the cost depends on the box, not on the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil, floor
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from numpy import ndarray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import get_worker_info

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.run_lengths import decode_all_counts, masks_in_windows


class Rle(TypedDict):
    """COCO's compressed run-length encoding, column by column; ``size`` is [height, width]."""

    size: list[int]
    counts: bytes


Polygons = list[np.ndarray]
"""The parts of one object: float64 arrays x1, y1, x2, y2, ... in pixels."""

Segmentation = Polygons | Rle

_MAX_CHARACTERS = 10
"""Index of the last character that a number may have: room for more bits than the pixel count of any image needs."""


@dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """The ``n`` annotated objects of one image, before their masks are drawn; the other fields are as in `Instances`.

    ``size`` is (height, width). ``annotated_boxes`` are (x1, y1, x2, y2).
    """

    size: tuple[int, int]
    annotated_boxes: Float[ndarray, "n 4"]
    labels: Int[Tensor, " n"]
    area: Float[Tensor, " n"]
    iscrowd: Int[Tensor, " n"]
    segmentations: tuple[Segmentation, ...]

    @cached_property
    def boxes(self) -> Float[Tensor, "n 4"]:
        """The annotated boxes, cut at the image's edge; one that would cut pixels off its mask is widened.

        Jitter that draws masks needs no boxes, so they are made when they are asked for.
        """
        height, width = self.size
        boxes = widen_boxes_to_masks(self.annotated_boxes, self.segmentations, self.size)
        return torch.from_numpy(boxes.clip(0, [width, height, width, height])).float()


@dataclass(frozen=True)
class CroppedMask:
    """The mask of one object, of 0 and 1, cut to the object; ``top`` and ``left`` say where in the image it begins."""

    top: int
    left: int
    mask: UInt8[np.ndarray, "h w"]

    @property
    def window(self) -> tuple[int, int, int, int]:
        """(y1, x1, y2, x2) in the image, ends excluded."""
        height, width = self.mask.shape
        return self.top, self.left, self.top + height, self.left + width

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2) in the image; x2 is one past the last pixel."""
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(np.count_nonzero(self.mask))

    def mirrored(self, width: int) -> "CroppedMask":
        """The mask in the mirrored image, which has this width."""
        return CroppedMask(self.top, width - self.left - self.mask.shape[1], self.mask[:, ::-1])


def count_encoded_pixels(codes: Sequence[bytes]) -> Int64[np.ndarray, " n"]:
    """The sum of the run lengths of each compressed encoding, zeros included; -1 where the text is not an encoding.

    The same as the sum of :func:`decode_counts`, but all encodings are decoded at once, in one array of characters.
    """
    pixels = np.full(len(codes), -1)
    complete = [number for number, code in enumerate(codes) if code and not (code[-1] - 48) & 32]
    if not complete:
        return pixels
    lengths = [len(codes[number]) for number in complete]
    bits = np.frombuffer(b"".join(codes[number] for number in complete), np.uint8).astype(np.int64) - 48
    code = np.repeat(np.arange(len(complete)), lengths)
    ends = np.flatnonzero(bits & 32 == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    characters = ends - starts + 1
    place = np.arange(len(bits)) - np.repeat(starts, characters)
    unreadable = (bits < 0) | (bits > 63) | (place > _MAX_CHARACTERS)
    values = np.add.reduceat((bits & 31) << (5 * place.clip(max=_MAX_CHARACTERS)), starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * characters.clip(max=_MAX_CHARACTERS + 1)), 0)
    counts, owner = _undo_differences(values, code[starts]), code[starts]
    wrong = np.zeros(len(complete), dtype=bool)
    wrong[code[unreadable]] = True
    wrong[owner[counts < 0]] = True
    pixels[complete] = np.where(wrong, -1, np.add.reduceat(counts, np.searchsorted(owner, np.arange(len(complete)))))
    return pixels


def _undo_differences(values: Int64[np.ndarray, " r"], owner: Int64[np.ndarray, " r"]) -> Int64[np.ndarray, " r"]:
    """The run lengths, where from the fourth number of each encoding on ``values`` holds differences.

    ``owner`` is the index of each value's encoding. Runs 1, 3, 5, ... and 2, 4, 6, ... of an encoding are two sums.
    """
    k = np.arange(len(values)) - np.searchsorted(owner, owner)
    chain = 3 * owner + np.where(k == 0, 0, 1 + k % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(values[order])
    first = np.searchsorted(chain[order], chain[order])
    counts = np.empty_like(values)
    counts[order] = sums - (sums - values[order])[first]
    return counts


def cropped_mask_of_rle(rle: Rle) -> CroppedMask | None:
    """The mask of a run-length encoding, cut to its pixels; None where there are none."""
    return cropped_masks_of_rles([rle], rle["size"][0])[0]


def cropped_masks_of_rles(rles: Sequence[Rle], height: int) -> list[CroppedMask | None]:
    """The mask of each run-length encoding of an image of this height, cut to its pixels; None where there are none.

    All are decoded in the same calls: one after the other, calls would take most of the time.
    """
    found = masks_in_windows(decode_all_counts([rle["counts"] for rle in rles]), height)
    return [CroppedMask(top, left, mask) if mask.size else None for (top, left, _, _), mask in found]


def rle_of_polygons(polygons: Polygons, size: tuple[int, int]) -> Rle:
    """The union of an object's polygons, as pycocotools' ``annToRLE`` gives it, cut at the image of this ``size``."""
    parts = coco_mask.frPyObjects(polygons, *size)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def rle_of_segmentation(segmentation: Segmentation, size: tuple[int, int]) -> Rle:
    """The run lengths of an annotated object, as pycocotools' ``annToRLE`` gives them."""
    return rle_of_polygons(segmentation, size) if isinstance(segmentation, list) else segmentation


def cropped_mask(segmentation: Segmentation, size: tuple[int, int]) -> CroppedMask | None:
    """The mask of an annotated object, as pycocotools' ``annToMask`` draws it; None where it has no pixel."""
    return cropped_mask_of_rle(rle_of_segmentation(segmentation, size))


def compact_masks(cropped_masks: Sequence[CroppedMask | None], size: tuple[int, int]) -> CompactMasks:
    """The masks in an image of this (height, width), each in the window that it was cut to."""
    windows = [(0, 0, 0, 0) if drawn is None else drawn.window for drawn in cropped_masks]
    parts = [drawn.mask.reshape(-1) for drawn in cropped_masks if drawn is not None]
    pixels = np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint8)
    return CompactMasks.unchecked(torch.from_numpy(pixels), np.array(windows, dtype=np.int64).reshape(-1, 4), size)


def draw_cropped_masks(cropped_masks: Sequence[CroppedMask | None], size: tuple[int, int]) -> UInt8[Tensor, "n h w"]:
    """The masks of 0 and 1 in an image of this (height, width); memory is written only inside the objects' boxes."""
    return draw_planes(compact_masks(cropped_masks, size))


def draw_planes(masks: CompactMasks) -> UInt8[Tensor, "n h w"]:
    """The masks in their image, as ``dense``; memory is written only inside the windows."""
    planes = _lazy_zeros(masks.shape)
    pixels = planes.numpy()
    for plane, crop, (y1, x1, y2, x2) in zip(pixels, masks.crops(), masks.windows.tolist(), strict=True):
        plane[y1:y2, x1:x2] = crop.numpy()
    return planes


def _lazy_zeros(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """An array of zeros whose pages take memory only when they are written.

    In a loader's process it lies in shared memory, which saves copying it there to hand it to the parent process.
    """
    if get_worker_info() is None:
        return torch.from_numpy(np.zeros(shape, dtype=np.uint8))  # torch's own zeros are written at once
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's default_collate
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def cropped_masks_of(objects: AnnotatedObjects) -> list[CroppedMask | None]:
    """The mask of each object, cut to the object; None for an object without a pixel."""
    rles = [rle_of_segmentation(outline, objects.size) for outline in objects.segmentations]
    return cropped_masks_of_rles(rles, objects.size[0])


def draw_masks(objects: AnnotatedObjects) -> CompactMasks:
    """The objects' masks, cut to the objects; every pixel is as pycocotools draws it."""
    return compact_masks(cropped_masks_of(objects), objects.size)


_OUTLINES_AT_ONCE = 50_000
"""Outlines whose points are put in one array; more could take gigabytes."""


def mask_boxes(segmentations: Sequence[Segmentation]) -> Float[ndarray, "n 4"]:
    """(x1, y1, x2, y2) around each mask: around the corners of polygons, or around the pixels of run lengths.

    Polygons may reach beyond their image; run lengths without a pixel give zeros.
    """
    boxes_of_masks = np.zeros((len(segmentations), 4))
    for start in range(0, len(segmentations), _OUTLINES_AT_ONCE):
        part = segmentations[start : start + _OUTLINES_AT_ONCE]
        polygons = [number for number, outline in enumerate(part) if isinstance(outline, list)]
        codes = [number for number, outline in enumerate(part) if not isinstance(outline, list)]
        if polygons:
            boxes_of_masks[start + np.array(polygons)] = _polygon_boxes([part[number] for number in polygons])
        if codes:
            boxes = coco_mask.toBbox([part[number] for number in codes])
            boxes_of_masks[start + np.array(codes)] = np.concatenate(
                [boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1
            )
    return boxes_of_masks


def widen_boxes_to_masks(
    boxes: Float[ndarray, "n 4"], segmentations: Sequence[Segmentation], size: tuple[int, int]
) -> Float[ndarray, "n 4"]:
    """The boxes (x1, y1, x2, y2), widened where they would cut pixels off their masks.

    Many tools round boxes down to whole pixels, which does that. Only masks that reach beyond their box are drawn.

    Args:
        boxes: the annotated boxes.
        segmentations: the outline of each; empty where it is not known, and the box stays.
        size: height and width of the image.
    """
    masks = boxes.copy()
    outlined = [number for number, outline in enumerate(segmentations) if not isinstance(outline, list) or outline]
    masks[outlined] = mask_boxes([segmentations[number] for number in outlined])
    beyond = (np.ceil(masks[:, :2] - 0.5) < np.floor(boxes[:, :2])) | (
        np.floor(masks[:, 2:] + 0.5) > np.ceil(boxes[:, 2:])
    )
    widened = boxes.copy()
    for number in np.flatnonzero(beyond.any(axis=1)).tolist():
        drawn = cropped_mask(segmentations[number], size)
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


def _polygon_boxes(outlines: Sequence[Segmentation]) -> Float[ndarray, "n 4"]:
    points = np.concatenate([part for outline in outlines for part in outline]).reshape(-1, 2)
    counts = [sum(map(len, outline)) // 2 for outline in outlines]
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)
