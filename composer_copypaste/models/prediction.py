"""``Prediction``: the objects that a model found in one image, and the forms in which others want them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from pycocotools import mask as coco_mask
from torch import Tensor

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.data.rle import Rle
from composer_copypaste.errors import MissingPackageError, UserError, count_noun, first_few
from composer_copypaste.models.postprocess import DetectionDict

if TYPE_CHECKING:
    from supervision import Detections

Size = tuple[int, int]
"""Height and width in pixels."""

_BOX_DECIMALS = 3


@dataclass(frozen=True, eq=False)
class Prediction:
    """The ``n`` objects that a model found in one image, best first."""

    size: Size
    """Height and width of the image in pixels."""

    boxes: Float[Tensor, "n 4"]
    """(x1, y1, x2, y2) in pixels; x2 is one past the last pixel."""

    scores: Float[Tensor, " n"]
    """From 0 to 1."""

    labels: Int[Tensor, " n"]
    """The model's labels, of which ``categories`` says what they stand for."""

    rles: Sequence[Rle] | None = field(repr=False)
    """The masks, as COCO's compressed run lengths at the image's size; None of a detector that finds boxes alone."""

    categories: Mapping[int, Category] = field(repr=False)
    """The category of each of the model's labels."""

    path: Path | None = None
    """The image's file; None where the image was given as pixels."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        height, width = self.size
        best = [f"{name} {score:.2f}" for name, score in zip(self.category_names, self.scores.tolist(), strict=True)]
        found = f": {first_few(best, 3)}" if best else ""
        return (
            f"Prediction({count_noun(len(self), 'object')} in {self.path or 'an image'} of {height} x {width}{found})"
        )

    def __getitem__(self, kept: Tensor) -> "Prediction":
        """The objects with these indices, or those that are True in a tensor with a boolean for each."""
        indices = torch.arange(len(self))[kept].reshape(-1)
        rles = None if self.rles is None else [self.rles[index] for index in indices.tolist()]
        fields = {name: getattr(self, name)[indices] for name in ("boxes", "scores", "labels")}
        return replace(self, **fields, rles=rles)

    @property
    def category_ids(self) -> list[int]:
        """The id of each object's category in the data set that the model is trained on."""
        return [self.categories[label].id for label in self.labels.tolist()]

    @property
    def category_names(self) -> list[str]:
        """The name of each object's category."""
        return [self.categories[label].name for label in self.labels.tolist()]

    @property
    def masks(self) -> Bool[Tensor, "n h w"]:
        """The masks at the image's size, decoded now: a megabyte for each object and megapixel.

        Raises:
            UserError: where the detector finds boxes alone.
        """
        if self.rles is None:
            raise UserError("masks: expected a Mask R-CNN, which finds them; this detector finds boxes alone")
        masks = [coco_mask.decode(rle) for rle in self.rles]
        return torch.from_numpy(np.stack(masks)).bool() if masks else torch.zeros(0, *self.size, dtype=torch.bool)

    def at_least(self, score: float) -> "Prediction":
        """The objects with at least this score."""
        return self[self.scores >= score]

    def coco_results(self, image_id: int) -> list[dict[str, Any]]:
        """The objects as entries of a COCO results file; boxes are x, y, width and height."""
        boxes = self.boxes.double().numpy()
        boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).round(_BOX_DECIMALS)
        scores = [float(str(score)) for score in self.scores.numpy().astype(np.float32)]  # without float64's digits
        results: list[dict[str, Any]] = [
            {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
            for category, box, score in zip(self.category_ids, boxes.tolist(), scores, strict=True)
        ]
        for result, rle in zip(results, self.rles or (), strict=self.rles is not None):
            result["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode()}
        return results

    def to_supervision(self) -> "Detections":
        """The objects as ``supervision.Detections``, with masks where the model finds them.

        ``class_id`` counts the categories from 0 in the order of their ids, as supervision's reader of COCO files does;
        ``data`` has the name ("class_name") and the id ("category_id") of each object's category.

        Raises:
            MissingPackageError: where supervision is not installed.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise MissingPackageError("to_supervision() needs supervision: pip install supervision") from error
        order = sorted(category.id for category in self.categories.values())
        return Detections(
            xyxy=self.boxes.numpy().astype(np.float32),
            mask=None if self.rles is None else self.masks.numpy(),
            confidence=self.scores.numpy().astype(np.float32),
            class_id=np.array([order.index(id_) for id_ in self.category_ids], dtype=int),
            data={
                "class_name": np.array(self.category_names, dtype=str),
                "category_id": np.array(self.category_ids, dtype=int),
            },
        )


def prediction_of(
    detection: DetectionDict,
    size: Size,
    categories: Mapping[int, Category],
    *,
    min_score: float = 0.0,
    path: Path | None = None,
) -> Prediction:
    """The prediction of a model's detections in an image: of at least this score, with labels that have a category."""
    named = torch.tensor([label in categories for label in detection["labels"].tolist()], dtype=torch.bool)
    boxes, scores, labels = detection["boxes"], detection["scores"], detection["labels"]
    found = Prediction(size, boxes, scores, labels, detection.get("rles"), categories, path)
    return found[named & (scores >= min_score)]


def prediction_of_results(
    results: Sequence[Mapping[str, Any]], size: Size, categories: Mapping[int, Category]
) -> Prediction:
    """The prediction whose ``coco_results`` these are."""
    labels = {category.id: label for label, category in categories.items()}
    boxes = torch.tensor([result["bbox"] for result in results], dtype=torch.float32).reshape(-1, 4)
    masks = [result["segmentation"] for result in results if "segmentation" in result]
    return Prediction(
        size,
        torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
        torch.tensor([result["score"] for result in results], dtype=torch.float32),
        torch.tensor([labels[result["category_id"]] for result in results], dtype=torch.int64),
        [{"size": mask["size"], "counts": mask["counts"].encode()} for mask in masks] if masks or not results else None,
        categories,
    )
