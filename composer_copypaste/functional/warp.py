"""Affine resampling of the window that an object covers, of its mask and of its colours.

A mask pixel is the source pixel that contains the mapped centre of the target pixel. A colour is a mean of the source
pixels around that point under a tent of radius 1 pixel or, where the map shrinks, of one target pixel: that is torch's
antialiased bilinear interpolation, at any phase and angle. Positions are fixed-point numbers, the same on every device.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.planes import Plane, like, on_device, take

FRACTION_BITS = 32
"""A pixel is 2**32 steps wide: 8,192 px at a tenth of the size stay within 2**51, exact in float64 as well."""


def size_of(image: Shaped[Tensor, "*_ h w"]) -> tuple[int, int]:
    """Height and width."""
    height, width = image.shape[-2:]
    return height, width


@dataclass(frozen=True)
class Window:
    """The rows y1 to y2 and the columns x1 to x2 of an image, ends excluded."""

    y1: int
    x1: int
    y2: int
    x2: int

    @property
    def is_empty(self) -> bool:
        """Whether it holds no pixel."""
        return self.y1 >= self.y2 or self.x1 >= self.x2

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y2 - self.y1, self.x2 - self.x1

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index the last two axes of an image with."""
        return slice(self.y1, self.y2), slice(self.x1, self.x2)

    def __and__(self, other: "Window") -> "Window":
        return Window(max(self.y1, other.y1), max(self.x1, other.x1), min(self.y2, other.y2), min(self.x2, other.x2))

    def __or__(self, other: "Window") -> "Window":
        """The smallest window that holds both."""
        return Window(min(self.y1, other.y1), min(self.x1, other.x1), max(self.y2, other.y2), max(self.x2, other.x2))

    def within(self, other: "Window") -> "Window":
        """The same pixels, counted from the corner of ``other``."""
        return Window(self.y1 - other.y1, self.x1 - other.x1, self.y2 - other.y1, self.x2 - other.x1)

    def grown(self, pixels: int, size: tuple[int, int]) -> "Window":
        """With so many more pixels on each side, where an image of that size (height, width) has them."""
        return Window(self.y1 - pixels, self.x1 - pixels, self.y2 + pixels, self.x2 + pixels) & Window(0, 0, *size)


def box_windows(boxes: Float[ndarray, "n 4"], size: tuple[int, int]) -> list[Window]:
    """The pixels that boxes (x1, y1, x2, y2) touch, in an image of that size (height, width)."""
    low, high = np.floor(boxes[:, :2]).astype(int).tolist(), np.ceil(boxes[:, 2:]).astype(int).tolist()
    return [Window(y1, x1, y2, x2) & Window(0, 0, *size) for (x1, y1), (x2, y2) in zip(low, high, strict=True)]


def fixed_point(to_source: Float[Tensor, "m 2 3"]) -> Int64[ndarray, "m 2 3"]:
    """The maps in steps of 2**-32 pixels."""
    return np.rint(to_source.numpy() * 2.0**FRACTION_BITS).astype(np.int64)


def resample_mask(mask: Plane, to_source: Int64[ndarray, "2 3"], window: Window) -> tuple[Window, Plane]:
    """The mask as the target sees it, and the part of the window for which the source has pixels."""
    height, width = mask.shape
    if is_rotated(to_source):
        y, x = (_half_steps_2d(row, window) >> (FRACTION_BITS + 1) for row in to_source[::-1])
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = np.where(inside, y * width + x, 0)
        return window, take(mask.reshape(-1), pixel.reshape(-1), 0).reshape(window.shape) * like(mask, inside)
    rows, y1, y2 = _nearest(to_source[1, [1, 2]], window.y1, window.y2, height)
    columns, x1, x2 = _nearest(to_source[0, [0, 2]], window.x1, window.x2, width)
    return Window(y1, x1, y2, x2), take(take(mask, rows, 0), columns, 1)


def resample_colours(
    image: Shaped[Tensor, "c h w"], to_source: Int64[ndarray, "2 3"], window: Window
) -> Shaped[Tensor, "c hw ww"]:
    """The image as the target sees it through the window; beyond the source's edge, its edge goes on.

    Pixels that are moved by whole pixels, or flipped, keep their type; resampled ones come as float32.
    """
    if is_rotated(to_source):
        return _blend_2d(image, to_source, window)
    for axis, (start, stop) in ((1, (window.y1, window.y2)), (0, (window.x1, window.x2))):
        dim = 2 - axis
        steps = to_source[axis, [axis, 2]]
        if _moves_by_whole_pixels(steps):
            size = image.shape[dim]
            image = take(image, np.clip(_half_steps(steps, start, stop) >> (FRACTION_BITS + 1), 0, size - 1), dim)
        else:
            image = _blend_axis(image, steps, start, stop, dim)
    return image


