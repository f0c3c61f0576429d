"""Detectron2's batches as torchvision's images and targets, and back.

A batch of Detectron2 is a list with a dict for each image: ``image`` (C, H, W), uint8 or float, in BGR unless the
configuration says RGB, images of unequal sizes; ``instances`` with ``gt_boxes``, ``gt_classes`` (from 0), and where the
model learns them ``gt_masks`` and ``gt_keypoints``; and facts such as ``file_name``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal

import torch
from detectron2.structures import Boxes, Instances, Keypoints, RotatedBoxes
from jaxtyping import Float, Shaped
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, as_planes
from composer_copypaste.errors import DataError, count_noun
from composer_copypaste.functional.object_keys import POSITION_KEYS
from composer_copypaste.functional.tensors import extents, on_device
from composer_copypaste.instances import Target
from composer_copypaste.integrations.detectron2.masks import check_padding, mask_planes, masks_like

Entry = Mapping[str, Any]
"""One image of a batch."""
ImageFormat = Literal["BGR", "RGB"]
Device = torch.device | str | None

FIELDS = {"gt_boxes": "boxes", "gt_classes": "labels", "gt_masks": "masks", "gt_keypoints": "keypoints"}
"""The fields of Detectron2's instances that torchvision's targets have too, under other names."""
ROW = "object_of_batch"
"""The key of an object's number within the batch, by which the values of fields that are lists are found."""
IMMOVABLE = ("sem_seg", "pan_seg", "proposals")
"""Keys of a batch that hold what would have to change with its objects."""


