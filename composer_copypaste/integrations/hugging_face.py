"""Rows of Hugging Face's data sets as images and targets, and targets as the labels of Transformers' models.

Neither package is needed for this: rows are dicts, and labels are tensors.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from pycocotools import mask as coco_mask
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.rle import Rle, Segmentation, compact_masks, cropped_mask
from composer_copypaste.errors import DataError
from composer_copypaste.instances import Target

Row = Mapping[str, Any]
CATEGORY_KEYS = ("category", "category_id", "label", "categories")
"""What data sets name the column of classes in ``objects``."""


def sample_of_row(row: Row, *, first_class: int = 0) -> tuple[UInt8[Tensor, "3 h w"], Target]:
    """The image and the target of a row with the columns ``image`` and ``objects``, as COCO's data sets have them.

    ``objects`` is a dict of lists, one entry per object: ``bbox`` (x, y, width, height) in pixels, the class as
    ``category`` or ``category_id``, and where there are any ``segmentation`` (polygons), ``area``, ``iscrowd`` and
    ``id``. Label 1 stands for the first class. Without outlines the target has boxes alone.

    Args:
        row: of ``datasets.Dataset``, whose ``image`` is decoded: a PIL image or an array.
        first_class: the number of the first class in the rows: 0 for those that count from 0.

    Raises:
        DataError: where a column is missing, or an object's class lies before the first one.
    """
    objects = row.get("objects")
    if not isinstance(objects, Mapping) or "bbox" not in objects:
        raise DataError(f"row: expected a column 'objects' with the lists 'bbox' and 'category', got {_described(row)}")
    classes = next((objects[key] for key in CATEGORY_KEYS if key in objects), None)
    if classes is None:
        raise DataError(f"row: objects: expected a list 'category', the class of each object, got {sorted(objects)}")
    pixels = np.array(row["image"].convert("RGB") if hasattr(row["image"], "convert") else row["image"])
    image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    corners = torch.tensor(objects["bbox"], dtype=torch.float32).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    labels = torch.tensor(classes, dtype=torch.int64) - first_class + 1
    if len(labels) and labels.min() < 1:
        raise DataError(f"row: objects: expected classes from first_class={first_class} on, got {int(min(classes))}")
    target: Target = {"boxes": corners, "labels": labels}
    for key, dtype in (("area", torch.float32), ("iscrowd", torch.int64)):
        if key in objects:
            target[key] = torch.tensor(objects[key], dtype=dtype)
    if "image_id" in row:
        target["image_id"] = torch.tensor(row["image_id"])
    if "segmentation" in objects:
        size = (image.shape[1], image.shape[2])
        drawn = [cropped_mask(_outline(outline, size), size) for outline in objects["segmentation"]]
        target["masks"] = compact_masks(drawn, size).dense()
    return image, target


def labels_of_detr(
    images: Sequence[Shaped[Tensor, "c _h _w"]], targets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Tensor]]:
    """The ``labels`` of DETR, Deformable DETR, RT-DETR, YOLOS and their kind: classes from 0, boxes as fractions.

    Boxes are (center x, center y, width, height), divided by the size of the image in the batch. Masks are given where
    the targets have them, for models with a mask head.

    Args:
        images: of the batch, before they are padded.
        targets: of the batch, with labels from 1.
    """
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return [_detr_label(size, target) for size, target in zip(sizes, targets, strict=True)]


def _detr_label(size: tuple[int, int], target: Mapping[str, Any]) -> dict[str, Tensor]:
    height, width = size
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    sides = target["boxes"].new_tensor([width, height, width, height])
    found = {
        "class_labels": target["labels"] - 1,
        "boxes": torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1) / sides,
    }
    return found | ({"masks": _planes(target).float()} if "masks" in target else {})


def labels_of_mask2former(targets: Sequence[Mapping[str, Any]]) -> dict[str, list[Tensor]]:
    """``mask_labels`` and ``class_labels`` of Mask2Former, MaskFormer and OneFormer, with classes from 0."""
    return {
        "mask_labels": [_planes(target).float() for target in targets],
        "class_labels": [target["labels"] - 1 for target in targets],
    }


def _planes(target: Mapping[str, Any]) -> Tensor:
    masks: Tensor | CompactMasks = target["masks"]
    return masks.dense() if isinstance(masks, CompactMasks) else masks


def _outline(given: Any, size: tuple[int, int]) -> Segmentation:
    """An object's outline in a form that is read: polygons, of which there may be one alone, or run lengths."""
    if not isinstance(given, Mapping):
        is_one = len(given) > 0 and not isinstance(given[0], Sequence | np.ndarray)
        return [np.asarray(polygon, dtype=np.float64) for polygon in ([given] if is_one else given)]
    counts = given["counts"]
    rle: Rle = {"size": list(size), "counts": counts.encode() if isinstance(counts, str) else counts}
    return rle if isinstance(rle["counts"], bytes) else coco_mask.frPyObjects(rle, *size)


def _described(row: Row) -> str:
    objects = row.get("objects")
    return f"objects: {sorted(objects)}" if isinstance(objects, Mapping) else f"columns {sorted(row)}"
