"""What lands where: the plan's objects in the pixels of their targets, from what the host knows alone.

Arrays with a row for each object, for the whole batch at once: a Python object for each would take longer than the
pixels do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.resample import fixed_point
from composer_copypaste.functional.windows import (
    Window,
    are_empty,
    box_corners,
    box_windows,
    cut_windows,
    unbounded_windows,
)

MARGIN = np.array([-1, -1, 1, 1])
"""Annotated boxes may cut their mask by a fraction of a pixel: so many pixels around them are read too."""


@dataclass(frozen=True)
class Objects:
    """The masks of one image's objects, and the boxes around them on the host."""

    masks: UInt8[Tensor, "n h w"]
    boxes: Float[ndarray, "n 4"]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        return self.masks.shape[1], self.masks.shape[2]

    def masks_of_0_and_1(self) -> UInt8[Tensor, "n h w"]:
        """The masks with 1 for anything but 0: on a host the same planes, where they hold nothing else in their boxes.

        A device would be waited for to learn that; to copy there takes no time that counts.
        """
        if self.masks.is_cpu:
            from composer_copypaste.functional.engines.numba_kernels import (
                hold_other_values,  # Numba takes half a second to import
            )

            if not hold_other_values(self.masks.contiguous().numpy(), self.boxes):
                return self.masks
        return self.masks.clamp(max=1)


def object_windows(
    boxes: Float[ndarray, "n 4"], size: tuple[int, int] | Int64[ndarray, "n 2"]
) -> Int64[ndarray, "n 4"]:
    """The pixels in which the masks of objects with these boxes lie, in an image of that size or in one each."""
    return box_windows(boxes + MARGIN, size)


@dataclass(frozen=True)
class PastedObject:
    """One copied object: where it comes from, and the window of the target outside which it has no pixel."""

    source: int
    instance: int
    to_source: Int64[ndarray, "2 3"]
    color: Float[ndarray, "3"]
    window: Window


@dataclass(frozen=True)
class PastedObjects:
    """What lands in the images of a batch, ordered by target, and bottom to top."""

    target: Int64[ndarray, " m"]
    source: Int64[ndarray, " m"]
    instance: Int64[ndarray, " m"]
    to_source: Int64[ndarray, "m 2 3"]
    """The maps from target to source, in steps of 2**-32 pixels."""
    color: Float[ndarray, "m 3"]
    """Factors of brightness, contrast and saturation."""
    windows: Int64[ndarray, "m 4"]
    """Outside these windows of their targets they have no pixel; none is empty."""
    unbounded_windows: Int64[ndarray, "m 4"]
    """The same windows as if the targets had no edges."""

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, m: int) -> PastedObject:
        return PastedObject(
            int(self.source[m]),
            int(self.instance[m]),
            self.to_source[m],
            self.color[m],
            Window(*self.windows[m].tolist()),
        )

    @cached_property
    def targets(self) -> Int64[ndarray, " t"]:
        """The images that receive anything."""
        return np.unique(self.target)

    @cached_property
    def ends(self) -> Int64[ndarray, "t 2"]:
        """Of each of these images the first landing, and one past the last."""
        return ends_of(self.target, self.targets)

    @cached_property
    def place(self) -> Int64[ndarray, " m"]:
        """The place of each among those of its image."""
        return np.arange(len(self)) - self.ends[np.searchsorted(self.targets, self.target), 0]


@dataclass(frozen=True)
class Layout:
    """The objects of all sources in a row, the images' first and then those from beyond the batch, and what lands."""

    masks: Sequence[UInt8[Tensor, "_n _h _w"]]
    """Of each source."""
    sizes: Int64[ndarray, "s 2"]
    """Height and width of each source."""
    source: Int64[ndarray, " g"]
    """To which source each object belongs."""
    first: Int64[ndarray, " s"]
    """The number in the row of each source's first object."""
    windows: Int64[ndarray, "g 4"]
    """In its source, of each object."""
    landings: PastedObjects

    @cached_property
    def overlapped(self) -> Int64[ndarray, " k"]:
        """The objects of images of whose windows a landing's has a pixel, by their number in the row, ascending."""
        from composer_copypaste.functional.engines.numba_kernels import (
            mark_overlapped,  # Numba takes half a second to import
        )

        landings, found = self.landings, np.full(len(self.windows), False)
        mark_overlapped(ends_of(self.source, landings.targets), self.windows, landings.ends, landings.windows, found)
        return np.flatnonzero(found)

    @cached_property
    def landed(self) -> Int64[ndarray, " m"]:
        """Of each landing the number of its object in the row."""
        return self.first[self.landings.source] + self.landings.instance

    @cached_property
    def receive(self) -> Bool[ndarray, " g"]:
        """Whether each object belongs to an image that receives anything."""
        received = np.full(len(self.sizes), False)
        received[self.landings.targets] = True
        return received[self.source]

    @cached_property
    def instance(self) -> Int64[ndarray, " g"]:
        """Of each object its number in its source."""
        return np.arange(len(self.source)) - self.first[self.source]


def ends_of(ordered: Int64[ndarray, " n"], values: Int64[ndarray, " t"]) -> Int64[ndarray, "t 2"]:
    """Where each value begins among the ordered ones, and one past where it ends."""
    return np.stack([np.searchsorted(ordered, values, side) for side in ("left", "right")], axis=1)


def layout_of(plan: PastePlan, objects: Sequence[Objects]) -> Layout:
    """Where the plan's objects land; those that miss their image are left out."""
    counts = np.array([len(image.boxes) for image in objects])
    first, source = np.cumsum(counts) - counts, np.repeat(np.arange(len(objects)), counts)
    sizes = np.array([image.size for image in objects])
    boxes = np.concatenate([image.boxes for image in objects])
    windows = object_windows(boxes, sizes[source])
    landings = _landings(plan, boxes[first[plan.source.numpy()] + plan.instance.numpy()], sizes)
    return Layout(
        masks=[image.masks for image in objects],
        sizes=sizes,
        source=source,
        first=first,
        windows=windows,
        landings=landings,
    )


def _landings(plan: PastePlan, boxes: Float[ndarray, "m 4"], sizes: Int64[ndarray, "s 2"]) -> PastedObjects:
    """The landings of objects that have these boxes in their sources."""
    columns = (plan.target, plan.source, plan.instance, plan.to_source, plan.color)
    target, source, instance, to_source, color = (column.numpy() for column in columns)
    unbounded = _landing_windows(boxes, to_source)
    windows = cut_windows(unbounded, sizes[target])
    order = np.argsort(target, kind="stable")  # a hand-written plan may mix its targets
    order = order[~are_empty(windows[order])]
    return PastedObjects(
        target=target[order],
        source=source[order],
        instance=instance[order],
        to_source=fixed_point(plan.to_source)[order],
        color=color[order],
        windows=windows[order],
        unbounded_windows=unbounded[order],
    )


def _landing_windows(boxes: Float[ndarray, "m 4"], to_source: Float[ndarray, "m 2 3"]) -> Int64[ndarray, "m 4"]:
    """The pixels that each pasted object may cover, also beyond the edges of its target."""
    corners = box_corners(boxes + MARGIN) - to_source[:, None, :, 2]
    landed = np.einsum("mij,mcj->mci", np.linalg.inv(to_source[:, :, :2]), corners)
    return unbounded_windows(np.concatenate([landed.min(axis=1), landed.max(axis=1)], axis=1))
