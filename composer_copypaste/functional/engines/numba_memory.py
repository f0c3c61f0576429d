"""What all of Numba's kernels share: how they are compiled, how they read memory, and where a map leads.

The kernels are in ``numba_masks.py``, ``numba_paint.py`` and ``numba_semantic_maps.py``. They read the tables of
``kernels.py``, as ``triton_kernels.py`` does on a GPU. Inner loops go along rows of pixels, and load both of two values
before they choose one, so that the compiler can do many pixels at once.
"""

from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.compilation import carray, compiled_intrinsic, ir, types
from composer_copypaste.functional.engines.compilation import compiled as compiled
from composer_copypaste.functional.engines.kernels import BY_X, BY_Y, OFFSET, TO_X, X1, X2
from composer_copypaste.functional.resample import FRACTION_BITS

HALF = FRACTION_BITS + 1
"""Number of fraction bits of a position that is counted in half steps, in which pixel centres are whole numbers."""
MASK = np.empty(0, np.uint8)
"""An example of the type of masks, for ``values_at``."""
MASK.flags.writeable = False  # as kernels see it: functions would be compiled once more for another kind of array
ZERO = np.int64(0)
"""A zero that is no literal: functions would be compiled once more for a literal argument."""


@compiled_intrinsic
@no_type_check
def _pointer(context, address):
    """The pointer that a number stands for."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), code


@compiled
@no_type_check
def values_at(address, first, n, like):
    """``n`` of the values of the type of ``like`` that lie at an address, beginning with number ``first``."""
    return carray(_pointer(address + first * like.itemsize), n, like.dtype)


@compiled
@no_type_check
def half_steps(row, y, x):
    """The source coordinate of a pixel's centre in half steps, by that row of its map."""
    return row[BY_X] * (2 * x + 1) + row[BY_Y] * (2 * y + 1) + 2 * row[OFFSET]


@compiled
@no_type_check
def source_columns(pasted):
    """The columns of the source that an axis-aligned map shows in the window: the first column shown there, and all."""
    x1, x2, across = pasted.window[X1], pasted.window[X2], pasted.to_source[TO_X]
    while x1 < x2 and not 0 <= half_steps(across, ZERO, x1) >> HALF < pasted.width:
        x1 += 1
    while x1 < x2 and not 0 <= half_steps(across, ZERO, x2 - 1) >> HALF < pasted.width:
        x2 -= 1
    found = np.empty(max(0, x2 - x1), np.int64)
    for k in range(len(found)):
        found[k] = half_steps(across, ZERO, x1 + k) >> HALF
    return x1, found
