"""Masks as COCO files say them: as polygons that pycocotools draws as exactly the same pixels, or as run lengths.

pycocotools draws a polygon on a grid of five steps a pixel. An edge of it matters only where it crosses the middle of a
column of pixels: the row that is nearest there is where the mask begins or ends. So an outline is a list of crossings,
each with some room up and down, and a polygon may take any way through them: it needs far fewer points than the pixels'
corners.
"""

import json
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Int64, UInt8
from numpy import ndarray

from composer_copypaste.data.coco_write import EncodedJson
from composer_copypaste.data.rle import CroppedMask, Rle
from composer_copypaste.functional.engines.numba_memory import compiled

STEPS = 5
"""Steps of a pixel on the grid on which pycocotools draws polygons (``scale`` in ``rleFrPoly`` of its maskApi.c)."""

ROOM_ABOVE, ROOM_BELOW = 1.9, 2.4
"""How far, in steps, an edge may cross the middle of a column from the row where a mask begins or ends. pycocotools
takes the smaller of the rounded heights before and after the middle, and a row for all heights from 2 steps above it to
2 below. A height is rounded to the nearest step where an edge is flat (so 2 above, 2.5 below), and down by up to a step
where it is steep (2 above, 3 below). The margin is for errors of floating point."""

RIGHT, DOWN, LEFT, UP = range(4)

_OPEN, _CLOSE, _COMMA, _POINT, _ZERO = b"[],.0"
_LONGEST_NUMBER = 12
"""Characters of a coordinate: images have far fewer than 10**10 columns."""


@dataclass(frozen=True)
class Crossings:
    """The outlines of a mask, one after the other, as their crossings of columns' middles. The mask is on the right.

    Attributes:
        column: which column is crossed.
        row: at the upper edge of which row.
        rightward: whether from left to right, as along the upper edge of a mask.
        starts: the index of the first crossing of each outline, and the number of all crossings.
    """

    column: Int64[ndarray, " n"]
    row: Int64[ndarray, " n"]
    rightward: UInt8[ndarray, " n"]
    starts: Int64[ndarray, " s"]


def polygons_of_mask(cropped: CroppedMask) -> str | None:
    """The polygons [[x1, y1, x2, y2, ...], ...] around the parts of a mask, as JSON; None where a part has a hole.

    Parts that touch at a corner only have a polygon each. Drawn by pycocotools, the polygons cover the mask's pixels
    and no others.
    """
    crossings = _crossings_of(np.ascontiguousarray(cropped.mask))
    if crossings is None:
        return None
    column, row, rightward, starts = crossings.column, crossings.row, crossings.rightward, crossings.starts
    corner, bottom = (cropped.left, cropped.top), cropped.mask.shape[0] * STEPS
    text = _write_polygons(column, row, rightward, starts, corner, bottom)
    return text.tobytes().decode("ascii")


def mask_of_rle(rle: Rle) -> CroppedMask | None:
    """The mask of run lengths, cut to its pixels; None where there are none. As ``cropped_mask_of_rle``, but faster."""
    counts = _decompressed(np.frombuffer(rle["counts"], np.uint8))
    top, left, bottom, right = _extent(counts, rle["size"][0])
    if top >= bottom:
        return None
    return CroppedMask(int(top), int(left), _filled(counts, rle["size"][0], top, left, bottom, right))


def rle_of_mask(cropped: CroppedMask, size: tuple[int, int]) -> Rle:
    """The run lengths of a mask in an image of this (height, width): the bytes that pycocotools gives."""
    counts = _run_lengths(np.ascontiguousarray(cropped.mask), cropped.top, cropped.left, *size)
    return {"size": list(size), "counts": _compressed(counts).tobytes()}


def without_holes(cropped: CroppedMask) -> CroppedMask:
    """The mask with its holes filled: all pixels from which no way leads out of the mask, not even between corners."""
    mask = cropped.mask
    padded = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    return CroppedMask(cropped.top, cropped.left, _filled_holes(padded)[1:-1, 1:-1])


