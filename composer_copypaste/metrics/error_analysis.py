"""What went wrong in an evaluation, and how much average precision each kind of mistake costs.

As TIDE defines it (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020), to the
number that the authors' package ``tidecv`` gives: at an intersection over union (IoU) of 0.5, each detection that finds
no object has one kind of error, and each object that nothing else would explain is missed. The cost of a kind is the
rise of AP50 if an oracle corrected its errors and no others; costs do not add up to what is missing to 100 %.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from composer_copypaste.metrics.overlaps import BACKGROUND_IOU, MATCHING_IOU, Overlaps, choose_pairs
from composer_copypaste.metrics.scores import Array

ErrorKind = Literal["class", "location", "both", "duplicate", "background", "missed"]
"""class: an object of another category, well placed. location: of its category, but an IoU below 0.5, from 0.1 on.
both: of another category, and badly placed. duplicate: an object that a better detection has found. background: nothing
with an IoU above 0.1. missed: an object without any detection, other than of these kinds."""

ERROR_KINDS: tuple[ErrorKind, ...] = get_args(ErrorKind)
OF_DETECTIONS = ERROR_KINDS[:-1]
RIGHT = len(OF_DETECTIONS)
"""The kind of a detection that finds an object; the others are indices of ``OF_DETECTIONS``."""
NONE = -1
"""Stands for no object."""

RECALLS = 101
"""Average precision is the mean of the precision at recalls of 0, 0.01, ..., 1."""


@dataclass(frozen=True, eq=False)
class DetectionErrors:
    """What each detection is, and which objects are missed.

    A detection inside a crowd has a kind too, as in TIDE, but it is no false one: ``counts`` says which do.
    """

    kinds: UInt8[Array, " detections"]
    """Index in ``OF_DETECTIONS``, or ``RIGHT``."""
    counts: Bool[Array, " detections"]
    """Whether the detection counts as right or false."""
    objects: Int64[Array, " detections"]
    """The object that was found, or that would be, with the right category or place; ``NONE`` where there is none."""
    ious: Float64[Array, " detections"]
    """The IoU with that object, 0 without one."""
    corrected: Bool[Array, " detections"]
    """Whether the detection would find its object if it were corrected: no other one finds it, or is more certain."""
    found: Bool[Array, " truths"]
    missed: Bool[Array, " truths"]

    def number(self, kind: ErrorKind) -> int:
        """The number of errors of a kind."""
        return int(self.missed.sum() if kind == "missed" else (self.kinds == ERROR_KINDS.index(kind)).sum())


@dataclass(frozen=True)
class ErrorCosts:
    """The average precision that errors cost, in [0, 1]."""

    ap50: float
    """Average precision at an IoU of 0.5, as TIDE computes it: a category that is detected without having an object
    counts as 0, where COCO leaves it out."""
    by_kind: Mapping[ErrorKind, float]
    """How much AP50 would rise without the errors of each kind; at least 0."""
    false_positives: float
    """How much it would rise if all false detections had the lowest score of all."""
    false_negatives: float
    """How much it would rise if all objects that are not found were no objects."""


# ---- which error a detection is


def find_errors(overlaps: Overlaps) -> DetectionErrors:
    """The kind of each detection, and the objects that are missed."""
    matched, matched_iou = _match(overlaps)
    right = matched != NONE
    found = np.zeros(len(overlaps.truth_categories), dtype=bool)
    found[matched[right]] = True

    same = overlaps.same_category
    own, own_iou = _best_object(overlaps, same)
    other, other_iou = _best_object(overlaps, ~same)
    any_iou = np.maximum(own_iou, other_iou)
    tests = [
        right,
        (own_iou >= BACKGROUND_IOU) & (own_iou <= MATCHING_IOU),
        other_iou >= MATCHING_IOU,
        own_iou > MATCHING_IOU,  # and not right: a better detection has found the object
        any_iou <= BACKGROUND_IOU,
    ]
    names = ("location", "class", "duplicate", "background")
    kinds = np.select(tests, [RIGHT, *map(OF_DETECTIONS.index, names)], OF_DETECTIONS.index("both")).astype(np.uint8)
    of_class, of_location = (kinds == OF_DETECTIONS.index(kind) for kind in ("class", "location"))
    objects = np.select([right, of_class, of_location], [matched, other, own], NONE)
    corrected, explained = _corrections(objects, (of_class | of_location), overlaps, found)
    return DetectionErrors(
        kinds=kinds,
        counts=right | ~overlaps.in_crowd,
        objects=objects,
        ious=np.select([right, of_class, of_location], [matched_iou, other_iou, own_iou], 0.0),
        corrected=corrected,
        found=found,
        missed=~found & ~explained,
    )


def _match(overlaps: Overlaps) -> tuple[Int64[Array, " detections"], Float64[Array, " detections"]]:
    """The object that each detection finds, and its IoU; ``NONE`` and 0 where it finds none.

    It is of the detection's category, and the nearest of those that no better detection has found.
    """
    near = np.flatnonzero(overlaps.same_category & (overlaps.pair_ious >= MATCHING_IOU))
    chosen = choose_pairs(overlaps, near)
    matched, ious = np.full(len(overlaps.scores), NONE), np.zeros(len(overlaps.scores))
    matched[overlaps.pair_detections[chosen]] = overlaps.pair_truths[chosen]
    ious[overlaps.pair_detections[chosen]] = overlaps.pair_ious[chosen]
    return matched, ious


def _best_object(
    overlaps: Overlaps, pairs: Bool[Array, " pairs"]
) -> tuple[Int64[Array, " detections"], Float64[Array, " detections"]]:
    """Of these pairs, the nearest object of each detection and its IoU; ``NONE`` and 0 where there is no pair."""
    detections, first = np.unique(overlaps.pair_detections[pairs], return_index=True)
    objects, ious = np.full(len(overlaps.scores), NONE), np.zeros(len(overlaps.scores))
    objects[detections] = overlaps.pair_truths[pairs][first]
    ious[detections] = overlaps.pair_ious[pairs][first]
    return objects, ious


def _corrections(
    objects: Int64[Array, " detections"],
    correctable: Bool[Array, " detections"],
    overlaps: Overlaps,
    found: Bool[Array, " truths"],
) -> tuple[Bool[Array, " detections"], Bool[Array, " truths"]]:
    """Which detections would find their object if corrected: the best for each object that none finds; and those."""
    rows = np.flatnonzero(correctable & ~found[objects])
    best_first = rows[np.lexsort((rows, -overlaps.scores[rows], objects[rows]))]
    explained_objects, first = np.unique(objects[best_first], return_index=True)
    corrected, explained = np.zeros(len(objects), dtype=bool), np.zeros(len(found), dtype=bool)
    corrected[best_first[first]] = True
    explained[explained_objects] = True
    return corrected, explained


# ---- what it costs


@dataclass(frozen=True, eq=False)
class _Points:
    """Detections that count, each right or false in a category, and the number of objects of each category."""

    categories: Int64[Array, " points"]
    scores: Float64[Array, " points"]
    right: Bool[Array, " points"]
    positives: Int64[Array, " categories"]


def cost_errors(overlaps: Overlaps, errors: DetectionErrors) -> ErrorCosts:
    """The rise of AP50 without the errors of each kind."""
    ap50 = _mean_average_precision(_points(overlaps, errors))
    by_kind = {kind: _mean_average_precision(_fixed(overlaps, errors, kind)) - ap50 for kind in ERROR_KINDS}
    sure = _fixed(overlaps, errors, None)
    ranked = _Points(sure.categories, sure.right.astype(np.float64), sure.right, sure.positives)
    found = np.bincount(overlaps.truth_categories[errors.found], minlength=len(overlaps.category_ids))
    complete = _Points(sure.categories, sure.scores, sure.right, found)
    return ErrorCosts(
        ap50=ap50,
        by_kind={kind: max(rise, 0.0) for kind, rise in by_kind.items()},
        false_positives=_mean_average_precision(ranked) - ap50,
        false_negatives=_mean_average_precision(complete) - ap50,
    )


def _positives(overlaps: Overlaps) -> Int64[Array, " categories"]:
    return np.bincount(overlaps.truth_categories, minlength=len(overlaps.category_ids))


def _points(overlaps: Overlaps, errors: DetectionErrors) -> _Points:
    """The detections as they are."""
    rows = np.flatnonzero(errors.counts)
    right = errors.kinds[rows] == RIGHT
    return _Points(overlaps.categories[rows], overlaps.scores[rows], right, _positives(overlaps))


def _fixed(overlaps: Overlaps, errors: DetectionErrors, kind: ErrorKind | None) -> _Points:
    """The detections with the errors of a kind corrected, or of none; false ones first where scores are equal.

    That order is TIDE's, and its numbers of equal scores depend on it.
    """
    positives = _positives(overlaps)
    categories, right, counts = overlaps.categories.copy(), errors.kinds == RIGHT, errors.counts.copy()
    was_right = right.copy()
    if kind == "missed":
        positives = positives - np.bincount(overlaps.truth_categories[errors.missed], minlength=len(positives))
    elif kind is not None:
        of_kind = errors.kinds == ERROR_KINDS.index(kind)
        counts[of_kind] = errors.corrected[of_kind]  # all others of the kind disappear
        better = of_kind & errors.corrected
        right[better] = True
        categories[better] = overlaps.truth_categories[errors.objects[better]]
    rows = np.flatnonzero(counts)
    rows = rows[np.argsort(was_right[rows], kind="stable")]
    return _Points(categories[rows], overlaps.scores[rows], right[rows], positives)


def _mean_average_precision(points: _Points) -> float:
    """The mean over all categories that have an object or a detection."""
    numbers = np.bincount(points.categories, minlength=len(points.positives))
    rows_of_category = np.split(np.argsort(points.categories, kind="stable"), np.cumsum(numbers)[:-1])
    values = [
        _average_precision(points.scores[rows], points.right[rows], int(positives))
        for rows, positives in zip(rows_of_category, points.positives, strict=True)
        if len(rows) or positives
    ]
    return float(np.mean(values)) if values else 0.0


def _average_precision(scores: Float64[Array, " n"], right: Bool[Array, " n"], positives: int) -> float:
    """The mean precision over recalls; 0 without an object."""
    if not positives:
        return 0.0
    hits = np.cumsum(right[np.argsort(-scores, kind="stable")])
    precisions = np.maximum.accumulate((hits / np.arange(1, len(hits) + 1))[::-1])[::-1]
    places = np.searchsorted(hits / positives, np.arange(RECALLS) / (RECALLS - 1))
    return float(precisions[places[places < len(precisions)]].sum()) / RECALLS
