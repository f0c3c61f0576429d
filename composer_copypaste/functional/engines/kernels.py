"""Carrying out a layout for all images at once, by kernels that get tables: on the host by Numba, on a GPU by Triton.

Tensors of many sizes take part, so kernels get tables of 64-bit numbers, a row for each image, landing, task or plane,
with sizes, fixed-point maps, and the addresses of tensors. Positions are the same numbers everywhere, so masks, boxes
and areas equal those of :class:`TorchEngine` to the bit, and colors to rounding.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.blend import WarpedMask, painted_by_windows, warped_mask
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


class KernelEngine:
    """Objects are stacked, measured, written and painted all together.

    What needs a pixel's neighbours is done object after object: eroded masks are cut out first; soft seams, other
    colors than the source's, and images of types that the kernels do not know are painted so.
    """

    def __init__(self, layout: Layout, kernels: Kernels, settings: CopyPasteSettings) -> None:
        self._layout, self._kernels, self._settings, landings = layout, kernels, settings, layout.landings
        self._masks = [masks.contiguous() for masks in layout.masks]
        areas = layout.sizes.prod(axis=1)
        self._planes = _addresses(self._masks)[layout.source] + layout.instance * areas[layout.source]
        shares = areas[landings.targets].tolist()
        self._all_owners = torch.empty(sum(shares), dtype=torch.int16, device=self._masks[0].device)
        self._owners = self._all_owners.split(shares)
        self._images = _table(_addresses(self._owners), layout.sizes[landings.targets], landings.ends)
        self._owners_of = np.zeros((len(layout.masks), 3), dtype=np.int64)
        self._owners_of[landings.targets] = self._images[:, :3]
        self._maps = _table(landings.to_source.reshape(-1, 6), landings.windows)
        kernels.stack(self._images, self._eroded_masks() if settings.erosion else self._source_masks(landings.windows))

    @cached_property
    def _cuts(self) -> list[WarpedMask]:
        """The landings' masks as their targets see them."""
        landings, erosion = self._layout.landings, self._settings.erosion
        cuts = [warped_mask(landings[m], self._masks[landings.source[m]], erosion) for m in range(len(landings))]
        return [replace(cut, mask=cut.mask.contiguous()) for cut in cuts]

    def _eroded_masks(self) -> Int64[ndarray, "m 13"]:
        """What kernels stack, from cut-outs: each lies in its window."""
        shifts = [[PIXEL, 0, -cut.window.x1 * PIXEL, 0, PIXEL, -cut.window.y1 * PIXEL] for cut in self._cuts]
        places = [[*cut.window, cut.mask.data_ptr(), *cut.window.shape] for cut in self._cuts]
        return np.array([[*shift, *place] for shift, place in zip(shifts, places, strict=True)], dtype=np.int64)

    def _source_masks(self, windows: Int64[ndarray, "m 4"]) -> Int64[ndarray, "m 13"]:
        """What kernels stack or count in these windows, from the sources' masks."""
        layout, landings = self._layout, self._layout.landings
        maps = landings.to_source.reshape(-1, 6)
        return _table(maps, windows, self._planes[layout.landed], layout.sizes[landings.source])

    def measures(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """As of :class:`Engine`."""
        layout, landings = self._layout, self._layout.landings
        m, k = len(landings), len(layout.overlapped)
        results = np.arange(m + k)
        counted = np.concatenate([layout.landed, layout.overlapped])
        masks = _table(self._planes[counted], layout.sizes[layout.source[counted], 1])
        owners = self._owners_of[np.concatenate([landings.target, layout.source[layout.overlapped]])][:, [0, 2]]
        tasks = [
            _table(results[:m], landings.windows, landings.place, owners[:m], NOTHING, 0),
            _table(results[m:], layout.windows[layout.overlapped], NOBODY, owners[m:], masks[m:]),
        ]
        asked = bool(self._settings.min_visibility)
        uncovered = self._source_masks(landings.unbounded_windows) if asked else np.empty((0, 13), dtype=np.int64)
        found = self._kernels.measure(np.concatenate(tasks), uncovered, m + k)
        if pixels is not None:  # in the one transfer
            owners = self._all_owners[on_device(pixels, found.device)]
            found = torch.cat([found.flatten(), owners])
        numbers = read_back(found).reshape(-1)
        measured, owned = numbers[: 6 * (m + k)].reshape(-1, 6), numbers[6 * (m + k) :]
        return Measures(area=measured[:, 0], former=measured[:, 1], boxes=measured[:, 2:]), owned

    def masks(self, outcome: KeptObjects) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`Engine`."""
        layout = self._layout
        written = [
            self._masks[image].new_empty((end - begin, *layout.sizes[image].tolist()))
            for image, (begin, end) in zip(outcome.images.tolist(), outcome.ends.tolist(), strict=True)
        ]
        begin = np.repeat(_addresses(written), np.diff(outcome.ends)[:, 0])
        owners = self._owners_of[outcome.target]
        joined, shrunk = outcome.landing >= 0, (outcome.landing < 0) & (outcome.measure >= 0)
        windows = np.zeros((len(outcome), 4), dtype=np.int64)
        windows[joined] = layout.landings.windows[outcome.landing[joined]]
        windows[shrunk] = layout.windows[outcome.origin[shrunk]]
        planes = _table(
            begin + outcome.place * owners[:, 1] * owners[:, 2],
            np.where(joined, NOTHING, self._planes[outcome.origin]),
            owners,
            windows,
            np.where(joined, layout.landings.place[outcome.landing], NOBODY),
        )
        self._kernels.write_masks(planes)
        return dict(zip(outcome.images.tolist(), written, strict=True))

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`Engine`."""
        painted, landings = before.to(labels.dtype, copy=True), self._layout.landings
        owners = dict(zip(landings.targets.tolist(), self._owners, strict=True))
        landed = labels[on_device(self._layout.landed, labels.device)]
        for (begin, end), target in zip(landings.ends.tolist(), landings.targets.tolist(), strict=True):
            place = owners[target].view(before.shape[1:]).long()
            there = landed[begin:end].take(place.clamp(min=0))
            painted[target] = torch.where(place == NOBODY, painted[target], there)
        return painted

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`Engine`."""
        landings, sources = self._layout.landings, [*images, *further]
        if not self._can_paint(images):
            return painted_by_windows(images, sources, landings, self._cuts, self._settings.blend_sigma)
        painted = copied_to_paint(images, landings.targets.tolist())
        received = [painted[target] for target in landings.targets.tolist()]
        canvases = [image.contiguous() for image in received]
        sources = [image.contiguous() for image in sources]
        self._kernels.paint(
            _table(self._images, _addresses(canvases)),
            _table(self._maps, _addresses(sources)[landings.source], self._layout.sizes[landings.source]),
            images[0].dtype,
            len(images[0]),
        )
        for image, canvas in zip(received, canvases, strict=True):
            if canvas is not image:
                image.copy_(canvas)
        return painted

    def _can_paint(self, images: Images) -> bool:
        plain = not self._settings.blend_sigma and (self._layout.landings.color == 1).all()
        known = all(image.dtype in self._kernels.dtypes and not image.requires_grad for image in images)
        return bool(plain) and known


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
