"""Numba's kernels for masks on a CPU: which object each pixel shows, and what that leaves of all masks."""

from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.compilation import compiled_intrinsic, ir, types
from composer_copypaste.functional.engines.kernels import BY_X, NO_TENSOR, NOBODY, TO_X, TO_Y, X1, X2, Y1, Y2
from composer_copypaste.functional.engines.numba_memory import (
    HALF,
    MASK,
    ZERO,
    compiled,
    half_steps,
    source_columns,
    values_at,
)
from composer_copypaste.functional.resample import PIXEL

LINE = 64
"""Bytes that a processor moves between its caches and memory at once."""
LANES = 16
"""Pixels of a row that are compared at once."""
ALL_LANES = np.uint64(2**LANES - 1)
ONE = np.uint64(1)


@compiled
@no_type_check
def has_non_binary_values(masks, boxes):
    """Whether masks hold anything but 0 and 1 in their boxes (x1, y1, x2, y2), or a pixel around them."""
    height, width = masks.shape[1:]
    for n in range(len(boxes)):
        x1, x2 = max(0, int(boxes[n, 0]) - 1), min(width, int(boxes[n, 2]) + 2)
        for y in range(max(0, int(boxes[n, 1]) - 1), min(height, int(boxes[n, 3]) + 2)):
            row, bits = masks[n, y, x1:x2], np.uint8(0)
            for k in range(len(row)):
                bits = np.uint8(bits | row[k])
            if bits > 1:
                return True
    return False


# Phase 1: which pasted object lies on top


@compiled
@no_type_check
def stack_axis_aligned(images, pasted, like):
    """Lay objects over each other by axis-aligned maps, in which a row of an object is a row of its source."""
    for each in pasted:
        image, number = images[each.image], like.dtype.type(each.number)
        x1, columns = source_columns(each)
        n, down, moved = len(columns), each.to_source[TO_Y], each.to_source[TO_X, BY_X] == PIXEL
        for y in range(each.window[Y1], each.window[Y2]):
            sy = half_steps(down, y, ZERO) >> HALF
            if n and 0 <= sy < each.height:
                below = values_at(image.owners, y * image.width + x1, n, like)
                if moved:
                    mask = values_at(each.pixels, sy * each.width + columns[0], n, MASK)
                    for k in range(n):
                        under = below[k]
                        below[k] = number if mask[k] else under
                else:
                    mask = values_at(each.pixels, sy * each.width, each.width, MASK)
                    for k in range(n):
                        if mask[columns[k]]:
                            below[k] = number


@compiled
@no_type_check
def stack_rotated(images, pasted, like):
    """Lay objects over each other by any maps."""
    for each in pasted:
        image, number = images[each.image], like.dtype.type(each.number)
        height, width, across, down = each.height, each.width, each.to_source[TO_X], each.to_source[TO_Y]
        mask = values_at(each.pixels, ZERO, height * width, MASK)
        for y in range(each.window[Y1], each.window[Y2]):
            below = values_at(image.owners, y * image.width, image.width, like)
            for x in range(each.window[X1], each.window[X2]):
                sy, sx = half_steps(down, y, x) >> HALF, half_steps(across, y, x) >> HALF
                if 0 <= sy < height and 0 <= sx < width and mask[sy * width + sx]:
                    below[x] = number


# Phase 2: areas and boxes of what is visible


