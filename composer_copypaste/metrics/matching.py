"""Matches the detections of images with their objects by COCO's rules, all images in one compiled pass.

The rules are those of ``evaluateImg`` of pycocotools' COCOeval, and overlaps are computed as its ``maskApi.c`` does, so
all results equal its own to the bit. It stands in for it because it is many times faster: nothing becomes a Python
object, and of two masks only the runs are read in which both may have pixels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from composer_copypaste.functional.engines.numba_memory import compiled
from composer_copypaste.metrics.inputs import GroundTruth, ScoredDetections, ScoredImage
from composer_copypaste.metrics.scores import AREAS, IOUS, Array, IouType

AREA_RANGES = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""COCO's area ranges in square pixels, both ends included: all sizes, small, medium, large."""

IOU_THRESHOLDS = np.linspace(0.5, 0.95, IOUS)

NOBODY = -1
MATCHED, IGNORED = range(2)
"""Whether a detection has found an object; whether it counts neither as right nor as wrong."""


class Rows(NamedTuple):
    """Detections or objects, image by image and in each image category by category.

    The rows of image i are ``starts[i]`` to ``starts[i + 1]``. Masks are runs: bytes of COCO's codes, those of row n
    from ``code_starts[n]`` to ``code_ends[n]``; without masks there are none.
    """

    starts: Int64[Array, " images_and_1"]
    categories: Int64[Array, " n"]
    """Index of each row's category."""
    boxes: Float64[Array, "n 4"]
    """x, y, width, height."""
    codes: UInt8[Array, " bytes"]
    code_starts: Int64[Array, " n"]
    code_ends: Int64[Array, " n"]

    @property
    def images(self) -> Int64[Array, " n"]:
        """Index of each row's image."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))


class Objects(NamedTuple):
    """The objects of all images."""

    rows: Rows
    crowds: Bool[Array, " n"]
    counted: Bool[Array, "n areas"]
    """Whether the object counts: it is no crowd, and of this size."""


@dataclass(frozen=True, eq=False)
class Matching:
    """Which detections match objects, by area range and IoU threshold.

    Detections are in each image and category best first; of each image and category, as many as count.
    """

    detections: Rows
    scores: Float64[Array, " detections"]
    matched: Bool[Array, "detections areas ious"]
    """Whether the detection has found an object."""
    ignored: Bool[Array, "detections areas ious"]
    """Whether the detection counts neither as right nor as wrong."""
    objects: Objects


def match_detections(
    images: Sequence[ScoredImage],
    truths: Sequence[GroundTruth],
    category_ids: Sequence[int],
    iou_type: IouType,
    max_detections: int,
) -> Matching:
    """Match the detections of each image with its ground truth.

    Args:
        images: The images.
        truths: The ground truth of each.
        category_ids: All category ids, ascending; detections of others do not count.
        iou_type: Whether overlaps are those of boxes or of masks.
        max_detections: This many detections of each image and category count, the best ones.
    """
    found = [image.detections for image in images]
    scores = _joined((each.scores for each in found), np.float64)
    detections, order = _rows(found, category_ids, iou_type, -scores, max_detections)
    objects = _objects(truths, category_ids, iou_type)
    heights = np.array([image.size[0] if image.size else 0 for image in images], dtype=np.int64)
    flags = np.zeros((2, len(order), AREAS, IOUS), np.bool_)
    _match_images(heights, detections, objects, iou_type == "segm", flags)
    return Matching(detections, scores[order], flags[MATCHED], flags[IGNORED], objects)


def _objects(truths: Sequence[GroundTruth], category_ids: Sequence[int], iou_type: IouType) -> Objects:
    areas = _joined((each.areas for each in truths), np.float64)
    rows, order = _rows(truths, category_ids, iou_type, np.zeros(len(areas)), None)
    crowds = _joined((each.iscrowd for each in truths), np.int64)[order] != 0
    low, high = AREA_RANGES.T
    of_size = (low <= areas[order, None]) & (areas[order, None] <= high)
    return Objects(rows, crowds, of_size & ~crowds[:, None])


def _rows(
    parts: Sequence[ScoredDetections | GroundTruth],
    category_ids: Sequence[int],
    iou_type: IouType,
    keys: Float64[Array, " all"],
    limit: int | None,
) -> tuple[Rows, Int64[Array, " n"]]:
    """The rows of all images, and which of all given objects each is.

    Rows of an image and category are in the order of their ``keys``, where these are equal in that of the image;
    ``limit`` says how many there are at most.
    """
    ids, given = np.array(category_ids, dtype=np.int64), _joined((part.categories for part in parts), np.int64)
    categories = np.searchsorted(ids, given)
    known = np.flatnonzero(np.isin(given, ids))
    images = np.repeat(np.arange(len(parts)), [len(part.categories) for part in parts])
    order = known[np.lexsort((keys[known], categories[known], images[known]))]
    if limit is not None:
        order = order[_places(images[order], categories[order]) < limit]
    codes: list[bytes] = []
    if iou_type == "segm":
        codes = list(chain.from_iterable(part.masks.counts for part in parts if part.masks is not None))
    lengths = np.fromiter(map(len, codes), np.int64, len(codes)) if codes else np.zeros(len(given), np.int64)
    ends = np.cumsum(lengths)
    rows = Rows(
        starts=np.searchsorted(images[order], np.arange(len(parts) + 1)),
        categories=categories[order],
        boxes=_joined((part.boxes for part in parts), np.float64).reshape(-1, 4)[order],
        codes=np.frombuffer(b"".join(codes), np.uint8),
        code_starts=(ends - lengths)[order],
        code_ends=ends[order],
    )
    return rows, order


def _places(images: Int64[Array, " n"], categories: Int64[Array, " n"]) -> Int64[Array, " n"]:
    """Which row of its image and category each is, counted from 0; rows of one image and category are neighbours."""
    begins = np.ones(len(images), np.bool_)
    begins[1:] = (images[1:] != images[:-1]) | (categories[1:] != categories[:-1])
    numbers = np.arange(len(images))
    return numbers - np.maximum.accumulate(np.where(begins, numbers, 0))


def _joined(parts: Iterable[Array], dtype: type[np.float64] | type[np.int64]) -> Array:
    return np.concatenate([np.zeros(0, dtype), *(part.reshape(-1) for part in parts)])


# Images


@compiled
@no_type_check
def _match_images(heights, detections, objects, by_masks, flags):
    """Set the flags of all detections: MATCHED or IGNORED, detections, area ranges, IoU thresholds."""
    truths = objects.rows
    for i in range(len(heights)):
        first, end = detections.starts[i], detections.starts[i + 1]
        low, high = truths.starts[i], truths.starts[i + 1]
        areas, overlaps = np.empty(end - first), np.zeros((end - first, high - low))
        if by_masks:
            _overlaps_of_masks(detections, objects, (first, low, heights[i]), areas, overlaps)
        else:
            _overlaps_of_boxes(detections, objects, (first, low), areas, overlaps)
        n, k = first, low
        while n < end:
            category, begin = detections.categories[n], n
            while n < end and detections.categories[n] == category:
                n += 1
            while k < high and truths.categories[k] < category:
                k += 1
            others = k
            while k < high and truths.categories[k] == category:
                k += 1
            own, own_areas = (
                overlaps[begin - first : n - first, others - low : k - low],
                areas[begin - first : n - first],
            )
            _match_category(own, own_areas, objects.crowds[others:k], objects.counted[others:k], flags[:, begin:n])


@compiled
@no_type_check
def _match_category(overlaps, areas, crowds, counted, flags):
    """Match the detections of one category in one image, the best first, with the objects there."""
    taken, largest = np.empty(len(crowds), np.bool_), np.zeros(len(overlaps))
    for n in range(len(overlaps)):
        for k in range(len(crowds)):
            largest[n] = max(largest[n], overlaps[n, k])
    for area in range(AREAS):
        order = _order(counted[:, area])
        for iou in range(IOUS):
            taken[:] = False
            for n in range(len(overlaps)):
                k, threshold = NOBODY, IOU_THRESHOLDS[iou]
                if largest[n] >= threshold:
                    k = _best_object(overlaps[n], order, taken, crowds, counted[:, area], threshold)
                if k == NOBODY:
                    outside = areas[n] < AREA_RANGES[area, 0] or areas[n] > AREA_RANGES[area, 1]
                    flags[IGNORED, n, area, iou] = outside
                else:
                    taken[k] = True
                    flags[MATCHED, n, area, iou] = True
                    flags[IGNORED, n, area, iou] = not counted[k, area]


@compiled
@no_type_check
def _order(counted):
    """The numbers of all objects; those that count come first."""
    order, n = np.empty(len(counted), np.int64), 0
    for wanted in (True, False):
        for k in range(len(counted)):
            if counted[k] == wanted:
                order[n] = k
                n += 1
    return order


@compiled
@no_type_check
def _best_object(overlaps, order, taken, crowds, counted, threshold):
    """The object that a detection finds, or NOBODY: of equal overlaps the last one, and one that counts if any does."""
    best, found = min(threshold, 1 - 1e-10), NOBODY
    for k in order:
        if taken[k] and not crowds[k]:
            continue
        if found != NOBODY and counted[found] and not counted[k]:
            break
        if overlaps[k] >= best:
            best, found = overlaps[k], k
    return found


# Overlaps


@compiled
@no_type_check
def _overlaps_of_boxes(detections, objects, firsts, areas, overlaps):
    """Set the areas of an image's detections, and their overlaps with objects of the same category.

    ``firsts`` are the rows of the image's first detection and object.
    """
    (first, low), truths = firsts, objects.rows
    for n in range(len(areas)):
        one = detections.boxes[first + n]
        areas[n] = one[2] * one[3]
        for k in range(overlaps.shape[1]):
            if detections.categories[first + n] == truths.categories[low + k]:
                other = truths.boxes[low + k]
                width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
                height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
                if width > 0 and height > 0:
                    shared = width * height
                    whole = areas[n] if objects.crowds[low + k] else areas[n] + other[2] * other[3] - shared
                    overlaps[n, k] = shared / whole


@compiled
@no_type_check
def _overlaps_of_masks(detections, objects, image, areas, overlaps):
    """The same of masks; ``image`` has the rows of the image's first detection and object, and the image's height."""
    (first, low, height), truths = image, objects.rows
    others, other_ends = _decode_all(truths, low, low + overlaps.shape[1], height)
    longest = 0
    for n in range(first, first + len(areas)):
        longest = max(longest, len(_code(detections, n)))
    ends = np.empty(longest, np.int64)
    for n in range(len(areas)):
        runs, top, bottom, area = _decode(_code(detections, first + n), height, ends)
        areas[n] = area
        for k in range(overlaps.shape[1]):
            if detections.categories[first + n] != truths.categories[low + k]:
                continue
            start, end, other_top, other_bottom, other_area = others[k]
            if top <= other_bottom and other_top <= bottom:
                shared = _shared_pixels(ends[:runs], other_ends[start:end])
                if shared:
                    overlaps[n, k] = shared / (area if objects.crowds[low + k] else area + other_area - shared)


@compiled
@no_type_check
def _code(rows, n):
    """The code of a row's mask."""
    return rows.codes[rows.code_starts[n] : rows.code_ends[n]]


