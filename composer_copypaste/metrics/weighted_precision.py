"""COCO's average precision of an evaluation whose images count several times or not at all, from its matches.

If an image is drawn w times, each of its detections and objects stands w times, with equal scores, among all sorted by
score: precision and recall are those of weighted sums. Precision at a recall is its maximum from there on, so only the
last copy of a true positive matters, and one pass over the detections, from the last to the first, gives COCO's number
exactly. Only if an image has detections of one category with equal scores do its copies follow each other as wholes.

The pass is made for many sets of weights at once, whose counters lie next to each other in memory.
"""

from dataclasses import dataclass
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from composer_copypaste.functional.engines.numba_memory import compiled
from composer_copypaste.metrics.matches import EvaluationMatches, MatchTable
from composer_copypaste.metrics.precision_recall import EPSILON, RECALLS, RIGHT, WRONG, counts_as
from composer_copypaste.metrics.scores import ALL_SIZES, AREAS, IOU_50, IOU_75, IOUS, SIZES, Array, IouType

NUMBERS = ("AP", "AP50", "AP75", *(f"AP{size}" for size in SIZES))
"""The names of the numbers, in their order."""

BLOCK = 64
"""How many sets of weights are passed over at once: their counters fit into a processor's first cache."""


@dataclass(frozen=True, eq=False)
class AveragePrecisions:
    """Average precision for each set of weights, in [0, 1]; NaN where no object counts. Numbers are as in NUMBERS."""

    overall: Float64[Array, "numbers draws"]
    """The mean of the categories with objects, as COCO takes it."""
    per_category: Float64[Array, "categories numbers draws"]

    def number(self, name: str, category: int | None = None) -> Float64[Array, " draws"]:
        """One of NUMBERS, for all categories or for the one at this index."""
        numbers = self.overall if category is None else self.per_category[category]
        return numbers[NUMBERS.index(name)]


def weighted_average_precisions(
    matches: EvaluationMatches, iou_type: IouType, weights: Int32[Array, "images draws"]
) -> AveragePrecisions:
    """COCO's average precision of the images, each as often as its weight says, for each set of weights.

    It equals what COCOeval computes from images that are really repeated, copies next to each other.

    Raises:
        ValueError: where there is not a row of weights for each image.
    """
    if len(weights) != len(matches.image_ids):
        raise ValueError(f"expected weights of {len(matches.image_ids)} images, got {len(weights)}")
    table = matches.tables[iou_type]
    precisions = np.array([_category_precisions(table, number, weights) for number in range(len(matches.category_ids))])
    per_category = precisions.reshape(-1, AREAS, IOUS, weights.shape[1])
    sizes = per_category.mean(axis=2)
    numbers = np.stack(
        [
            sizes[:, ALL_SIZES],
            per_category[:, ALL_SIZES, IOU_50],
            per_category[:, ALL_SIZES, IOU_75],
            *(sizes[:, size] for size in SIZES.values()),
        ],
        axis=1,
    )
    return AveragePrecisions(overall=_mean_of_known(numbers), per_category=numbers)


def _mean_of_known(values: Float64[Array, "categories numbers draws"]) -> Float64[Array, "numbers draws"]:
    """The mean over categories, without those that are NaN."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):  # no category at all: 0 / 0
        return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)


def _category_precisions(
    table: MatchTable, category: int, weights: Int32[Array, "images draws"]
) -> Float64[Array, "areas ious draws"]:
    """The average precision of a category; NaN where no object counts."""
    rows, truths = table.detections(category), table.truths(category)
    images, scores = table.images[rows], table.scores[rows]
    positives = table.truth_counts[truths].T.astype(np.int64) @ weights[table.truth_images[truths]]
    precisions = np.full((AREAS, IOUS, weights.shape[1]), np.nan)
    if positives.any():
        sum_precisions(counts_as(table, rows), (images, _tied(images, scores)), weights, positives, precisions)
    return precisions / len(RECALLS)


def _tied(images: Int32[Array, " n"], scores: Float64[Array, " n"]) -> Bool[Array, " n"]:
    """Whether the detection before has the same score and is in the same image."""
    tied = np.zeros(len(images), np.bool_)
    tied[1:] = (images[1:] == images[:-1]) & (scores[1:] == scores[:-1])
    return tied


class Counters(NamedTuple):
    """What the pass over a category's detections counts for each set of weights."""

    right: Int32[Array, " sets"]
    """Number of right detections that are not passed yet."""
    wrong: Int32[Array, " sets"]
    best: Float64[Array, " sets"]
    """The highest precision so far."""
    recall: Int64[Array, " sets"]
    """Index of the highest recall threshold that is not summed yet."""
    total: Float64[Array, " sets"]
    """The sum of precision at the recall thresholds above."""
    positives: Int64[Array, " sets"]
    """The number of objects."""


