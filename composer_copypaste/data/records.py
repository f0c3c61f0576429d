"""What a COCO instance file says of one category, one image, one object; and the objects of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import torch

from composer_copypaste.data.rle import OutlinedObjects, Segmentation, enclosing


@dataclass(frozen=True)
class Category:
    """A category as the file names it."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoImage:
    """An image as the file describes it; ``file_name`` is relative to the image folder."""

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


def labels_of(categories: Sequence[Category]) -> dict[int, int]:
    """The labels 1, 2, ... of the category ids."""
    return {category.id: label for label, category in enumerate(categories, start=1)}


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
