"""Rows of Hugging Face's data sets as images and targets, and targets as the labels of Transformers' models.

Neither package is needed for this: rows are dicts, and labels are tensors.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Shaped, UInt8
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.annotation_json import (
    SegmentationError,
    as_typed_json,
    as_whole_number,
    parse_box_and_segmentation,
    parse_segmentation,
)
from composer_copypaste.data.images import read_as_shown
from composer_copypaste.data.rle import AnnotatedObjects, draw_masks
from composer_copypaste.errors import DataError, count_noun
from composer_copypaste.instances import Target

Row = Mapping[str, Any]
Columns = dict[str, list[Any]]
"""The columns of ``objects`` that are read; each has an entry per object."""
CATEGORY_KEYS = ("category", "category_id", "label", "categories")
"""What data sets name the column of classes in ``objects``."""
_OPTIONAL_KEYS = ("area", "iscrowd", "segmentation")


def sample_from_row(row: Row, *, first_class: int = 0) -> tuple[UInt8[Tensor, "3 h w"], Target]:
    """The image and the target of a row with the columns ``image`` and ``objects``, as COCO's data sets have them.

    ``objects`` is a dict of lists, one entry per object: ``bbox`` (x, y, width, height) in pixels, the class as
    ``category`` or ``category_id``, and where there are any ``segmentation`` (polygons or run lengths), ``area`` and
    ``iscrowd``. It may also be a list of dicts, one per object. Label 1 stands for the first class. Boxes are cut at
    the image's edge, and widened where they would cut pixels off their masks. Without outlines the target has boxes
    alone, as has that of an empty list, which names no columns.

    Args:
        row: of ``datasets.Dataset``. Its ``image`` is decoded (of PIL, an array ``(h, w, 3)`` or a tensor
            ``(3, h, w)`` of uint8) or not (a dict with ``bytes`` or ``path``), and is then turned as a viewer shows it.
        first_class: the number of the first class in the rows: 0 for those that count from 0.

    Raises:
        DataError: naming the row's ``image_id``, the column and the object, where a column is missing or of another
            form, an object cannot be used, or its class lies before the first one.
    """
    with _name_row_in_errors(row):
        columns, category = _columns(row)
        labels = _labels(columns[category], category, first_class)
        image = _image(row.get("image"))
        size = (image.shape[1], image.shape[2])
        objects = _objects(columns, labels, size)
        target: Target = {"boxes": objects.boxes, "labels": labels}
        if "area" in columns:
            target["area"] = objects.area
        if "iscrowd" in columns:
            target["iscrowd"] = objects.iscrowd
        if "image_id" in row:
            target["image_id"] = torch.tensor(_image_id(row["image_id"]))
        if "segmentation" in columns:
            target["masks"] = draw_masks(objects).dense()
        return image, target


@contextmanager
def _name_row_in_errors(row: Row) -> Iterator[None]:
    """Put the row, and its ``image_id`` where it has one, in front of the message of a ``DataError`` raised inside."""
    try:
        yield
    except DataError as error:
        place = f"row of image_id {as_typed_json(_plain(row['image_id']))}" if "image_id" in row else "row"
        raise DataError(f"{place}: {error}") from error.__cause__


def _plain(values: Any) -> Any:
    """Arrays and tensors, which rows in the formats "numpy" and "torch" have, as numbers and lists of numbers."""
    values = values.tolist() if hasattr(values, "tolist") else values
    return [_plain(value) for value in values] if isinstance(values, list | tuple) else values


def _columns(row: Row) -> tuple[Columns, str]:
    """The columns of ``objects``, and which of them holds the classes."""
    objects = row.get("objects")
    if isinstance(objects, list | tuple | np.ndarray):
        objects = _joined(list(objects))
    if not isinstance(objects, Mapping) or "bbox" not in objects:
        got = f"objects: {sorted(objects)}" if isinstance(objects, Mapping) else _described_columns(row)
        raise DataError(f"expected a column 'objects' with the lists 'bbox' and 'category', got {got}")
    category = next((key for key in CATEGORY_KEYS if key in objects), None)
    if category is None:
        raise DataError(f"objects: expected a list 'category', the class of each object, got {sorted(objects)}")
    columns = {key: _plain(objects[key]) for key in ("bbox", category, *_OPTIONAL_KEYS) if key in objects}
    for key, values in columns.items():
        if not isinstance(values, list):
            raise DataError(
                f"objects: {key}: expected a list with an entry for each object, got {as_typed_json(values)}: if no "
                "row has it, remove the column"
            )
        if len(values) != len(columns["bbox"]):
            raise DataError(
                f"objects: expected an entry for each object in each column, got {len(columns['bbox'])} in 'bbox' and "
                f"{len(values)} in {key!r}: mend or leave out this row"
            )
    return columns, category


def _described_columns(row: Row) -> str:
    kind = f", where 'objects' is of type {type(row['objects']).__name__}" if "objects" in row else ""
    return f"columns {sorted(row)}{kind}"


def _joined(objects: Sequence[Any]) -> dict[str, list[Any]]:
    """A list of dicts, one per object, as a dict of lists."""
    if not len(objects):
        return {"bbox": [], "category": []}
    for number, one in enumerate(objects):
        if not isinstance(one, Mapping):
            raise DataError(
                f"objects: expected a dict of lists, or a list with a dict for each object, got {as_typed_json(one)} "
                f"in its place {number}"
            )
        if one.keys() != objects[0].keys():
            raise DataError(
                f"objects: expected the same keys for each object, got {sorted(objects[0])} for object 0 and "
                f"{sorted(one)} for object {number}: give all of them the same"
            )
    return {key: [one[key] for one in objects] for key in objects[0]}


def _labels(classes: Sequence[Any], category: str, first_class: int) -> Int[Tensor, " n"]:
    labels = []
    for number, given in enumerate(classes):
        value = as_whole_number(given)
        if value is None:
            raise DataError(
                f"objects: {category}: expected the number of a class, got {as_typed_json(given)} for object "
                f"{number}: put in its place the index of the name in the list of classes"
            )
        if value < first_class:
            raise DataError(
                f"objects: {category}: expected classes from first_class={first_class} on, got {value} for object "
                f"{number}: give sample_from_row() the number of the first class, or leave out the object"
            )
        labels.append(value - first_class + 1)
    return torch.tensor(labels, dtype=torch.int64)


def _image_id(given: Any) -> int:
    number = as_whole_number(_plain(given))
    if number is None:
        raise DataError("image_id: expected a whole number: number the rows, or rename the column")
    return number


def _image(given: Any) -> UInt8[Tensor, "3 h w"]:
    """The pixels of the column ``image``; what is not decoded is decoded and turned as ``datasets.Image()`` does."""
    if isinstance(given, Mapping) and (given.get("bytes") or given.get("path")):
        return read_as_shown(given.get("path") or "image", given.get("bytes"))
    pixels = given
    if hasattr(given, "convert"):
        if given.mode in ("I", "F") or given.mode.startswith("I;16"):
            raise DataError(
                f"image: has more than 8 bits (mode {given.mode}), which Pillow would clip at 255: cast the column, "
                "data.cast_column('image', datasets.Image(decode=False)), and they are scaled here"
            )
        pixels = np.array(given.convert("RGB"))
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(pixels).permute(2, 0, 1) if pixels.ndim == 3 else torch.from_numpy(pixels)
    if isinstance(pixels, Tensor) and pixels.ndim == 3 and len(pixels) == 3 and pixels.dtype == torch.uint8:
        return pixels.contiguous()
    raise DataError(
        "image: expected an image of PIL, an array (h, w, 3) or a tensor (3, h, w) of uint8, got "
        f"{_described_image(given)}: cast the column, data.cast_column('image', datasets.Image())"
    )


def _described_image(given: Any) -> str:
    if hasattr(given, "shape"):
        return f"one of shape {tuple(given.shape)} and type {given.dtype}"
    return as_typed_json(given) if given is None or isinstance(given, str | Mapping) else f"a {type(given).__name__}"


def _objects(columns: Columns, labels: Int[Tensor, " n"], size: tuple[int, int]) -> AnnotatedObjects:
    """The objects, checked as those of COCO's files are."""
    boxes, outlines = [], []
    for number, box in enumerate(columns["bbox"]):
        entry = {key: columns[key][number] for key in ("area", "iscrowd") if key in columns} | {"bbox": box}
        empty = [key for key, value in entry.items() if value is None]
        if empty:
            raise DataError(f"objects: object {number}: {empty[0]} is null: give its value, or leave out the object")
        _, _, problems = parse_box_and_segmentation(entry, size, outlines=False)
        try:
            if "segmentation" in columns:
                outlines.append(parse_segmentation(_outline(columns["segmentation"][number], size), size))
        except SegmentationError as error:
            problems.append(str(error))
        if problems:
            raise DataError(f"objects: object {number}: {problems[0]}: mend or leave out the object")
        boxes.append(box)
    corners = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return AnnotatedObjects(
        size=size,
        annotated_boxes=corners,
        labels=labels,
        area=torch.tensor(columns.get("area", [0] * len(boxes)), dtype=torch.float32),
        iscrowd=torch.tensor(columns.get("iscrowd", [0] * len(boxes)), dtype=torch.int64),
        segmentations=tuple(outlines or [[] for _ in boxes]),
    )