@dataclass(frozen=True)
class ExtraFields:
    """The fields that any objects of a batch have besides those of ``FIELDS``, with the values of one image."""

    tensors: Mapping[str, Shaped[Tensor, "n ..."]]
    lists: Mapping[str, list[Any]]

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of targets that hold them, for the setting ``object_keys``."""
        return (*self.tensors, ROW) if self.lists else tuple(self.tensors)


# To torchvision's


def images_and_targets(
    batch: Sequence[Entry], device: Device = None, *, image_format: ImageFormat = "BGR"
) -> tuple[list[Shaped[Tensor, "c _h _w"]], list[Target]]:
    """Torchvision's images (RGB) and targets of a training batch of Detectron2, which stays as it is.

    Labels are ``gt_classes`` + 1, as 0 is torchvision's background. Masks of any form become planes; an image without
    objects, which Detectron2 gives no masks, has 0 of them, also where no image of the batch has objects. Boxes are
    widened to masks that reach beyond them, as Detectron2 does not make them of the masks. Extra fields that are
    tensors keep their names.

    Polygons are drawn in the training's process: 2.7 ms an image of 7 objects (COCO, shorter side 800 pixels) on one
    busy core, where Detectron2's ``BitMasks.from_polygon_masks`` took 11 ms. Loaders that give bit masks spare that.

    Args:
        batch: a dict for each image.
        device: where images and masks go, and boxes where there are masks; None: they stay where they are.
        image_format: the order of the images' colors.

    Raises:
        DataError: a batch that cannot be used; one line names the image and what to do.
    """
    places = [f"batch[{i}] ({entry.get('file_name', 'no file_name')})" for i, entry in enumerate(batch)]
    for entry, place in zip(batch, places, strict=True):
        _check_entry(entry, place)
    extra = extra_fields(batch)
    images = [with_swapped_colors(_moved(entry["image"], device), image_format) for entry in batch]
    targets = _targets([entry["instances"] for entry in batch], [entry["image"] for entry in batch], places, device)
    starts = accumulate((len(entry["instances"]) for entry in batch), initial=0)
    for entry, target, start in zip(batch, targets, starts, strict=False):
        for name, example in extra.tensors.items():
            if (values := _field_or_no_rows(entry["instances"], name, example)) is not None:
                target[name] = values
        if extra.lists:
            target[ROW] = torch.arange(start, start + len(entry["instances"]))
    return images, targets


def _check_entry(entry: Entry, place: str) -> None:
    """Raise ``DataError`` where an image lacks something, or has what would have to change with its objects."""
    for key in ("image", "instances"):
        if key not in entry:
            raise DataError(f"{place}: expected 'image' and 'instances', as batches for training have, got no {key!r}")
    for key in IMMOVABLE:
        if entry.get(key) is not None:
            raise DataError(
                f"{place}: has {key!r}, which would have to change with the objects that are copied, cut or resized, "
                "and does not; leave it out in the loader's mapper"
            )
    fields = entry["instances"].get_fields()
    boxes = fields.get("gt_boxes")
    if not isinstance(boxes, Boxes) or isinstance(boxes, RotatedBoxes) or "gt_classes" not in fields:
        kinds = {name: type(value).__name__ for name, value in fields.items()}
        raise DataError(f"{place}: expected instances with gt_boxes (Boxes) and gt_classes, got {kinds}")


def _targets(
    batch: Sequence[Instances], images: Sequence[Tensor], places: Sequence[str], device: Device
) -> list[Target]:
    """The targets without extra fields."""
    has_masks = any(instances.has("gt_masks") for instances in batch) or not any(map(len, batch))
    keypoints = next((own.gt_keypoints.tensor for own in batch if own.has("gt_keypoints")), None)
    targets = []
    for instances, image, place in zip(batch, images, places, strict=True):
        target: Target = {"boxes": instances.gt_boxes.tensor, "labels": instances.gt_classes + 1}
        if has_masks:
            masks = _masks(instances, image, place, device)
            target |= {"masks": masks, "boxes": enclosing_boxes(instances.gt_boxes.tensor, masks)}
        if keypoints is not None:
            target["keypoints"] = _keypoints(instances, keypoints, place)
        targets.append(target)
    return targets


def _masks(instances: Instances, image: Tensor, place: str, device: Device) -> Tensor:
    size = (image.shape[-2], image.shape[-1])
    if instances.has("gt_masks"):
        planes = mask_planes(instances.gt_masks, size, place)
        check_padding(planes, image, place)
        return _moved(planes, device)
    if len(instances):
        raise DataError(
            f"{place}: its {count_noun(len(instances), 'object')} have no gt_masks, but those of another image have: "
            "Detectron2 leaves the masks out where an image's first annotation has no 'segmentation'; give one to "
            "each annotation, or to none"
        )
    return torch.zeros((0, *size), dtype=torch.bool, device=device or image.device)


def _keypoints(instances: Instances, example: Tensor, place: str) -> Tensor:
    if instances.has("gt_keypoints"):
        return instances.gt_keypoints.tensor
    if len(instances):
        raise DataError(
            f"{place}: its {count_noun(len(instances), 'object')} have no gt_keypoints, but those of another image "
            "have; give keypoints to each annotation, or to none"
        )
    return example[:0]


def enclosing_boxes(boxes: Float[Tensor, "n 4"], masks: Shaped[Tensor, "n h w"]) -> Float[Tensor, "n 4"]:
    """The boxes (x1, y1, x2, y2), widened to masks that reach beyond them by a pixel or more; on the masks' device."""
    boxes = on_device(boxes, masks.device)
    if not len(boxes):
        return boxes
    planes = masks.view(torch.uint8)
    (x1, x2), (y1, y2) = extents(planes.amax(dim=1)), extents(planes.amax(dim=2))
    first, last = (torch.stack(corner, dim=1).to(boxes.dtype) for corner in ((x1, y1), (x2, y2)))
    left, right = boxes.split(2, dim=1)
    has_pixels = (x2 > x1)[:, None]
    left = torch.where(has_pixels & (first < left.floor()), first, left)
    return torch.cat([left, torch.where(has_pixels & (last > right.ceil()), last, right)], dim=1)


def extra_fields(batch: Sequence[Entry]) -> ExtraFields:
    """The fields that objects have besides those of torchvision's targets.

    Raises:
        DataError: where one holds positions, which would have to move with its objects, or no values by the object.
    """
    found: dict[str, Any] = {}
    for i, entry in enumerate(batch):
        for name, values in entry["instances"].get_fields().items():
            is_position = name.removeprefix("gt_") in POSITION_KEYS
            if name not in FIELDS and (is_position or not isinstance(values, Tensor | list)):
                raise DataError(
                    f"batch[{i}]: instances have {name!r} ({type(values).__name__}), which does not follow its "
                    "objects: positions would have to move with them, and only tensors and lists with a value for "
                    "each object can be copied; leave it out in the loader's mapper"
                )
            found.setdefault(name, values)
    extra = {name: values for name, values in found.items() if name not in FIELDS}
    return ExtraFields(
        {name: values for name, values in extra.items() if isinstance(values, Tensor)},
        {name: values for name, values in extra.items() if isinstance(values, list)},
    )


