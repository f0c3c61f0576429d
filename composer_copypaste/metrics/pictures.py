"""One picture as the metric keeps it: arrays and run-length encoded masks, small to store and to send."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from pycocotools import mask as coco_mask

from composer_copypaste.metrics.engine import Array, CocoDict, IouType

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Masks:
    """The masks of one picture in COCO's compressed run-length code; ``size`` is None where no mask tells it."""

    size: Size | None
    counts: tuple[bytes, ...]

    def rles(self) -> list[CocoDict]:
        """The masks as COCO's dicts."""
        return [{"size": list(self.size or ()), "counts": counts} for counts in self.counts]

    def areas(self) -> Float64[Array, " n"]:
        """The number of pixels of each mask."""
        # One at a time: pycocotools 2.0.11 overflows on a list of 256.
        return np.array([coco_mask.area(rle) for rle in self.rles()], dtype=np.float64)


@dataclass(frozen=True)
class Detections:
    """What a model found in one picture. Boxes are COCO's: x, y, width, height."""

    boxes: Float64[Array, "n 4"]
    categories: Int64[Array, " n"]
    scores: Float64[Array, " n"]
    masks: Masks | None

    def results(self, image: int, iou_type: IouType) -> list[CocoDict]:
        """COCO's result for each. Scored by mask it has no box: its area, so its size class, is then the mask's."""
        overlap, name = self.boxes.tolist(), "bbox"
        if iou_type == "segm" and self.masks is not None:
            overlap, name = self.masks.rles(), "segmentation"
        columns = zip(self.categories.tolist(), self.scores.tolist(), overlap, strict=True)
        return [{"image_id": image, "category_id": label, "score": score, name: o} for label, score, o in columns]


@dataclass(frozen=True)
class Truth:
    """What is in one picture. Boxes are COCO's: x, y, width, height."""

    boxes: Float64[Array, "n 4"]
    categories: Int64[Array, " n"]
    areas: Float64[Array, " n"]
    iscrowd: Int64[Array, " n"]
    masks: Masks | None

    def annotations(self) -> list[CocoDict]:
        """COCO's annotation for each, without ``id`` and ``image_id``."""
        columns = {
            "bbox": self.boxes.tolist(),
            "category_id": self.categories.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.iscrowd.tolist(),
        }
        if self.masks is not None:
            columns["segmentation"] = self.masks.rles()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Picture:
    """A picture's detections and, where no official file has it, its truth."""

    size: Size | None
    detections: Detections
    truth: Truth | None
