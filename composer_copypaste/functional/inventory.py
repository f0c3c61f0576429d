"""What the images of a batch hold: the objects of detection targets, or the classes of class-id maps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.bank import InstanceBank, Remembered
from composer_copypaste.functional.class_maps import Classes, classes_of, masks_of
from composer_copypaste.functional.layout import Objects, object_windows
from composer_copypaste.functional.measures import read_back
from composer_copypaste.functional.object_keys import object_keys_of, refuse_positions
from composer_copypaste.functional.planes import Images, copied, on_device
from composer_copypaste.functional.rectangles import rectangles
from composer_copypaste.functional.scene import Scene
from composer_copypaste.functional.selection import weights_of
from composer_copypaste.functional.warp import size_of
from composer_copypaste.functional.windows import Window, are_empty
from composer_copypaste.instances import Instances, Target, instances_of
from composer_copypaste.settings import CopyPasteSettings

FARTHEST = 1 << 16
"""Boxes may reach beyond their picture, but no farther from its corner than positions stay exact."""


@dataclass(frozen=True)
class Inventory:
    """One image's objects: every field of them, and what the host knows."""

    instances: Instances
    objects: Objects
    labels: Integer[ndarray, " n"]
    iscrowd: Shaped[ndarray, " n"]
    weights: Float[ndarray, " n"]
    """The relative chance of each object to be copied; 0: never."""

    @property
    def scene(self) -> Scene:
        """The image as a plan sees it."""
        return Scene(*self.objects.size, self.objects.boxes, self.weights)

    def remembered(self, image: Shaped[Tensor, "c h w"], at_most: int) -> Remembered:
        """The objects that may be copied, the last ones of more than that, each cropped from the image."""
        rows = object_windows(self.objects.boxes, self.objects.size)
        kept = np.flatnonzero((self.weights > 0) & ~are_empty(rows)).tolist()
        kept = kept[max(0, len(kept) - at_most) :]
        windows = [Window(*rows[j].tolist()) for j in kept]
        masks, fields = self.objects.masks, self.instances.without_masks()
        return Remembered(
            size=self.objects.size,
            boxes=self.objects.boxes[kept],
            labels=self.labels[kept],
            windows=windows,
            images=[copied(image[:, *window.slices]) for window in windows],
            masks=[copied(masks[j][window.slices]) for j, window in zip(kept, windows, strict=True)],
            fields=fields[on_device(kept, fields.labels.device, torch.int64)].map(copied),
        )


def remember(bank: InstanceBank, images: Sequence[Shaped[Tensor, "c _h _w"]], inventories: Sequence[Inventory]) -> None:
    """Add a batch's objects to the bank; those that would leave it at once are not even cropped."""
    pictures, room = [], bank.size
    for image, inventory in reversed(list(zip(images, inventories, strict=True))):
        pictures.append(inventory.remembered(image, at_most=room))
        room -= len(pictures[-1])
    for picture in reversed(pictures):
        bank.add(picture)


def inventories_of(
    images: Images, targets: Sequence[Target] | Integer[Tensor, "n h w"], settings: CopyPasteSettings
) -> list[Inventory]:
    """What each image holds.

    Raises:
        ValueError: targets that do not fit their images; the message names the place.
        TypeError: masks of another type than bool and uint8.
    """
    if not isinstance(targets, Tensor):
        return _of_targets(images, targets, settings)
    check_sizes(images, targets)
    return [_of_classes(ids, classes, settings) for ids, classes in zip(targets, classes_of(targets), strict=True)]


def _of_targets(images: Images, targets: Sequence[Target], settings: CopyPasteSettings) -> list[Inventory]:
    sizes = [size_of(image) for image in images]
    batch = _instances(targets, sizes, settings)
    if not batch:
        return []
    refuse_positions(targets, list(batch[0].extras))
    numbers, counts = _on_host(batch), [len(instances) for instances in batch]
    ends = np.cumsum(counts)
    check_boxes(numbers[:, :4], ends)
    if not any("masks" in target for target in targets):
        drawn = [rectangles(own.boxes, image) for own, image in zip(batch, images, strict=True)]
        batch = [replace(own, masks=masks) for own, masks in zip(batch, drawn, strict=True)]
    boxes, labels, iscrowd = numbers[:, :4], numbers[:, 4].astype(np.int64), numbers[:, 5]
    pictures = np.repeat([math.prod(size) for size in sizes], counts)
    weights = weights_of(labels, boxes, pictures, settings) * (iscrowd == 0)
    parts = [slice(end - count, end) for count, end in zip(counts, ends.tolist(), strict=True)]
    return [
        Inventory(instances, Objects(instances.masks, boxes[part]), labels[part], iscrowd[part], weights[part])
        for instances, part in zip(batch, parts, strict=True)
    ]