@compiled_intrinsic
@no_type_check
def _equal_lanes(context, address, value, like):
    """A bit for each of ``LANES`` values at an address, the lowest for the first: 1 where it equals the other value."""
    value_type, bits = like.dtype, types.uint64

    def code(context, builder, signature, arguments):
        lanes = ir.VectorType(context.get_value_type(value_type), LANES)
        values = builder.load(builder.inttoptr(arguments[0], lanes.as_pointer()), align=value_type.bitwidth // 8)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[1], ir.Constant(ir.IntType(32), 0))
        same = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
        equal = builder.icmp_unsigned("==", values, builder.shuffle_vector(first, first, same))
        return builder.zext(builder.bitcast(equal, ir.IntType(LANES)), ir.IntType(64))

    return bits(types.int64, value_type, like), code


@compiled_intrinsic
@no_type_check
def _number_of_ones(context, bits):
    """How many bits are 1."""

    def code(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), code


@compiled
@no_type_check
def measure(objects, results, like):
    """Count the pixels of each object, and find the box around those that are visible.

    ``like`` has the type of owners, as everywhere here.
    """
    widest = 0
    for each in objects:
        widest = max(widest, each.window[X2] - each.window[X1])
    columns = np.empty(max(1, -(-widest // LANES)), np.uint64)
    for n in range(len(objects)):
        each, result = objects[n], results[n]
        y1, x1, y2, x2 = each.window
        occupied = columns[: max(1, -(-(x2 - x1) // LANES))]
        occupied[:] = 0
        for y in range(y1, y2):
            visible, former = _count_row(occupied, each, y, like)
            result.former += former
            if visible:
                if not result.area:
                    result.y1 = y
                result.y2 = y + 1
                result.area += visible
        if result.area:
            result.x1, result.x2 = x1 + _first_column(occupied), x1 + _end_of_columns(occupied)


@compiled
@no_type_check
def _count_row(occupied, each, y, like):
    """The numbers of an object's visible and former pixels in a row; columns of visible ones become 1 in ``occupied``.

    ``LANES`` pixels are compared at once, of which each takes a bit. The last of them may have been seen before.
    """
    x1, n = each.window[X1], each.window[X2] - each.window[X1]
    owners, mask = each.owners + (y * each.owners_width + x1) * like.itemsize, each.mask + y * each.mask_width + x1
    if n < LANES:
        own, shown = _few_pixels(owners, mask, n, each, like)
        occupied[0] |= shown
        return _number_of_ones(shown), _number_of_ones(own)
    visible, former = np.uint64(0), np.uint64(0)
    for k in range(len(occupied)):
        first = min(k * LANES, n - LANES)
        own, shown = _lanes_of_pixels(owners + first * like.itemsize, mask + first, each, like)
        seen = np.uint64(k * LANES - first)
        shown >>= seen
        visible += _number_of_ones(shown)
        former += _number_of_ones(own >> seen)
        occupied[k] |= shown
    return visible, former


@compiled
@no_type_check
def _lanes_of_pixels(owners, mask, each, like):
    """Which of ``LANES`` pixels at these addresses are an object's former ones, and its visible ones."""
    shown = _equal_lanes(owners, like.dtype.type(each.number), like)
    if each.mask == NO_TENSOR:
        return np.uint64(0), shown
    own = _equal_lanes(mask, np.uint8(0), MASK) ^ ALL_LANES
    return own, own & shown


@compiled
@no_type_check
def _few_pixels(owners, mask, n, each, like):
    """The same of fewer pixels, one by one."""
    has_mask, number = each.mask != NO_TENSOR, like.dtype.type(each.number)
    shown_by, is_object = values_at(owners, ZERO, n, like), values_at(mask, ZERO, n, MASK)
    own, shown, bit = np.uint64(0), np.uint64(0), ONE
    for k in range(n):
        if shown_by[k] == number:
            shown |= bit
        if has_mask and is_object[k]:
            own |= bit
        bit <<= ONE
    return own, shown & own if has_mask else shown


@compiled
@no_type_check
def _first_column(occupied):
    """The first column that is 1."""
    block, column = 0, 0
    while not occupied[block]:
        block += 1
    while not occupied[block] >> np.uint64(column) & ONE:
        column += 1
    return block * LANES + column


@compiled
@no_type_check
def _end_of_columns(occupied):
    """The last column that is 1, plus 1."""
    block, column = len(occupied) - 1, LANES - 1
    while not occupied[block]:
        block -= 1
    while not occupied[block] >> np.uint64(column) & ONE:
        column -= 1
    return block * LANES + column + 1


@compiled
@no_type_check
def count_axis_aligned(pasted, results):
    """Count, as former pixels, those that objects have in their windows by axis-aligned maps, whatever lies on top.

    Rows that show the same row of the source are counted once.
    """
    for m in range(len(pasted)):
        each, counted, last = pasted[m], 0, -1
        _, columns = source_columns(each)
        for y in range(each.window[Y1], each.window[Y2]):
            sy = half_steps(each.to_source[TO_Y], y, ZERO) >> HALF
            if not 0 <= sy < each.height:
                continue
            if sy != last:
                mask, counted, last = values_at(each.pixels, sy * each.width, each.width, MASK), 0, sy
                for k in range(len(columns)):
                    counted += mask[columns[k]] != 0
            results[m].former += counted


@compiled
@no_type_check
def count_rotated(pasted, results):
    """The same by any maps."""
    for m in range(len(pasted)):
        each = pasted[m]
        height, width, across, down = each.height, each.width, each.to_source[TO_X], each.to_source[TO_Y]
        mask, total = values_at(each.pixels, ZERO, height * width, MASK), 0
        for y in range(each.window[Y1], each.window[Y2]):
            for x in range(each.window[X1], each.window[X2]):
                sy, sx = half_steps(down, y, x) >> HALF, half_steps(across, y, x) >> HALF
                if 0 <= sy < height and 0 <= sx < width:
                    total += mask[sy * width + sx] != 0
        results[m].former += total


# Phase 3: masks


@compiled_intrinsic
@no_type_check
def _stream_line(context, address, former):
    """Write a line of 0 and 1 past the caches: 1 where that at the other address is not 0.

    The line begins at a multiple of its length. Memory that is only written is not read into the caches first.
    """

    def code(context, builder, signature, arguments):
        line = ir.VectorType(ir.IntType(8), LINE)
        written, read = (builder.inttoptr(argument, line.as_pointer()) for argument in arguments)
        ones = builder.icmp_unsigned("!=", builder.load(read, align=1), ir.Constant(line, [0] * LINE))
        store = builder.store(builder.zext(ones, line), written, align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@compiled_intrinsic
@no_type_check
def _finish_streams(context):
    """Wait until other processors can see what was streamed."""

    def code(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), code


@compiled
@no_type_check
def write_masks(masks, streams, like):
    """Write masks of 0 and 1; with ``streams`` past the caches, where they would find no room.

    Measured with 20 objects on each image, that takes 0.83 to 0.92 of the time of a whole batch.
    """
    zeros = np.zeros(LINE, np.uint8)
    for each in masks:
        written, (y1, x1, y2, x2) = each.written, each.kept_in
        n, width = (y2 - y1) * (x2 - x1), x2 - x1
        first, last = -written % LINE, (written + n) // LINE * LINE - written
        if not streams or first >= last:
            first, last = n, n
        _write_bytes(each, ZERO, first)
        former, step = (each.former + first, LINE) if each.is_copy else (np.int64(zeros.ctypes.data), 0)
        for address in range(written + first, written + last, LINE):
            _stream_line(address, former)
            former += step
        _write_bytes(each, last, n)
        for y in range(each.window[Y1], each.window[Y2]):
            _write_row(each, y, (y - y1) * width - x1, like)
    _finish_streams()


@compiled
@no_type_check
def _write_bytes(each, first, end):
    """Write bytes of a mask: 1 where those that it is a copy of are not 0, or zeros."""
    written = values_at(each.written, first, end - first, MASK)
    if each.is_copy:
        former = values_at(each.former, first, end - first, MASK)
        for k in range(len(written)):
            written[k] = former[k] != 0
    else:
        for k in range(len(written)):
            written[k] = 0


@compiled
@no_type_check
def _write_row(each, y, row, like):
    """Write a row of a mask inside its window; ``row`` is where column 0 of the image would be in the mask."""
    x1, n = each.window[X1], each.window[X2] - each.window[X1]
    written = values_at(each.written, row + x1, n, MASK)
    owners = values_at(each.owners, y * each.owners_width + x1, n, like)
    number = like.dtype.type(each.number)
    if each.former == NO_TENSOR:
        for k in range(n):
            written[k] = owners[k] == number
    else:
        former = values_at(each.former, y * each.former_width + x1, n, MASK)
        for k in range(n):
            is_object, is_free = former[k] != 0, owners[k] == NOBODY
            written[k] = is_object & is_free
