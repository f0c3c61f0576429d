"""Numba's loops that fill the tables that kernels read, on the host of any device; as ``numba_objects.py``."""

from typing import no_type_check

import numpy as np

from composer_copypaste.functional.engines.compilation import compiled
from composer_copypaste.functional.engines.kernels import BY_X, BY_Y, NO_TENSOR, NOBODY, TO_X, TO_Y, X1, X2, Y1, Y2
from composer_copypaste.functional.engines.numba_objects import set_window


@compiled
@no_type_check
def fill_images(table, pasted, sizes, owners, bytes_per_owner):
    """Fill a table of images whose owners begin at an address, one image after the other."""
    for i in range(len(table)):
        row, image = table[i], pasted.receiving[i]
        height, width = sizes[image, 0], sizes[image, 1]
        row.owners, row.height, row.width = owners, height, width
        row.first, row.end = pasted.ranges[i, 0], pasted.ranges[i, 1]
        owners += height * width * bytes_per_owner


@compiled
@no_type_check
def mask_addresses(objects, begins):
    """Where the mask of each object begins; those of each source begin at an address, one after the other."""
    addresses, address, last = np.empty(len(objects.source), np.int64), np.int64(0), np.int64(-1)
    for g in range(len(addresses)):
        if objects.source[g] != last:
            last = objects.source[g]
            address = begins[last]
        addresses[g] = address
        address += window_area(objects.mask_windows[g])
    return addresses


@compiled
@no_type_check
def window_area(window):
    """The number of pixels of a window."""
    return (window[Y2] - window[Y1]) * (window[X2] - window[X1])


@compiled
@no_type_check
def fill_pasted(table, images, pasted, objects, addresses):
    """Fill a table of pasted objects that reads the masks of their sources."""
    for i in range(len(images)):
        for m in range(images[i].first, images[i].end):
            row, g, to_image = table[m], pasted.origin[m], pasted.to_source[m]
            row.image, row.pixels, row.number = i, addresses[g], pasted.level[m] + 1
            row.last = row.number
            set_map(row.to_source, pasted.to_mask[m])
            set_window(row.window, pasted.windows[m])
            row.rotated = to_image[TO_X, BY_Y] != 0 or to_image[TO_Y, BY_X] != 0
            row.height = objects.mask_windows[g, Y2] - objects.mask_windows[g, Y1]
            row.width = objects.mask_windows[g, X2] - objects.mask_windows[g, X1]


@compiled
@no_type_check
def read_images(table, pasted, sizes, addresses):
    """Let a table of pasted objects read the images of their sources, whose pixels begin at these addresses."""
    for m in range(len(table)):
        row, source = table[m], pasted.source[m]
        row.pixels, row.height, row.width = addresses[source], sizes[source, 0], sizes[source, 1]
        set_map(row.to_source, pasted.to_source[m])


@compiled
@no_type_check
def share_rows(table):
    """Let those of one image that follow each other in a table of pasted objects share a row if they have one map.

    Returns:
        The number of rows, the first of the table.
    """
    count = 0
    for m in range(len(table)):
        row, each = table[count - 1], table[m]
        if m and is_same_map(row, each):
            row.last = each.last
            set_window(row.window, window_around(row.window, each.window))
        else:
            table[count] = each
            count += 1
    return count


@compiled
@no_type_check
def is_same_map(row, other):
    """Whether two pasted objects lie on the same image, and read the same source by the same map."""
    same = row.image == other.image and row.pixels == other.pixels
    for i in range(2):
        for j in range(3):
            same &= row.to_source[i, j] == other.to_source[i, j]
    return same


@compiled
@no_type_check
def fill_measured(table, images, pasted, objects, overlapped, addresses):
    """Fill a table of objects to measure: the pasted ones, then those of images that they overlap."""
    for i in range(len(images)):
        for m in range(images[i].first, images[i].end):
            row = table[m]
            set_window(row.window, pasted.windows[m])
            row.number, row.mask = pasted.level[m] + 1, NO_TENSOR
            row.owners, row.owners_width = images[i].owners, images[i].width
    i = 0
    for k in range(len(overlapped)):
        row, g = table[len(pasted.target) + k], overlapped[k]
        while pasted.receiving[i] < objects.source[g]:
            i += 1
        set_window(row.window, objects.windows[g])
        row.number = NOBODY
        row.mask, row.mask_width = first_pixel(addresses[g], objects.mask_windows[g])
        row.owners, row.owners_width = images[i].owners, images[i].width


@compiled
@no_type_check
def first_pixel(address, window):
    """Where pixel (0, 0) of the image would be, if a mask kept in a window went on; the width of its rows."""
    width = window[X2] - window[X1]
    return address - window[Y1] * width - window[X1], width


@compiled
@no_type_check
def fill_masks(table, images, kept, pasted, objects, addresses):
    """Fill a table of masks to write, a row for each object that stays."""
    for i in range(len(images)):
        written = images[i].masks
        for r in range(kept.ends[i, 0], kept.ends[i, 1]):
            row, window, g = table[r], kept.windows[r], kept.origin[r]
            row.written, row.number = written, NOBODY
            set_window(row.kept_in, window)
            row.owners, row.owners_width = images[i].owners, images[i].width
            written += window_area(window)
            if kept.measure[r] < 0:
                row.is_copy, row.former, row.former_width = 1, addresses[g], window[X2] - window[X1]
            elif kept.pasted[r] < 0:
                row.former, row.former_width = first_pixel(addresses[g], objects.mask_windows[g])
                set_window(row.window, common_part(objects.windows[g], window))
            else:
                k = kept.pasted[r]
                row.number, row.former = pasted.level[k] + 1, NO_TENSOR
                set_window(row.window, common_part(pasted.windows[k], window))


@compiled
@no_type_check
def window_around(window, other):
    """The smallest window with the pixels of both."""
    return (
        min(window[Y1], other[Y1]),
        min(window[X1], other[X1]),
        max(window[Y2], other[Y2]),
        max(window[X2], other[X2]),
    )


@compiled
@no_type_check
def common_part(window, other):
    """The pixels that are in both windows; where there are none, a window that ends before it begins."""
    return (
        max(window[Y1], other[Y1]),
        max(window[X1], other[X1]),
        min(window[Y2], other[Y2]),
        min(window[X2], other[X2]),
    )


@compiled
@no_type_check
def set_map(map_, values):
    """Set a map to another."""
    for i in range(2):
        for j in range(3):
            map_[i, j] = values[i, j]
