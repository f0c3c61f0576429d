"""Where pasted objects lie: the objects of a plan in the pixels of the images that receive them, found on the host.

Arrays have a row for each object of the whole batch: a Python object for each would take longer than its pixels do.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int64
from numpy import ndarray

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.windows import Window

MARGIN_PIXELS = 1
"""Pixels around an annotated box that are read too: the box may cut off a fraction of a pixel of its mask."""
MARGIN = MARGIN_PIXELS * np.array([-1, -1, 1, 1])
"""What is added to a box (x1, y1, x2, y2) for that."""


@dataclass(frozen=True)
class UndrawnMasks:
    """What a layout needs of masks that are drawn later: where it says that they are needed."""

    windows: Int64[ndarray, "n 4"]
    size: tuple[int, int]

    @classmethod
    def anywhere(cls, n: int, size: tuple[int, int]) -> "UndrawnMasks":
        """Masks that may be anywhere in an image of this (height, width)."""
        return cls(np.tile([0, 0, *size], (n, 1)), size)


@dataclass(frozen=True)
class SourceObjects:
    """The masks of one source's objects, and their boxes (x1, y1, x2, y2) on the host."""

    masks: CompactMasks | UndrawnMasks
    boxes: Float[ndarray, "n 4"]
    has_background: bool = True
    """Whether the source shows what is around its objects, unlike an image with transparency."""


@dataclass(frozen=True)
class PastedObject:
    """One pasted object: where it comes from, and the window of its target outside which it has no pixel."""

    source: int
    instance: int
    to_source: Int64[ndarray, "2 3"]
    to_mask: Int64[ndarray, "2 3"]
    color: Float[ndarray, "3"]
    window: Window


class LayoutObjects(NamedTuple):
    """The objects of all sources in a row, first those of the batch's images."""

    source: Int64[ndarray, " g"]
    """Index of the object's source."""
    instance: Int64[ndarray, " g"]
    """Object index within the source."""
    mask_windows: Int64[ndarray, "g 4"]
    """The window of its source in which the object's mask is kept."""
    windows: Int64[ndarray, "g 4"]
    """The part of that window near the object's box, where its pixels are."""
    image_receives: Bool[ndarray, " g"]
    """Whether anything is pasted on the image that the object belongs to."""


class PastedObjects(NamedTuple):
    """The objects pasted in a batch, ordered by target, and bottom to top."""

    row: Int64[ndarray, " m"]
    """Row of the plan that describes the object."""
    target: Int64[ndarray, " m"]
    """Batch index of the image that receives the object."""
    source: Int64[ndarray, " m"]
    """Index of the source that it is copied from."""
    instance: Int64[ndarray, " m"]
    """Object index within the source."""
    origin: Int64[ndarray, " m"]
    """Object index within the layout."""
    to_source: Int64[ndarray, "m 2 3"]
    """The maps from target to source, in steps of 2**-32 pixels."""
    to_mask: Int64[ndarray, "m 2 3"]
    """The maps from target to the window in which the source keeps the object's mask."""
    color: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""
    windows: Int64[ndarray, "m 4"]
    """The windows of the targets outside which the objects have no pixel; none is empty."""
    unbounded_windows: Int64[ndarray, "m 4"]
    """The same windows as if the targets had no edges."""
    level: Int64[ndarray, " m"]
    """Position in the stack of objects on the target, 0 at the bottom."""
    receiving: Int64[ndarray, " t"]
    """Batch indices of the images that receive any object, ascending."""
    ranges: Int64[ndarray, "t 2"]
    """For each of these images the index of its first pasted object, and of its last plus 1."""

    def one_by_one(self) -> list[PastedObject]:
        """Each of the objects."""
        windows = [Window(*window) for window in self.windows.tolist()]
        numbers = (self.source.tolist(), self.instance.tolist())
        return list(map(PastedObject, *numbers, self.to_source, self.to_mask, self.color, windows))


@dataclass(frozen=True)
class Layout:
    """The objects of all sources, and the objects pasted."""

    masks: Sequence[CompactMasks]
    """The masks of each source's objects, where they are drawn."""
    sizes: Int64[ndarray, "s 2"]
    """Height and width of each source."""
    objects: LayoutObjects
    overlapped: Int64[ndarray, " k"]
    """Indices of the objects whose window shares a pixel with that of an object pasted on their image, ascending."""
    pasted: PastedObjects
    blend_sigmas: Float[ndarray, " m"]
    """Standard deviation of each pasted object's seam."""
    transfer_strengths: Float[ndarray, " m"]
    """How far each pasted object's colors move towards those around it."""
    backgrounds: Bool[ndarray, " m"]
    """Whether the source of each pasted object shows what is around it."""

    def with_masks_of_first(self, masks: CompactMasks, others: Sequence[CompactMasks]) -> "Layout":
        """The layout with masks that are drawn by now: of the first source, of which nothing is pasted, and others."""
        mask_windows, windows = self.objects.mask_windows.copy(), self.objects.windows.copy()
        mask_windows[: len(masks)] = masks.windows
        windows[: len(masks)] = _common_part(windows[: len(masks)], masks.windows)
        objects = self.objects._replace(mask_windows=mask_windows, windows=windows)
        return replace(self, masks=[masks, *others], objects=objects)


def layout_of(plan: PastePlan, objects: Sequence[SourceObjects]) -> Layout:
    """The layout of a completed plan whose sources have these objects; those that miss their image are left out."""
    from composer_copypaste.functional.engines.numba_objects import lay_out  # takes half a second

    whole = (np.ascontiguousarray(column.numpy(), np.int64) for column in (plan.target, plan.source, plan.instance))
    real = (np.ascontiguousarray(column.numpy(), np.float64) for column in (plan.to_source, plan.color))
    counts = np.array([len(image.boxes) for image in objects])
    boxes = np.concatenate([image.boxes for image in objects])
    mask_windows = np.concatenate([image.masks.windows for image in objects])
    sizes = np.array([image.masks.size for image in objects])
    masks = [image.masks for image in objects if isinstance(image.masks, CompactMasks)]
    laid_out, overlapped, pasted = lay_out((*whole, *real), counts, boxes, mask_windows, sizes)
    sigmas, strengths = plan.blend_sigma.numpy()[pasted.row], plan.transfer_strength.numpy()[pasted.row]
    backgrounds = np.array([image.has_background for image in objects])[pasted.source]
    return Layout(masks, sizes, laid_out, overlapped, pasted, sigmas, strengths, backgrounds)


def _common_part(windows: Int64[ndarray, "n 4"], others: Int64[ndarray, "n 4"]) -> Int64[ndarray, "n 4"]:
    """The pixels that windows share with others; an empty window inside the other one where there are none."""
    return np.clip(windows, np.tile(others[:, :2], 2), np.tile(others[:, 2:], 2))


def box_windows(
    boxes: Float[ndarray, "n 4"], size: tuple[int, int] | Int64[ndarray, "n 2"] | None = None
) -> Int64[ndarray, "n 4"]:
    """The windows (y1, x1, y2, x2) of the pixels that boxes (x1, y1, x2, y2) touch.

    They are cut to an image of ``size`` (height, width), one for all or one each; without a size they are not cut.
    """
    windows = np.concatenate([np.floor(boxes[:, 1::-1]), np.ceil(boxes[:, :1:-1])], axis=1).astype(np.int64)
    return windows if size is None else np.clip(windows, 0, np.tile(size, 2))
