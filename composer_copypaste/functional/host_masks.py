"""Kernels for the host, compiled by Numba: which object each pixel shows, and what that leaves of all masks.

With ``host_colours.py`` they do what ``triton_kernels.py`` does on a GPU, from the same tables, of which ``fused.py``
says what their columns hold. Inner loops go along rows of pixels, and load both of two values before they choose, so
that the compiler can do many pixels at once.
"""

from typing import no_type_check

import numpy as np

from composer_copypaste.functional.fused import NOBODY, NOTHING
from composer_copypaste.functional.host_memory import (
    HALF,
    MASK,
    OWNERS,
    columns_of,
    compiled,
    half_steps,
    is_upright,
    pixels_of,
    row_of,
)
from composer_copypaste.functional.warp import PIXEL

# Which landing lies on top


@compiled
@no_type_check
def stack(images, landings):
    """Find for each pixel which of its image's landings lies on top."""
    for image in images:
        owners = row_of(image[0], image[1] * image[2], OWNERS)
        for k in range(len(owners)):
            owners[k] = NOBODY
        for m in range(image[3], image[4]):
            if is_upright(landings[m]):
                _lay_upright(image, landings[m], np.int16(m - image[3]))
            else:
                _lay_turned(image, landings[m], np.int16(m - image[3]))


@compiled
@no_type_check
def _lay_upright(image, landing, number):
    """Lay a landing over the others of its image; a row of it is a row of its source."""
    height, width = landing[11], landing[12]
    x1, columns = columns_of(landing)
    n = len(columns)
    for y in range(landing[6], landing[8]):
        sy = half_steps(landing[3:6], y, 0) >> HALF
        if n and 0 <= sy < height:
            below = pixels_of(image[0], image[2], y, x1, x1 + n, OWNERS)
            if landing[0] == PIXEL:
                mask = pixels_of(landing[10], width, sy, columns[0], columns[0] + n, MASK)
                for k in range(n):
                    under = below[k]
                    below[k] = number if mask[k] else under
            else:
                mask = pixels_of(landing[10], width, sy, 0, width, MASK)
                for k in range(n):
                    if mask[columns[k]]:
                        below[k] = number


@compiled
@no_type_check
def _lay_turned(image, landing, number):
    """The same by any map."""
    height, width = landing[11], landing[12]
    mask = row_of(landing[10], height * width, MASK)
    for y in range(landing[6], landing[8]):
        below = pixels_of(image[0], image[2], y, 0, image[2], OWNERS)
        for x in range(landing[7], landing[9]):
            sy, sx = half_steps(landing[3:6], y, x) >> HALF, half_steps(landing[:3], y, x) >> HALF
            if 0 <= sy < height and 0 <= sx < width and mask[sy * width + sx]:
                below[x] = number


# Areas and boxes


@compiled
@no_type_check
def measure(tasks, results):
    """Count pixels and find the box around them, in the window of each task."""
    for task in tasks:
        x1, x2, m, result = task[2], task[4], np.int16(task[5]), results[task[0]]
        for y in range(task[1], task[3]):
            owners = pixels_of(task[6], task[7], y, x1, x2, OWNERS)
            mask = pixels_of(task[8], task[9], y, x1, x2, MASK)
            if task[6] == NOTHING:
                result[1] += _count(mask)
                continue
            if m == NOBODY:
                count, former = _count_left(owners, mask)
                result[1] += former
            else:
                count = _count_owned(owners, m)
            if count:
                result[0] += count
                result[3], result[5] = min(result[3], y), y + 1
                _widen(result, owners, mask, m, x1)


@compiled
@no_type_check
def _count(mask):
    count = np.int32(0)
    for k in range(len(mask)):
        count += np.int32(mask[k] != 0)
    return count


@compiled
@no_type_check
def _count_owned(owners, m):
    count = np.int32(0)
    for k in range(len(owners)):
        count += np.int32(owners[k] == m)
    return count


@compiled
@no_type_check
def _count_left(owners, mask):
    """Of the mask's pixels, those that nobody owns, and all."""
    left, former = np.int32(0), np.int32(0)
    for k in range(len(mask)):
        is_object, is_free = mask[k] != 0, owners[k] == NOBODY
        left += np.int32(is_object & is_free)
        former += np.int32(is_object)
    return left, former


@compiled
@no_type_check
def _is_visible(owners, mask, k, m):
    """Of a landing what it owns; of an object of the image, which alone has a mask, what nobody does."""
    return owners[k] == m and (m != NOBODY or mask[k] != 0)


@compiled
@no_type_check
def _widen(result, owners, mask, m, x1):
    """Widen the box, if it needs to be, to the visible pixels of a row that has some."""
    low, high = 0, len(owners)
    while x1 + low < result[2] and not _is_visible(owners, mask, low, m):
        low += 1
    while x1 + high > result[4] and not _is_visible(owners, mask, high - 1, m):
        high -= 1
    result[2], result[4] = min(result[2], x1 + low), max(result[4], x1 + high)


# Masks


@compiled
@no_type_check
def write_masks(planes):
    """Write planes of masks: copies, what nobody owns of a former one, or what a landing owns."""
    for plane in planes:
        height, width, y1, x1, y2, x2 = plane[3], plane[4], plane[5], plane[6], plane[7], plane[8]
        if y1 == y2:
            _copy(row_of(plane[0], height * width, MASK), row_of(plane[1], height * width, MASK))
            continue
        _clear(row_of(plane[0], y1 * width, MASK))
        for y in range(y1, y2):
            _clear(pixels_of(plane[0], width, y, 0, x1, MASK))
            written = pixels_of(plane[0], width, y, x1, x2, MASK)
            owners = pixels_of(plane[2], width, y, x1, x2, OWNERS)
            if plane[1] == NOTHING:
                _write_owned(written, owners, np.int16(plane[9]))
            else:
                _write_left(written, owners, pixels_of(plane[1], width, y, x1, x2, MASK))
            _clear(pixels_of(plane[0], width, y, x2, width, MASK))
        _clear(pixels_of(plane[0], width, y2, 0, (height - y2) * width, MASK))


@compiled
@no_type_check
def _copy(written, former):
    for k in range(len(written)):
        written[k] = former[k]


@compiled
@no_type_check
def _clear(written):
    for k in range(len(written)):
        written[k] = 0


@compiled
@no_type_check
def _write_owned(written, owners, m):
    for k in range(len(written)):
        written[k] = owners[k] == m


@compiled
@no_type_check
def _write_left(written, owners, former):
    for k in range(len(written)):
        written[k] = former[k] & np.uint8(owners[k] == NOBODY)
