"""Numba's loops over objects, on the host of any device: where they lie, and which stay.

NumPy would take a hundred calls for that, which last longer than the pixels of a small batch. Arrays are copied element
by element: a slice is compiled with the text of the error that it may raise, which takes ten times as long.
"""

import math
from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.compilation import compiled
from composer_copypaste.functional.engines.kernels import (
    OFFSET,
    X1,
    X2,
    Y1,
    Y2,
)
from composer_copypaste.functional.engines.numba_memory import ZERO
from composer_copypaste.functional.layout import MARGIN_PIXELS, LayoutObjects, PastedObjects
from composer_copypaste.functional.resample import PIXEL

BOX_X1, BOX_Y1, BOX_X2, BOX_Y2 = range(4)
"""The columns of a box."""


@compiled
@no_type_check
def source_objects(counts, boxes, mask_windows):
    """Of the objects of all sources in a row: each source's first, and the source, index and window of each."""
    first = np.zeros(len(counts) + 1, np.int64)
    source, instance = np.empty(len(boxes), np.int64), np.empty(len(boxes), np.int64)
    windows = np.empty((len(boxes), 4), np.int64)
    for s in range(len(counts)):
        first[s + 1] = first[s] + counts[s]
        for g in range(first[s], first[s + 1]):
            source[g], instance[g] = s, g - first[s]
    for g in range(len(boxes)):
        box, within = boxes[g], mask_windows[g]
        windows[g, Y1] = min(max(math.floor(box[BOX_Y1] - MARGIN_PIXELS), within[Y1]), within[Y2])
        windows[g, X1] = min(max(math.floor(box[BOX_X1] - MARGIN_PIXELS), within[X1]), within[X2])
        windows[g, Y2] = min(max(math.ceil(box[BOX_Y2] + MARGIN_PIXELS), within[Y1]), within[Y2])
        windows[g, X2] = min(max(math.ceil(box[BOX_X2] + MARGIN_PIXELS), within[X1]), within[X2])
    return first, source, instance, windows


@compiled
@no_type_check
def pasted_windows(target, origin, to_source, boxes, sizes):
    """The window of the target that each row of a plan covers, as if the target had no edges, and cut to it."""
    unbounded, windows = np.empty((len(target), 4), np.int64), np.empty((len(target), 4), np.int64)
    for m in range(len(target)):
        box = boxes[origin[m]]
        (xx, xy, x), (yx, yy, y) = to_source[m]
        determinant = xx * yy - xy * yx
        low_x = low_y = math.inf
        high_x = high_y = -math.inf
        for across, beyond_x in ((BOX_X1, -MARGIN_PIXELS), (BOX_X2, MARGIN_PIXELS)):
            for down, beyond_y in ((BOX_Y1, -MARGIN_PIXELS), (BOX_Y2, MARGIN_PIXELS)):
                from_x, from_y = box[across] + beyond_x - x, box[down] + beyond_y - y
                corner_x = (yy * from_x - xy * from_y) / determinant
                corner_y = (xx * from_y - yx * from_x) / determinant
                low_x, high_x = min(low_x, corner_x), max(high_x, corner_x)
                low_y, high_y = min(low_y, corner_y), max(high_y, corner_y)
        edges = math.floor(low_y), math.floor(low_x), math.ceil(high_y), math.ceil(high_x)
        for k in range(4):
            unbounded[m, k] = edges[k]
            windows[m, k] = min(max(edges[k], 0), sizes[target[m], k % 2])
    return unbounded, windows


@compiled
@no_type_check
def stacking_order(target, windows, images):
    """The rows of a plan whose objects lie on their target, ordered by target, and the levels that this gives them.

    Returns:
        The rows; their levels; the targets, ascending; for each the index of its first object, and of its last plus 1.
    """
    ends = np.zeros(images + 1, np.int64)
    for m in range(len(target)):
        ends[target[m] + 1] += windows[m, Y1] < windows[m, Y2] and windows[m, X1] < windows[m, X2]
    received = 0
    for i in range(images):
        received += ends[i + 1] > 0
        ends[i + 1] += ends[i]
    receiving, ranges = np.empty(received, np.int64), np.empty((received, 2), np.int64)
    place = 0
    for i in range(images):
        if ends[i] < ends[i + 1]:
            receiving[place], ranges[place, 0], ranges[place, 1] = i, ends[i], ends[i + 1]
            place += 1
    rows, level, next_place = np.empty(ends[images], np.int64), np.empty(ends[images], np.int64), ends.copy()
    for m in range(len(target)):
        if windows[m, Y1] < windows[m, Y2] and windows[m, X1] < windows[m, X2]:
            place = next_place[target[m]]
            rows[place], level[place] = m, place - ends[target[m]]
            next_place[target[m]] += 1
    return rows, level, receiving, ranges


@compiled
@no_type_check
def fixed_point_maps(to_source, rows, origin, mask_windows):
    """The maps of these rows in fixed point, to the source, and to the window in which it keeps the mask."""
    to_image, to_mask = np.empty((len(rows), 2, 3), np.int64), np.empty((len(rows), 2, 3), np.int64)
    for m in range(len(rows)):
        for i in range(2):
            for j in range(3):
                to_image[m, i, j] = to_mask[m, i, j] = np.rint(to_source[rows[m], i, j] * PIXEL)
            to_mask[m, i, OFFSET] -= PIXEL * mask_windows[origin[rows[m]], X1 - i]
    return to_image, to_mask


