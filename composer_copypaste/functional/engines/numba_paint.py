"""Numba's kernels for colors on a CPU: painting each pixel with the color of the pasted object that owns it."""

import math
from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.kernels import BY_X, BY_Y, OFFSET, TO_X, TO_Y, X1, X2, Y1, Y2
from composer_copypaste.functional.engines.numba_memory import (
    HALF,
    ZERO,
    compiled,
    half_steps,
    source_columns,
    values_at,
)
from composer_copypaste.functional.resample import PIXEL

BLOCK = 64
"""Pixels of a row that are painted together, if any of them is to be painted."""


@compiled
@no_type_check
def paint_moved(images, pasted, channels, like, owners_like):
    """Paint colors as they are, by maps that move by whole pixels and flip; all owned pixels lie in the source."""
    for each in pasted:
        image, numbers = images[each.image], _numbers(each, owners_like)
        x1, columns = source_columns(each)
        n, flipped = len(columns), each.to_source[TO_X, BY_X] < 0
        for y in range(each.window[Y1], each.window[Y2]):
            sy = half_steps(each.to_source[TO_Y], y, ZERO) >> HALF
            if not (n and 0 <= sy < each.height):
                continue
            owners = values_at(image.owners, y * image.width + x1, n, owners_like)
            begin, end, seen = _owned_part(owners, ZERO, numbers)
            while begin < end:
                left = min(columns[begin], columns[end - 1])
                for channel in range(channels):
                    x = (channel * image.height + y) * image.width + x1 + begin
                    painted = values_at(image.pixels, x, end - begin, like)
                    source = values_at(each.pixels, (channel * each.height + sy) * each.width + left, end - begin, like)
                    _paint_row(painted, owners[begin:end], numbers, source, flipped)
                begin, end, seen = _owned_part(owners, seen, numbers)


@compiled
@no_type_check
def _numbers(each, owners_like):
    """The lowest and the highest number of the pasted objects of a row, in the type of owners."""
    return owners_like.dtype.type(each.number), owners_like.dtype.type(each.last)


@compiled
@no_type_check
def _is_owned(owner, numbers):
    """Whether it is one of these objects that owns a pixel."""
    return (owner >= numbers[0]) & (owner <= numbers[1])


@compiled
@no_type_check
def _owned_part(owners, begin, numbers):
    """Where the first part of a row, from ``begin`` on, in which objects own pixels begins and ends; how far it looked.

    In each block of the part they own some pixel, as they do its first and its last. It is empty where they own none.
    """
    n = len(owners)
    while begin + BLOCK < n and not _any_owned(owners[begin : begin + BLOCK], numbers):
        begin += BLOCK
    end = seen = min(begin + BLOCK, n)
    while seen < n and _any_owned(owners[seen : min(seen + BLOCK, n)], numbers):
        end = seen = min(seen + BLOCK, n)
    while begin < end and not _is_owned(owners[begin], numbers):
        begin += 1
    while begin < end and not _is_owned(owners[end - 1], numbers):
        end -= 1
    return begin, end, seen


@compiled
@no_type_check
def _any_owned(owners, numbers):
    """Whether objects own any of these pixels."""
    found = False
    for k in range(len(owners)):
        found |= _is_owned(owners[k], numbers)
    return found


@compiled
@no_type_check
def _paint_row(painted, owners, numbers, source, flipped):
    """Paint the pixels that objects own with a row of the source."""
    last = len(painted) - 1
    if flipped:
        for k in range(len(painted)):
            new, old = source[last - k], painted[k]
            painted[k] = new if _is_owned(owners[k], numbers) else old
    else:
        for k in range(len(painted)):
            new, old = source[k], painted[k]
            painted[k] = new if _is_owned(owners[k], numbers) else old


@compiled
@no_type_check
def _fill_tent(weights, position, radius, size):
    """Set the weights of the source pixels under the tent around a position in half steps.

    Returns:
        The first of these pixels, and their number.
    """
    centre = min(max(position / (2.0 * PIXEL), 0.0), float(size)) - 0.5
    low = math.floor(centre - radius) + 1
    first, end = max(low, 0), min(low + len(weights), size)
    total = np.float32(0)
    for t in range(end - first):
        weights[t] = max(1 - abs(first + t - centre) / radius, 0.0)
        total += weights[t]
    for t in range(end - first):
        weights[t] /= total
    return first, end - first


@compiled
@no_type_check
def _tents(slope, offset, start, stop, size):
    """The first source pixel under the tent of each target pixel, and the weights of it and of those after it."""
    radius = max(1.0, abs(slope) / PIXEL)
    first = np.empty(stop - start, np.uint32)  # unsigned: an index that may be negative is looked at each time
    weights = np.zeros((stop - start, math.ceil(2 * radius)), np.float32)
    for k in range(stop - start):
        first[k], _ = _fill_tent(weights[k], slope * (2 * (start + k) + 1) + 2 * offset, radius, size)
    return first, weights


