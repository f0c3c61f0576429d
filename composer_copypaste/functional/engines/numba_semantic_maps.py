"""Numba's kernels for maps of class ids on a CPU: ids in fewer bytes, boxes and masks of classes, and their pasting."""

from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.numba_memory import compiled, values_at

BLOCK = np.uint64(32)
"""Pixels that are compared at once."""
ONE = np.uint64(1)


@compiled
@no_type_check
def narrow(maps, narrowed):
    """Write the ids of maps in another type, until one is found that it does not hold; whether it holds them all."""
    for n in range(len(maps)):
        for y in range(maps.shape[1]):
            row, written, is_lost = maps[n, y], narrowed[n, y], False
            for x in range(len(row)):
                written[x] = row[x]
                is_lost |= written[x] != row[x]
            if is_lost:
                return False
    return True


@compiled
@no_type_check
def class_boxes(maps, low, boxes):
    """Write the boxes (x1, y1, x2, y2) around each id of each map, from the lowest id on; x2 is 0 of absent ones."""
    height, width = maps.shape[1:]
    ends = np.empty(width, np.int64)
    for n in range(len(maps)):
        for k in range(boxes.shape[1]):
            boxes[n, k, 0], boxes[n, k, 1], boxes[n, k, 2], boxes[n, k, 3] = width, height, 0, 0
        for y in range(height):
            row, begin = maps[n, y], 0
            for end in ends[: _run_ends(row, ends)]:
                box = boxes[n, np.int64(row[begin]) - low]
                box[0], box[1] = min(box[0], begin), min(box[1], y)
                box[2], box[3] = max(box[2], end), y + 1
                begin = end


@compiled
@no_type_check
def _run_ends(row, ends):
    """Write where each run of equal values ends; their number. Unsigned indices need not be looked at one by one."""
    count, begin, width = np.uint64(0), ONE, np.uint64(len(row))
    while begin < width:
        stop, differs = min(begin + BLOCK, width), row.dtype.type(0)
        for x in range(begin, stop):
            differs |= row[x] ^ row[x - ONE]
        if differs:
            for x in range(begin, stop):
                ends[count] = x
                count += np.uint64(row[x] != row[x - ONE])
        begin = stop
    ends[count] = width
    return count + ONE


@compiled
@no_type_check
def class_masks(maps, image, numbers, windows, pixels):
    """Write the masks of these numbers of maps in their windows, one after the other."""
    end = 0
    for n in range(len(numbers)):
        number, (y1, x1, y2, x2) = maps.dtype.type(numbers[n]), windows[n]
        for y in range(y1, y2):
            row, begin, end = maps[image[n], y, x1:x2], end, end + x2 - x1
            written = pixels[begin:end]
            for k in range(len(written)):
                written[k] = row[k] == number


@compiled
@no_type_check
def paint_ids(images, pasted, labels, owners_like):
    """Write the label of each pasted object at the pixels that it owns."""
    for m in range(len(pasted)):
        each, label = pasted[m], labels[m]
        image, number, (y1, x1, y2, x2) = images[each.image], owners_like.dtype.type(each.number), each.window
        for y in range(y1, y2):
            owners = values_at(image.owners, y * image.width + x1, x2 - x1, owners_like)
            ids = values_at(image.pixels, y * image.width + x1, x2 - x1, labels)
            for k in range(len(ids)):
                before = ids[k]
                ids[k] = label if owners[k] == number else before
