"""What the host's kernels share: the memory that addresses name, and positions in a landing's source."""

from functools import partial
from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from composer_copypaste.functional.warp import FRACTION_BITS

HALF = FRACTION_BITS + 1
"""Pixel centres are whole numbers of half steps, so many bits fewer than a pixel has."""
MASK, OWNERS = np.empty(0, np.uint8), np.empty(0, np.int16)
"""Of the types of masks and of owners, which compiled functions take from an array."""
LINE = 64
"""Bytes that a processor moves between its caches and memory at once."""
PIXELS = ir.VectorType(ir.IntType(8), LINE)
"""A line of a mask."""


@no_type_check
def compiled(function):
    """The function as machine code, made when it is first called, which takes seconds, and kept on the disk."""
    compile = partial(njit, nogil=True, error_model="numpy")
    try:
        return compile(cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written to
        return compile()(function)


@intrinsic
@no_type_check
def _pointer(context, address):
    """The pointer that a number stands for."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), code


@no_type_check
def _streamed(builder, pixels, address):
    """Store a line that lies at a multiple of its length, without reading it into the caches first."""
    store = builder.store(pixels, builder.inttoptr(address, PIXELS.as_pointer()), align=LINE)
    store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))


@intrinsic
@no_type_check
def stream_zeros(context, address):
    """Write a line of zeros past the caches."""

    def code(context, builder, signature, arguments):
        _streamed(builder, ir.Constant(PIXELS, [0] * LINE), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
@no_type_check
def stream_line(context, address, former):
    """Write a line of 0 and 1 past the caches: 1 where elsewhere is anything but 0."""

    def code(context, builder, signature, arguments):
        pixels = builder.load(builder.inttoptr(arguments[1], PIXELS.as_pointer()), align=1)
        is_object = builder.icmp_unsigned("!=", pixels, ir.Constant(PIXELS, [0] * LINE))
        _streamed(builder, builder.zext(is_object, PIXELS), arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@intrinsic
@no_type_check
def finish_streams(context):
    """Wait until what was written past the caches can be seen by every processor."""

    def code(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@compiled
@no_type_check
def row_of(address, n, like):
    """So many numbers of a kind that lie side by side from the address on."""
    return carray(_pointer(address), n, like.dtype)


@compiled
@no_type_check
def pixels_of(address, width, y, x1, x2, like):
    """The pixels x1 to x2 of a row of a plane of that width, which begins at the address."""
    return carray(_pointer(address + (y * width + x1) * like.itemsize), x2 - x1, like.dtype)


@compiled
@no_type_check
def half_steps(row, y, x):
    """A coordinate of the source, by that row of its map."""
    return row[0] * (2 * x + 1) + row[1] * (2 * y + 1) + 2 * row[2]


@compiled
@no_type_check
def is_upright(landing):
    """Whether rows of the target are rows of the source."""
    return landing[1] == 0 and landing[3] == 0


@compiled
@no_type_check
def columns_of(landing):
    """Those of the window's columns that lie in the source, by an upright map: the first, and where all lie."""
    x1, x2, across = landing[7], landing[9], landing[:3]
    while x1 < x2 and not 0 <= half_steps(across, 0, x1) >> HALF < landing[12]:
        x1 += 1
    while x1 < x2 and not 0 <= half_steps(across, 0, x2 - 1) >> HALF < landing[12]:
        x2 -= 1
    found = np.empty(max(0, x2 - x1), np.int64)
    for k in range(len(found)):
        found[k] = half_steps(across, 0, x1 + k) >> HALF
    return x1, found
