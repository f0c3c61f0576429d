"""Triton's kernels for a GPU: what is done with the tables of ``kernels.py``, for all images of a batch at once."""

from typing import no_type_check

import numpy as np
import triton
import triton.language as tl

from composer_copypaste.functional.engines import kernels
from composer_copypaste.functional.resample import FRACTION_BITS, PIXEL

TILE_HEIGHT, TILE_WIDTH = tl.constexpr(16), tl.constexpr(64)
"""Pixels that one program works on."""
TILE = tl.constexpr(TILE_HEIGHT.value * TILE_WIDTH.value)
RUN = tl.constexpr(8192)
"""Bytes of masks that one program writes."""
HALF = tl.constexpr(FRACTION_BITS + 1)
"""Bits of the fraction of a position in half steps: so counted, the centres of pixels are whole numbers."""
HALF_A_PIXEL = tl.constexpr(PIXEL)
"""In half steps."""
NOBODY = tl.constexpr(kernels.NOBODY)
NO_TENSOR = tl.constexpr(kernels.NO_TENSOR)
FAR = tl.constexpr(1 << 30)
"""A coordinate beyond any image: where the box of an object begins before a pixel of it is seen."""

TENT_ROW = np.dtype([(name, np.int64) for name in ("reach_x", "taps_x", "reach_y", "taps_y")])
"""How far the tents of a pasted object reach along both axes of its source, in half steps, and in pixels."""


