"""What is visible of each object after pasting, and how large that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int32, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.paste import Cover, CutOut
from composer_copypaste.functional.planes import Plane
from composer_copypaste.functional.warp import FRACTION_BITS
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
    """The read-back of one object, on the host: visible and former area in pixels, and the tight box."""

    area: int
    former: float
    box: tuple[int, int, int, int]
    """(x1, y1, x2, y2); of no meaning where the area is 0."""


def uncovered(mask: Plane, window: Window, cover: Cover) -> Visible:
    """What the cover leaves of an object of the image, whose pixels lie in the window."""
    former = mask[window.slices]
    return Visible(window, former & cover.free[window.slices], former)


def pasted(cut: CutOut, visible: Plane, mask: Plane, window: Window) -> Visible:
    """What is visible of a pasted object, whose pixels in its source lie in the mask's window."""
    (xx, xy, _), (yx, yy, _) = (cut.to_source / 2.0**FRACTION_BITS).tolist()
    return Visible(cut.window, visible, mask[window.slices], scale=1 / abs(xx * yy - xy * yx))


def measure(objects: Sequence[Visible]) -> list[Measure]:
    """Areas and tight box of every object, with one transfer from the device for all of them."""
    on_device = [object_ for object_ in objects if isinstance(object_.mask, Tensor)]
    if not on_device:
        return [_measure(visible, *_profile(visible)) for visible in objects]
    profiles = [_profile_there(visible) for visible in on_device]
    ends = np.cumsum([len(profile) for profile in profiles])
    numbers = np.split(read_back(torch.cat(profiles)), ends[:-1])
    return [_measure_there(visible, profile) for visible, profile in zip(on_device, numbers, strict=True)]


def read_back(numbers: Shaped[Tensor, "..."]) -> Shaped[ndarray, "..."]:
    """The numbers on the host: nowhere else does copy-paste wait for the device."""
    return numbers.cpu().numpy()


def _profile(visible: Visible) -> tuple[ndarray, ndarray, int, int]:
    """Which rows and which columns have pixels, how many there are, and how many there were."""
    mask: ndarray = np.asarray(visible.mask).view(np.bool_)
    former = np.asarray(visible.former)
    rows, columns = np.logical_or.reduce(mask, axis=1), np.logical_or.reduce(mask, axis=0)
    return rows, columns, np.count_nonzero(mask), np.count_nonzero(former)


def _profile_there(visible: Visible) -> Int32[Tensor, " k"]:
    """The same in one row of numbers, on the device."""
    rows = visible.mask.sum(dim=1, dtype=torch.int32)
    former = visible.former.sum(dtype=torch.int32)
    return torch.cat([rows, visible.mask.amax(dim=0).int(), torch.stack([rows.sum(dtype=torch.int32), former])])


def _measure_there(visible: Visible, profile: Int32[ndarray, " k"]) -> Measure:
    rows, columns, (area, former) = np.split(profile, [visible.window.shape[0], -2])
    return _measure(visible, rows, columns, int(area), int(former))


def _measure(visible: Visible, rows: ndarray, columns: ndarray, area: int, former: int) -> Measure:
    window, before = visible.window, float(former) * visible.scale
    if not area:
        return Measure(0, before, (0, 0, 0, 0))
    (y1, y2), (x1, x2) = _extent(rows), _extent(columns)
    return Measure(area, before, (window.x1 + x1, window.y1 + y1, window.x1 + x2, window.y1 + y2))


def _extent(occupied: ndarray) -> tuple[int, int]:
    """The first place that is not 0, and one past the last."""
    places = occupied.astype(bool)
    return int(places.argmax()), len(places) - int(places[::-1].argmax())