def is_rotated(to_source: Int64[ndarray, "2 3"]) -> bool:
    """Whether rows of the target are anything but rows of the source."""
    return bool(to_source[0, 1] or to_source[1, 0])


def _half_steps(steps: Int64[ndarray, "2"], start: int, stop: int) -> Int64[ndarray, " n"]:
    """Where the centres of target pixels lie on an axis of the source, in half steps."""
    return steps[0] * (2 * np.arange(start, stop) + 1) + 2 * steps[1]


def _moves_by_whole_pixels(steps: Int64[ndarray, "2"]) -> bool:
    return abs(int(steps[0])) == 1 << FRACTION_BITS and int(steps[1]) % (1 << FRACTION_BITS) == 0


def _nearest(steps: Int64[ndarray, "2"], start: int, stop: int, size: int) -> tuple[Int64[ndarray, " n"], int, int]:
    """The source pixel of each target pixel in start..stop, and the part of start..stop for which there is one."""
    index = _half_steps(steps, start, stop) >> (FRACTION_BITS + 1)
    inside = np.flatnonzero((index >= 0) & (index < size))
    if not len(inside):
        return index[:0], start, start
    first, last = int(inside[0]), int(inside[-1]) + 1
    return index[first:last], start + first, start + last


def _blend_axis(
    image: Shaped[Tensor, "c h w"], steps: Int64[ndarray, "2"], start: int, stop: int, dim: int
) -> Float[Tensor, "c h2 w2"]:
    """One axis resampled: a weighted sum of a few shifted copies."""
    index, weight = _taps(steps, start, stop, image.shape[dim])
    weights = on_device(weight.astype(np.float32), image.device)
    shape = (-1, 1) if dim == 1 else (-1,)
    blended = take(image, index[0], dim) * weights[0].view(shape)
    for tap in range(1, len(index)):
        blended = torch.addcmul(blended, take(image, index[tap], dim).float(), weights[tap].view(shape))
    return blended


def _taps(
    steps: Int64[ndarray, "2"], start: int, stop: int, size: int
) -> tuple[Int64[ndarray, "t n"], Float[ndarray, "t n"]]:
    """The source pixels under each target pixel's tent, and their weights."""
    centre = np.clip(_half_steps(steps, start, stop) / 2.0 ** (FRACTION_BITS + 1), 0, size) - 0.5
    radius = max(1.0, abs(float(steps[0])) / 2.0**FRACTION_BITS)
    index = np.floor(centre - radius).astype(np.int64) + 1 + np.arange(math.ceil(2 * radius))[:, None]
    weight = np.clip(1 - np.abs(index - centre) / radius, 0, None) * ((index >= 0) & (index < size))
    return np.clip(index, 0, size - 1), weight / weight.sum(axis=0)


def _half_steps_2d(row: Int64[ndarray, "3"], window: Window) -> Int64[ndarray, "hw ww"]:
    """As ``_half_steps``, of one source coordinate, for every pixel of the window."""
    y = 2 * np.arange(window.y1, window.y2)[:, None] + 1
    x = 2 * np.arange(window.x1, window.x2) + 1
    return row[0] * x + row[1] * y + 2 * row[2]


def _blend_2d(
    image: Shaped[Tensor, "c h w"], to_source: Int64[ndarray, "2 3"], window: Window
) -> Float[Tensor, "c hw ww"]:
    """The window resampled under rotation: the same tent, gathered pixel by pixel."""
    (x_index, x_weight), (y_index, y_weight) = (
        _taps_2d(row, window, size, image.device) for row, size in zip(to_source, image.shape[:0:-1], strict=True)
    )
    blended = torch.zeros((), device=image.device)
    for y, wy in zip(y_index, y_weight, strict=True):
        for x, wx in zip(x_index, x_weight, strict=True):
            blended = blended + image[:, y, x].float() * (wy * wx)
    return blended


def _taps_2d(
    row: Int64[ndarray, "3"], window: Window, size: int, device: torch.device
) -> tuple[Int[Tensor, "t hw ww"], Float[Tensor, "t hw ww"]]:
    """As ``_taps``, along one axis of the source, for every pixel of the window."""
    steps = on_device(_half_steps_2d(row, window), device)
    centre = (steps.double() / 2.0 ** (FRACTION_BITS + 1)).clamp(0, size) - 0.5
    radius = max(1.0, math.hypot(*row[:2].tolist()) / 2.0**FRACTION_BITS)
    tap = torch.arange(math.ceil(2 * radius), device=device)[:, None, None]
    index = (centre - radius).floor().long() + 1 + tap
    weight = (1 - (index - centre).abs() / radius).clamp(min=0) * ((index >= 0) & (index < size))
    return index.clamp(0, size - 1), (weight / weight.sum(dim=0)).float()