@compiled
@no_type_check
def paint_resized(images, pasted, channels, like, owners_like):
    """Paint weighted means by axis-aligned maps."""
    for each in pasted:
        y1, x1, y2, x2 = each.window
        image, numbers, to_source = images[each.image], _numbers(each, owners_like), each.to_source
        top, down = _tents(to_source[TO_Y, BY_Y], to_source[TO_Y, OFFSET], y1, y2, each.height)
        left, across = _tents(to_source[TO_X, BY_X], to_source[TO_X, OFFSET], x1, x2, each.width)
        taps = across.shape[1]
        line = np.zeros(each.width + taps, np.float32)
        for y in range(y1, y2):
            owners = values_at(image.owners, y * image.width + x1, x2 - x1, owners_like)
            begin, end, seen = _owned_part(owners, ZERO, numbers)
            while begin < end:
                low, high = min(left[begin], left[end - 1]), max(left[begin], left[end - 1]) + taps
                for channel in range(channels):
                    first = channel * each.height + top[y - y1]
                    _weigh_rows(line[low : min(high, each.width)], each, first, low, down[y - y1], like)
                    x = (channel * image.height + y) * image.width + x1 + begin
                    painted = values_at(image.pixels, x, end - begin, like)
                    part = painted, owners[begin:end], numbers, line, left[begin:end], across[begin:end]
                    if taps == 2:
                        _weigh_two_columns(*part)
                    else:
                        _weigh_columns(*part)
                begin, end, seen = _owned_part(owners, seen, numbers)


@compiled
@no_type_check
def _weigh_columns(painted, owners, numbers, line, left, across):
    """Paint the pixels that objects own with the weighted sums of values of a line, from ``left`` on."""
    for k in range(len(painted)):
        if _is_owned(owners[k], numbers):
            total = np.float32(0)
            for t in range(across.shape[1]):
                total += across[k, t] * line[left[k] + np.uint32(t)]
            painted[k] = _rounded(total, painted)


@compiled
@no_type_check
def _weigh_two_columns(painted, owners, numbers, line, left, across):
    """The same for two values each, as of all objects that do not become smaller; in half the time."""
    for k in range(len(painted)):
        if _is_owned(owners[k], numbers):
            first = left[k]
            painted[k] = _rounded(across[k, 0] * line[first] + across[k, 1] * line[first + np.uint32(1)], painted)


@compiled
@no_type_check
def _weigh_rows(line, pasted, first, low, weights, like):
    """Set a line to the weighted sum of rows of the source, from its column ``low`` on: many pixels at once."""
    for k in range(len(line)):
        line[k] = 0
    for t in range(len(weights)):
        if weights[t]:  # else the row may lie outside
            source = values_at(pasted.pixels, (first + t) * pasted.width + low, len(line), like)
            for k in range(len(line)):
                line[k] += weights[t] * np.float32(source[k])


@compiled
@no_type_check
def _rounded(value, like):
    """The value as it is stored: where that is uint8, the nearest whole number, of two as near the even one."""
    return np.rint(value) if like.itemsize == 1 else value


@compiled
@no_type_check
def paint_rotated(images, pasted, channels, like, owners_like):
    """Paint weighted means by any maps."""
    for each in pasted:
        image, numbers = images[each.image], _numbers(each, owners_like)
        to_x, to_y = each.to_source
        reach = _reach(to_x), _reach(to_y)
        across = np.empty(math.ceil(2 * reach[TO_X]), np.float32)
        down = np.empty(math.ceil(2 * reach[TO_Y]), np.float32)
        x1, x2 = each.window[X1], each.window[X2]
        for y in range(each.window[Y1], each.window[Y2]):
            owners = values_at(image.owners, y * image.width + x1, x2 - x1, owners_like)
            begin, end, seen = _owned_part(owners, ZERO, numbers)
            while begin < end:
                for x in range(x1 + begin, x1 + end):
                    if not _is_owned(owners[x - x1], numbers):
                        continue
                    left, wide = _fill_tent(across, half_steps(to_x, y, x), reach[TO_X], each.width)
                    top, high = _fill_tent(down, half_steps(to_y, y, x), reach[TO_Y], each.height)
                    for channel in range(channels):
                        total = np.float32(0)
                        for j in range(high):
                            sy = channel * each.height + top + j
                            source = values_at(each.pixels, sy * each.width + left, wide, like)
                            for k in range(wide):
                                total += down[j] * across[k] * source[k]
                        row = (channel * image.height + y) * image.width
                        values_at(image.pixels, row + x, 1, like)[0] = _rounded(total, like)
                begin, end, seen = _owned_part(owners, seen, numbers)


@compiled
@no_type_check
def _reach(row):
    """How far the tent of a pixel reaches on each side along an axis of the source, by that row of its map."""
    return max(1.0, math.hypot(row[BY_X], row[BY_Y]) / PIXEL)
