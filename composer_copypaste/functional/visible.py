"""What is visible of each object after pasting, and how large that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.planes import Plane
from composer_copypaste.functional.windows import Window

NOWHERE = (0, 0, 0, 0)


@dataclass(frozen=True)
class Visible:
    """What is visible of one object: its mask in a window, and what it had before anything hid some of it."""

    window: Window
    mask: Plane
    former: Plane
    """That of a pasted object is the source's, before it was resized."""
    is_own: bool = False
    """Whether it is one of the image's own objects."""


@dataclass(frozen=True)
class Measure:
    """The read-back of one object, on the host."""

    area: int
    """Pixels that are visible."""
    former: int
    """Pixels that were, before anything was pasted; of a pasted object, in its source."""
    box: tuple[int, int, int, int]
    """The tight box (x1, y1, x2, y2) around what is visible; of no meaning where that is nothing or all there was."""


def uncovered(mask: Plane, window: Window, free: Plane) -> Visible:
    """What is left, where ``free`` is 1, of an object of the image, whose pixels lie in the window."""
    former = mask[window.slices]
    return Visible(window, former & free[window.slices], former, is_own=True)


def measure(objects: Sequence[Visible]) -> list[Measure]:
    """Areas and box of every object, with one transfer from the device for all of them."""
    if not any(isinstance(visible.mask, Tensor) for visible in objects):
        return [_measure(visible) for visible in objects]
    profiles = [_profile(visible) for visible in objects]
    ends = np.cumsum([len(profile) for profile in profiles])
    numbers = np.split(read_back(torch.cat(profiles)), ends[:-1])
    return [_unpacked(visible, profile) for visible, profile in zip(objects, numbers, strict=True)]


def read_back(numbers: Shaped[Tensor, "..."]) -> Shaped[ndarray, "..."]:
    """The numbers on the host: nowhere else does copy-paste wait for the device."""
    return numbers.cpu().numpy()


def _measure(visible: Visible) -> Measure:
    mask: ndarray = visible.mask  # type: ignore[assignment]
    area, former = np.count_nonzero(mask), np.count_nonzero(visible.former)
    box = (
        _box(visible.window, np.bitwise_or.reduce(mask, axis=1), np.bitwise_or.reduce(mask, axis=0))
        if area
        else NOWHERE
    )
    return Measure(area, former, box)


def _profile(visible: Visible) -> Int32[Tensor, " k"]:
    """What a measure is made of, in one row of numbers on the device."""
    rows = visible.mask.sum(dim=1, dtype=torch.int32)
    former = visible.former.sum(dtype=torch.int32)
    return torch.cat([rows, visible.mask.amax(dim=0).int(), torch.stack([rows.sum(dtype=torch.int32), former])])


def _unpacked(visible: Visible, profile: Int32[ndarray, " k"]) -> Measure:
    rows, columns, (area, former) = np.split(profile, [visible.window.shape[0], -2])
    return Measure(int(area), int(former), _box(visible.window, rows, columns) if area else NOWHERE)


def _box(window: Window, rows: Shaped[ndarray, " h"], columns: Shaped[ndarray, " w"]) -> tuple[int, int, int, int]:
    """The box around the rows and columns of the window that are not 0."""
    y, x = rows.nonzero()[0], columns.nonzero()[0]
    return window.x1 + int(x[0]), window.y1 + int(y[0]), window.x1 + int(x[-1]) + 1, window.y1 + int(y[-1]) + 1
