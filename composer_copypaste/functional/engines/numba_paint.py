"""Kernels for the host, compiled by Numba: painting pixels with the colors of the landings that own them."""

import math
from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.numba_kernels import (
    HALF,
    OWNERS,
    columns_of,
    compiled,
    half_steps,
    is_upright,
    pixels_of,
)
from composer_copypaste.functional.resample import PIXEL


@compiled
@no_type_check
def paint(images, landings, channels, like):
    """Paint each pixel with the colors of the landing that owns it, in place."""
    for image in images:
        for m in range(image[3], image[4]):
            landing, number = landings[m], np.int16(m - image[3])
            if not is_upright(landing):
                _paint_turned(image, landing, number, channels, like)
            elif _moves_by_whole_pixels(landing[0], landing[2]) and _moves_by_whole_pixels(landing[4], landing[5]):
                _paint_moved(image, landing, number, channels, like)
            else:
                _paint_resized(image, landing, number, channels, like)


@compiled
@no_type_check
def _moves_by_whole_pixels(slope, offset):
    return abs(slope) == PIXEL and offset % PIXEL == 0


@compiled
@no_type_check
def _paint_moved(image, landing, number, channels, like):
    """Paint pixels as they are; all that are owned lie in the source."""
    width, height, columns = image[2], landing[11], landing[12]
    x1, across = columns_of(landing)
    n = len(across)
    for y in range(landing[6], landing[8]):
        sy = half_steps(landing[3:6], y, 0) >> HALF
        if not (n and 0 <= sy < height):
            continue
        owners = pixels_of(image[0], width, y, x1, x1 + n, OWNERS)
        for channel in range(channels):
            painted = pixels_of(image[5], width, channel * image[1] + y, x1, x1 + n, like)
            source = pixels_of(
                landing[10], columns, channel * height + sy, min(across[0], across[n - 1]), columns, like
            )
            if landing[0] > 0:
                for k in range(n):
                    new, old = source[k], painted[k]
                    painted[k] = new if owners[k] == number else old
            else:
                for k in range(n):
                    new, old = source[n - 1 - k], painted[k]
                    painted[k] = new if owners[k] == number else old


@compiled
@no_type_check
def _fill_tent(weights, position, radius, size):
    """The weights of the source pixels under the tent around a position in half steps; the first, and how many."""
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
    """Of each target pixel the first source pixel under its tent, how many there are, and their weights."""
    radius = max(1.0, abs(slope) / PIXEL)
    first, count = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
    weights = np.empty((stop - start, math.ceil(2 * radius)), np.float32)
    for k in range(stop - start):
        first[k], count[k] = _fill_tent(weights[k], slope * (2 * (start + k) + 1) + 2 * offset, radius, size)
    return first, count, weights


@compiled
@no_type_check
def _paint_resized(image, landing, number, channels, like):
    """Paint pixels that are weighted means: along columns of the source first, which goes many pixels at once."""
    y1, x1, y2, x2, height, width = landing[6], landing[7], landing[8], landing[9], landing[11], landing[12]
    top, high, down = _tents(landing[4], landing[5], y1, y2, height)
    left, wide, across = _tents(landing[0], landing[2], x1, x2, width)
    line = np.empty(width, np.float32)
    for y in range(y1, y2):
        owners = pixels_of(image[0], image[2], y, x1, x2, OWNERS)
        begin, end = _owned_part(owners, number)
        if begin == end:
            continue
        low = min(left[begin], left[end - 1])
        reach = max(left[begin] + wide[begin], left[end - 1] + wide[end - 1]) - low
        for channel in range(channels):
            for k in range(reach):
                line[k] = 0
            for t in range(high[y - y1]):
                weight = down[y - y1, t]
                row = pixels_of(landing[10], width, channel * height + top[y - y1] + t, low, low + reach, like)
                for k in range(reach):
                    line[k] += weight * np.float32(row[k])
            painted = pixels_of(image[5], image[2], channel * image[1] + y, x1, x2, like)
            for k in range(begin, end):
                if owners[k] == number:
                    total = np.float32(0)
                    for t in range(wide[k]):
                        total += across[k, t] * line[left[k] - low + t]
                    painted[k] = _rounded(total, like)


@compiled
@no_type_check
def _owned_part(owners, number):
    """The first of a row's pixels that a landing owns, and one past the last."""
    begin, end = 0, len(owners)
    while begin < end and owners[begin] != number:
        begin += 1
    while begin < end and owners[end - 1] != number:
        end -= 1
    return begin, end


@compiled
@no_type_check
def _rounded(value, like):
    """The value as it is stored: of uint8 the nearest, of two as near the even one."""
    return np.rint(value) if like.itemsize == 1 else value


@compiled
@no_type_check
def _paint_turned(image, landing, number, channels, like):
    """Paint pixels that are means under a tent, by any map."""
    height, width = landing[11], landing[12]
    reach_x = max(1.0, math.hypot(landing[0], landing[1]) / PIXEL)
    reach_y = max(1.0, math.hypot(landing[3], landing[4]) / PIXEL)
    across, down = np.empty(math.ceil(2 * reach_x), np.float32), np.empty(math.ceil(2 * reach_y), np.float32)
    for y in range(landing[6], landing[8]):
        owners = pixels_of(image[0], image[2], y, 0, image[2], OWNERS)
        for x in range(landing[7], landing[9]):
            if owners[x] != number:
                continue
            left, wide = _fill_tent(across, half_steps(landing[:3], y, x), reach_x, width)
            top, high = _fill_tent(down, half_steps(landing[3:6], y, x), reach_y, height)
            for channel in range(channels):
                total = np.float32(0)
                for j in range(high):
                    source = pixels_of(landing[10], width, channel * height + top + j, left, left + wide, like)
                    for k in range(wide):
                        total += down[j] * across[k] * source[k]
                painted = pixels_of(image[5], image[2], channel * image[1] + y, x, x + 1, like)
                painted[0] = _rounded(total, like)
