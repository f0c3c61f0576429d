"""Masks as COCO files give them, polygons or run-length encodings, and the pixels they cover.

A mask is decoded only where its object lies: the cost follows the object's box, not the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, UInt8
from numpy import ndarray
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import get_worker_info


class Rle(TypedDict):
    """COCO's compressed run-length encoding, column by column; ``size`` is (height, width)."""

    size: list[int]
    counts: bytes


Polygons = list[np.ndarray]
"""The parts of one object: float64 arrays x1, y1, x2, y2, ... in pixels."""

Segmentation = Polygons | Rle

_MOST_CHARACTERS = 10
"""The last character that a number may have, from 0: more bits than any image's pixels need."""


@dataclass(frozen=True, eq=False)
class OutlinedObjects:
    """The ``n`` annotated objects of one image, their masks not drawn yet; other fields are those of `Instances`."""

    size: tuple[int, int]
    boxes: Float[Tensor, "n 4"]
    labels: Int[Tensor, " n"]
    area: Float[Tensor, " n"]
    iscrowd: Int[Tensor, " n"]
    segmentations: tuple[Segmentation, ...]


@dataclass(frozen=True)
class CroppedMask:
    """The pixels of one object: a mask of 0 and 1 without empty borders, and the place of its first pixel."""

    top: int
    left: int
    mask: UInt8[np.ndarray, "h w"]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(x1, y1, x2, y2), x2 one past the last pixel."""
        height, width = self.mask.shape
        return self.left, self.top, self.left + width, self.top + height

    @property
    def area(self) -> int:
        """The number of pixels."""
        return int(np.count_nonzero(self.mask))

    def mirrored(self, width: int) -> "CroppedMask":
        """The same pixels in a mirrored image of this width."""
        return CroppedMask(self.top, width - self.left - self.mask.shape[1], self.mask[:, ::-1])


def rle_counts(text: bytes) -> list[int]:
    """The run lengths in a compressed encoding: zeros first, then ones, in turn.

    A number is written as characters of five bits and "more follows"; from the fourth run on it is the difference from
    the run before the last (``rleFrString`` in cocoapi's maskApi.c).

    Raises:
        ValueError: where the text is no such encoding.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = character - 48
        if not 0 <= bits < 64:
            raise ValueError(f"unexpected character {chr(character)!r}")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("the last number is cut off")
    return counts


def encoded_pixels(codes: Sequence[bytes]) -> Int64[np.ndarray, " n"]:
    """The number of pixels of each compressed encoding, zeros included; -1 where the text is no such encoding.

    As the sum of :func:`rle_counts`, for many at once: all characters lie side by side.
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
    unreadable = (bits < 0) | (bits > 63) | (place > _MOST_CHARACTERS)
    values = np.add.reduceat((bits & 31) << (5 * place.clip(max=_MOST_CHARACTERS)), starts)
    values -= np.where(bits[ends] & 16, 1 << (5 * characters.clip(max=_MOST_CHARACTERS + 1)), 0)
    counts, owner = _summed_from_the_run_before_the_last(values, code[starts]), code[starts]
    wrong = np.zeros(len(complete), dtype=bool)
    wrong[code[unreadable]] = True
    wrong[owner[counts < 0]] = True
    pixels[complete] = np.where(wrong, -1, np.add.reduceat(counts, np.searchsorted(owner, np.arange(len(complete)))))
    return pixels


def _summed_from_the_run_before_the_last(
    values: Int64[np.ndarray, " r"], owner: Int64[np.ndarray, " r"]
) -> Int64[np.ndarray, " r"]:
    """The runs of encodings, each with its owner, whose fourth and further ones are differences."""
    k = np.arange(len(values)) - np.searchsorted(owner, owner)
    chain = 3 * owner + np.where(k == 0, 0, 1 + k % 2)
    order = np.argsort(chain, kind="stable")
    sums = np.cumsum(values[order])
    first = np.searchsorted(chain[order], chain[order])
    counts = np.empty_like(values)
    counts[order] = sums - (sums - values[order])[first]
    return counts


def cropped_mask_of_rle(rle: Rle) -> CroppedMask | None:
    """The pixels of a run-length encoding; None where it has none."""
    counts = np.array(rle_counts(rle["counts"]), dtype=np.int64)
    covered = np.flatnonzero(counts[1::2])
    if not len(covered):
        return None
    height = rle["size"][0]
    ends = np.cumsum(counts)
    left, right = int(ends[2 * covered[0]] // height), int((ends[2 * covered[-1] + 1] - 1) // height + 1)
    runs = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    columns = np.repeat((np.arange(len(runs)) & 1).astype(np.uint8), runs).reshape(right - left, height)
    rows = np.flatnonzero(columns.any(axis=0))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    return CroppedMask(top, left, columns[:, top:bottom].T)


def rle_of_polygons(polygons: Polygons, size: tuple[int, int]) -> Rle:
    """The union of an object's parts, as pycocotools' ``annToRLE`` gives it; what lies outside ``size`` is cut off."""
    parts = coco_mask.frPyObjects(polygons, *size)
    return parts[0] if len(parts) == 1 else coco_mask.merge(parts)


def rle_of(segmentation: Segmentation, size: tuple[int, int]) -> Rle:
    """The run lengths of an annotated object, as pycocotools' ``annToRLE`` gives them."""
    return rle_of_polygons(segmentation, size) if isinstance(segmentation, list) else segmentation


def cropped_mask(segmentation: Segmentation, size: tuple[int, int]) -> CroppedMask | None:
    """The pixels of an annotated object, as pycocotools' ``annToMask`` draws them; None where it has none."""
    return cropped_mask_of_rle(rle_of(segmentation, size))


def draw_cropped_masks(cropped_masks: Sequence[CroppedMask | None], size: tuple[int, int]) -> UInt8[Tensor, "n h w"]:
    """One plane of 0 and 1 for each object; only where an object lies is memory written."""
    masks = _zeros((len(cropped_masks), *size))
    planes = masks.numpy()
    for plane, drawn in zip(planes, cropped_masks, strict=True):
        if drawn is not None:
            x1, y1, x2, y2 = drawn.box
            plane[y1:y2, x1:x2] = drawn.mask
    return masks


def _zeros(shape: tuple[int, ...]) -> UInt8[Tensor, "..."]:
    """Memory that is taken page by page as it is written; in a loader's process shared, where it would be copied to."""
    if get_worker_info() is None:
        return torch.from_numpy(np.zeros(shape, dtype=np.uint8))  # torch's own zeros are written at once
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's default_collate
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def cropped_masks_of(objects: OutlinedObjects) -> list[CroppedMask | None]:
    """The pixels of each object."""
    return [cropped_mask(outline, objects.size) for outline in objects.segmentations]


def draw_masks(objects: OutlinedObjects) -> UInt8[Tensor, "n h w"]:
    """The objects' masks in their image, equal to pycocotools' to the pixel."""
    return draw_cropped_masks(cropped_masks_of(objects), objects.size)


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


def _extents_of_polygons(outlines: Sequence[Segmentation]) -> Float[ndarray, "n 4"]:
    points = np.concatenate([part for outline in outlines for part in outline]).reshape(-1, 2)
    counts = [sum(map(len, outline)) // 2 for outline in outlines]
    starts = np.cumsum([0, *counts[:-1]])
    return np.concatenate([np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)], axis=1)