def _outline(given: Any, size: tuple[int, int]) -> Any:
    """An object's outline as COCO's files have it: a polygon may stand alone here, and run lengths lack their size."""
    if isinstance(given, Mapping):
        stated = {key: _plain(value) for key, value in given.items() if value is not None}
        return {"size": list(size)} | stated
    is_one = isinstance(given, list) and given and all(isinstance(value, int | float) for value in given)
    return [given] if is_one else given


def detr_labels(
    images: Sequence[Shaped[Tensor, "c _h _w"]], targets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Tensor]]:
    """The ``labels`` of DETR, Deformable DETR, RT-DETR, YOLOS and their kind: classes from 0, boxes as fractions.

    Boxes are (center x, center y, width, height), divided by the size of the image in the batch. Masks are given where
    the targets have them, for models with a mask head.

    Args:
        images: of the batch, before they are padded.
        targets: of the batch, with labels from 1.

    Raises:
        DataError: where the two are swapped, differ in number, or a target lacks boxes or labels.
    """
    for number, image in enumerate(images):
        if not isinstance(image, Tensor):
            raise DataError(
                f"images[{number}]: expected a tensor (c, h, w), got a {type(image).__name__}: call "
                "detr_labels(images, targets)"
            )
    _check_targets(targets, ("boxes", "labels"), "call detr_labels(images, targets)")
    if len(images) != len(targets):
        raise DataError(
            f"detr_labels: expected a target for each image, got {count_noun(len(images), 'image')} and "
            f"{count_noun(len(targets), 'target')}: give both of one batch"
        )
    sizes = [(image.shape[-2], image.shape[-1]) for image in images]
    return [_detr_label(size, target) for size, target in zip(sizes, targets, strict=True)]


