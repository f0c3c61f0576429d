"""COCO mean average precision as a torchmetrics ``Metric``, and as the scalars that Composer logs."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.coco_json import CocoAnnotations, garbage_collection_paused
from composer_copypaste.errors import count_noun
from composer_copypaste.metrics.inputs import (
    EncodedMasks,
    Fields,
    InputReader,
    ScoredDetections,
    ScoredImage,
    file_ground_truth,
    image_id,
)
from composer_copypaste.metrics.matches import EvaluationMatches, build_match_table
from composer_copypaste.metrics.matching import match_detections
from composer_copypaste.metrics.overlaps import Overlaps, measure_overlaps
from composer_copypaste.metrics.precision_recall import scores_of_matches
from composer_copypaste.metrics.scores import CocoDict, Evaluation, IouType, category_titles, metric_names

T = TypeVar("T")


class CocoMeanAveragePrecision(Metric):
    """COCO's average precision and recall of boxes and of masks, equal to pycocotools'.

    Each image counts once, by its image id, also if a distributed sampler repeats it; of two results for one image,
    the first counts. All images that ``update`` received are scored, including those in which nothing was found; with
    official annotations, against the annotations of these images.

    A number without ground truth (for a size or a category) is NaN, where pycocotools has -1.

    In a distributed run, each process calls ``update`` and ``reset`` by itself, and all of them must call ``compute``
    together, every time: the processes gather their images, and all get the same numbers.

    Args:
        annotations: The official annotations: a file, its parsed content, or ``CocoAnnotations``, loaded with a choice
            of how crowds and bad objects are read. Exact COCO numbers need their areas, crowds and polygons. None: the
            ground truth is taken from the targets.
        category_ids: The category ids of labels 1, 2, ...; None: labels are category ids.
        max_dets: Limits to the number of detections that count per image and category, best first; ascending. AP is
            computed with the last limit.
        iou_types: Whether overlaps are those of boxes ("bbox"), of masks ("segm"), or both.

    Raises:
        DataError: where the annotations cannot be used.
        ValueError: where an argument is out of range.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(
        self,
        annotations: Path | str | CocoDict | CocoAnnotations | None = None,
        *,
        category_ids: Sequence[int] | None = None,
        max_dets: Sequence[int] = (1, 10, 100),
        iou_types: Sequence[IouType] = ("bbox", "segm"),
    ) -> None:
        # No states of torchmetrics: it gathers them slowly, and aborts if ranks hold different numbers of images.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.max_dets = _check_max_dets(max_dets)
        self.iou_types = _check_iou_types(iou_types)
        self._reader = _input_reader(annotations, category_ids, masks="segm" in iou_types)
        self._images: dict[int, ScoredImage] = {}
        self._evaluation: tuple[Evaluation, EvaluationMatches] | None = None

    @property
    def categories(self) -> tuple[Category, ...] | None:
        """The categories of labels 1, 2, ...; None where the annotations or the ids of labels are not known."""
        official, ids = self._reader.official, self._reader.category_ids
        return (
            None if official is None or ids is None else tuple(Category(id_, official.categories[id_]) for id_ in ids)
        )

    def update(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """Add the detections in each image.

        Args:
            predictions: Per image, at its original size: ``boxes`` (x1, y1, x2, y2), ``scores``, ``labels``, and for
                "segm" ``rles`` (COCO's compressed codes) or ``masks``, 0/1 (m, h, w) or probabilities (m, 1, h, w).
            targets: Per image its ``image_id`` and, without official annotations, ``boxes``, ``labels``, ``masks``
                and, where known, ``area`` and ``iscrowd``.

        Raises:
            ValueError: where a field is missing or wrong, or two fields disagree; the message names the image.
        """
        if len(predictions) != len(targets):
            raise ValueError(
                f"expected a prediction for each of {count_noun(len(targets), 'target')}, got {len(predictions)}"
            )
        for prediction, target in zip(predictions, targets, strict=True):
            number = image_id(target)
            if number not in self._images:
                self._images[number] = self._reader.read(prediction, target)
                self._evaluation = None

    def update_results(self, results: Mapping[int, ScoredDetections]) -> None:
        """Add the detections of COCO results by image id, exactly as they are: with official annotations only.

        Images of the annotations that have no results are scored too, as images in which nothing was found.
        """
        if self._reader.official is None:
            raise ValueError("results of a file are scored by official annotations: give annotations")
        nothing = ScoredDetections(
            np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0), EncodedMasks(None, ()) if self._reader.masks else None
        )
        for number in self._reader.official.images:
            if number not in self._images:
                found = results.get(number, nothing)
                self._images[number] = ScoredImage(self._reader.official.size(number), found, None)
        self.update((), ())  # torchmetrics warns of a metric that was never updated
        self._evaluation = None

    def compute(self) -> dict[str, Tensor]:
        """All numbers, in [0, 1], as float64 scalars on the CPU: "bbox/AP", "bbox/AP50", ..., "segm/ARl"."""
        return {
            f"{iou_type}/{name}": torch.tensor(value, dtype=torch.float64)
            for iou_type, scores in self.evaluation().scores.items()
            for name, value in scores.numbers().items()
        }

    def evaluation(self) -> Evaluation:
        """The scores of the images of all processes; computed again only after a process got other images.

        In a distributed run all processes must call this together, every time: they first tell each other whether they
        got images since the last computation, and gather all images if one did.
        """
        return self._evaluated()[0]

    def matches(self) -> EvaluationMatches:
        """Which detections match objects, of the images of all processes: what a bootstrap over images needs.

        In a distributed run all processes must call this together, as ``evaluation``.
        """
        return self._evaluated()[1]

    def _evaluated(self) -> tuple[Evaluation, EvaluationMatches]:
        outdated = any(_gather_from_processes(self._evaluation is None))
        if self._evaluation is None or outdated:
            self._evaluation = score_images(self._all_images(), self._reader, self.iou_types, self.max_dets)
        return self._evaluation

    def overlaps(self, iou_type: IouType) -> Overlaps:
        """How detections and objects of all categories overlap, of the images of all processes: see `find_errors`.

        Of an image, as many of the best detections count as the last of ``max_dets`` says, of all categories together.
        In a distributed run all processes must call this together.

        Args:
            iou_type: one of ``iou_types``.
        """
        images = self._all_images()
        ids = _all_category_ids(images, self._reader)
        return measure_overlaps(images, self._reader, iou_type, ids, self.max_dets[-1])

    def detections(self) -> dict[int, ScoredDetections]:
        """The detections in each image, by its id; in a distributed run all processes must call this together."""
        return {number: image.detections for number, image in self._all_images().items()}

    def _all_images(self) -> dict[int, ScoredImage]:
        """The images of all processes, by id; of two results for one image, the first counts."""
        parts = _gather_from_processes(self._images)
        return dict(sorted({number: image for part in reversed(parts) for number, image in part.items()}.items()))

    def scalars(self) -> dict[str, "CocoScalar"]:
        """A metric for each number, "bbox/AP" and so on; all share the images of this one.

        For ``ComposerModel.get_metrics``: Composer's loggers and callbacks take scalars only. Composer updates each of
        them with every batch; each image still counts once.
        """
        names = metric_names(self.max_dets)
        return {f"{kind}/{name}": CocoScalar(self, kind, name) for kind in self.iou_types for name in names}

    def forward(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """The same as ``update``: the average precision of a single batch means nothing."""
        self.update(predictions, targets)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._images = {}
        self._evaluation = None


class CocoScalar(Metric):
    """One number of a ``CocoMeanAveragePrecision``, in [0, 1]; it shares all images with that metric, ``whole``."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, whole: CocoMeanAveragePrecision, iou_type: IouType, name: str) -> None:
        # torchmetrics' cache would be out of date after another number of the same metric is updated or reset.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.whole = whole
        self.iou_type: IouType = iou_type
        self.name = name

    def update(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """Update the whole metric."""
        self.whole.update(predictions, targets)

    def compute(self) -> Tensor:
        """The number, a float64 scalar on the CPU; NaN without ground truth."""
        return torch.tensor(self.whole.evaluation().scores[self.iou_type].numbers()[self.name], dtype=torch.float64)

    def forward(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """The same as ``update``."""
        self.update(predictions, targets)

    def reset(self) -> None:
        """Reset the whole metric."""
        super().reset()
        self.whole.reset()


def _check_max_dets(max_dets: Sequence[int]) -> tuple[int, ...]:
    limits = tuple(max_dets)
    if not limits or limits[0] < 1 or any(a >= b for a, b in pairwise(limits)):
        raise ValueError(f"max_dets: expected ascending numbers from 1, such as (1, 10, 100), got {limits}")
    return limits


def _check_iou_types(iou_types: Sequence[IouType]) -> tuple[IouType, ...]:
    types = tuple(iou_types)
    if not types or len(set(types)) != len(types) or not set(types) <= {"bbox", "segm"}:
        raise ValueError(f"iou_types: expected 'bbox', 'segm' or both, got {types}")
    return types


def _input_reader(
    source: Path | str | CocoDict | CocoAnnotations | None, category_ids: Sequence[int] | None, *, masks: bool
) -> InputReader:
    ids = None if category_ids is None else tuple(category_ids)
    if source is None:
        return InputReader(masks, ids, official=None)
    official = file_ground_truth(Path(source) if isinstance(source, str) else source, masks=masks)
    if unknown := sorted(set(ids or ()) - set(official.categories)):
        raise ValueError(f"category_ids: expected ids of the annotations' categories, got {unknown}")
    return InputReader(masks, ids, official)


def _gather_from_processes(value: T) -> list[T]:
    """The values of all processes, in the order of their ranks."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def score_images(
    kept: Mapping[int, ScoredImage], reader: InputReader, iou_types: Iterable[IouType], max_dets: tuple[int, ...]
) -> tuple[Evaluation, EvaluationMatches]:
    """The scores of images, against their official annotations or else their targets, and the matches behind them."""
    images, categories = list(kept.values()), _all_category_ids(kept, reader)
    names = {} if reader.official is None else reader.official.categories
    with garbage_collection_paused():
        truths = [reader.ground_truth(number, image) for number, image in kept.items()]
        tables = {
            kind: build_match_table(match_detections(images, truths, categories, kind, max_dets[-1]), len(categories))
            for kind in iou_types
        }
    instances = Counter(id_ for truth in truths for id_ in truth.categories[truth.iscrowd == 0].tolist())
    evaluation = Evaluation(
        scores={kind: scores_of_matches(table, max_dets) for kind, table in tables.items()},
        categories=tuple(categories),
        names=names,
        instances={category: instances[category] for category in categories},
        images=len(images),
    )
    matches = EvaluationMatches(
        image_ids=np.array(list(kept), dtype=np.int64),
        category_ids=tuple(categories),
        category_names=tuple(category_titles(categories, names).values()),
        max_dets=max_dets,
        tables=tables,
    )
    return evaluation, matches


def _all_category_ids(images: Mapping[int, ScoredImage], reader: InputReader) -> list[int]:
    """All category ids, ascending: of the official annotations, else of the labels, else those that occur in images."""
    if reader.official is not None:
        return sorted(reader.official.categories)
    if reader.category_ids is not None:
        return sorted(reader.category_ids)
    parts = (part for image in images.values() for part in (image.detections, image.truth) if part is not None)
    return sorted({category for part in parts for category in part.categories.tolist()})