def _field_or_no_rows(instances: Instances, name: str, example: Tensor) -> Tensor | None:
    """A field's values; where the image has no objects and lacks it, no rows; None where its objects lack it."""
    if instances.has(name):
        values: Tensor = instances.get(name)
        return values
    return None if len(instances) else example[:0]


def _moved(values: Tensor, device: Device) -> Tensor:
    return values if device is None else values.to(device, non_blocking=True)


def with_swapped_colors(image: Shaped[Tensor, "c h w"], image_format: ImageFormat) -> Shaped[Tensor, "c h w"]:
    """An image of BGR as RGB, or of RGB as BGR; unchanged where Detectron2's images are RGB, or have not 3 channels."""
    return image.flip(0) if image_format == "BGR" and len(image) == 3 else image


# From torchvision's


def detectron2_batch(
    images: Sequence[Shaped[Tensor, "c _h _w"]] | Shaped[Tensor, "n c h w"],
    targets: Sequence[Target],
    *,
    former: Sequence[Entry] | None = None,
    image_format: ImageFormat = "BGR",
) -> list[dict[str, Any]]:
    """The batch of Detectron2 with these images (RGB) and targets, all on the devices of the images.

    Masks become ``BitMasks``, or tensors where the former batch had some: what Detectron2's heads take. Crowd regions
    and objects without a box are left out, as Detectron2's own loader leaves them out.

    Args:
        images: uint8, or floating point in the range that the model expects.
        targets: torchvision's detection targets.
        former: the batch that these were made of by :func:`images_and_targets`; its other keys and fields stay.
        image_format: the order of colors that the model expects.
    """
    batch: list[dict[str, Any]] = []
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        height, width = image.shape[-2:]
        facts = {"height": height, "width": width} if former is None else dict(former[i])
        if former is None and "image_id" in target:
            facts["image_id"] = int(target["image_id"])  # type: ignore[call-overload]
        instances = _instances(image, target, former)
        batch.append({**facts, "image": with_swapped_colors(image, image_format), "instances": instances})
    return batch


def _instances(image: Tensor, target: Target, former: Sequence[Entry] | None) -> Instances:
    device = image.device
    values = {key: as_planes(value) for key, value in target.items() if isinstance(value, Tensor | CompactMasks)}
    if former is None:
        values = _trained_objects(values)
    boxes = values["boxes"].to(device, non_blocking=True)
    instances = Instances((image.shape[-2], image.shape[-1]))
    instances.gt_boxes = Boxes(boxes)
    instances.gt_classes = values["labels"].to(device, torch.int64, non_blocking=True) - 1
    if "masks" in values:
        given = [entry["instances"] for entry in former or ()]
        example = next((own.gt_masks for own in given if own.has("gt_masks")), None)
        instances.gt_masks = masks_like(values["masks"].to(device, non_blocking=True), example)
    if "keypoints" in values:
        instances.gt_keypoints = Keypoints(values["keypoints"].to(device, non_blocking=True))
    if former is not None:
        _set_extra_fields(instances, values, former)
    return instances


def _trained_objects(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A target's fields without the crowd regions and the objects whose boxes are empty."""
    boxes, fields = values["boxes"], {key: values[key] for key in FIELDS.values() if key in values}
    kept = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
    if "iscrowd" in values:
        kept &= on_device(values["iscrowd"] == 0, boxes.device)
    numbers = kept.cpu().nonzero()[:, 0]
    return {key: field[on_device(numbers, field.device)] for key, field in fields.items()}


def _set_extra_fields(instances: Instances, values: Mapping[str, Tensor], former: Sequence[Entry]) -> None:
    extra = extra_fields(former)
    for name in extra.tensors:
        instances.set(name, values[name].to(instances.gt_boxes.device, non_blocking=True))
    if extra.lists:
        rows = values[ROW].tolist()
        for name in extra.lists:
            of_batch = [value for entry in former for value in _list_of(entry["instances"], name)]
            instances.set(name, [of_batch[row] for row in rows])


def _list_of(instances: Instances, name: str) -> list[Any]:
    """A list with a value for each object; of None where the image's objects lack it."""
    values: list[Any] = instances.get(name) if instances.has(name) else [None] * len(instances)
    return values