def _check_targets(targets: Sequence[Any], keys: Sequence[str], what_to_do: str) -> None:
    """Raise ``DataError`` where a target is no dict with these keys."""
    for number, target in enumerate(targets):
        wanted = " and ".join(map(repr, keys))
        if not isinstance(target, Mapping):
            kind = type(target).__name__
            raise DataError(f"targets[{number}]: expected a dict with {wanted}, got a {kind}: {what_to_do}")
        if not target.keys() >= set(keys):
            raise DataError(f"targets[{number}]: expected {wanted}, got {sorted(target)}: {what_to_do}")


def _detr_label(size: tuple[int, int], target: Mapping[str, Any]) -> dict[str, Tensor]:
    height, width = size
    x1, y1, x2, y2 = target["boxes"].unbind(1)
    sides = target["boxes"].new_tensor([width, height, width, height])
    found = {
        "class_labels": target["labels"] - 1,
        "boxes": torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], dim=1) / sides,
    }
    return found | ({"masks": _planes(target).float()} if "masks" in target else {})


def mask2former_labels(targets: Sequence[Mapping[str, Any]]) -> dict[str, list[Tensor]]:
    """``mask_labels`` and ``class_labels`` of Mask2Former, MaskFormer and OneFormer, with classes from 0.

    Raises:
        DataError: where a target lacks masks or labels.
    """
    _check_targets(
        targets, ("masks", "labels"), "these models learn masks: read rows with a column 'segmentation', and keep_masks"
    )
    return {
        "mask_labels": [_planes(target).float() for target in targets],
        "class_labels": [target["labels"] - 1 for target in targets],
    }


def _planes(target: Mapping[str, Any]) -> Tensor:
    masks: Tensor | CompactMasks = target["masks"]
    return masks.dense() if isinstance(masks, CompactMasks) else masks
