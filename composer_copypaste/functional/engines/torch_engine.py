"""Carrying out a layout in torch, object after object, in the windows they cover: on any device, for all settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int16, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.blend import painted_by_windows, stack, warped_mask
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.resample import resampled_area, size_of
from composer_copypaste.functional.tensors import Images, on_device, read_back
from composer_copypaste.functional.visibility import KeptObjects, Measures, profiles
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class Visible:
    """What is visible of one object: its mask in a window of the image."""

    window: Window
    mask: UInt8[Tensor, "h w"]


class TorchEngine:
    """Each object is cut out, stacked and painted in the window it covers."""

    def __init__(self, layout: Layout, settings: CopyPasteSettings) -> None:
        self._layout, self._settings = layout, settings
        landings = [layout.landings[m] for m in range(len(layout.landings))]
        self._cuts = [warped_mask(landing, layout.masks[landing.source], settings.erosion) for landing in landings]
        self._visible: list[Visible] = []
        free = {}
        for target, begin, end in self._images():
            seen, free[target] = stack(self._cuts[begin:end], layout.masks[target])
            self._visible += [Visible(cut.window, mask) for cut, mask in zip(self._cuts[begin:end], seen, strict=True)]
        for number in layout.overlapped.tolist():
            window, former = self._former(number)
            self._visible.append(Visible(window, former & free[int(layout.source[number])][window.slices]))

    def measures(self, pixels: Int64[Tensor, " p"] | None) -> tuple[Measures, Int64[ndarray, " p"]]:
        """As of :class:`Engine`."""
        own = [self._former(number)[1].sum() for number in self._layout.overlapped.tolist()]
        counts = torch.stack([*self._uncovered_areas(), *own])
        found = torch.cat([profiles(visible.mask[None]) for visible in self._visible])
        corners = [(visible.window.x1, visible.window.y1) * 2 for visible in self._visible]
        found = torch.cat([counts[:, None], found], dim=1).flatten()
        if pixels is not None:  # in the one transfer
            found = torch.cat([found, self._owners()[on_device(pixels, found.device)]])
        numbers, rows = read_back(found), len(self._visible)
        measured = numbers[: 6 * rows].reshape(-1, 6)
        return (
            Measures(area=measured[:, 1], former=measured[:, 0], boxes=measured[:, 2:] + corners),
            numbers[6 * rows :],
        )

    def masks(self, outcome: KeptObjects) -> dict[int, UInt8[Tensor, "_k _h _w"]]:
        """As of :class:`Engine`."""
        return {target: self._masks(target, outcome, rows) for target, rows in outcome.rows().items()}

    def class_ids(self, before: Integer[Tensor, "n h w"], labels: Integer[Tensor, " g"]) -> Integer[Tensor, "n h w"]:
        """As of :class:`Engine`."""
        painted = before.to(labels.dtype, copy=True)
        for target, begin, end in self._images():
            for cut, number in zip(self._cuts[begin:end], self._layout.landed[begin:end].tolist(), strict=True):
                below = painted[target][cut.window.slices]
                below.copy_(torch.where(cut.mask.view(torch.bool), labels[number], below))
        return painted

    def images(self, images: Images, further: Sequence[Shaped[Tensor, "c _h _w"]]) -> Images:
        """As of :class:`Engine`."""
        return painted_by_windows(
            images, [*images, *further], self._layout.landings, self._cuts, self._settings.blend_sigma
        )

    def _owners(self) -> Int16[Tensor, " p"]:
        """Which landing lies on top of each pixel of the images that receive any, -1 where none does."""
        planes = []
        for target, begin, end in self._images():
            owners = self._layout.masks[target].new_full(size_of(self._layout.masks[target]), -1, dtype=torch.int16)
            for place, cut in enumerate(self._cuts[begin:end]):
                owners[cut.window.slices].masked_fill_(cut.mask.view(torch.bool), place)
            planes.append(owners.flatten())
        return torch.cat(planes)

    def _uncovered_areas(self) -> list[Int64[Tensor, ""]]:
        """Of each landing the pixels that it has before anything covers it, if ``min_visibility`` asks, else 0."""
        landings = self._layout.landings
        if not self._settings.min_visibility:
            return [self._cuts[0].mask.new_zeros((), dtype=torch.int64)] * len(landings)
        places = zip(landings.source.tolist(), landings.instance.tolist(), strict=True)
        masks = [self._layout.masks[source][instance] for source, instance in places]
        windows = [Window(*window) for window in landings.unbounded_windows.tolist()]
        return list(map(resampled_area, masks, landings.to_source, windows))

    def _images(self) -> Iterator[tuple[int, int, int]]:
        """The images that receive anything, each with its first landing, and one past its last."""
        landings = self._layout.landings
        return zip(landings.targets.tolist(), *landings.ends.T.tolist(), strict=True)

    def _former(self, number: int) -> tuple[Window, UInt8[Tensor, "h w"]]:
        """The window and the mask that an object has in its source."""
        layout = self._layout
        window = Window(*layout.windows[number].tolist())
        return window, layout.masks[layout.source[number]][layout.instance[number]][window.slices].clamp(max=1)

    def _masks(self, target: int, outcome: KeptObjects, rows: slice) -> UInt8[Tensor, "k h w"]:
        own = self._layout.masks[target]
        masks = own.new_zeros((rows.stop - rows.start, *own.shape[1:]))
        same = outcome.measure[rows] < 0
        numbers = self._layout.instance[outcome.origin[rows][same]]
        to, from_ = (on_device(index, own.device) for index in (np.flatnonzero(same), numbers))
        masks.index_copy_(0, to, own.index_select(0, from_).clamp_(max=1))
        for mask, number in zip(masks, outcome.measure[rows].tolist(), strict=True):
            if number >= 0:
                visible = self._visible[number]
                mask[visible.window.slices] = visible.mask
        return masks