def _columns(row: np.dtype, *names: str) -> tuple[tl.constexpr, ...]:
    """Where a row has these columns, counted in 64-bit integers."""
    return tuple(tl.constexpr(row.fields[name][1] // 8) for name in names)  # type: ignore[index]


def _length(row: np.dtype) -> tl.constexpr:
    return tl.constexpr(row.itemsize // 8)


# Triton's kernels know only such constants of their module
Y1, X1, Y2, X2 = map(tl.constexpr, (kernels.Y1, kernels.X1, kernels.Y2, kernels.X2))
BY_X, BY_Y, OFFSET = map(tl.constexpr, (kernels.BY_X, kernels.BY_Y, kernels.OFFSET))
IMAGE, PASTED, MEASURE, MASK, RESULT, TENT = map(
    _length,
    (kernels.IMAGE_ROW, kernels.PASTED_ROW, kernels.MEASURE_ROW, kernels.MASK_ROW, kernels.RESULT_ROW, TENT_ROW),
)
"""The lengths of rows."""
IMAGE_OWNERS, IMAGE_HEIGHT, IMAGE_WIDTH, IMAGE_FIRST, IMAGE_END, IMAGE_PIXELS = _columns(
    kernels.IMAGE_ROW, "owners", "height", "width", "first", "end", "pixels"
)
PASTED_TO_X, PASTED_WINDOW, PASTED_PIXELS, PASTED_HEIGHT, PASTED_WIDTH = _columns(
    kernels.PASTED_ROW, "to_source", "window", "pixels", "height", "width"
)
PASTED_TO_Y = tl.constexpr(PASTED_TO_X.value + 3)  # a row of a map has 3 numbers
MEASURE_WINDOW, MEASURE_NUMBER, MEASURE_OWNERS, MEASURE_OWNERS_WIDTH, MEASURE_MASK, MEASURE_MASK_WIDTH = _columns(
    kernels.MEASURE_ROW, "window", "number", "owners", "owners_width", "mask", "mask_width"
)
MASK_WRITTEN, MASK_KEPT_IN, MASK_IS_COPY, MASK_FORMER, MASK_FORMER_WIDTH, MASK_WINDOW, MASK_NUMBER = _columns(
    kernels.MASK_ROW, "written", "kept_in", "is_copy", "former", "former_width", "window", "number"
)
MASK_OWNERS, MASK_OWNERS_WIDTH = _columns(kernels.MASK_ROW, "owners", "owners_width")
RESULT_AREA, RESULT_FORMER, RESULT_X1, RESULT_Y1, RESULT_X2, RESULT_Y2 = _columns(
    kernels.RESULT_ROW, "area", "former", "x1", "y1", "x2", "y2"
)
REACH_X, TAPS_X, REACH_Y, TAPS_Y = _columns(TENT_ROW, "reach_x", "taps_x", "reach_y", "taps_y")


@triton.jit
@no_type_check
def _corner(first_row, first_column, pid, width):
    """The first row and column of a program's tile of a window, which begins there and has that width."""
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
def _repeated(number, SIZE: tl.constexpr):
    """The number for each pixel: of a mask and one truth value for all, Triton 3.9's interpreter makes no mask."""
    return tl.zeros((SIZE,), tl.int64) + number


@triton.jit
@no_type_check
def _within(window, y, x):
    """Which of the pixels are in the window."""
    y1, x1, y2, x2 = tl.load(window + Y1), tl.load(window + X1), tl.load(window + Y2), tl.load(window + X2)
    return (y >= y1) & (y < y2) & (x >= x1) & (x < x2)


@triton.jit
@no_type_check
def _meets(window, top, left):
    """Whether the tile has a pixel in the window."""
    y1, x1, y2, x2 = tl.load(window + Y1), tl.load(window + X1), tl.load(window + Y2), tl.load(window + X2)
    return (top < y2) & (top + TILE_HEIGHT > y1) & (left < x2) & (left + TILE_WIDTH > x1)


@triton.jit
@no_type_check
def _half_steps(row, y, x):
    """The source coordinate of each pixel's centre in half steps, by that row of a map."""
    return tl.load(row + BY_X) * (2 * x + 1) + tl.load(row + BY_Y) * (2 * y + 1) + 2 * tl.load(row + OFFSET)


@triton.jit
@no_type_check
def _shows(pasted, y, x):
    """Whether the mask of the pasted object has each of the pixels."""
    sx, sy = _half_steps(pasted + PASTED_TO_X, y, x) >> HALF, _half_steps(pasted + PASTED_TO_Y, y, x) >> HALF
    mask = tl.load(pasted + PASTED_PIXELS).to(tl.pointer_type(tl.uint8))
    rows, columns = tl.load(pasted + PASTED_HEIGHT), tl.load(pasted + PASTED_WIDTH)
    there = _within(pasted + PASTED_WINDOW, y, x) & (sy >= 0) & (sy < rows) & (sx >= 0) & (sx < columns)
    return tl.load(mask + sy * columns + sx, mask=there, other=0) != 0


@triton.jit
@no_type_check
def stack(images, pasted, OWNERS: tl.constexpr):
    """As of :class:`Kernels`, in one tile of one image."""
    image = images + tl.program_id(1) * IMAGE
    height, width = tl.load(image + IMAGE_HEIGHT), tl.load(image + IMAGE_WIDTH)
    first, end = tl.load(image + IMAGE_FIRST), tl.load(image + IMAGE_END)
    top, left = _corner(0, 0, tl.program_id(0).to(tl.int64), width)
    y, x = _pixels(top, left)
    owner = tl.full((TILE,), NOBODY, OWNERS)
    for m in range(first, end):
        each = pasted + m * PASTED
        if _meets(each + PASTED_WINDOW, top, left):
            owner = tl.where(_shows(each, y, x), (m - first + 1).to(OWNERS), owner)
    owners = tl.load(image + IMAGE_OWNERS).to(tl.pointer_type(OWNERS))
    tl.store(owners + y * width + x, owner, mask=(y < height) & (x < width))


@triton.jit
@no_type_check
def measure(objects, which, first_programs, results, OWNERS: tl.constexpr):
    """Count pixels and find the box around them, in one tile of one object's window.

    ``which`` is the row of each program's object, ``first_programs`` the first program of each object.
    """
    pid = tl.program_id(0)
    n = tl.load(which + pid)
    each, result = objects + n * MEASURE, results + n * RESULT
    window = each + MEASURE_WINDOW
    x1, x2 = tl.load(window + X1), tl.load(window + X2)
    top, left = _corner(tl.load(window + Y1), x1, pid - tl.load(first_programs + n), x2 - x1)
    y, x = _pixels(top, left)
    inside = (y < tl.load(window + Y2)) & (x < x2)
    number, mask_width = tl.load(each + MEASURE_NUMBER), tl.load(each + MEASURE_MASK_WIDTH)
    owners, owners_width = tl.load(each + MEASURE_OWNERS), tl.load(each + MEASURE_OWNERS_WIDTH)
    mask = tl.load(each + MEASURE_MASK)
    counted = inside & (_repeated(mask, TILE) != NO_TENSOR)
    former = tl.load(mask.to(tl.pointer_type(tl.uint8)) + y * mask_width + x, mask=counted, other=0) != 0
    owner = tl.load(owners.to(tl.pointer_type(OWNERS)) + y * owners_width + x, mask=inside, other=NOBODY)
    visible = (former & (owner == NOBODY)) | ((owner == number) & (number != NOBODY))
    count = tl.sum(visible.to(tl.int32), axis=0)
    # nothing but these numbers goes from program to program: they need no order
    tl.atomic_add(result + RESULT_FORMER, tl.sum(former.to(tl.int32), axis=0).to(tl.int64), sem="relaxed")
    if count > 0:
        tl.atomic_add(result + RESULT_AREA, count.to(tl.int64), sem="relaxed")
        tl.atomic_min(result + RESULT_X1, tl.min(tl.where(visible, x, FAR), axis=0), sem="relaxed")
        tl.atomic_min(result + RESULT_Y1, tl.min(tl.where(visible, y, FAR), axis=0), sem="relaxed")
        tl.atomic_max(result + RESULT_X2, tl.max(tl.where(visible, x + 1, 0), axis=0), sem="relaxed")
        tl.atomic_max(result + RESULT_Y2, tl.max(tl.where(visible, y + 1, 0), axis=0), sem="relaxed")


@triton.jit
@no_type_check
def count_uncovered(pasted, which, first_programs, results):
    """Add to the former pixels of each result those that the pasted object has in its window, whatever lies on top.

    ``which`` and ``first_programs`` are as for ``measure``.
    """
    pid = tl.program_id(0)
    m = tl.load(which + pid)
    each = pasted + m * PASTED
    window = each + PASTED_WINDOW
    x1, x2 = tl.load(window + X1), tl.load(window + X2)
    y, x = _pixels(*_corner(tl.load(window + Y1), x1, pid - tl.load(first_programs + m), x2 - x1))
    count = tl.sum(_shows(each, y, x).to(tl.int32), axis=0)
    tl.atomic_add(results + m * RESULT + RESULT_FORMER, count.to(tl.int64), sem="relaxed")


@triton.jit
@no_type_check
def write_masks(masks, OWNERS: tl.constexpr, ALIGNMENT: tl.constexpr):
    """Write a run of one mask, where all addresses and lengths that are copied are multiples of the alignment."""
    each = masks + tl.program_id(1) * MASK
    window, kept_in = each + MASK_WINDOW, each + MASK_KEPT_IN
    y1, x1 = tl.load(kept_in + Y1), tl.load(kept_in + X1)
    height, width = (tl.load(kept_in + Y2) - y1).to(tl.int32), (tl.load(kept_in + X2) - x1).to(tl.int32)
    number, former, is_copy = tl.load(each + MASK_NUMBER), tl.load(each + MASK_FORMER), tl.load(each + MASK_IS_COPY)
    begin = tl.program_id(0) * RUN
    place = begin + tl.arange(0, RUN)
    inside = place < tl.multiple_of(height * width, ALIGNMENT)
    copied = tl.multiple_of(former.to(tl.pointer_type(tl.uint8)), ALIGNMENT)
    value = tl.load(copied + place, mask=inside & (_repeated(is_copy, RUN) != 0), other=0) != 0
    top, bottom = (tl.load(window + Y1) - y1) * width, (tl.load(window + Y2) - y1) * width
    if (begin < bottom) & (begin + RUN > top) & (is_copy == 0):  # dividing is dear, and much of a mask lies outside
        y, x = y1 + place // width, x1 + place % width
        within = inside & _within(window, y, x)
        owners = tl.load(each + MASK_OWNERS).to(tl.pointer_type(OWNERS))
        owner = tl.load(owners + y * tl.load(each + MASK_OWNERS_WIDTH) + x, mask=within, other=NOBODY)
        before = former.to(tl.pointer_type(tl.uint8)) + y * tl.load(each + MASK_FORMER_WIDTH) + x
        was = tl.load(before, mask=within & (_repeated(number, RUN) == NOBODY), other=0) != 0
        value = tl.where(number != NOBODY, owner == number, was & (owner == NOBODY))
    written = tl.multiple_of(tl.load(each + MASK_WRITTEN).to(tl.pointer_type(tl.uint8)), ALIGNMENT)
    tl.store(written + place, value.to(tl.uint8), mask=inside)


@triton.jit
@no_type_check
def paint_ids(images, labels, OWNERS: tl.constexpr, TYPE: tl.constexpr):
    """As of :class:`Kernels`, in one tile of one image; labels have the order of all pasted objects."""
    image = images + tl.program_id(1) * IMAGE
    height, width = tl.load(image + IMAGE_HEIGHT), tl.load(image + IMAGE_WIDTH)
    y, x = _pixels(*_corner(0, 0, tl.program_id(0).to(tl.int64), width))
    owners = tl.load(image + IMAGE_OWNERS).to(tl.pointer_type(OWNERS))
    owner = tl.load(owners + y * width + x, mask=(y < height) & (x < width), other=NOBODY)
    label = tl.load(labels + tl.load(image + IMAGE_FIRST) + owner.to(tl.int64) - 1, mask=owner != NOBODY, other=0)
    tl.store(tl.load(image + IMAGE_PIXELS).to(tl.pointer_type(TYPE)) + y * width + x, label, mask=owner != NOBODY)


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
def paint(images, pasted, tents, OWNERS: tl.constexpr, TYPE: tl.constexpr, CHANNELS: tl.constexpr):
    """As of :class:`Kernels`, in one tile of one image."""
    image = images + tl.program_id(1) * IMAGE
    height, width = tl.load(image + IMAGE_HEIGHT), tl.load(image + IMAGE_WIDTH)
    first, end = tl.load(image + IMAGE_FIRST), tl.load(image + IMAGE_END)
    top, left = _corner(0, 0, tl.program_id(0).to(tl.int64), width)
    y, x = _pixels(top, left)
    owners = tl.load(image + IMAGE_OWNERS).to(tl.pointer_type(OWNERS))
    owner = tl.load(owners + y * width + x, mask=(y < height) & (x < width), other=NOBODY)
    painted = tl.load(image + IMAGE_PIXELS).to(tl.pointer_type(TYPE)) + y * width + x
    for m in range(first, end):
        owned = owner == (m - first + 1)
        if tl.max(owned.to(tl.int32), axis=0) > 0:
            each, tent = pasted + m * PASTED, tents + m * TENT
            source = tl.load(each + PASTED_PIXELS).to(tl.pointer_type(TYPE))
            rows, columns = tl.load(each + PASTED_HEIGHT), tl.load(each + PASTED_WIDTH)
            reach_x, taps_x = tl.load(tent + REACH_X), tl.load(tent + TAPS_X)
            reach_y, taps_y = tl.load(tent + REACH_Y), tl.load(tent + TAPS_Y)
            middle_x, first_x, total_x = _tent(each + PASTED_TO_X, y, x, reach_x, taps_x, columns)
            middle_y, first_y, total_y = _tent(each + PASTED_TO_Y, y, x, reach_y, taps_y, rows)
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
