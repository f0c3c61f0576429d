"""COCO mean average precision as a torchmetrics ``Metric``, and as the scalars that Composer logs."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, distributed
from torchmetrics import Metric

from composer_copypaste.data.dataset import CocoAnnotations
from composer_copypaste.errors import counted
from composer_copypaste.metrics.engine import CocoDict, IouType, number_names
from composer_copypaste.metrics.evaluation import Evaluation, evaluate
from composer_copypaste.metrics.inputs import Fields, Reader, ScoredImage, image_id, official_truth

T = TypeVar("T")


class CocoMeanAveragePrecision(Metric):
    """COCO's average precision and recall of boxes and of masks, equal to pycocotools'.

    It keeps each image once, by its image id: an image that a distributed sampler repeats counts once, and of two
    results for the same image the first counts. Evaluated are all images it was given, also those in which nothing
    was found; with official annotations, against the annotations of these images.

    A number for which there is no ground truth (of a size, of a category) is NaN, where pycocotools has -1.

    In a distributed run, ``update`` and ``reset`` are a process's own; ``compute`` is for all of them together, each
    time: the processes gather their images and all get the same numbers.

    Args:
        annotations: The official annotations: a file, its parsed content, or ``CocoAnnotations``, which say how crowds
            and bad objects are read. Their areas, crowds and polygons are those that exact COCO numbers need. None: the
            truth is taken from the targets.
        category_ids: The category id of label 1, 2, ...; None: labels are category ids.
        max_dets: Per image and category the best so many detections count; ascending. AP is at the last of them.
        iou_types: Overlaps of boxes ("bbox"), of masks ("segm"), or both.

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
        # None of torchmetrics' own states: its way to gather them is slow, and aborts on ranks of unequal size.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.max_dets = _checked_limits(max_dets)
        self.iou_types = _checked_types(iou_types)
        self._reader = _reader(annotations, category_ids, masks="segm" in iou_types)
        self._images: dict[int, ScoredImage] = {}
        self._evaluation: Evaluation | None = None

    def update(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """Keep what was found in each image.

        Args:
            predictions: Per image, at its original size: ``boxes`` (x1, y1, x2, y2), ``scores``, ``labels``, and for
                "segm" ``rles`` (COCO's compressed codes) or ``masks``, 0/1 (m, h, w) or probabilities (m, 1, h, w).
            targets: Per image its ``image_id`` and, without official annotations, ``boxes``, ``labels``, ``masks``
                and, where known, ``area`` and ``iscrowd``.

        Raises:
            ValueError: where a field is missing or wrong, or where they do not agree; the message names the image.
        """
        if len(predictions) != len(targets):
            raise ValueError(
                f"expected a prediction for each of {counted(len(targets), 'target')}, got {len(predictions)}"
            )
        for prediction, target in zip(predictions, targets, strict=True):
            number = image_id(target)
            if number not in self._images:
                self._images[number] = self._reader.scored(prediction, target)
                self._evaluation = None

    def compute(self) -> dict[str, Tensor]:
        """All numbers, in [0, 1], as float64 scalars on the CPU: "bbox/AP", "bbox/AP50", ..., "segm/ARl"."""
        return {
            f"{iou_type}/{name}": torch.tensor(value, dtype=torch.float64)
            for iou_type, scores in self.evaluation().scores.items()
            for name, value in scores.numbers().items()
        }

    def evaluation(self) -> Evaluation:
        """The scores of all images of all processes; computed once, until a process has other images.

        In a distributed run every process must ask for it, each time: they first tell each other whether they have
        other images than at the last computation, and gather them where one has.
        """
        outdated = any(_from_all_processes(self._evaluation is None))
        if self._evaluation is None or outdated:
            images = _merged(_from_all_processes(self._images))
            self._evaluation = evaluate(images, self._reader, self.iou_types, self.max_dets)
        return self._evaluation

    def scalars(self) -> dict[str, "CocoScalar"]:
        """A metric for each number, "bbox/AP" and so on, all sharing this one's images.

        For ``ComposerModel.get_metrics``: Composer's loggers and callbacks take scalars only. It updates each of them
        with every batch, which still counts once.
        """
        names = number_names(self.max_dets)
        return {f"{kind}/{name}": CocoScalar(self, kind, name) for kind in self.iou_types for name in names}

    def forward(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """The same as ``update``: the average precision of one batch would say nothing."""
        self.update(predictions, targets)

    def reset(self) -> None:
        """Forget all images."""
        super().reset()
        self._images = {}
        self._evaluation = None


class CocoScalar(Metric):
    """One number of a ``CocoMeanAveragePrecision``, in [0, 1]; update, reset and result are those of ``whole``."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, whole: CocoMeanAveragePrecision, iou_type: IouType, name: str) -> None:
        # torchmetrics' cache would be out of date when another number of the same metric is updated or reset.
        super().__init__(sync_on_compute=False, compute_with_cache=False)
        self.whole = whole
        self.iou_type: IouType = iou_type
        self.name = name

    def update(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """Update the whole."""
        self.whole.update(predictions, targets)

    def compute(self) -> Tensor:
        """The number, a float64 scalar on the CPU; NaN without ground truth."""
        return torch.tensor(self.whole.evaluation().scores[self.iou_type].numbers()[self.name], dtype=torch.float64)

    def forward(self, predictions: Sequence[Fields], targets: Sequence[Fields]) -> None:
        """The same as ``update``."""
        self.update(predictions, targets)

    def reset(self) -> None:
        """Reset the whole."""
        super().reset()
        self.whole.reset()


def _checked_limits(max_dets: Sequence[int]) -> tuple[int, ...]:
    limits = tuple(max_dets)
    if not limits or limits[0] < 1 or any(a >= b for a, b in pairwise(limits)):
        raise ValueError(f"max_dets: expected ascending numbers from 1, such as (1, 10, 100), got {limits}")
    return limits


def _checked_types(iou_types: Sequence[IouType]) -> tuple[IouType, ...]:
    types = tuple(iou_types)
    if not types or len(set(types)) != len(types) or not set(types) <= {"bbox", "segm"}:
        raise ValueError(f"iou_types: expected 'bbox', 'segm' or both, got {types}")
    return types


def _reader(
    source: Path | str | CocoDict | CocoAnnotations | None, category_ids: Sequence[int] | None, *, masks: bool
) -> Reader:
    ids = None if category_ids is None else tuple(category_ids)
    if source is None:
        return Reader(masks, ids, official=None)
    official = official_truth(Path(source) if isinstance(source, str) else source, masks=masks)
    if unknown := sorted(set(ids or ()) - set(official.categories)):
        raise ValueError(f"category_ids: expected ids of the annotations' categories, got {unknown}")
    return Reader(masks, ids, official)


def _from_all_processes(value: T) -> list[T]:
    """The value of each process, in order of rank."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    values = [value] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def _merged(parts: Sequence[Mapping[int, ScoredImage]]) -> dict[int, ScoredImage]:
    """All images, in order of their ids; of repeated ones that of the first part."""
    merged = {image_id: image for part in reversed(parts) for image_id, image in part.items()}
    return dict(sorted(merged.items()))
