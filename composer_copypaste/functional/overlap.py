"""How much of an object lies on the image's own objects at a place where it may be pasted: by boxes, or by masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, as_compact
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.batch_objects import ImageObjects
from composer_copypaste.functional.layout import MARGIN, box_windows
from composer_copypaste.functional.plan import BOX_CORNERS, ImageInfo
from composer_copypaste.functional.resample import PIXEL, resample_mask
from composer_copypaste.functional.sources import Pool
from composer_copypaste.functional.tensors import on_device, read_back
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings

MOST_CELLS = 1 << 18
"""The largest number of cells between the edges of boxes that are looked at together."""
IN_POOL = -1
"""Stands for the pool where sources are numbered; objects are then numbered within the pool."""


class CroppedMask(NamedTuple):
    """An object's mask in a window of its source."""

    mask: UInt8[Tensor, "h w"]
    """0 where the object is not."""
    corner: tuple[int, int]
    """The window's first row and column."""


@runtime_checkable
class MaskReader(Protocol):
    """Reads the masks of a batch and of the sources beyond it."""

    def own(self, target: int) -> UInt8[Tensor, "h w"]:
        """Where an image has an object: 0 elsewhere."""

    def of_source(self, source: int, instance: int) -> CroppedMask:
        """The mask of an object of the batch's images, of the bank's, which are numbered after them, or `IN_POOL`."""


class ToPlace(NamedTuple):
    """Objects to be put on one image; a row for each."""

    linear: Float[ndarray, "m 2 2"]
    """The linear maps from source to target."""
    inverse: Float[ndarray, "m 2 2"]
    boxes: Float[ndarray, "m 4"]
    """In their sources."""
    source: Int64[ndarray, " m"]
    """Index among the images of the batch, then those of the bank, or `IN_POOL`."""
    instance: Int64[ndarray, " m"]
    own_scale: Float[ndarray, " m"]
    """The size of things at the object's place in its source, where settings of the scene ask for it, else 1."""

    def rows(self, index: Int64[ndarray, " k"] | Bool[ndarray, " m"]) -> "ToPlace":
        """Some of the objects."""
        return ToPlace(
            self.linear[index],
            self.inverse[index],
            self.boxes[index],
            self.source[index],
            self.instance[index],
            self.own_scale[index],
        )

    def resized(self, factors: Float[ndarray, " m"]) -> "ToPlace":
        """The objects, each resized by one more factor."""
        each = factors[:, None, None]
        return self._replace(linear=self.linear * each, inverse=self.inverse / each)

    @property
    def extents(self) -> Float[ndarray, "m 4"]:
        """The boxes (x1, y1, x2, y2) around the mapped boxes, before they are shifted."""
        return mapped_boxes(self.linear, self.boxes)


@dataclass(frozen=True)
class Overlaps:
    """Measures overlaps with the images' own objects as the settings say."""

    settings: CopyPasteSettings
    masks: MaskReader | None = None
    """Needed where ``settings.overlap_by`` is "mask"."""

    @property
    def matter(self) -> bool:
        """Whether anything depends on overlaps."""
        return self.settings.compares_overlaps

    def fractions(
        self, target: int, info: ImageInfo, objects: ToPlace, shifts: Float[ndarray, "m 2"]
    ) -> Float[ndarray, " m"]:
        """The fraction of each object, as far as the target shows it, that lies on the target's own objects."""
        if not len(info.occupied):
            return np.zeros(len(shifts))
        if self.settings.overlap_by == "box":
            visible = (objects.extents + np.tile(shifts, 2)).clip(0, np.tile([info.width, info.height], 2))
            return np.array([covered_fraction(box, info.occupied) for box in visible], dtype=np.float64)
        if self.masks is None:
            raise ValueError('overlap_by: "mask" needs masks, and here are boxes alone')
        return covered_fractions_of_masks(self.masks, target, (info.height, info.width), objects, shifts)


# By box