def objects_without_waiting(images: Images, targets: Sequence[Target], settings: CopyPasteSettings) -> list[Objects]:
    """The objects of each image, with boxes as large as it where theirs are on a device, which is not waited for.

    Raises:
        ValueError, TypeError: as :func:`inventories_of`, but for what boxes on a device hold.
    """
    sizes = [size_of(image) for image in images]
    batch = _instances(targets, sizes, settings)
    if not batch:
        return []
    counts = [len(instances) for instances in batch]
    if all(instances.boxes.is_cpu for instances in batch):
        boxes = torch.cat([instances.boxes for instances in batch]).detach().double().numpy()
        check_boxes(boxes, np.cumsum(counts))
    else:
        boxes = np.repeat([(0.0, 0.0, width, height) for height, width in sizes], counts, axis=0)
    parts = np.split(boxes, np.cumsum(counts)[:-1])
    return [Objects(instances.masks, part) for instances, part in zip(batch, parts, strict=True)]


def _instances(
    targets: Sequence[Target], sizes: Sequence[tuple[int, int]], settings: CopyPasteSettings
) -> list[Instances]:
    if any(isinstance(target, Tensor) for target in targets):
        raise TypeError("targets: expected class ids of all images as one tensor (n, h, w), got a list of tensors")
    batch = instances_of(targets, sizes, object_keys_of(targets, settings.object_keys))
    _check_rows(batch)
    return batch


def check_sizes(images: Images, maps: Integer[Tensor, "n h w"]) -> None:
    """Raise ``ValueError`` where class-id maps are not of their images' size."""
    if any(size_of(image) != tuple(maps.shape[1:]) for image in images):
        sizes = sorted({size_of(image) for image in images})
        raise ValueError(f"expected class ids of the images' size {sizes}, got {tuple(maps.shape[1:])}")


def _on_host(batch: Sequence[Instances]) -> Float[ndarray, "g 6"]:
    """Box, label and iscrowd of every object, with one transfer for the whole batch."""
    boxes = torch.cat([instances.boxes for instances in batch]).detach().double()
    labels = torch.cat([instances.labels for instances in batch])
    iscrowd = torch.cat([instances.iscrowd for instances in batch])
    return read_back(torch.cat([boxes, labels[:, None], iscrowd[:, None]], dim=1))


def _check_rows(batch: Sequence[Instances]) -> None:
    """Raise ``ValueError`` where a further field has rows of several shapes: then no object could move."""
    for i, instances in enumerate(batch):
        for key, values in instances.extras.items():
            if (row := tuple(values.shape[1:])) != (first := tuple(batch[0].extras[key].shape[1:])):
                raise ValueError(
                    f"targets[{i}]: expected {key!r} with rows of shape {first}, as targets[0] has, got {row}"
                )


def check_boxes(boxes: Float[ndarray, "m 4"], ends: Integer[ndarray, " n"]) -> None:
    """Raise ``ValueError`` where one is no box; those of target i end before row ``ends[i]``."""
    near = (abs(boxes) <= FARTHEST).all(axis=1)  # nor NaN
    wrong = np.flatnonzero(~(near & (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)))
    if len(wrong):
        target, box = np.searchsorted(ends, wrong[0], side="right"), boxes[wrong[0]].tolist()
        raise ValueError(
            f"targets[{target}]: expected boxes (x1, y1, x2, y2) in pixels, none beyond {FARTHEST}, with x1 <= x2 and "
            f"y1 <= y2, got {box}"
        )


def _of_classes(ids: Integer[Tensor, "h w"], classes: Classes, settings: CopyPasteSettings) -> Inventory:
    """Each class of a map of ids is one object."""
    labels, objects = classes.ids, Objects(masks_of(ids, classes), classes.boxes)
    is_object = (labels != settings.background) & (labels != settings.ignore_index)
    weights = weights_of(labels, objects.boxes, math.prod(objects.size), settings) * is_object
    present = on_device(labels, ids.device, ids.dtype)
    none = torch.zeros_like(present)
    instances = Instances(none[:, None].expand(-1, 4), present, objects.masks, area=none, iscrowd=none)
    return Inventory(instances, objects, labels, np.zeros(len(labels)), weights)
