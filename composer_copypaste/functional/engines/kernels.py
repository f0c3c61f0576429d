"""Carrying out a layout for all images at once, by kernels that get tables: on the host by Numba, on a GPU by Triton.

Tensors of many sizes take part, so kernels get tables of 64-bit numbers, a row for each image, landing, task or plane,
with sizes, fixed-point maps, and the addresses of tensors. Positions are the same numbers everywhere, so masks, boxes
and areas equal those of :class:`TorchEngine` to the bit, and colors to rounding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int16, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.blend import WarpedMask, paint_objects, warped_mask
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import Images, copied_to_paint, on_device, read_back
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import CopyPasteSettings

NOBODY, NOTHING = -1, 0
"""The owner of a pixel on which nothing landed; the address of what there is not."""


@runtime_checkable
class Kernels(Protocol):
    """What carries the tables out, on one kind of device."""

    dtypes: Sequence[torch.dtype]
    """Of the images that they can paint."""

    def stack(self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"]) -> None:
        """Find for each pixel which of its image's landings lies on top.

        Images: the address of owners (int16), height, width, first landing, one past the last. PastedObjects: map (6),
        window (4: y1, x1, y2, x2), the mask's address, height and width.
        """

    def measure(self, tasks: Int64[ndarray, "k t"], uncovered: Int64[ndarray, "u l"], n: int) -> Int64[Tensor, "n 6"]:
        """Count pixels, visible and former ones, and find the box x1, y1, x2, y2 around the visible: ``n`` results.

        Tasks: the result they add to, the window (4), the landing whose pixels are visible or -1, the address of owners
        or 0, their width, the mask's address or 0, its width. With a mask its pixels are counted as former ones, and
        those that nobody owns as visible. Uncovered: landings as for ``stack``, the first results, whose former pixels
        are those of their masks in their windows, whatever lies there; the windows may reach beyond the image.
        """

    def write_masks(self, planes: Int64[ndarray, "r p"]) -> None:
        """Write masks of 0 and 1: copies, what nobody owns of a former one, or what a landing owns.

        Planes: the address to write to, that of the former mask or 0, owners' address, height, width, the window (4)
        outside which there is nothing, empty for a copy, the landing or -1.
        """

    def paint(
        self, images: Int64[ndarray, "t i"], landings: Int64[ndarray, "m l"], dtype: torch.dtype, channels: int
    ) -> None:
        """Paint each pixel with the colors of the landing that owns it, in place.

        Images: as for ``stack``, then the address of the image, whose channels follow each other. PastedObjects: map
        (6), window (4), the address of the image to paint from, height and width.
        """


def nothing_seen(n: int) -> Int64[ndarray, "n 6"]:
    """The results of which no pixel has been seen yet."""
    return np.tile(np.array([0, 0, 1 << 30, 1 << 30, 0, 0]), (n, 1))


@dataclass(frozen=True)
class KernelEngine:
    """An :class:`Engine` that stacks, measures, writes and paints all objects of a batch together."""

    kernels: Kernels

    def stack(self, layout: Layout, settings: CopyPasteSettings) -> "OwnedPixels":
        """As of :class:`Engine`."""
        masks, pasted = [each.contiguous() for each in layout.masks], layout.pasted
        areas = layout.sizes.prod(axis=1)
        planes = _addresses(masks)[layout.source] + layout.instance * areas[layout.source]
        shares = areas[pasted.receiving].tolist()
        owners = torch.empty(sum(shares), dtype=torch.int16, device=masks[0].device)
        images = _table(_addresses(owners.split(shares)), layout.sizes[pasted.receiving], pasted.ranges)
        stacked = OwnedPixels(layout, settings, self.kernels, masks, planes, owners, images)
        self.kernels.stack(images, stacked.eroded_masks() if settings.erosion else stacked.source_masks(pasted.windows))
        return stacked


@dataclass(frozen=True)
class OwnedPixels:
    """The :class:`StackedObjects` of this engine: which pasted object owns each pixel.

    Eroded masks, soft seams, other colors than the source's, and images of types that the kernels do not know need
    steps in torch, object after object.
    """

    layout: Layout
    settings: CopyPasteSettings
    kernels: Kernels
    masks: Sequence[UInt8[Tensor, "_n _h _w"]]
    """The masks of each source, contiguous."""
    planes: Int64[ndarray, " g"]
    """The address of each object's mask."""
    owners: Int16[Tensor, " p"]
    """The level of the pasted object that lies on top of each pixel of the images that receive any, or NOBODY."""
    images: Int64[ndarray, "t 5"]

    @cached_property
    def warped(self) -> list[WarpedMask]:
        """The whole mask of each pasted object, for what is done object after object."""
        pasted, erosion = self.layout.pasted, self.settings.erosion
        warped = [warped_mask(pasted[m], self.masks[pasted.source[m]], erosion) for m in range(len(pasted))]
        return [replace(each, mask=each.mask.contiguous()) for each in warped]

    def eroded_masks(self) -> Int64[ndarray, "m 13"]:
        """The table of pasted objects whose masks are eroded, each in its window of the target."""
        shifts = [[PIXEL, 0, -each.window.x1 * PIXEL, 0, PIXEL, -each.window.y1 * PIXEL] for each in self.warped]
        places = [[*each.window, each.mask.data_ptr(), *each.window.shape] for each in self.warped]
        return np.array([[*shift, *place] for shift, place in zip(shifts, places, strict=True)], dtype=np.int64)

    def source_masks(self, windows: Int64[ndarray, "m 4"]) -> Int64[ndarray, "m 13"]:
        """The table of pasted objects in these windows, whose masks are read from their sources."""
        layout, pasted = self.layout, self.layout.pasted
        maps = pasted.to_source.reshape(-1, 6)
        return _table(maps, windows, self.planes[pasted.origin], layout.sizes[pasted.source])

    @cached_property
    def owners_of(self) -> Int64[ndarray, "s 3"]:
        """The address, height and width of the owners of each image, zeros for those that receive nothing."""
        rows = np.zeros((len(self.masks), 3), dtype=np.int64)
        rows[self.layout.pasted.receiving] = self.images[:, :3]
        return rows

    def measure(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """As of :class:`StackedObjects`."""
        layout, pasted = self.layout, self.layout.pasted
        m, k = len(pasted), len(layout.overlapped)
        results = np.arange(m + k)
        counted = np.concatenate([pasted.origin, layout.overlapped])
        masks = _table(self.planes[counted], layout.sizes[layout.source[counted], 1])
        owners = self.owners_of[np.concatenate([pasted.target, layout.source[layout.overlapped]])][:, [0, 2]]
        tasks = [
            _table(results[:m], pasted.windows, pasted.level, owners[:m], NOTHING, 0),
            _table(results[m:], layout.windows[layout.overlapped], NOBODY, owners[m:], masks[m:]),
        ]
        asked = bool(self.settings.min_visibility)
        uncovered = self.source_masks(pasted.unbounded_windows) if asked else np.empty((0, 13), dtype=np.int64)
        found = self.kernels.measure(np.concatenate(tasks), uncovered, m + k)
        if pixels is not None:  # in the same transfer
            found = torch.cat([found.flatten(), self.owners[on_device(pixels, found.device)]])
        numbers = read_back(found).reshape(-1)
        measured, owned = numbers[: 6 * (m + k)].reshape(-1, 6), numbers[6 * (m + k) :]
        return Measures(area=measured[:, 0], former=measured[:, 1], boxes=measured[:, 2:]), owned

    def write_masks(self, kept: KeptObjects) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`StackedObjects`."""
        layout = self.layout
        written = [
            self.masks[image].new_empty((end - begin, *layout.sizes[image].tolist()))
            for image, (begin, end) in zip(kept.images.tolist(), kept.ends.tolist(), strict=True)
        ]
        begin = np.repeat(_addresses(written), np.diff(kept.ends)[:, 0])
        owners = self.owners_of[kept.target]
        joined, shrunk = kept.landing >= 0, (kept.landing < 0) & (kept.measure >= 0)
        windows = np.zeros((len(kept), 4), dtype=np.int64)
        windows[joined] = layout.pasted.windows[kept.landing[joined]]
        windows[shrunk] = layout.windows[kept.origin[shrunk]]
        planes = _table(
            begin + kept.place * owners[:, 1] * owners[:, 2],
            np.where(joined, NOTHING, self.planes[kept.origin]),
            owners,
            windows,
            np.where(joined, layout.pasted.level[kept.landing], NOBODY),
        )
        self.kernels.write_masks(planes)
        return dict(zip(kept.images.tolist(), written, strict=True))

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`StackedObjects`."""
        painted, pasted = before.to(labels.dtype, copy=True), self.layout.pasted
        pasted_labels = labels[on_device(pasted.origin, labels.device)]
        owners = self.owners.view(-1, *before.shape[1:])
        for (begin, end), target, owner in zip(pasted.ranges.tolist(), pasted.receiving.tolist(), owners, strict=True):
            new = pasted_labels[begin:end].take(owner.long().clamp(min=0))
            painted[target] = torch.where(owner == NOBODY, painted[target], new)
        return painted

    def paint(self, images: Images, extra_sources: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`StackedObjects`."""
        pasted, sources = self.layout.pasted, [*images, *extra_sources]
        as_it_is = not self.settings.blend_sigma and (pasted.color == 1).all()
        known = all(image.dtype in self.kernels.dtypes and not image.requires_grad for image in images)
        if not (as_it_is and known):
            return paint_objects(images, sources, pasted, self.warped, self.settings.blend_sigma)
        painted = copied_to_paint(images, pasted.receiving.tolist())
        received = [painted[target] for target in pasted.receiving.tolist()]
        canvases = [image.contiguous() for image in received]
        sources = [image.contiguous() for image in sources]
        self.kernels.paint(
            _table(self.images, _addresses(canvases)),
            _table(
                pasted.to_source.reshape(-1, 6),
                pasted.windows,
                _addresses(sources)[pasted.source],
                self.layout.sizes[pasted.source],
            ),
            images[0].dtype,
            len(images[0]),
        )
        for image, canvas in zip(received, canvases, strict=True):
            if canvas is not image:
                image.copy_(canvas)
        return painted


def _addresses(tensors: Sequence[Tensor]) -> Int64[ndarray, " n"]:
    """Where the tensors begin."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)


def _table(*columns: Int64[ndarray, "n ..."] | int) -> Int64[ndarray, "n _k"]:
    """The columns side by side; a number stands in every row."""
    n = max(len(column) for column in columns if not isinstance(column, int))
    widths = [1 if isinstance(column, int) or column.ndim == 1 else column.shape[1] for column in columns]
    table = np.empty((n, sum(widths)), dtype=np.int64)
    for end, width, column in zip(accumulate(widths), widths, columns, strict=True):
        table[:, end - width : end] = column if isinstance(column, int) or column.ndim == 2 else column[:, None]
    return table
