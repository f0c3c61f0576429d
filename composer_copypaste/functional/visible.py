"""What is visible of each object after pasting, and how large that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.paste import Cover, CutOut
from composer_copypaste.functional.warp import FRACTION_BITS, Window


@dataclass(frozen=True)
class Visible:
    """What is visible of one object: its mask in a window, and how many pixels that could be."""

    window: Window
    mask: UInt8[Tensor, "hw ww"]
    former: Int32[Tensor, "1"]
    """Pixels before anything hid some of them; those of a pasted object are the source's, before it was resized."""
    scale: float = 1.0
    """By how much resizing multiplied them."""


@dataclass(frozen=True)
class Measure:
    """The read-back of one object, on the host: visible and former area in pixels, and the tight box."""

    area: int
    former: float
    box: tuple[int, int, int, int]
    """(x1, y1, x2, y2); of no meaning where the area is 0."""


def uncovered(mask: UInt8[Tensor, "h w"], window: Window, cover: Cover) -> Visible:
    """What the cover leaves of an object of the image, whose pixels lie in the window."""
    shared = window & cover.window
    visible = mask[window.slices].clone()
    former = _count(visible)
    visible[shared.within(window).slices] &= ~cover.mask[shared.within(cover.window).slices]
    return Visible(window, visible, former)


def pasted(cut: CutOut, visible: UInt8[Tensor, "hw ww"], mask: UInt8[Tensor, "h w"], window: Window) -> Visible:
    """What is visible of a pasted object, whose pixels in its source lie in the mask's window."""
    return Visible(cut.window, visible, _count(mask[window.slices]), _enlargement(cut.to_source))


def measure(objects: Sequence[Visible]) -> list[Measure]:
    """Areas and tight box of every object, with one transfer from the device for all of them."""
    if not objects:
        return []
    profiles = [_profile(visible) for visible in objects]
    ends = np.cumsum([len(profile) for profile in profiles])
    numbers = np.split(read_back(torch.cat(profiles)), ends[:-1])
    return [_measure(visible, profile) for visible, profile in zip(objects, numbers, strict=True)]


def read_back(numbers: Shaped[Tensor, "..."]) -> Shaped[ndarray, "..."]:
    """The numbers on the host: nowhere else does copy-paste wait for the device."""
    return numbers.cpu().numpy()


def _count(mask: UInt8[Tensor, "h w"]) -> Int32[Tensor, "1"]:
    return mask.sum(dtype=torch.int32).view(1)


def _enlargement(to_source: Int64[ndarray, "2 3"]) -> float:
    """By how much a map multiplies areas on the way from the source."""
    return 1 / abs(float(np.linalg.det(to_source[:, :2] / 2.0**FRACTION_BITS)))


def _profile(visible: Visible) -> Int32[Tensor, " k"]:
    """The pixels in each row, whether there are any in each column, and the former number."""
    return torch.cat([visible.mask.sum(dim=1, dtype=torch.int32), visible.mask.amax(dim=0).int(), visible.former])


def _measure(visible: Visible, profile: Int32[ndarray, " k"]) -> Measure:
    window, former = visible.window, float(profile[-1]) * visible.scale
    height = window.shape[0]
    rows, columns = np.flatnonzero(profile[:height]), np.flatnonzero(profile[height:-1])
    if not len(rows):
        return Measure(0, former, (0, 0, 0, 0))
    x1, x2 = window.x1 + int(columns[0]), window.x1 + int(columns[-1]) + 1
    y1, y2 = window.y1 + int(rows[0]), window.y1 + int(rows[-1]) + 1
    return Measure(int(profile[:height].sum()), former, (x1, y1, x2, y2))
