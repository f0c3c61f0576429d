"""What a detector does if only its detections of at least some score are used: precision, recall, and each image."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from composer_copypaste.metrics.error_analysis import RIGHT, DetectionErrors
from composer_copypaste.metrics.overlaps import Overlaps
from composer_copypaste.metrics.scores import Array


@dataclass(frozen=True, eq=False)
class Counts:
    """Numbers of right and false detections and of missed objects, for each category or for each image."""

    right: Int64[Array, " n"]
    false: Int64[Array, " n"]
    missed: Int64[Array, " n"]

    @property
    def precision(self) -> Float64[Array, " n"]:
        """The share of the detections that are right; NaN without any."""
        return _ratio(self.right, self.right + self.false)

    @property
    def recall(self) -> Float64[Array, " n"]:
        """The share of the objects that are found; NaN without any."""
        return _ratio(self.right, self.right + self.missed)

    @property
    def f1(self) -> Float64[Array, " n"]:
        """The harmonic mean of precision and recall; NaN without objects and detections."""
        return _ratio(2 * self.right, 2 * self.right + self.false + self.missed)

    def total(self) -> "Counts":
        """The sum of all, as one row."""
        return Counts(*(np.array([values.sum()]) for values in (self.right, self.false, self.missed)))


def _ratio(part: Int64[Array, " n"], whole: Int64[Array, " n"]) -> Float64[Array, " n"]:
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def best_score(overlaps: Overlaps, errors: DetectionErrors) -> float:
    """The score from which on F1 is highest, over all categories together; 0 where nothing is right.

    A detection is right if it finds an object at an intersection over union of 0.5.
    """
    rows = np.flatnonzero(errors.counts)
    rows = rows[np.argsort(-overlaps.scores[rows], kind="stable")]
    right, scores = errors.kinds[rows] == RIGHT, overlaps.scores[rows]
    if not right.any():
        return 0.0
    last_of_equals = np.append(scores[1:] != scores[:-1], True)
    f1 = 2 * np.cumsum(right) / (np.arange(1, len(rows) + 1) + len(overlaps.truth_categories))
    return float(scores[np.where(last_of_equals, f1, 0).argmax()])


def count_by_category(overlaps: Overlaps, errors: DetectionErrors) -> Counts:
    """The numbers of each category, in the order of ``overlaps.category_ids``."""
    number = len(overlaps.category_ids)
    return _counts(errors, overlaps.categories, overlaps.truth_categories, number)


def count_by_image(overlaps: Overlaps, errors: DetectionErrors) -> Counts:
    """The numbers of each image, in the order of ``overlaps.image_ids``."""
    return _counts(errors, overlaps.images, overlaps.truth_images, len(overlaps.image_ids))


def _counts(errors: DetectionErrors, groups: Array, truth_groups: Array, number: int) -> Counts:
    right = errors.kinds == RIGHT
    counted = (groups[right], groups[errors.counts & ~right], truth_groups[~errors.found])
    return Counts(*(np.bincount(members, minlength=number) for members in counted))


def image_qualities(overlaps: Overlaps, errors: DetectionErrors) -> Float64[Array, " images"]:
    """The panoptic quality of each image (Kirillov et al., CVPR 2019), in [0, 1]; NaN without objects and detections.

    It is F1 times the mean intersection over union of the objects that are found, so it sees how well masks fit.
    """
    right = errors.kinds == RIGHT
    counts = count_by_image(overlaps, errors)
    fits = np.bincount(overlaps.images[right], weights=errors.ious[right], minlength=len(overlaps.image_ids))
    weight = counts.right + (counts.false + counts.missed) / 2
    return np.divide(fits, weight, out=np.full(len(weight), np.nan), where=weight > 0)
