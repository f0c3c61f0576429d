"""Triton kernels that carry out the layers of all images of a batch at once.

Tensors of many sizes take part, so each kernel gets tables of 64-bit numbers: a row for each image, object or task,
with its sizes, its fixed-point map, and the addresses of its tensors. The order of a row's numbers is that in which the
kernel reads them.
"""

from typing import no_type_check

import triton
import triton.language as tl

from composer_copypaste.functional.resample import FRACTION_BITS, PIXEL

TILE_HEIGHT, TILE_WIDTH = tl.constexpr(16), tl.constexpr(64)
"""Pixels that one program works on."""
TILE = tl.constexpr(TILE_HEIGHT.value * TILE_WIDTH.value)
RUN = tl.constexpr(8192)
"""Bytes of masks that one program writes."""
HALF = tl.constexpr(FRACTION_BITS + 1)
"""Pixel centres are whole numbers of half steps, so many bits fewer than a pixel has."""
HALF_A_PIXEL = tl.constexpr(PIXEL)
"""In half steps."""
NOBODY = tl.constexpr(-1)
"""The owner of a pixel on which nothing landed."""


@triton.jit
@no_type_check
def _corner(first_row, first_column, pid, width):
    """The first row and column of a tile of a window that begins there and is so wide."""
    across = tl.cdiv(width, TILE_WIDTH)
    return first_row + (pid // across) * TILE_HEIGHT, first_column + (pid % across) * TILE_WIDTH


@triton.jit
@no_type_check
def _pixels(top, left):
    """The rows and columns of the pixels of a tile."""
    place = tl.arange(0, TILE)
    return top + place // TILE_WIDTH, left + place % TILE_WIDTH


@triton.jit
@no_type_check
def _within(window, y, x):
    """Which of the pixels are in the window."""
    y1, x1, y2, x2 = tl.load(window), tl.load(window + 1), tl.load(window + 2), tl.load(window + 3)
    return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)


@triton.jit
@no_type_check
def _meets(window, top, left):
    """Whether the tile has a pixel in the window."""
    y1, x1, y2, x2 = tl.load(window), tl.load(window + 1), tl.load(window + 2), tl.load(window + 3)
    return (top < y2) & (top + TILE_HEIGHT > y1) & (left < x2) & (left + TILE_WIDTH > x1)


@triton.jit
@no_type_check
def _half_steps(row, y, x):
    """A coordinate of the source for each pixel, by that row of its map."""
    return tl.load(row) * (2 * x + 1) + tl.load(row + 1) * (2 * y + 1) + 2 * tl.load(row + 2)


@triton.jit
@no_type_check
def _shows(landing, y, x):
    """Whether the landing has each of the pixels."""
    sx, sy = _half_steps(landing, y, x) >> HALF, _half_steps(landing + 3, y, x) >> HALF
    mask = tl.load(landing + 10).to(tl.pointer_type(tl.uint8))
    rows, columns = tl.load(landing + 11), tl.load(landing + 12)
    there = _within(landing + 6, y, x) & (sy >= 0) & (sy < rows) & (sx >= 0) & (sx < columns)
    return tl.load(mask + sy * columns + sx, mask=there, other=0) != 0


@triton.jit
@no_type_check
def stack(images, landings, IMAGE_WIDTH: tl.constexpr, LANDING_WIDTH: tl.constexpr):
    """Find for each pixel which of its image's landings lies on top.

    ``images``: owners' address, height, width, first and last landing. ``landings``: map (6), window (4), the mask's
    address, height and width.
    """
    image = images + tl.program_id(1) * IMAGE_WIDTH
    height, width = tl.load(image + 1), tl.load(image + 2)
    first, last = tl.load(image + 3), tl.load(image + 4)
    top, left = _corner(0, 0, tl.program_id(0).to(tl.int64), width)
    y, x = _pixels(top, left)
    owner = tl.full((TILE,), NOBODY, tl.int16)
    for m in range(first, last):
        landing = landings + m * LANDING_WIDTH
        if _meets(landing + 6, top, left):
            owner = tl.where(_shows(landing, y, x), (m - first).to(tl.int16), owner)
    owners = tl.load(image).to(tl.pointer_type(tl.int16))
    tl.store(owners + y * width + x, owner, mask=(y < height) & (x < width))


