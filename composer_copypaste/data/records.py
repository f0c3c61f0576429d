"""What a COCO instance file says of one category, one picture, one object; and the objects of a picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from pycocotools import mask as coco_mask

from composer_copypaste.data.mask_extents import enclosing
from composer_copypaste.data.outlines import OutlinedObjects, Segmentation, rle_of_polygons


@dataclass(frozen=True)
class Category:
    """A category as the file names it."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoImage:
    """A picture as the file describes it; ``file_name`` is relative to the image folder."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """An annotation with COCO's keys, and nothing else.

    Polygons are float64 arrays and run-length encodings compressed: a quarter of the memory of lists of numbers.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: Segmentation


def outlined(image: CocoImage, annotations: Sequence[CocoAnnotation], labels: Mapping[int, int]) -> OutlinedObjects:
    """The objects that an image's annotations tell of; ``labels`` are those of the category ids.

    Boxes are the annotated ones, but that a box whose pixels its mask leaves is widened to the mask's.
    """
    boxes = torch.tensor([annotation["bbox"] for annotation in annotations], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    segmentations, size = tuple(annotation["segmentation"] for annotation in annotations), (image.height, image.width)
    boxes = torch.from_numpy(enclosing(boxes.numpy(), segmentations, size))
    limits = torch.tensor([image.width, image.height, image.width, image.height])
    return OutlinedObjects(
        size=size,
        boxes=boxes.clamp(min=0).minimum(limits).float(),
        labels=torch.tensor([labels[a["category_id"]] for a in annotations], dtype=torch.int64),
        area=torch.tensor([annotation["area"] for annotation in annotations], dtype=torch.float32),
        iscrowd=torch.tensor([annotation["iscrowd"] for annotation in annotations], dtype=torch.int64),
        segmentations=segmentations,
    )


def parse_annotation(entry: dict[str, Any], size: tuple[int, int]) -> CocoAnnotation:
    """A checked annotation; a missing area is computed, a missing ``iscrowd`` is 0."""
    segmentation = _segmentation(entry["segmentation"], size)
    area = entry.get("area")
    if area is None:
        rle = rle_of_polygons(segmentation, size) if isinstance(segmentation, list) else segmentation
        area = coco_mask.area(rle)
    return {
        "id": entry["id"],
        "image_id": entry["image_id"],
        "category_id": entry["category_id"],
        "bbox": entry["bbox"],
        "area": float(area),
        "iscrowd": entry.get("iscrowd") or 0,
        "segmentation": segmentation,
    }


def _segmentation(value: Any, size: tuple[int, int]) -> Segmentation:
    if isinstance(value, list):
        return [np.array(part, dtype=np.float64) for part in value]
    if isinstance(value["counts"], str):
        return {"size": list(size), "counts": value["counts"].encode()}  # the file may say 640.0
    return coco_mask.frPyObjects(value, *size)