@compiled
@no_type_check
def sum_precisions(counts_as, detections, weights, positives, totals):
    """Write the sum of precision over all recall thresholds to ``totals``, NaN where no object counts.

    ``detections`` are two columns: the image of each, and whether it ties with the one before in the same image.
    """
    areas, ious, sets = totals.shape
    for start in range(0, sets, BLOCK):
        end = min(start + BLOCK, sets)
        block = weights[:, start:end].copy()
        for area in range(areas):
            for iou in range(ious):
                counters = _count_all(counts_as[area, iou], detections[0], block, positives[area, start:end])
                _pass_over(counts_as[area, iou], detections, block, counters)
                for k in range(end - start):
                    # the recall threshold 0 is reached by the first detection
                    total = counters.total[k] + counters.best[k]
                    totals[area, iou, start + k] = total if counters.positives[k] else np.nan


@compiled
@no_type_check
def _count_all(counts_as, images, weights, positives):
    """The counters before the pass."""
    sets = weights.shape[1]
    right, wrong = np.zeros(sets, np.int32), np.zeros(sets, np.int32)
    for n in range(len(images)):
        row = weights[images[n]]
        if counts_as[n] == RIGHT:
            for k in range(sets):
                right[k] += row[k]
        elif counts_as[n] == WRONG:
            for k in range(sets):
                wrong[k] += row[k]
    recall, highest = np.zeros(sets, np.int64), len(RECALLS) - 1
    for k in range(sets):
        if positives[k]:
            reached = right[k] / positives[k]
            recall[k] = min(highest, int(reached * highest) + 1)
            while RECALLS[recall[k]] > reached:  # ends at 0, the first of them
                recall[k] -= 1
    return Counters(right, wrong, np.zeros(sets), recall, np.zeros(sets), positives)


@compiled
@no_type_check
def _pass_over(counts_as, detections, weights, counters):
    """Take all detections from the counters, the last one first."""
    images, tied = detections
    sets = weights.shape[1]
    n = len(images) - 1
    while n >= 0:
        first = n
        while tied[first]:
            first -= 1
        row = weights[images[n]]
        if first < n:
            _take_tied(counts_as[first : n + 1], row, counters)
        elif counts_as[n] == RIGHT:
            for k in range(sets):
                _take_right(k, row[k], counters)
        elif counts_as[n] == WRONG:
            for k in range(sets):
                counters.wrong[k] -= row[k]
        n = first - 1


@compiled
@no_type_check
def _take_tied(counts_as, weights, counters):
    """Take detections of one image with equal scores, copy by copy."""
    for k in range(len(weights)):
        for _ in range(weights[k]):
            for m in range(len(counts_as) - 1, -1, -1):
                if counts_as[m] == RIGHT:
                    _take_right(k, 1, counters)
                elif counts_as[m] == WRONG:
                    counters.wrong[k] -= 1


@compiled
@no_type_check
def _take_right(k, weight, counters):
    """Take a right detection with its copies from set k, and add up precision at the recalls reached by it."""
    right = counters.right[k]
    precision = right / (counters.wrong[k] + right + EPSILON)
    best = max(counters.best[k], precision)
    before = (right - weight) / counters.positives[k]
    while RECALLS[counters.recall[k]] > before:
        counters.total[k] += best
        counters.recall[k] -= 1
    counters.best[k] = best
    counters.right[k] = right - weight