def annotation_fields(mask: CroppedMask, size: tuple[int, int], *, polygons: bool = True) -> dict[str, Any]:
    """Outline, box and area of a mask, as an annotation of a COCO file has them.

    Args:
        mask: a mask that has a pixel.
        size: (height, width) of its image.
        polygons: whether the outline is polygons, unless a part has a hole; else it is run lengths.
    """
    x1, y1, x2, y2 = mask.box
    outline = polygons_of_mask(mask) if polygons else None
    if outline is None:
        rle = rle_of_mask(mask, size)
        outline = json.dumps({"size": rle["size"], "counts": rle["counts"].decode()}, separators=(",", ":"))
    return {"segmentation": EncodedJson(outline), "bbox": [x1, y1, x2 - x1, y2 - y1], "area": mask.area}


def _crossings_of(mask: UInt8[ndarray, "h w"]) -> Crossings | None:
    """The outlines of a mask's parts; None where one has a hole."""
    height, width = mask.shape
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = mask
    edges = int(np.count_nonzero(padded[1:] > padded[:-1]))  # an outline crosses as often leftward as rightward
    column, row, rightward = np.empty(2 * edges, np.int64), np.empty(2 * edges, np.int64), np.empty(2 * edges, np.uint8)
    starts = np.zeros(edges + 1, np.int64)
    outlines = _trace(padded, column, row, rightward, starts)
    return None if outlines < 0 else Crossings(column, row, rightward, starts[: outlines + 1])


@compiled
@no_type_check
def _trace(padded, column, row, rightward, starts):
    """Follow the outlines of a mask that has a margin of one pixel; give their number, or -1 where there is a hole.

    Pixels that touch at a corner only are not connected.
    """
    seen = np.zeros(padded.shape, np.uint8)
    n = outlines = 0
    for top in range(1, padded.shape[0]):
        for left in range(1, padded.shape[1]):
            if not padded[top, left] or padded[top - 1, left] or seen[top, left]:
                continue
            y, x, direction, enclosed = top, left, RIGHT, 0
            while not (direction == RIGHT and seen[y, x]):
                if direction == RIGHT:
                    seen[y, x] = 1
                    column[n], row[n], rightward[n] = x - 1, y - 1, 1
                    n, x, enclosed = n + 1, x + 1, enclosed - y
                elif direction == LEFT:
                    x -= 1
                    column[n], row[n], rightward[n] = x - 1, y - 1, 0
                    n, enclosed = n + 1, enclosed + y
                else:
                    y += 1 if direction == DOWN else -1
                direction = _next_direction(padded, y, x, direction)
            if enclosed < 0:
                return -1
            outlines += 1
            starts[outlines] = n
    return outlines


@compiled
@no_type_check
def _filled_holes(padded):
    """A mask that has a margin of one pixel, with all pixels set that are not connected to the margin outside it."""
    height, width = padded.shape
    filled = np.ones((height, width), np.uint8)
    waiting, n = np.empty(height * width, np.int64), 1
    waiting[0], filled[0, 0] = 0, 0
    while n:
        n -= 1
        y, x = waiting[n] // width, waiting[n] % width
        for near_y in range(max(y - 1, 0), min(y + 2, height)):
            for near_x in range(max(x - 1, 0), min(x + 2, width)):
                if filled[near_y, near_x] and not padded[near_y, near_x]:
                    filled[near_y, near_x] = 0
                    waiting[n], n = near_y * width + near_x, n + 1
    return filled


@compiled
@no_type_check
def _next_direction(padded, y, x, direction):
    """Where an outline goes on from the corner above and left of a pixel, with the mask on its right."""
    above_left, above, at_left, here = padded[y - 1, x - 1], padded[y - 1, x], padded[y, x - 1], padded[y, x]
    if direction == RIGHT:
        ahead_left, ahead_right = above, here
    elif direction == DOWN:
        ahead_left, ahead_right = here, at_left
    elif direction == LEFT:
        ahead_left, ahead_right = at_left, above_left
    else:
        ahead_left, ahead_right = above_left, above
    if not ahead_right:
        return (direction + 1) % 4
    return (direction + 3) % 4 if ahead_left else direction


