"""Kernels for the host, compiled by Numba: which object each pixel shows, and what that leaves of all masks.

With ``host_colors.py`` they do what ``triton_kernels.py`` does on a GPU, from the same tables, of which ``fused.py``
says what their columns hold. Inner loops go along rows of pixels, and load both of two values before they choose, so
that the compiler can do many pixels at once.
"""

from functools import partial
from typing import no_type_check

import numpy as np
from llvmlite import ir
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from composer_copypaste.functional.engines.kernels import NOBODY, NOTHING
from composer_copypaste.functional.resample import FRACTION_BITS, PIXEL

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
    """Count pixels and find the box around them, in the window of each task.

    Columns are counted, not rows: their counts lie side by side, and tell where the box begins and ends.
    """
    widest = (tasks[:, 4] - tasks[:, 2]).max()
    counts, former_counts = np.empty(widest, np.int32), np.empty(widest, np.int32)
    for task in tasks:
        width = task[4] - task[2]
        visible, former = counts[:width], former_counts[:width]
        visible[:] = 0
        former[:] = 0
        for y in range(task[1], task[3]):
            _add_row(visible, former, task, y)
        result, count = results[task[0]], visible.sum()
        result[1] += former.sum()
        if count:
            result[0] += count
            result[2], result[4] = task[2] + _first(visible), task[4] - _first(visible[::-1])
            result[3], result[5] = _rows(task, visible, former)


@compiled
@no_type_check
def _add_row(visible, former, task, y):
    """Count a row's pixels, each in its column."""
    owners = pixels_of(task[6], task[7], y, task[2], task[4], OWNERS)
    mask = pixels_of(task[8], task[9], y, task[2], task[4], MASK)
    m = np.int16(task[5])
    if task[6] == NOTHING:
        for k in range(len(mask)):
            former[k] += mask[k] != 0
    elif m == NOBODY:
        for k in range(len(mask)):
            is_object, is_free = mask[k] != 0, owners[k] == NOBODY
            visible[k] += is_object & is_free
            former[k] += is_object
    else:
        for k in range(len(owners)):
            visible[k] += owners[k] == m


@compiled
@no_type_check
def _first(counts):
    """The place of the first that is not 0; there is one."""
    k = 0
    while not counts[k]:
        k += 1
    return k


@compiled
@no_type_check
def _rows(task, visible, former):
    """The first row with a visible pixel, and one past the last; there are some. Nobody needs the counts any more."""
    visible[:] = 0
    y1, y2 = task[1] - 1, task[3]
    while not visible.any():
        y1 += 1
        _add_row(visible, former, task, y1)
    visible[:] = 0
    while not visible.any():
        y2 -= 1
        _add_row(visible, former, task, y2)
    return y1, y2 + 1


@compiled
@no_type_check
def count_uncovered(landings, results):
    """Add to the former pixels of each result those that its landing has in its window, whatever lies there."""
    for m, landing in enumerate(landings):
        results[m, 1] += _count_upright(landing) if is_upright(landing) else _count_turned(landing)


@compiled
@no_type_check
def _count_upright(landing):
    """Rows of the target that show the same row of the source are counted once."""
    height, width = landing[11], landing[12]
    _, columns = columns_of(landing)
    total, counted, last = 0, 0, -1
    for y in range(landing[6], landing[8]):
        sy = half_steps(landing[3:6], y, 0) >> HALF
        if not 0 <= sy < height:
            continue
        if sy != last:
            mask, counted, last = pixels_of(landing[10], width, sy, 0, width, MASK), 0, sy
            for k in range(len(columns)):
                counted += mask[columns[k]] != 0
        total += counted
    return total


@compiled
@no_type_check
def _count_turned(landing):
    """The same by any map."""
    height, width = landing[11], landing[12]
    mask = row_of(landing[10], height * width, MASK)
    total = 0
    for y in range(landing[6], landing[8]):
        for x in range(landing[7], landing[9]):
            sy, sx = half_steps(landing[3:6], y, x) >> HALF, half_steps(landing[:3], y, x) >> HALF
            if 0 <= sy < height and 0 <= sx < width:
                total += mask[sy * width + sx] != 0
    return total


# Masks