@compiled
@no_type_check
def _decode_all(rows, first, end, height):
    """Of several masks, where the runs of each begin and end, and what else ``_decode`` gives; and all runs."""
    found, start, total = np.empty((end - first, 5), np.int64), 0, 0
    for n in range(first, end):
        total += len(_code(rows, n))
    ends = np.empty(total, np.int64)
    for n in range(first, end):
        runs, top, bottom, area = _decode(_code(rows, n), height, ends[start:])
        found[n - first] = (start, start + runs, top, bottom, area)
        start += runs
    return found, ends


@compiled
@no_type_check
def _decode(code, height, ends):
    """Set where each run of a mask ends, counted column by column; runs of zeros and of ones alternate.

    Returns:
        The number of runs, the first and the last row with a pixel, and the number of pixels.
    """
    runs, place, column, shift, value, area = 0, 0, 0, 0, 0, 0
    top, bottom = height, -1
    before, last = 0, 0  # the run lengths two places before and one before
    for n in range(len(code)):
        bits = np.int64(code[n]) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        if runs > 2:
            value += before
        if runs & 1 and value > 0:
            area += value
            while place >= column + height:  # faster than a division, as most runs are in the next column
                column += height
            first, final = place - column, place - column + value - 1
            if final >= height:  # it goes on in the next column
                first, final = 0, height - 1
            top, bottom = min(top, first), max(bottom, final)
        place += value
        ends[runs] = place
        runs += 1
        before, last, value, shift = last, value, 0, 0
    return runs, top, bottom, area


@compiled
@no_type_check
def _shared_pixels(ends, others):
    """The number of pixels that two masks share, given where their runs end; neither is empty."""
    shared = 0
    k, m = _run_after(ends, others[0]), _run_after(others, ends[0])
    while k < len(ends) and m < len(others):
        low, high = max(ends[k - 1], others[m - 1]), min(ends[k], others[m])
        shared += max(high - low, 0)
        if ends[k] < others[m]:
            k += 2
        else:
            m += 2
    return shared


@compiled
@no_type_check
def _run_after(ends, place):
    """The first run of ones that ends after a pixel."""
    low, high = 0, len(ends) // 2
    while low < high:
        middle = (low + high) // 2
        if ends[2 * middle + 1] > place:
            high = middle
        else:
            low = middle + 1
    return 2 * low + 1