@compiled
@no_type_check
def _write_polygons(column, row, rightward, starts, corner, bottom):
    """The polygons of all outlines as text; ``corner`` (left, top), in pixels, is added to their corners."""
    text = np.empty(4 * (len(column) + len(starts)) * (_LONGEST_NUMBER + 1) + 2 * len(starts), np.uint8)
    text[0], n = _OPEN, 1
    for outline in range(len(starts) - 1):
        part = slice(starts[outline], starts[outline + 1])
        corners = _shortest_way(column[part], row[part], rightward[part], bottom)
        text[n], n = _OPEN, n + 1
        for k in range(len(corners)):
            n = _write_number(text, n, corners[k, 0] + STEPS * corner[0])
            n = _write_number(text, n, corners[k, 1] + STEPS * corner[1])
        text[n - 1], text[n], n = _CLOSE, _COMMA, n + 1  # in place of the last comma
    text[n - 1] = _CLOSE
    return text[:n]


@compiled
@no_type_check
def _write_number(text, n, steps):
    """Write a number of steps as pixels, with one decimal if it is not whole, and a comma; give the end of it."""
    whole, begin = steps // STEPS, n
    while whole or n == begin:
        text[n] = _ZERO + whole % 10
        whole //= 10
        n += 1
    text[begin:n] = text[begin:n][::-1].copy()
    if steps % STEPS:
        text[n], text[n + 1], n = _POINT, _ZERO + steps % STEPS * (10 // STEPS), n + 2
    text[n] = _COMMA
    return n + 1


@compiled
@no_type_check
def _shortest_way(column, row, rightward, bottom):
    """Corners (x, y), in steps, of a polygon through an outline's crossings; between 0 and ``bottom``.

    The outline is cut where it turns back. In each part, an edge goes on for as long as a straight line passes all its
    crossings; it begins and ends between columns, where its height does not matter.
    """
    n = len(column)
    corners, m = np.empty((2 * n + 2, 2), np.int64), 0
    first = 0
    while rightward[first] == rightward[first - 1]:
        first += 1
    start = 0
    while start < n:
        end = start + 1
        while end < n and rightward[(first + end) % n] == rightward[(first + start) % n]:
            end += 1
        ahead = 1 if rightward[(first + start) % n] else -1
        x0 = STEPS * (column[(first + start) % n] + (0 if ahead == 1 else 1))
        y, k = STEPS * row[(first + start) % n], start
        corners[m, 0], corners[m, 1] = x0, y
        m += 1
        while k < end:
            reached, height = _reach(row, first, k, end, y, bottom)
            if reached == k:  # only from another height: along the columns' border
                height = STEPS * row[(first + k) % n]
            k, y = reached, height
            corners[m, 0], corners[m, 1] = x0 + ahead * STEPS * (k - start), y
            m += 1
        start = end
    return _without_repetition(corners[:m])


@compiled
@no_type_check
def _reach(row, first, k, end, y, bottom):
    """How far a straight edge from before crossing ``k`` at height ``y`` gets, and at which height it ends there."""
    n = len(row)
    low, high = -np.inf, np.inf
    reached, height = k, y
    for j in range(k, end):
        to_middle, to_border, target = STEPS * (j - k + 0.5), STEPS * (j - k + 1), STEPS * row[(first + j) % n]
        low = max(low, (target - ROOM_ABOVE - y) / to_middle)
        high = min(high, (target + ROOM_BELOW - y) / to_middle)
        if low > high:
            break
        lowest = max(0, int(np.ceil(y + low * to_border)))
        highest = min(bottom, int(np.floor(y + high * to_border)))
        if lowest <= highest:
            reached = j + 1
            after = target if j + 1 == end else STEPS * row[(first + j + 1) % n]
            height = min(max((target + after) // 2, lowest), highest)
    return reached, height


@compiled
@no_type_check
def _without_repetition(corners):
    """The corners without those that equal the one before, and without those on the way between their neighbours."""
    n = len(corners)
    kept = np.ones(n, np.bool_)
    for k in range(n):
        x, y = corners[k]
        before_x, before_y = corners[k - 1]
        kept[k] = x != before_x or y != before_y
    corners = corners[kept]
    n = len(corners)
    kept = np.ones(n, np.bool_)
    for k in range(n):
        x, y = corners[k]
        before_x, before_y = corners[k - 1]
        after_x, after_y = corners[(k + 1) % n]
        kept[k] = (x - before_x) * (after_y - y) != (y - before_y) * (after_x - x)
    return corners[kept]


@compiled
@no_type_check
def _run_lengths(mask, top, left, height, width):
    """The lengths of the runs of zeros and of ones, in turn, down the columns of an image that holds a mask."""
    counts, n, end = np.empty((mask.shape[0] + 1) * mask.shape[1] + 1, np.int64), 0, 0
    for x in range(mask.shape[1]):
        first, y = (left + x) * height + top, 0
        while y < mask.shape[0]:
            begin = y
            while y < mask.shape[0] and mask[y, x]:
                y += 1
            if y > begin and n and first + begin == end:  # goes on from the bottom of the column before
                counts[n - 1] += y - begin
            elif y > begin:
                counts[n], counts[n + 1], n = first + begin - end, y - begin, n + 2
            end = first + y if y > begin else end
            y += 1
    if end < height * width:
        counts[n], n = height * width - end, n + 1
    return counts[:n]


@compiled
@no_type_check
def _decompressed(text):
    """The run lengths in COCO's text."""
    counts, n, value, shift = np.empty(len(text), np.int64), 0, 0, 0
    for character in text:
        bits = np.int64(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts[n] = value + (counts[n - 2] if n > 2 else 0)
            n, value, shift = n + 1, 0, 0
    return counts[:n]


@compiled
@no_type_check
def _extent(counts, height):
    """The rows and columns (top, left, bottom, right) of the ones in an image of this height; ends excluded."""
    top, left, bottom, right, place = height, -1, 0, 0, 0
    for k in range(len(counts)):
        begin, place = place, place + counts[k]
        if k % 2 == 0 or begin == place:
            continue
        left = begin // height if left < 0 else left
        right = (place - 1) // height + 1
        if right - 1 > begin // height:  # goes on in the next column
            top, bottom = 0, height
        else:
            top, bottom = min(top, begin % height), max(bottom, (place - 1) % height + 1)
    return top, left, bottom, right


@compiled
@no_type_check
def _filled(counts, height, top, left, bottom, right):
    """The mask in these rows and columns, which hold all ones."""
    columns, place = np.zeros((right - left, bottom - top), np.uint8), 0
    for k in range(len(counts)):
        begin, place = place, place + counts[k]
        while k % 2 and begin < place:
            x, y = begin // height, begin % height
            end = min(place, (x + 1) * height)
            columns[x - left, y - top : y - top + end - begin] = 1
            begin = end
    mask = np.empty((bottom - top, right - left), np.uint8)
    for y in range(bottom - top):
        for x in range(right - left):
            mask[y, x] = columns[x, y]
    return mask


@compiled
@no_type_check
def _compressed(counts):
    """Run lengths as COCO's text: five bits a character; from the fourth on, the difference from two before."""
    text, n = np.empty(13 * len(counts), np.uint8), 0
    for k in range(len(counts)):
        value, more = counts[k] - (counts[k - 2] if k > 2 else 0), True
        while more:
            bits = value & 31
            value >>= 5
            more = value != -1 if bits & 16 else value != 0
            text[n] = 48 + bits + (32 if more else 0)
            n += 1
    return text[:n]