def mapped_boxes(linear: Float[ndarray, "m 2 2"], boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4"]:
    """The boxes (x1, y1, x2, y2) around the mapped boxes."""
    corners = np.einsum("mij,mcj->mci", linear, boxes[:, BOX_CORNERS])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def covered_fraction(box: Float[ndarray, "4"], others: Float[ndarray, "n 4"]) -> float:
    """The fraction of a box that other boxes cover together; 0 for a box without area."""
    parts = np.concatenate([np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])], axis=1)
    parts = parts[(parts[:, :2] < parts[:, 2:]).all(axis=1)]
    if not len(parts):
        return 0.0
    x, y = np.unique(parts[:, ::2]), np.unique(parts[:, 1::2])  # the edges cut the box into cells
    columns, rows = np.searchsorted(x, parts[:, ::2]).T, np.searchsorted(y, parts[:, 1::2]).T
    step = max(1, MOST_CELLS // len(x))
    strips = (
        _covered_area(columns, rows, x, y[start : start + step + 1], start) for start in range(0, len(y) - 1, step)
    )
    return float(sum(strips) / np.prod(box[2:] - box[:2]))


def _covered_area(
    columns: Int64[ndarray, "2 n"],
    rows: Int64[ndarray, "2 n"],
    x: Float[ndarray, " w"],
    y: Float[ndarray, " h"],
    start: int,
) -> float:
    """The area that boxes cover in a strip of cells whose first row is number ``start``.

    ``columns`` and ``rows`` number the edges that begin and end each box; ``x`` and ``y`` are the strip's edges.
    """
    begins, ends = (rows - start).clip(0, len(y) - 1)
    change = np.zeros((len(y), len(x)), dtype=np.int32)  # how many more boxes a cell has than its neighbours before it
    for row, column, boxes in ((begins, 0, 1), (ends, 0, -1), (begins, 1, -1), (ends, 1, 1)):
        np.add.at(change, (row, columns[column]), boxes)
    covered = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float((covered * np.diff(y)[:, None] * np.diff(x)).sum())


# By mask


def covered_fractions_of_masks(
    masks: MaskReader,
    target: int,
    size: tuple[int, int],
    objects: ToPlace,
    shifts: Float[ndarray, "m 2"],
) -> Float[ndarray, " m"]:
    """The fraction of each mask's pixels in the target, of this (height, width), that lie on its own objects.

    The pixels are those that would be pasted, before erosion. 0 for an object without pixels there. A device is waited
    for once.
    """
    if not len(shifts):
        return np.zeros(0)
    own, counts = masks.own(target), []
    windows = box_windows(mapped_boxes(objects.linear, objects.boxes + MARGIN) + np.tile(shifts, 2), size)
    for row, to_source in enumerate(maps_to_source(objects.inverse, shifts)):
        mask, corner = masks.of_source(int(objects.source[row]), int(objects.instance[row]))
        to_mask = np.rint(to_source * float(PIXEL)).astype(np.int64)
        to_mask[:, 2] -= PIXEL * np.array(corner[::-1])
        window = Window(*windows[row].tolist())
        counts.append(own.new_zeros(2, dtype=torch.int64))
        if not window.is_empty:
            seen, found = resample_mask(on_device(mask, own.device), to_mask, window)
            pixels = found != 0
            counts[-1] = torch.stack([pixels.sum(), (pixels & (own[seen.slices] != 0)).sum()])
    pixels_of, covered = read_back(torch.stack(counts)).T
    return covered / np.maximum(pixels_of, 1)


def maps_to_source(inverse: Float[ndarray, "m 2 2"], shifts: Float[ndarray, "m 2"]) -> Float[ndarray, "m 2 3"]:
    """The affine maps from target to source, given the inverses of the linear maps and the shifts that follow these."""
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    return np.concatenate([inverse, back[:, :, None]], axis=2)


@dataclass(frozen=True)
class BatchMasks:
    """Masks of a batch, and of the images of a bank and the cut-outs of a pool."""

    batch: Sequence[ImageObjects]
    settings: CopyPasteSettings
    bank: InstanceBank | None = None
    pool: Pool | None = None
    _own: dict[int, UInt8[Tensor, "h w"]] = field(default_factory=dict)

    def own(self, target: int) -> UInt8[Tensor, "h w"]:
        """Where an image of the batch has an object: 0 elsewhere."""
        if target not in self._own:
            self._own[target] = self._any_object(self.batch[target])
        return self._own[target]

    def _any_object(self, image: ImageObjects) -> UInt8[Tensor, "h w"]:
        if image.class_ids is not None:
            ids = image.class_ids
            return ((ids != self.settings.background) & (ids != self.settings.ignore_index)).view(torch.uint8)
        return any_object(as_compact(image.instances.masks))

    def of_source(self, source: int, instance: int) -> CroppedMask:
        """The mask of an object of the batch's images, of the bank's, which are numbered after them, or `IN_POOL`."""
        if source == IN_POOL:
            if self.pool is None:
                raise IndexError("expected an object of the batch or the bank, got one of a pool")
            return CroppedMask(self.pool.read(instance)[1], (0, 0))
        if source < len(self.batch):
            return self._of_batch(self.batch[source], instance)
        if self.bank is None:
            raise IndexError(f"expected one of the batch's {len(self.batch)} images, got number {source}")
        remembered = self.bank.images[source - len(self.batch)]
        return CroppedMask(remembered.masks[instance], remembered.windows[instance][:2])

    def _of_batch(self, image: ImageObjects, instance: int) -> CroppedMask:
        size = image.info.height, image.info.width
        window = Window(*box_windows(image.info.boxes[[instance]] + MARGIN, size)[0].tolist())
        if image.class_ids is not None:
            label = int(image.labels[instance])
            return CroppedMask((image.class_ids[window.slices] == label).view(torch.uint8), window[:2])
        return CroppedMask(as_compact(image.instances.masks).part(instance, window), window[:2])


def any_object(masks: CompactMasks) -> UInt8[Tensor, "h w"]:
    """0 where none of the masks has a pixel."""
    found = masks.pixels.new_zeros(masks.size)
    for crop, (y1, x1, y2, x2) in zip(masks.crops(), masks.windows.tolist(), strict=True):
        found[y1:y2, x1:x2] |= crop
    return found