@triton.jit
@no_type_check
def measure(tasks, which, results, WIDTH: tl.constexpr):
    """Count pixels and find the box around them, in one tile of one task's window.

    ``which``: each program's task. ``tasks``: the row of ``results``, the window (4), the landing whose pixels are
    visible or -1, owners' address or 0, their width, the mask's address or 0, its width, and the task's first program.
    With a mask its pixels are counted as former ones, and those that nobody owns as visible. ``results``: visible,
    former, x1, y1, x2, y2.
    """
    pid = tl.program_id(0)
    task = tasks + tl.load(which + pid) * WIDTH
    x1, x2 = tl.load(task + 2), tl.load(task + 4)
    top, left = _corner(tl.load(task + 1), x1, pid - tl.load(task + 10), x2 - x1)
    y, x = _pixels(top, left)
    inside = (y < tl.load(task + 3)) & (x < x2)
    m, mask_width = tl.load(task + 5), tl.load(task + 9)
    owners, owners_width = tl.load(task + 6), tl.load(task + 7)
    mask = tl.load(task + 8)
    former = tl.load(mask.to(tl.pointer_type(tl.uint8)) + y * mask_width + x, mask=inside & (mask != 0), other=0) != 0
    owner = tl.load(owners.to(tl.pointer_type(tl.int16)) + y * owners_width + x, mask=inside & (owners != 0), other=-2)
    visible = (former & (owner == NOBODY)) | ((owner == m) & (m >= 0))
    result = results + tl.load(task) * 6
    count = tl.sum(visible.to(tl.int32), axis=0)
    # nothing but these numbers goes from program to program: they need no order
    tl.atomic_add(result + 1, tl.sum(former.to(tl.int32), axis=0).to(tl.int64), sem="relaxed")
    if count > 0:
        far = 1 << 30
        tl.atomic_add(result, count.to(tl.int64), sem="relaxed")
        tl.atomic_min(result + 2, tl.min(tl.where(visible, x, far), axis=0), sem="relaxed")
        tl.atomic_min(result + 3, tl.min(tl.where(visible, y, far), axis=0), sem="relaxed")
        tl.atomic_max(result + 4, tl.max(tl.where(visible, x + 1, 0), axis=0), sem="relaxed")
        tl.atomic_max(result + 5, tl.max(tl.where(visible, y + 1, 0), axis=0), sem="relaxed")


@triton.jit
@no_type_check
def count_uncovered(landings, which, results, WIDTH: tl.constexpr):
    """Add to the former pixels of each result those that its landing has in its window, whatever lies there.

    ``which``: each program's landing. ``landings``: as for ``stack``, then the landing's first program. ``results``: as
    for ``measure``.
    """
    pid = tl.program_id(0)
    m = tl.load(which + pid)
    landing = landings + m * WIDTH
    x1, x2 = tl.load(landing + 7), tl.load(landing + 9)
    y, x = _pixels(*_corner(tl.load(landing + 6), x1, pid - tl.load(landing + 13), x2 - x1))
    count = tl.sum(_shows(landing, y, x).to(tl.int32), axis=0)
    tl.atomic_add(results + m * 6 + 1, count.to(tl.int64), sem="relaxed")


