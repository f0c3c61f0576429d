"""What an evaluation found, beyond COCO's numbers: errors and their costs, a score threshold, images worth a look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.error_analysis import DetectionErrors, ErrorCosts, cost_errors, find_errors
from composer_copypaste.metrics.inputs import ScoredDetections
from composer_copypaste.metrics.operating_point import best_score, image_qualities
from composer_copypaste.metrics.overlaps import Overlaps
from composer_copypaste.metrics.report import Report, evaluation_report
from composer_copypaste.metrics.scores import Evaluation, IouType, category_titles

WORST, BEST = 6, 3
"""Numbers of images that are shown."""


@dataclass(frozen=True, eq=False)
class KindFindings:
    """The errors of boxes, or of masks."""

    overlaps: Overlaps = field(repr=False)
    errors: DetectionErrors = field(repr=False)
    costs: ErrorCosts
    kept: Overlaps = field(repr=False)
    """Without the detections below the score threshold."""
    kept_errors: DetectionErrors = field(repr=False)


@dataclass(frozen=True, eq=False)
class Findings:
    """What an evaluation found."""

    report: Report = field(repr=False)
    """The content of ``evaluation.json``."""
    evaluation: Evaluation = field(repr=False)
    category_names: tuple[str, ...]
    """The categories' names in the order of their ids, no two alike."""
    kinds: Mapping[IouType, KindFindings]
    """Masks first, where they are scored."""
    min_score: float
    """The score threshold of what is counted, shown and confused."""
    is_best_score: bool
    """Whether that is the score of the highest F1, and not one that was asked for."""
    worst: Sequence[int]
    """Indices of the images with the lowest quality, the lowest first."""
    best: Sequence[int]
    """Indices of the images with the highest quality, the highest first."""
    detections: Mapping[int, ScoredDetections] = field(repr=False)
    """The detections in the images that are shown, by the image's id."""

    @property
    def main_kind(self) -> IouType:
        """Masks, where they are scored."""
        return next(iter(self.kinds))

    @property
    def main(self) -> KindFindings:
        """The errors of masks, where they are scored."""
        return self.kinds[self.main_kind]


def collect_findings(metric: CocoMeanAveragePrecision, min_score: float | None = None) -> Findings:
    """What a metric's images say; in a distributed run all processes must call this together.

    Args:
        metric: after its last update.
        min_score: of the detections that are counted; None: the score from which on F1 is highest.
    """
    overlaps = {kind: metric.overlaps(kind) for kind in sorted(metric.iou_types, reverse=True)}
    errors = {kind: find_errors(found) for kind, found in overlaps.items()}
    main = next(iter(overlaps))
    threshold = best_score(overlaps[main], errors[main]) if min_score is None else min_score
    kinds = {kind: _kind_findings(overlaps[kind], errors[kind], threshold) for kind in overlaps}
    worst, best = _images_to_show(kinds[main])
    detections = metric.detections()
    shown = [overlaps[main].image_ids[image] for image in (*worst, *best)]
    evaluation = metric.evaluation()
    return Findings(
        report=evaluation_report(metric),
        evaluation=evaluation,
        category_names=tuple(category_titles(evaluation.categories, evaluation.names).values()),
        kinds=kinds,
        min_score=threshold,
        is_best_score=min_score is None,
        worst=worst,
        best=best,
        detections={number: detections[number] for number in shown},
    )


def _kind_findings(overlaps: Overlaps, errors: DetectionErrors, min_score: float) -> KindFindings:
    kept = overlaps.above(min_score)
    return KindFindings(overlaps, errors, cost_errors(overlaps, errors), kept, find_errors(kept))


def _images_to_show(found: KindFindings) -> tuple[list[int], list[int]]:
    """The images of the lowest and of the highest quality; of equal ones, those with more objects and detections."""
    qualities = image_qualities(found.kept, found.kept_errors)
    count = len(qualities)
    busy = np.bincount(found.kept.truth_images, minlength=count) + np.bincount(found.kept.images, minlength=count)
    rated = np.flatnonzero(~np.isnan(qualities))
    worst_first = rated[np.lexsort((-busy[rated], qualities[rated]))]
    best_first = rated[np.lexsort((-busy[rated], -qualities[rated]))]
    worst = worst_first[: min(WORST, -(-len(rated) // 2))].tolist()
    return worst, [image for image in best_first.tolist() if image not in worst][:BEST]
