"""The engine that runs kernels on all images of a batch together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int16, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.blend import WarpedMask, paint_objects, warped_mask
from composer_copypaste.functional.engines.kernels import (
    BY_X,
    BY_Y,
    IMAGE_ROW,
    MASK_ROW,
    MEASURE_ROW,
    NO_TENSOR,
    NOBODY,
    OFFSET,
    PASTED_ROW,
    RESULT_ROW,
    TO_X,
    TO_Y,
    X1,
    Y1,
    Y2,
    Kernels,
    Table,
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
        masks, pasted = [each.contiguous() for each in layout.masks], layout.pasted
        areas = layout.sizes.prod(axis=1)
        shares = areas[pasted.receiving].tolist()
        owners = torch.empty(sum(shares), dtype=torch.int16, device=masks[0].device)
        images = np.zeros(len(shares), IMAGE_ROW)
        images["owners"] = _addresses(owners.split(shares))
        images["height"], images["width"] = layout.sizes[pasted.receiving].T
        images["first"], images["end"] = pasted.ranges.T
        addresses = _addresses(masks)[layout.source] + layout.instance * areas[layout.source]
        table = np.zeros(len(pasted.target), PASTED_ROW)
        table["image"], table["level"] = np.searchsorted(pasted.receiving, pasted.target), pasted.level
        table["to_source"], table["window"] = pasted.to_source, pasted.windows
        table["rotated"] = pasted.to_source[:, [TO_X, TO_Y], [BY_Y, BY_X]].any(axis=1)
        table["pixels"] = addresses[pasted.origin]
        table["height"], table["width"] = layout.sizes[pasted.source].T
        stacked = KernelStack(layout, settings, self.kernels, masks, addresses, owners, images, table)
        self.kernels.stack(images, stacked.eroded_masks() if settings.erosion else table)
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
    masks: Sequence[UInt8[Tensor, "_n _h _w"]]
    """The masks of each source, contiguous."""
    addresses: Int64[ndarray, " g"]
    """The address of each object's mask."""
    owners: Int16[Tensor, " p"]
    """The owner of each pixel of the images that receive any object: the level of the topmost one, or NOBODY."""
    images: Table
    """Rows of ``IMAGE_ROW``, with nothing to paint on."""
    pasted: Table
    """Rows of ``PASTED_ROW`` that read the masks of the sources."""

    @cached_property
    def warped(self) -> list[WarpedMask]:
        """The whole mask of each pasted object, for what is done object after object."""
        pasted, erosion = self.layout.pasted, self.settings.erosion
        warped = [warped_mask(pasted[m], self.masks[pasted.source[m]], erosion) for m in range(len(pasted))]
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
        layout, pasted, m = self.layout, self.layout.pasted, len(self.pasted)
        own = layout.overlapped
        objects = np.zeros(m + len(own), MEASURE_ROW)
        objects["window"] = np.concatenate([pasted.windows, layout.windows[own]])
        objects["level"][:m], objects["level"][m:] = pasted.level, NOBODY
        images = self.images[np.searchsorted(pasted.receiving, np.concatenate([pasted.target, layout.source[own]]))]
        objects["owners"], objects["owners_width"] = images["owners"], images["width"]
        objects["mask"][m:], objects["mask_width"][m:] = self.addresses[own], images["width"][m:]
        uncovered = self.pasted[:0]
        if self.settings.min_visibility:
            uncovered = self.pasted.copy()
            uncovered["window"] = pasted.unbounded_windows
        found = self.kernels.measure(objects, uncovered).flatten()
        end = len(found)
        if pixels is not None:  # in the same transfer
            found = torch.cat([found, self.owners[on_device(pixels, found.device)]])
        numbers = read_back(found)
        results = numbers[:end].view(RESULT_ROW)
        boxes = np.stack([results[name] for name in ("x1", "y1", "x2", "y2")], axis=1)
        return Measures(results["area"], results["former"], boxes), numbers[end:]

    def write_masks(self, kept: KeptObjects) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`ObjectStack`."""
        layout, joined = self.layout, kept.pasted >= 0
        counts, images = (
            np.diff(kept.ends)[:, 0],
            self.images[np.searchsorted(self.layout.pasted.receiving, kept.target)],
        )
        written = [
            self.masks[image].new_empty((count, *layout.sizes[image].tolist()))
            for image, count in zip(kept.images.tolist(), counts.tolist(), strict=True)
        ]
        table = np.zeros(len(kept.target), MASK_ROW)
        table["written"] = np.repeat(_addresses(written), counts) + kept.place * images["height"] * images["width"]
        table["former"] = np.where(joined, NO_TENSOR, self.addresses[kept.origin])
        for column in ("owners", "height", "width"):
            table[column] = images[column]
        table["level"] = np.where(joined, layout.pasted.level[kept.pasted], NOBODY)
        shrunk = ~joined & (kept.measure >= 0)
        table["window"][joined] = layout.pasted.windows[kept.pasted[joined]]
        table["window"][shrunk] = layout.windows[kept.origin[shrunk]]
        self.kernels.write_masks(table)
        return dict(zip(kept.images.tolist(), written, strict=True))

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`ObjectStack`."""
        painted, pasted = before.to(labels.dtype, copy=True), self.layout.pasted
        pasted_labels = labels[on_device(pasted.origin, labels.device)]
        owners = self.owners.view(-1, *before.shape[1:])
        for (begin, end), target, owner in zip(pasted.ranges.tolist(), pasted.receiving.tolist(), owners, strict=True):
            new = pasted_labels[begin:end].take(owner.long().clamp(min=0))
            painted[target] = torch.where(owner == NOBODY, painted[target], new)
        return painted

    def paint(self, images: Images, extra_sources: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`ObjectStack`."""
        pasted, sources = self.layout.pasted, [*images, *extra_sources]
        as_it_is = not self.settings.blend_sigma and (pasted.color == 1).all()
        known = all(image.dtype in self.kernels.dtypes and not image.requires_grad for image in images)
        if not (as_it_is and known):
            return paint_objects(images, sources, pasted, self.warped, self.settings.blend_sigma)
        painted = copied_to_paint(images, pasted.receiving.tolist())
        received = [painted[target] for target in pasted.receiving.tolist()]
        canvases = [image.contiguous() for image in received]
        sources = [image.contiguous() for image in sources]
        table, objects = self.images.copy(), self.pasted.copy()
        table["pixels"], objects["pixels"] = _addresses(canvases), _addresses(sources)[pasted.source]
        self.kernels.paint(table, objects, images[0].dtype, len(images[0]))
        for image, canvas in zip(received, canvases, strict=True):
            if canvas is not image:
                image.copy_(canvas)
        return painted


def _addresses(tensors: Sequence[Tensor]) -> Int64[ndarray, " n"]:
    """Where the tensors begin."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
