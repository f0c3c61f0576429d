"""The engine that takes steps in torch for each object, in the window it covers: on any device, for all settings."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, window_areas
from composer_copypaste.functional.blend import WarpedMask, paint_objects, stack_masks, warped_mask
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.resample import resampled_area
from composer_copypaste.functional.tensors import Images, areas_and_boxes, on_device, read_back
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings


class TorchEngine:
    """An :class:`Engine` that needs nothing but torch."""

    def stack(self, layout: Layout, settings: CopyPasteSettings) -> "TorchStack":
        """As of :class:`Engine`."""
        objects = layout.pasted.one_by_one()
        warped = [warped_mask(each, layout.masks[each.source], settings.erosion) for each in objects]
        visible, free = [], {}
        for target, (begin, end) in zip(layout.pasted.receiving.tolist(), layout.pasted.ranges.tolist(), strict=True):
            masks, free[target] = stack_masks(warped[begin:end], layout.masks[target])
            visible += [(each.window, mask) for each, mask in zip(warped[begin:end], masks, strict=True)]
        for number in layout.overlapped.tolist():
            window, mask = _own_mask(layout, number)
            visible.append((window, mask & free[int(layout.objects.source[number])][window.slices]))
        return TorchStack(layout, settings, warped, visible)


@dataclass(frozen=True)
class TorchStack:
    """The :class:`ObjectStack` of this engine: masks of 0 and 1, each in a window of its image."""

    layout: Layout
    settings: CopyPasteSettings
    warped: Sequence[WarpedMask]
    """The whole mask of each pasted object."""
    visible: Sequence[tuple[Window, UInt8[Tensor, "_h _w"]]]
    """What is visible of each pasted object, then of each overlapped one."""

    def measure(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """As of :class:`ObjectStack`."""
        own = [_own_mask(self.layout, number)[1].sum() for number in self.layout.overlapped.tolist()]
        former = torch.stack([*self._uncovered_areas(), *own])
        found = torch.cat([areas_and_boxes(mask[None]) for _, mask in self.visible])
        found = torch.cat([former[:, None], found], dim=1).flatten()
        if pixels is not None:  # in the same transfer
            found = torch.cat([found, self._owners()[on_device(pixels, found.device)]])
        numbers, n = read_back(found), len(self.visible)
        former, area, *boxes = np.ascontiguousarray(numbers[: 6 * n].reshape(-1, 6).T, np.int64)
        corners = [(window.x1, window.y1) * 2 for window, _ in self.visible]
        return Measures(area, former, np.stack(boxes, axis=1) + corners), numbers[6 * n :]

    def _uncovered_areas(self) -> list[Int64[Tensor, ""]]:
        """The area of each pasted object before anything covers it, if ``min_visibility`` needs it, else 0."""
        pasted = self.layout.pasted
        if not self.settings.min_visibility:
            return [self.warped[0].mask.new_zeros((), dtype=torch.int64)] * len(pasted.target)
        places = zip(pasted.source.tolist(), pasted.instance.tolist(), strict=True)
        masks = [self.layout.masks[source].crop(instance) for source, instance in places]
        windows = [Window(*window) for window in pasted.unbounded_windows.tolist()]
        return list(map(resampled_area, masks, pasted.to_mask, windows))

    def _owners(self) -> Int16[Tensor, " p"]:
        """The owner of each pixel of the images that receive any object."""
        planes, pasted = [], self.layout.pasted
        for target, (begin, end) in zip(pasted.receiving.tolist(), pasted.ranges.tolist(), strict=True):
            masks = self.layout.masks[target]
            owners = masks.pixels.new_full(masks.size, -1, dtype=torch.int16)
            for level, each in enumerate(self.warped[begin:end]):
                owners[each.window.slices].masked_fill_(each.mask.view(torch.bool), level)
            planes.append(owners.flatten())
        return torch.cat(planes)

    def write_masks(self, kept: KeptObjects) -> dict[int, CompactMasks]:
        """As of :class:`ObjectStack`."""
        written = {}
        for target, ends in zip(kept.images.tolist(), kept.ends.tolist(), strict=True):
            rows, own = slice(*ends), self.layout.masks[target]
            windows = kept.windows[rows]
            masks = CompactMasks(own.pixels.new_zeros(window_areas(windows).sum()), windows, own.size)
            objects = zip(kept.measure[rows].tolist(), kept.instance[rows].tolist(), strict=True)
            for place, (number, instance) in enumerate(objects):
                if number < 0:
                    masks.crop(place).copy_(own.crop(instance).clamp(max=1))
                else:
                    window, visible = self.visible[number]
                    mask, kept_in = masks.crop(place), Window(*windows[place].tolist())
                    shared = window & kept_in
                    mask[shared.within(kept_in).slices] = visible[shared.within(window).slices]
            written[target] = masks
        return written

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`ObjectStack`."""
        painted, pasted = before.to(labels.dtype, copy=True), self.layout.pasted
        for target, origin, each in zip(pasted.target.tolist(), pasted.origin.tolist(), self.warped, strict=True):
            below = painted[target][each.window.slices]
            below.copy_(torch.where(each.mask.view(torch.bool), labels[origin], below))
        return painted

    def paint(self, images: Images, extra_sources: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`ObjectStack`."""
        sources = [*images, *extra_sources]
        return paint_objects(images, sources, self.layout, self.warped, self.settings)


def _own_mask(layout: Layout, number: int) -> tuple[Window, UInt8[Tensor, "h w"]]:
    """The window and the mask that an object has in its own source."""
    window = Window(*layout.objects.windows[number].tolist())
    crop = layout.masks[layout.objects.source[number]].crop(int(layout.objects.instance[number]))
    return window, crop[window.within(Window(*layout.objects.mask_windows[number].tolist())).slices].clamp(max=1)