@compiled
@no_type_check
def write_masks(planes, streams):
    """Write planes of masks: copies, what nobody owns of a former one, or what a landing owns.

    With ``streams`` they are written past the caches, in which they would find no room.
    """
    for plane in planes:
        width, y1, x1, y2, x2 = plane[4], plane[5], plane[6], plane[7], plane[8]
        end = plane[0] + plane[3] * width
        if y1 == y2:
            _copy(plane[0], end, plane[1], streams)
            continue
        _clear(plane[0], end, streams)
        for y in range(y1, y2):
            written = pixels_of(plane[0], width, y, x1, x2, MASK)
            owners = pixels_of(plane[2], width, y, x1, x2, OWNERS)
            if plane[1] == NOTHING:
                _write_owned(written, owners, np.int16(plane[9]))
            else:
                _write_left(written, owners, pixels_of(plane[1], width, y, x1, x2, MASK))
    finish_streams()


@compiled
@no_type_check
def _write_owned(written, owners, m):
    for k in range(len(written)):
        written[k] = owners[k] == m


@compiled
@no_type_check
def _write_left(written, owners, former):
    for k in range(len(written)):
        is_object, is_free = former[k] != 0, owners[k] == NOBODY
        written[k] = is_object & is_free


@compiled
@no_type_check
def _whole_lines(begin, end, streams):
    """Where the lines begin and end that lie between the addresses and are to be streamed."""
    first, last = -(-begin // LINE) * LINE, end // LINE * LINE
    return (first, last) if streams and first < last else (end, end)


@compiled
@no_type_check
def _clear(begin, end, streams):
    first, last = _whole_lines(begin, end, streams)
    _fill(begin, first)
    for line in range(first, last, LINE):
        stream_zeros(line)
    _fill(last, end)


@compiled
@no_type_check
def _fill(begin, end):
    written = row_of(begin, end - begin, MASK)
    for k in range(len(written)):
        written[k] = 0


@compiled
@no_type_check
def _copy(begin, end, former, streams):
    first, last = _whole_lines(begin, end, streams)
    _move(begin, first, former)
    for line in range(first, last, LINE):
        stream_line(line, former + line - begin)
    _move(last, end, former + last - begin)


@compiled
@no_type_check
def _move(begin, end, former):
    written, read = row_of(begin, end - begin, MASK), row_of(former, end - begin, MASK)
    for k in range(len(written)):
        written[k] = read[k] != 0


@compiled
@no_type_check
def hold_other_values(masks, boxes):
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


@compiled
@no_type_check
def class_boxes(maps, low, boxes):
    """Widen the boxes (x1, y1, x2, y2) of each map, one for each id from the lowest on, to its pixels."""
    height, width = maps.shape[1:]
    for n in range(len(maps)):
        for y in range(height):
            row = maps[n, y]
            begin = 0
            while begin < width:  # from run to run of one id
                end = begin + 1
                while end < width and row[end] == row[begin]:
                    end += 1
                box = boxes[n, row[begin] - low]
                box[0], box[1] = min(box[0], begin), min(box[1], y)
                box[2], box[3] = max(box[2], end), y + 1
                begin = end


@compiled
@no_type_check
def class_masks(ids, numbers, masks):
    """Set the pixels of each number's mask, which is empty before; the numbers are ascending, others have no mask."""
    height, width = ids.shape
    for y in range(height):
        begin = 0
        while begin < width:  # from run to run of one id
            end = begin + 1
            while end < width and ids[y, end] == ids[y, begin]:
                end += 1
            low, high = 0, len(numbers)
            while low < high:
                middle = (low + high) // 2
                if numbers[middle] < ids[y, begin]:
                    low = middle + 1
                else:
                    high = middle
            if low < len(numbers) and numbers[low] == ids[y, begin]:
                masks[low, y, begin:end] = 1
            begin = end


@compiled
@no_type_check
def mark_overlapped(objects, windows, landings, landed, found):
    """Mark, of each image's objects, those whose window (y1, x1, y2, x2) shares a pixel with one of its landings'.

    ``objects`` and ``landings`` hold the first of each image, and one past the last, in the rows of their windows.
    """
    for i in range(len(objects)):
        for g in range(objects[i, 0], objects[i, 1]):
            y1, x1, y2, x2 = windows[g]
            for m in range(landings[i, 0], landings[i, 1]):
                other = landed[m]
                if max(y1, other[0]) < min(y2, other[2]) and max(x1, other[1]) < min(x2, other[3]):
                    found[g] = True
                    break
