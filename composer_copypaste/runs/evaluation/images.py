"""The best and the worst images of an evaluation, with what was found next to the true objects."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.data.rle import AnnotatedObjects, rle_of_segmentation
from composer_copypaste.errors import count_noun
from composer_copypaste.metrics.error_analysis import RIGHT
from composer_copypaste.metrics.inputs import ScoredDetections
from composer_copypaste.metrics.operating_point import count_by_image, image_qualities
from composer_copypaste.runs.evaluation.findings import Findings
from composer_copypaste.visualize.draw import Objects, draw_at_size

IMAGE_SIZE = 560
"""Length in pixels of the longer side of a drawn image."""


@dataclass(frozen=True, eq=False)
class ShownImage:
    """An image with its objects, and the same with what was found."""

    truth: UInt8[Tensor, "3 h w"]
    found: UInt8[Tensor, "3 h w"]
    truth_caption: str
    found_caption: str


def draw_images(findings: Findings, images: Sequence[int], data: InstanceData) -> list[ShownImage]:
    """These images of the evaluation; missed objects and false detections have a red box.

    Args:
        findings: of the evaluation.
        images: indices, as of ``findings.worst``.
        data: has the images.

    Raises:
        DataError: where an image cannot be read.
    """
    numbers = {image.id: number for number, image in enumerate(data.annotations.images)}
    names = [category.name for category in data.categories]
    labels = {category.id: label for label, category in enumerate(data.categories, start=1)}
    counts = count_by_image(findings.main.kept, findings.main.kept_errors)
    qualities = image_qualities(findings.main.kept, findings.main.kept_errors)
    shown = []
    for image in images:
        image_id = findings.main.kept.image_ids[image]
        record, pixels, objects = data.read(numbers[image_id])
        found = findings.detections[image_id]
        false, missed = _mistakes(findings, image, found, objects)
        sure = _detected_objects(found, labels, findings.min_score)
        right, wrong, lost = (int(values[image]) for values in (counts.right, counts.false, counts.missed))
        shown.append(
            ShownImage(
                draw_at_size(pixels, _true_objects(objects), names, IMAGE_SIZE, marked=missed),
                draw_at_size(pixels, sure, names, IMAGE_SIZE, marked=false),
                f"{record.file_name}: {count_noun(right + lost, 'object')}, {lost} missed (red).",
                f"{right} found, {wrong} false (red). Quality {qualities[image]:.2f}.",
            )
        )
    return shown


def _true_objects(objects: AnnotatedObjects) -> Objects:
    rles = [rle_of_segmentation(outline, objects.size) for outline in objects.segmentations if outline]
    fields = {"boxes": objects.boxes, "labels": objects.labels, "iscrowd": objects.iscrowd}
    return fields | ({"rles": rles} if len(rles) == len(objects.segmentations) else {})


def _detected_objects(found: ScoredDetections, labels: Mapping[int, int], min_score: float) -> Objects:
    """The detections of at least this score, of known categories."""
    kept = np.flatnonzero((found.scores >= min_score) & np.isin(found.categories, list(labels)))
    fields: dict[str, object] = {
        "boxes": _corners(found.boxes[kept]),
        "labels": torch.tensor([labels[category] for category in found.categories[kept].tolist()], dtype=torch.int64),
        "scores": torch.from_numpy(found.scores[kept]),
    }
    if found.masks is not None:
        rles = found.masks.rles()
        fields["rles"] = [rles[number] for number in kept.tolist()]
    return fields


def _mistakes(
    findings: Findings, image: int, found: ScoredDetections, objects: AnnotatedObjects
) -> tuple[Float[Tensor, "false 4"], Float[Tensor, "missed 4"]]:
    """The boxes of an image's false detections and of its missed objects."""
    kept, errors = findings.main.kept, findings.main.kept_errors
    false = kept.places[(kept.images == image) & errors.counts & (errors.kinds != RIGHT)]
    missed = kept.truth_places[(kept.truth_images == image) & ~errors.found]
    return _corners(found.boxes[false]), objects.boxes[torch.from_numpy(missed)]


def _corners(boxes: Float[np.ndarray, "n 4"]) -> Float[Tensor, "n 4"]:
    """(x1, y1, x2, y2) of COCO's x, y, width, height."""
    return torch.from_numpy(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1))
