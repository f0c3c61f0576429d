"""COCO's precision and recall, from the matches of an evaluation: what pycocotools' ``accumulate`` computes of them."""

from typing import no_type_check

import numpy as np
from jaxtyping import UInt8

from composer_copypaste.functional.engines.numba_memory import compiled
from composer_copypaste.metrics.matches import MatchTable, unpacked_flags
from composer_copypaste.metrics.scores import AREAS, IOUS, Array, Scores

RECALLS = np.linspace(0.0, 1.0, 101)
"""COCO's recall thresholds."""
EPSILON = np.spacing(1)
"""Which COCO adds to the number of detections before it divides by it."""

IGNORED, WRONG, RIGHT = 0, 1, 2
"""What a detection counts as."""


def scores_of_matches(table: MatchTable, max_dets: tuple[int, ...]) -> Scores:
    """The precision and recall of each category.

    Args:
        table: The matches, with as many detections of an image and category as the last limit allows.
        max_dets: Limits to the number of detections that count per image and category; ascending.
    """
    categories = len(table.detection_starts) - 1
    precision = np.full((categories, AREAS, IOUS, len(RECALLS)), -1.0)
    recall = np.full((categories, AREAS, IOUS, len(max_dets)), -1.0)
    for number in range(categories):
        rows = table.detections(number)
        positives = table.truth_counts[table.truths(number)].sum(axis=0, dtype=np.int64)
        counted = counts_as(table, rows), table.images[rows]
        _accumulate(*counted, positives, np.array(max_dets), precision[number], recall[number])
    return Scores(precision.transpose(2, 3, 0, 1).copy(), recall.transpose(2, 0, 1, 3).copy(), max_dets)


def counts_as(table: MatchTable, rows: slice) -> UInt8[Array, "areas ious detections"]:
    """IGNORED, WRONG or RIGHT."""
    matched, ignored = unpacked_flags(table.matched[rows]), unpacked_flags(table.ignored[rows])
    return np.where(ignored, IGNORED, np.where(matched, RIGHT, WRONG)).astype(np.uint8)


@compiled
@no_type_check
def _accumulate(counted_as, images, positives, max_dets, precision, recall):
    """Set the precision and the recall of a category where an object counts."""
    places = _places(images)
    precisions, recalls = np.empty(len(images)), np.empty(len(images))
    for area in range(AREAS):
        if positives[area]:
            for iou in range(IOUS):
                found = counted_as[area, iou]
                for m in range(len(max_dets)):
                    count = 0
                    for n in range(len(images)):
                        count += found[n] == RIGHT and places[n] < max_dets[m]
                    recall[area, iou, m] = count / positives[area]
                _set_precisions(found, positives[area], precisions, recalls)
                n = 0
                for k in range(len(RECALLS)):
                    while n < len(images) and recalls[n] < RECALLS[k]:
                        n += 1
                    precision[area, iou, k] = precisions[n] if n < len(images) else 0.0


@compiled
@no_type_check
def _places(images):
    """Which detection of its image each is, counted from 0."""
    last = 0
    for n in range(len(images)):
        last = max(last, images[n])
    places, counts = np.empty(len(images), np.int64), np.zeros(last + 1, np.int64)
    for n in range(len(images)):
        places[n] = counts[images[n]]
        counts[images[n]] += 1
    return places


@compiled
@no_type_check
def _set_precisions(counted_as, positives, precisions, recalls):
    """Set the recall down to each detection, and the highest precision from there on."""
    right, wrong = 0, 0
    for n in range(len(counted_as)):
        right, wrong = right + (counted_as[n] == RIGHT), wrong + (counted_as[n] == WRONG)
        recalls[n] = right / positives
        precisions[n] = right / (wrong + right + EPSILON)
    for n in range(len(counted_as) - 1, 0, -1):
        precisions[n - 1] = max(precisions[n - 1], precisions[n])