@compiled
@no_type_check
def overlapped_objects(first, windows, receiving, ranges, pasted):
    """The objects, ascending, of which the window shares a pixel with that of one pasted on their image."""
    found, count = np.empty(len(windows), np.int64), 0
    for i in range(len(receiving)):
        for g in range(first[receiving[i]], first[receiving[i] + 1]):
            y1, x1, y2, x2 = windows[g]
            for m in range(ranges[i, 0], ranges[i, 1]):
                other = pasted[m]
                if max(y1, other[Y1]) < min(y2, other[Y2]) and max(x1, other[X1]) < min(x2, other[X2]):
                    found[count] = g
                    count += 1
                    break
    kept = np.empty(count, np.int64)
    for k in range(count):
        kept[k] = found[k]
    return kept


@compiled
@no_type_check
def lay_out(plan, counts, boxes, mask_windows, sizes):
    """The objects of a :class:`Layout`, those overlapped, and those pasted.

    Args:
        plan: the columns of a plan.
        counts: the number of each source's objects.
        boxes: of all sources' objects.
        mask_windows: of all sources' objects.
        sizes: of the sources.
    """
    target, source, instance, to_source, color = plan
    first, source_of, instance_of, windows = source_objects(counts, boxes, mask_windows)
    origin = np.empty(len(target), np.int64)
    for m in range(len(target)):
        origin[m] = first[source[m]] + instance[m]
    unbounded, bounded = pasted_windows(target, origin, to_source, boxes, sizes)
    rows, level, receiving, ranges = stacking_order(target, bounded, len(counts))
    numbers = np.empty((4, len(rows)), np.int64)
    for m in range(len(rows)):
        r = rows[m]
        numbers[0, m], numbers[1, m], numbers[2, m], numbers[3, m] = target[r], source[r], instance[r], origin[r]
    unbounded, bounded, color = rows_of(unbounded, rows), rows_of(bounded, rows), rows_of(color, rows)
    to_image, to_mask = fixed_point_maps(to_source, rows, origin, mask_windows)
    receives = np.zeros(len(boxes), np.bool_)
    for image in receiving:
        for g in range(first[image], first[image + 1]):
            receives[g] = True
    overlapped = overlapped_objects(first, windows, receiving, ranges, bounded)
    maps, places = (to_image, to_mask, color), (bounded, unbounded, level, receiving, ranges)
    pasted = PastedObjects(rows, numbers[0], numbers[1], numbers[2], numbers[3], *maps, *places)
    return LayoutObjects(source_of, instance_of, mask_windows, windows, receives), overlapped, pasted


@compiled
@no_type_check
def rows_of(table, rows):
    """These rows of a table."""
    found = np.empty((len(rows), table.shape[1]), table.dtype)
    for k in range(len(rows)):
        for column in range(table.shape[1]):
            found[k, column] = table[rows[k], column]
    return found


@compiled
@no_type_check
def is_enough(area, former, limits):
    """Whether this number of visible pixels, of all that there were, lets an object stay."""
    min_visibility, min_area, tolerance = limits
    return area >= min_area and area >= min_visibility * former - tolerance


@compiled
@no_type_check
def keep_objects(objects, overlapped, pasted, measures, iscrowd, limits):
    """The rows of :class:`KeptObjects`, from ``target`` to ``measure``, its ends, and the windows of cut-outs.

    ``limits`` are the least visibility, the least area, and what the first may be missed by.
    """
    m, n = len(pasted.target), len(objects.source)
    measure, stays = np.empty(n, np.int64), np.empty(n, np.bool_)
    for g in range(n):
        measure[g], stays[g] = -1, objects.image_receives[g]
    area, former = measures.area, measures.former
    for k in range(len(overlapped)):
        g, changed = overlapped[k], m + k
        if area[changed] < former[changed]:
            measure[g] = changed
            stays[g] = area[changed] > 0 if iscrowd[g] else is_enough(area[changed], former[changed], limits)
    rows, ends = np.empty((7, n + m), np.int64), np.empty((len(pasted.receiving), 2), np.int64)
    r = g = ZERO
    for i in range(len(ends)):
        image = pasted.receiving[i]
        ends[i, 0] = r
        while g < n and objects.source[g] <= image:
            if stays[g]:  # of images that receive nothing none does
                add_row(rows, r, (image, r - ends[i, 0], g, objects.instance[g], -1, -1, measure[g]))
                r += 1
            g += 1
        for k in range(pasted.ranges[i, 0], pasted.ranges[i, 1]):
            if is_enough(area[k], former[k], limits):
                origin, instance, row = pasted.origin[k], pasted.instance[k], pasted.row[k]
                add_row(rows, r, (image, r - ends[i, 0], origin, instance, k, row, k))
                r += 1
        ends[i, 1] = r
    return rows, ends, windows_of_masks(rows[2], rows[6], r, objects, measures)


@compiled
@no_type_check
def add_row(rows, r, values):
    """Set a row whose columns lie one after the other."""
    for k in range(len(values)):
        rows[k, r] = values[k]


@compiled
@no_type_check
def windows_of_masks(origin, measure, count, objects, measures):
    """The windows in which masks are kept that are cut out: the former one where nothing changed, else the box."""
    windows = np.empty((count, 4), np.int64)
    for k in range(count):
        if measure[k] < 0:
            set_window(windows[k], objects.mask_windows[origin[k]])
        else:
            x1, y1, x2, y2 = measures.boxes[measure[k]]
            windows[k, Y1], windows[k, X1], windows[k, Y2], windows[k, X2] = y1, x1, y2, x2
    return windows


@compiled
@no_type_check
def set_window(window, edges):
    """Set a window to the edges of another."""
    for k in range(4):
        window[k] = edges[k]
