"""The engine that runs kernels on all images of a batch together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int16, Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, window_areas
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
    X2,
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
        pasted = layout.pasted
        shares = layout.sizes[pasted.receiving].prod(axis=1).tolist()
        owners = torch.empty(sum(shares), dtype=torch.int16, device=layout.masks[0].device)
        images = np.zeros(len(shares), IMAGE_ROW)
        images["owners"] = _addresses(owners.split(shares))
        images["height"], images["width"] = layout.sizes[pasted.receiving].T
        images["first"], images["end"] = pasted.ranges.T
        addresses = np.concatenate([masks.pixels.data_ptr() + masks.ends[:-1] for masks in layout.masks])
        table = np.zeros(len(pasted.target), PASTED_ROW)
        table["image"], table["level"] = np.searchsorted(pasted.receiving, pasted.target), pasted.level
        table["to_source"], table["window"] = pasted.to_mask, pasted.windows
        table["rotated"] = pasted.to_source[:, [TO_X, TO_Y], [BY_Y, BY_X]].any(axis=1)
        table["pixels"] = addresses[pasted.origin]
        kept_in = layout.mask_windows[pasted.origin]
        table["height"], table["width"] = (kept_in[:, Y2:] - kept_in[:, :Y2]).T
        stacked = KernelStack(layout, settings, self.kernels, addresses, owners, images, table)
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
        warped = [warped_mask(pasted[m], self.layout.masks[pasted.source[m]], erosion) for m in range(len(pasted))]
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
        objects["mask"][m:], objects["mask_width"][m:] = _origins(self.addresses[own], layout.mask_windows[own])
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

    def write_masks(self, kept: KeptObjects) -> dict[int, CompactMasks]:
        """As of :class:`ObjectStack`."""
        layout, joined, measured = self.layout, kept.pasted >= 0, kept.measure >= 0
        images = self.images[np.searchsorted(layout.pasted.receiving, kept.target)]
        written = {}
        for image, (begin, end) in zip(kept.images.tolist(), kept.ends.tolist(), strict=True):
            windows, own = kept.windows[begin:end], layout.masks[image]
            written[image] = CompactMasks.unchecked(
                own.pixels.new_empty(window_areas(windows).sum()), windows, own.size
            )
        table = np.zeros(len(kept.target), MASK_ROW)
        table["written"] = np.concatenate([masks.pixels.data_ptr() + masks.ends[:-1] for masks in written.values()])
        table["kept_in"], table["is_copy"] = kept.windows, ~measured
        table["former"], table["former_width"] = self.addresses[kept.origin], kept.windows[:, X2] - kept.windows[:, X1]
        shrunk = measured & ~joined
        origin = kept.origin[shrunk]
        table["former"][shrunk], table["former_width"][shrunk] = _origins(
            self.addresses[origin], layout.mask_windows[origin]
        )
        table["window"][shrunk] = layout.windows[origin]
        table["former"][joined] = NO_TENSOR
        table["window"][joined] = layout.pasted.windows[kept.pasted[joined]]
        table["window"][:, [Y1, X1]] = np.maximum(table["window"], kept.windows)[:, [Y1, X1]]
        table["window"][:, [Y2, X2]] = np.minimum(table["window"], kept.windows)[:, [Y2, X2]]
        table["owners"], table["owners_width"] = images["owners"], images["width"]
        table["level"] = np.where(joined, layout.pasted.level[kept.pasted], NOBODY)
        self.kernels.write_masks(table)
        return written

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
        objects["to_source"] = pasted.to_source
        objects["height"], objects["width"] = self.layout.sizes[pasted.source].T
        self.kernels.paint(table, objects, images[0].dtype, len(images[0]))
        for image, canvas in zip(received, canvases, strict=True):
            if canvas is not image:
                image.copy_(canvas)
        return painted


def _origins(
    addresses: Int64[ndarray, " n"], windows: Int64[ndarray, "n 4"]
) -> tuple[Int64[ndarray, " n"], Int64[ndarray, " n"]]:
    """Where pixel (0, 0) of the image would be, if the windows that begin at these addresses went on; their widths."""
    widths = windows[:, X2] - windows[:, X1]
    return addresses - windows[:, Y1] * widths - windows[:, X1], widths


def _addresses(tensors: Sequence[Tensor]) -> Int64[ndarray, " n"]:
    """Where the tensors begin."""
    return np.array([tensor.data_ptr() for tensor in tensors], dtype=np.int64)
