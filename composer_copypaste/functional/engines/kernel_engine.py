"""The engine that runs kernels on all images of a batch together."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, window_areas
from composer_copypaste.functional.blend import WarpedMask, paint_objects, warped_mask
from composer_copypaste.functional.engines.kernels import (
    IMAGE_ROW,
    MASK_ROW,
    MEASURE_ROW,
    OFFSET,
    PASTED_ROW,
    X1,
    Y1,
    Y2,
    Kernels,
    Table,
)
from composer_copypaste.functional.engines.numba_tables import (
    fill_images,
    fill_masks,
    fill_measured,
    fill_pasted,
    mask_addresses,
    read_images,
)
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import Images, copied_to_paint, on_device, read_back
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class KernelEngine:
    """An :class:`Engine` that stacks, measures, writes and paints all objects of a batch together."""

    kernels: Kernels

    def stack(self, layout: Layout, settings: CopyPasteSettings) -> "KernelStack":
        """As of :class:`Engine`."""
        pasted, objects = layout.pasted, layout.objects
        dtype = torch.uint8 if pasted.level.max() < 255 else torch.int16
        pixels = int(layout.sizes[pasted.receiving].prod(axis=1).sum())
        owners = torch.zeros(pixels, dtype=dtype, device=layout.masks[0].device)
        images, table = np.zeros(len(pasted.receiving), IMAGE_ROW), np.zeros(len(pasted.target), PASTED_ROW)
        fill_images(images, pasted, layout.sizes, owners.data_ptr(), dtype.itemsize)
        addresses = mask_addresses(objects, _addresses([masks.pixels for masks in layout.masks]))
        fill_pasted(table, images, pasted, objects, addresses)
        stacked = KernelStack(layout, settings, self.kernels, addresses, owners, images, table)
        self.kernels.stack(images, stacked.eroded_masks() if settings.erosion else table, dtype)
        return stacked


@dataclass(frozen=True)
class KernelStack:
    """The :class:`ObjectStack` of this engine: which pasted object owns each pixel.

    Eroded masks, soft seams, other colors than the source's, and images of types that the kernels do not know need
    steps in torch, object after object.
    """

    layout: Layout
    settings: CopyPasteSettings
    kernels: Kernels
    addresses: Int64[ndarray, " g"]
    """The address of each object's mask."""
    owners: Integer[Tensor, " p"]
    """The owner of each pixel of the images that receive any object: the number of the topmost one, or NOBODY; in bytes
    if these can count the objects of an image, since most pixels are read several times."""
    images: Table
    """Rows of ``IMAGE_ROW``, with nothing to paint on."""
    pasted: Table
    """Rows of ``PASTED_ROW`` that read the masks of the sources."""

    @cached_property
    def warped(self) -> list[WarpedMask]:
        """The whole mask of each pasted object, for what is done object after object."""
        pasted, erosion = self.layout.pasted.one_by_one(), self.settings.erosion
        warped = [warped_mask(each, self.layout.masks[each.source], erosion) for each in pasted]
        return [replace(each, mask=each.mask.contiguous()) for each in warped]

    def eroded_masks(self) -> Table:
        """Rows of ``PASTED_ROW`` that read eroded masks, each of which fills its window of the target."""
        table = self.pasted.copy()
        table["to_source"], table["rotated"] = PIXEL * np.eye(2, 3, dtype=np.int64), 0
        table["window"] = windows = np.array([each.window for each in self.warped])
        table["to_source"][:, :, OFFSET] = -PIXEL * windows[:, [X1, Y1]]
        table["pixels"] = _addresses([each.mask for each in self.warped])
        table["height"], table["width"] = (windows[:, Y2:] - windows[:, :Y2]).T
        return table

    def measure(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """As of :class:`ObjectStack`."""
        layout, pasted = self.layout, self.layout.pasted
        table = np.zeros(len(self.pasted) + len(layout.overlapped), MEASURE_ROW)
        fill_measured(table, self.images, pasted, layout.objects, layout.overlapped, self.addresses)
        uncovered = self.pasted[:0]
        if self.settings.min_visibility:
            uncovered = self.pasted.copy()
            uncovered["window"] = pasted.unbounded_windows
        found = self.kernels.measure(table, uncovered, self.owners.dtype).flatten()
        end = len(found)
        if pixels is not None:  # in the same transfer
            found = torch.cat([found, self.owners[on_device(pixels, found.device)].long() - 1])
        numbers = read_back(found)
        area, former, *boxes = numbers[:end].reshape(len(table), -1).T.copy()
        return Measures(area, former, np.stack(boxes, axis=1)), numbers[end:]

    def write_masks(self, kept: KeptObjects) -> dict[int, CompactMasks]:
        """As of :class:`ObjectStack`."""
        layout, images = self.layout, self.images.copy()
        total = np.concatenate([[0], np.cumsum(window_areas(kept.windows))])
        sizes, written = total[kept.ends[:, 1]] - total[kept.ends[:, 0]], {}
        for image, ends, size in zip(kept.images.tolist(), kept.ends.tolist(), sizes.tolist(), strict=True):
            own = layout.masks[image]
            written[image] = CompactMasks.unchecked(own.pixels.new_empty(size), kept.windows[slice(*ends)], own.size)
        images["masks"] = _addresses([masks.pixels for masks in written.values()])
        table = np.zeros(len(kept.target), MASK_ROW)
        fill_masks(table, images, kept, layout.pasted, layout.objects, self.addresses)
        self.kernels.write_masks(table, self.owners.dtype)
        return written

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`ObjectStack`."""
        painted = before.to(labels.dtype, copy=True, memory_format=torch.contiguous_format)
        pasted, table = self.layout.pasted, self.images.copy()
        table["pixels"] = painted.data_ptr() + pasted.receiving * painted[0].nbytes
        of_pasted = labels[on_device(pasted.origin, labels.device)]
        self.kernels.paint_ids(table, self.pasted, of_pasted, self.owners.dtype)
        return painted

    def paint(self, images: Images, extra_sources: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`ObjectStack`."""
        pasted, sources, first = self.layout.pasted, [*images, *extra_sources], images[0]
        as_it_is = not self.settings.fits_colors and (pasted.color == 1).all() and not self.layout.blend_sigmas.any()
        if not as_it_is or first.dtype not in self.kernels.dtypes or any(image.requires_grad for image in sources):
            return paint_objects(images, sources, self.layout, self.warped, self.settings)
        receiving = pasted.receiving.tolist()
        painted = copied_to_paint(images, receiving)
        canvases = {i: painted[i].contiguous() for i in receiving}
        sources = [image.contiguous() for image in sources]
        table, objects = self.images.copy(), self.pasted.copy()
        table["pixels"] = _addresses(canvases.values())
        read_images(objects, pasted, self.layout.sizes, _addresses(sources))
        self.kernels.paint(table, objects, self.owners.dtype, first.dtype, len(first))
        for i, canvas in canvases.items():
            if not painted[i].is_contiguous():
                painted[i].copy_(canvas)
        return painted


def _addresses(tensors: Iterable[Tensor]) -> Int64[ndarray, " n"]:
    """Where the tensors begin."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
