"""What is visible of each object after pasting, and how large that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.paste import CutOut
from composer_copypaste.functional.planes import Plane
from composer_copypaste.functional.warp import PIXEL
from composer_copypaste.functional.windows import Window


@dataclass(frozen=True)
class Visible:
    """What is visible of one object: its mask in a window, and what it had before anything hid some of it."""

    window: Window
    mask: Plane
    former: Plane
    """That of a pasted object is the source's, before it was resized."""
    scale: float = 1.0
    """By how much resizing multiplied its pixels."""


@dataclass(frozen=True)
class Measure:
    """The read-back of one object, on the host."""

    window: Window
    area: int
    """Visible pixels."""
    former: float
    """Pixels that were visible before."""
    rows: Shaped[ndarray, " h"]
    """Of each row of the window, whether any pixel is visible: 0 for none."""
    columns: Shaped[ndarray, " w"]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box (x1, y1, x2, y2) around what is visible; zeros where nothing is."""
        if not self.area:
            return (0, 0, 0, 0)
        y, x = self.rows.nonzero()[0], self.columns.nonzero()[0]
        corner_y, corner_x, *_ = self.window
        return (corner_x + int(x[0]), corner_y + int(y[0]), corner_x + int(x[-1]) + 1, corner_y + int(y[-1]) + 1)


def uncovered(mask: Plane, window: Window, free: Plane) -> Visible:
    """What is left, where ``free`` is 1, of an object of the image, whose pixels lie in the window."""
    former = mask[window.slices]
    return Visible(window, former & free[window.slices], former)


def pasted(cut: CutOut, visible: Plane, mask: Plane, window: Window) -> Visible:
    """What is visible of a pasted object, whose pixels in its source lie in the mask's window."""
    (xx, xy, _), (yx, yy, _) = cut.to_source.tolist()
    return Visible(cut.window, visible, mask[window.slices], scale=PIXEL**2 / abs(xx * yy - xy * yx))


def measure(objects: Sequence[Visible]) -> list[Measure]:
    """Areas and extent of every object, with one transfer from the device for all of them."""
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
    rows, columns = np.bitwise_or.reduce(mask, axis=1), np.bitwise_or.reduce(mask, axis=0)
    former = np.count_nonzero(visible.former) * visible.scale
    return Measure(visible.window, np.count_nonzero(mask), former, rows, columns)


def _profile(visible: Visible) -> Int32[Tensor, " k"]:
    """The same in one row of numbers, on the device."""
    rows = visible.mask.sum(dim=1, dtype=torch.int32)
    former = visible.former.sum(dtype=torch.int32)
    return torch.cat([rows, visible.mask.amax(dim=0).int(), torch.stack([rows.sum(dtype=torch.int32), former])])


def _unpacked(visible: Visible, profile: Int32[ndarray, " k"]) -> Measure:
    rows, columns, (area, former) = np.split(profile, [visible.window.shape[0], -2])
    return Measure(visible.window, int(area), int(former) * visible.scale, rows, columns)
