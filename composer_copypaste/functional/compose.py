"""What lands where: the plan's objects in the pixels of their targets, from what the host knows alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import numpy as np
from jaxtyping import Float, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.placement import box_corners
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.planes import Planes
from composer_copypaste.functional.warp import PIXEL, fixed_point
from composer_copypaste.functional.windows import Window, box_windows, meeting

MARGIN = np.array([-1, -1, 1, 1])
"""Annotated boxes may cut their mask by a fraction of a pixel: so many pixels around them are read too."""

Images = Shaped[Tensor, "n c h w"] | list[Shaped[Tensor, "c _h _w"]]


@dataclass(frozen=True)
class Objects:
    """The masks of one image's objects, and the boxes around them on the host."""

    masks: Planes
    boxes: Float[ndarray, "n 4"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.shape[1], self.masks.shape[2]

    @cached_property
    def windows(self) -> list[Window]:
        """The pixels in which each object's mask lies."""
        return box_windows(self.boxes + MARGIN, self.size)


@dataclass(frozen=True)
class Landing:
    """One copied object: where it comes from, and the window of the target outside which it has no pixel."""

    target: int
    source: int
    instance: int
    to_source: Int64[ndarray, "2 3"]
    """The map from target to source, in steps of 2**-32 pixels."""
    colour: tuple[float, ...]
    """Factors of brightness, contrast and saturation."""
    window: Window

    @property
    def enlargement(self) -> float:
        """Pixels in the target for each pixel in the source."""
        (xx, xy, _), (yx, yy, _) = self.to_source.tolist()
        return PIXEL**2 / abs(xx * yy - xy * yx)


@dataclass(frozen=True)
class Layer:
    """What one image receives, bottom to top, and which of its own objects that may touch."""

    target: int
    landings: list[Landing]
    touched: list[int]


def layers_of(plan: PastePlan, objects: Sequence[Objects]) -> list[Layer]:
    """The layer of each image that receives anything."""
    if not len(plan):
        return []
    columns = (plan.target, plan.source, plan.instance, fixed_point(plan.to_source), plan.colour)
    rows = zip(*(column.tolist() if isinstance(column, Tensor) else column for column in columns), strict=True)
    landings = [
        Landing(target, source, instance, to_source, tuple(colour), window)
        for (target, source, instance, to_source, colour), window in zip(rows, _windows(plan, objects), strict=True)
        if not window.is_empty
    ]
    landings.sort(key=lambda landing: landing.target)  # a hand-written plan may mix its targets
    return [_layer(target, list(group), objects) for target, group in groupby(landings, key=lambda row: row.target)]


def _layer(target: int, landings: list[Landing], objects: Sequence[Objects]) -> Layer:
    return Layer(target, landings, meeting(objects[target].windows, [landing.window for landing in landings]))


def _windows(plan: PastePlan, objects: Sequence[Objects]) -> list[Window]:
    """The pixels of the target that each pasted object may cover."""
    to_source = plan.to_source.numpy()
    ends = np.cumsum([0, *(len(image.boxes) for image in objects)])
    boxes = np.concatenate([image.boxes for image in objects])[ends[plan.source.numpy()] + plan.instance.numpy()]
    corners = box_corners(boxes + MARGIN) - to_source[:, None, :, 2]
    landed = np.linalg.solve(to_source[:, None, :, :2], corners[..., None])[..., 0]
    there = np.concatenate([landed.min(axis=1), landed.max(axis=1)], axis=1)
    return box_windows(there, np.array([image.size for image in objects])[plan.target.numpy()])
