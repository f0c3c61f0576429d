"""Affine resampling of masks and colors in a window of the target.

A mask takes the source pixel that contains the mapped centre of the target pixel. Colors are weighted means of the
source pixels around that point. The weights are a tent with a radius of 1 source pixel or, where the map shrinks, of 1
target pixel: torch's antialiased bilinear interpolation, at any offset and angle. Positions are fixed-point numbers,
the same on every device.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.tensors import Index, on_device, take
from composer_copypaste.functional.windows import Window

FRACTION_BITS = 32
"""A pixel is 2**32 steps wide. Then 8,192 pixels at a tenth of the size stay within 2**51, exact in float64 as well."""
PIXEL = 1 << FRACTION_BITS
STRIP = 1 << 22
"""Number of pixels of a large window that are counted at once."""


def size_of(image: Shaped[Tensor, "*_ h w"] | Shaped[ndarray, "*_ h w"]) -> tuple[int, int]:
    """Height and width."""
    height, width = image.shape[-2:]
    return height, width


def resample_planes(
    planes: Shaped[Tensor, "n h w"], to_source: Int64[ndarray, "2 3"], size: tuple[int, int]
) -> Shaped[Tensor, "n h2 w2"]:
    """All planes of a source as a target of that size shows them, by a map without rotation.

    Every pixel of the target must show a pixel of the source.
    """
    y_axis, x_axis = _axes(to_source)
    rows, *_ = _nearest(y_axis, 0, size[0], planes.shape[1])
    columns, *_ = _nearest(x_axis, 0, size[1], planes.shape[2])
    return take(take(planes, rows, 1), columns, 2)


def resample_mask(
    mask: UInt8[Tensor, "h w"], to_source: Int64[ndarray, "2 3"], window: Window
) -> tuple[Window, UInt8[Tensor, "_h _w"]]:
    """The mask as the target shows it, in the part of the window where the source has pixels."""
    height, width = mask.shape
    if not (height and width):
        return Window(window.y1, window.x1, window.y1, window.x1), mask.new_zeros((0, 0))
    if is_rotated(to_source):
        y, x = (_half_steps(row, window) >> (FRACTION_BITS + 1) for row in to_source[::-1])
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        pixel = np.where(inside, y * width + x, 0)
        found = take(mask.reshape(-1), pixel.reshape(-1), 0).reshape(window.shape)
        return window, found * on_device(inside.view(np.uint8), mask.device)
    y_axis, x_axis = _axes(to_source)
    rows, y1, y2 = _nearest(y_axis, window.y1, window.y2, height)
    columns, x1, x2 = _nearest(x_axis, window.x1, window.x2, width)
    return Window(y1, x1, y2, x2), take(take(mask, rows, 0), columns, 1)


def resampled_area(mask: UInt8[Tensor, "h w"], to_source: Int64[ndarray, "2 3"], window: Window) -> Int64[Tensor, ""]:
    """The number of pixels that the mask has in a window of the target, which may be of any size."""
    step = max(1, STRIP // window.shape[1])
    strips = [Window(y, window.x1, min(y + step, window.y2), window.x2) for y in range(window.y1, window.y2, step)]
    counts = [(resample_mask(mask, to_source, strip)[1] != 0).sum() for strip in strips]
    return torch.stack(counts).sum()


def resample_colors(
    image: Shaped[Tensor, "c h w"], to_source: Int64[ndarray, "2 3"], window: Window, canvas: tuple[int, int]
) -> Shaped[Tensor, "c _h _w"]:
    """The image as a target of size ``canvas`` shows it in the window; beyond the image, the pixels at its edge repeat.

    Colors that are moved by whole pixels, or flipped, keep their type; resampled ones come as float32 or float64.
    """
    if is_rotated(to_source):
        return _resample_rotated(image, to_source, window)
    y_axis, x_axis = _axes(to_source)
    height, width = image.shape[1:]
    if y_axis.moves_by_whole_pixels and x_axis.moves_by_whole_pixels:
        there = take(image, _edge_to_edge(y_axis, window.y1, window.y2, height), 1)
        return take(there, _edge_to_edge(x_axis, window.x1, window.x2, width), 2)
    rows = _tents(y_axis, canvas[0], height).part(window.y1, window.y2)
    columns = _tents(x_axis, canvas[1], width).part(window.x1, window.x2)
    source = image[:, rows.reach, columns.reach].to(torch.promote_types(image.dtype, torch.float32))
    if abs(y_axis.slope) > PIXEL:  # first the axis that leaves less to do for the other
        return _resample_axis(_resample_axis(source, rows, 1), columns, 2)
    return _resample_axis(_resample_axis(source, columns, 2), rows, 1)


def is_rotated(to_source: Int64[ndarray, "2 3"]) -> bool:
    """Whether rows of the target are anything but rows of the source."""
    return bool(to_source[0, 1] or to_source[1, 0])


class _Axis(NamedTuple):
    """One axis of a map without rotation: slope and offset of the source's coordinate, in steps of 2**-32 pixels."""

    slope: int
    offset: int

    @property
    def moves_by_whole_pixels(self) -> bool:
        return abs(self.slope) == PIXEL and self.offset % PIXEL == 0

    @property
    def origin(self) -> int:
        """The source pixel that contains the centre of the first target pixel."""
        return (self.slope + 2 * self.offset) // (2 * PIXEL)

    def within(self, size: int) -> tuple[int, int]:
        """The first target pixel whose centre lies in a source of that size, and the last plus 1."""
        # the centre of pixel t is at slope * (2t + 1) + 2 * offset half steps: from 0 to below the source's end
        ends = (-2 * self.offset, 2 * (size * PIXEL - self.offset) - 1)
        low, high = ends if self.slope > 0 else (-ends[1], -ends[0])
        slope = abs(self.slope)
        return -((slope - low) // (2 * slope)), (high - slope) // (2 * slope) + 1

    def half_steps(self, start: int, stop: int) -> Int64[ndarray, " n"]:
        """Where the centres of target pixels lie, in half steps."""
        return self.slope * np.arange(2 * start + 1, 2 * stop, 2) + 2 * self.offset


def _axes(to_source: Int64[ndarray, "2 3"]) -> tuple[_Axis, _Axis]:
    """The axes y and x of a map without rotation."""
    (xx, _, x), (_, yy, y) = to_source.tolist()
    return _Axis(yy, y), _Axis(xx, x)


def _nearest(axis: _Axis, start: int, stop: int, size: int) -> tuple[Index, int, int]:
    """The source pixel of each target pixel from start to stop, and the part of these that have one."""
    if axis.moves_by_whole_pixels:
        return _moved(axis, start, stop, size)
    first, last = axis.within(size)
    first, last = max(start, first), min(stop, last)
    if first >= last:
        return slice(0, 0), start, start
    return axis.half_steps(first, last) >> (FRACTION_BITS + 1), first, last


def _moved(axis: _Axis, start: int, stop: int, size: int) -> tuple[slice, int, int]:
    """As ``_nearest``, for a map that moves by whole pixels and flips: the source pixels are a slice."""
    origin = axis.origin
    if axis.slope > 0:
        first, last = max(start, -origin), min(stop, size - origin)
        return slice(origin + first, max(origin + last, 0)), first, max(first, last)
    first, last = max(start, origin - size + 1), min(stop, origin + 1)
    if last <= first:
        return slice(0, 0), first, first
    return slice(origin - first, origin - last if last <= origin else None, -1), first, last


def _edge_to_edge(axis: _Axis, start: int, stop: int, size: int) -> Index:
    """As ``_moved``, but target pixels beyond the source get the pixel at its edge."""
    index, first, last = _moved(axis, start, stop, size)
    if (first, last) == (start, stop):
        return index
    return np.clip(axis.half_steps(start, stop) >> (FRACTION_BITS + 1), 0, size - 1)


class _Tents(NamedTuple):
    """The source pixels under the tent of each target pixel, and their weights."""

    reach: slice
    """The source pixels under any of the tents; ``pixels`` are counted from its start."""
    pixels: Int64[ndarray, "t n"]
    weights: Float32[ndarray, "t n"]

    def part(self, start: int, stop: int) -> "_Tents":
        """The tents of the target pixels from start to stop."""
        pixels = self.pixels[:, start:stop]
        ends = pixels[0, [0, -1]].tolist() + pixels[-1, [0, -1]].tolist()
        low = min(ends)
        return _Tents(slice(low, max(ends) + 1), pixels - low, self.weights[:, start:stop])


@lru_cache(maxsize=4)  # the objects of one source, resampled one after the other, often share their map
def _tents(axis: _Axis, side: int, size: int) -> _Tents:
    """The tents of all target pixels along a side of that length, in a source of that size."""
    centre = np.clip(axis.half_steps(0, side) / (2.0 * PIXEL), 0, size) - 0.5
    radius = max(1.0, abs(axis.slope) / PIXEL)
    first = np.floor(centre - radius).astype(np.int64) + 1
    taps = np.arange(math.ceil(2 * radius))[:, None]
    distance = np.abs((first - centre).astype(np.float32) + taps.astype(np.float32))
    pixels, weights = first + taps, np.maximum(1 - distance / np.float32(radius), 0)
    if first.min() < 0 or first.max() + len(taps) > size:
        weights *= (pixels >= 0) & (pixels < size)
        pixels = np.clip(pixels, 0, size - 1)
    return _Tents(slice(0, size), pixels, weights / weights.sum(axis=0))


def _resample_axis(image: Float[Tensor, "c h w"], tents: _Tents, dim: int) -> Float[Tensor, "c _h _w"]:
    """The image resampled along one axis, as a weighted sum of shifted images."""
    weights = on_device(tents.weights if dim == 2 else tents.weights[:, :, None], image.device)
    return _summed_one_by_one(image, tents, weights, dim) if image.is_cpu else _summed(image, tents, weights, dim)


def _summed(
    image: Float[Tensor, "c h w"], tents: _Tents, weights: Float[Tensor, "..."], dim: int
) -> Float[Tensor, "c _h _w"]:
    """The weighted sum in a few large steps: for a GPU, a large step takes the host no longer than a small one."""
    shifted = take(image, tents.pixels.reshape(-1), dim).unflatten(dim, tents.pixels.shape)
    return (shifted * weights).sum(dim)


def _summed_one_by_one(
    image: Float[Tensor, "c h w"], tents: _Tents, weights: Float[Tensor, "..."], dim: int
) -> Float[Tensor, "c _h _w"]:
    """The weighted sum in many small steps, whose numbers stay in the caches of a CPU."""
    blended = take(image, tents.pixels[0], dim) * weights[0]
    for pixels, weight in zip(tents.pixels[1:], weights[1:], strict=True):
        shifted = take(image, pixels, dim)
        shifted *= weight
        blended += shifted
    return blended


def _half_steps(row: Int64[ndarray, "3"], window: Window) -> Int64[ndarray, "hw ww"]:
    """One coordinate of the source in half steps, for the centre of every pixel of the window."""
    y = 2 * np.arange(window.y1, window.y2)[:, None] + 1
    x = 2 * np.arange(window.x1, window.x2) + 1
    return row[0] * x + row[1] * y + 2 * row[2]


def _resample_rotated(
    image: Shaped[Tensor, "c h w"], to_source: Int64[ndarray, "2 3"], window: Window
) -> Float[Tensor, "c hw ww"]:
    """The image as the target shows it in the window, by a map with rotation: the tents are gathered pixel by pixel."""
    (x_index, x_weight), (y_index, y_weight) = (
        _rotated_tents(row, window, size, image.device) for row, size in zip(to_source, image.shape[:0:-1], strict=True)
    )
    blended = torch.zeros((), device=image.device)
    for y, wy in zip(y_index, y_weight, strict=True):
        for x, wx in zip(x_index, x_weight, strict=True):
            blended = blended + image[:, y, x].float() * (wy * wx)
    return blended


def _rotated_tents(
    row: Int64[ndarray, "3"], window: Window, size: int, device: torch.device
) -> tuple[Int[Tensor, "t hw ww"], Float[Tensor, "t hw ww"]]:
    """The pixels and weights of the tents along one axis of the source, for every pixel of the window."""
    steps = on_device(_half_steps(row, window), device)
    centre = (steps.double() / 2.0 ** (FRACTION_BITS + 1)).clamp(0, size) - 0.5
    radius = max(1.0, math.hypot(*row[:2].tolist()) / 2.0**FRACTION_BITS)
    tap = torch.arange(math.ceil(2 * radius), device=device)[:, None, None]
    index = (centre - radius).floor().long() + 1 + tap
    weight = (1 - (index - centre).abs() / radius).clamp(min=0) * ((index >= 0) & (index < size))
    return index.clamp(0, size - 1), (weight / weight.sum(dim=0)).float()