@triton.jit
@no_type_check
def write_masks(planes, WIDTH: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Write planes of masks: copies, what nobody owns of a former one, or what a landing owns.

    ``planes``: the address to write to, that of the former mask or 0, owners' address, height, width, the window (4)
    outside which there is nothing, empty for a copy, the landing or -1.
    """
    plane = planes + tl.program_id(1) * WIDTH
    height, width = tl.load(plane + 3).to(tl.int32), tl.load(plane + 4).to(tl.int32)
    m, former = tl.load(plane + 9), tl.load(plane + 1)
    begin = tl.program_id(0) * RUN
    place = begin + tl.arange(0, RUN)
    inside = place < tl.multiple_of(height * width, ALIGNMENT)
    top, bottom = tl.load(plane + 5) * width, tl.load(plane + 7) * width
    meets = (begin < bottom) & (begin + RUN > top)
    copied = tl.multiple_of(former.to(tl.pointer_type(tl.uint8)), ALIGNMENT)
    value = tl.load(copied + place, mask=inside & (former != 0) & (meets | (top == bottom)), other=0) != 0
    if meets:  # dividing is dear, and most of a plane lies outside its window
        within = _within(plane + 5, place // width, place % width)
        owners = tl.load(plane + 2).to(tl.pointer_type(tl.int16))
        owner = tl.load(owners + place, mask=inside & within, other=-2)
        value = tl.where(m >= 0, owner == m, value & (owner == NOBODY))
    written = tl.multiple_of(tl.load(plane).to(tl.pointer_type(tl.uint8)), ALIGNMENT)
    tl.store(written + place, value.to(tl.uint8), mask=inside)


@triton.jit
@no_type_check
def _tap(position, reach, first, k, size):
    """The k-th source pixel under the tent around each position, and its weight.

    On a GPU ``/`` is an approximation; pixels that are moved as they are must have a weight of 1, and all others 0.
    """
    pixel = first + k
    distance = tl.abs((pixel << HALF) - position).to(tl.float32) * tl.div_rn(1.0, reach.to(tl.float32))
    there = (pixel >= 0) & (pixel < size)
    return pixel, tl.where(there, tl.maximum(1 - distance, 0), 0.0)


@triton.jit
@no_type_check
def _tent(row, y, x, reach, taps, size):
    """Where each pixel's tent lies along an axis of the source: its middle, its first pixel, the sum of its weights."""
    position = tl.minimum(tl.maximum(_half_steps(row, y, x), 0), size << HALF) - HALF_A_PIXEL
    first = ((position - reach) >> HALF) + 1
    total = tl.zeros((TILE,), tl.float32)
    for k in range(taps):
        _, weight = _tap(position, reach, first, k, size)
        total += weight
    return position, first, total


@triton.jit
@no_type_check
def _to_nearest(values):
    """Whole numbers, of two as near the even one, as NumPy and torch round."""
    up = tl.floor(values + 0.5)
    odd = (up - 2 * tl.floor(up * 0.5)) != 0
    return tl.where((up - values == 0.5) & odd, up - 1, up)


@triton.jit
@no_type_check
def paint(
    images, landings, TYPE: tl.constexpr, IMAGE_WIDTH: tl.constexpr, LANDING_WIDTH: tl.constexpr, CHANNELS: tl.constexpr
):
    """Paint each pixel with the colors of the landing that owns it, in place.

    ``images``: owners' address, height, width, first and last landing, the image's address. ``landings``: map (6),
    window (4), the source image's address, height and width; reach and number of taps of the tent along x, and along y.
    """
    image = images + tl.program_id(1) * IMAGE_WIDTH
    height, width = tl.load(image + 1), tl.load(image + 2)
    first, last = tl.load(image + 3), tl.load(image + 4)
    top, left = _corner(0, 0, tl.program_id(0).to(tl.int64), width)
    y, x = _pixels(top, left)
    inside = (y < height) & (x < width)
    owner = tl.load(tl.load(image).to(tl.pointer_type(tl.int16)) + y * width + x, mask=inside, other=NOBODY)
    painted = tl.load(image + 5).to(tl.pointer_type(TYPE)) + y * width + x
    for m in range(first, last):
        owned = owner == (m - first)
        if tl.max(owned.to(tl.int32), axis=0) > 0:
            landing = landings + m * LANDING_WIDTH
            source = tl.load(landing + 10).to(tl.pointer_type(TYPE))
            rows, columns = tl.load(landing + 11), tl.load(landing + 12)
            reach_x, taps_x = tl.load(landing + 13), tl.load(landing + 14)
            reach_y, taps_y = tl.load(landing + 15), tl.load(landing + 16)
            middle_x, first_x, total_x = _tent(landing, y, x, reach_x, taps_x, columns)
            middle_y, first_y, total_y = _tent(landing + 3, y, x, reach_y, taps_y, rows)
            share = tl.div_rn(1.0, total_x * total_y)
            for channel in range(CHANNELS):
                colors = tl.zeros((TILE,), tl.float32)
                for j in range(taps_y):
                    sy, down = _tap(middle_y, reach_y, first_y, j, rows)
                    for k in range(taps_x):
                        sx, across = _tap(middle_x, reach_x, first_x, k, columns)
                        offset = (channel * rows + sy) * columns + sx
                        weight = down * across
                        seen = tl.load(source + offset, mask=owned & (weight > 0), other=0)
                        colors += weight * seen.to(tl.float32)
                colors *= share
                if tl.uint8 == TYPE:
                    colors = _to_nearest(colors)
                tl.store(painted + channel * height * width, colors.to(TYPE), mask=owned)
