"""The objects of each image of a batch: from detection targets, or from class-id maps, each class of which is one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.object_keys import check_named_keys, object_keys_of
from composer_copypaste.functional.plan import ImageInfo, PastePlan
from composer_copypaste.functional.semantic_maps import (
    Classes,
    ClassMasks,
    IdMaps,
    check_ids,
    masks_of_classes,
)
from composer_copypaste.functional.tensors import Images, image_sizes, on_device, read_back
from composer_copypaste.instances import Instances, Target, empty_masks, instances_of
from composer_copypaste.settings import CopyPasteSettings

FARTHEST = 1 << 16
"""Boxes may reach beyond their image, but not farther from its corner than this, so that positions stay exact."""
AREA_TOLERANCE = 1e-3
"""In pixels; without it 7 of 100 pixels would be fewer than 0.07 of them."""


@dataclass(frozen=True)
class ImageObjects:
    """One image's objects: their fields, and what the host knows of them."""

    info: ImageInfo
    """The image's size, and its objects' boxes and weights."""
    instances: Instances
    labels: Integer[ndarray, " n"]
    iscrowd: Shaped[ndarray, " n"]
    areas: Float[ndarray, " n"] | None
    """Areas of the masks in pixels; None where the settings do not ask for them."""
    class_ids: Integer[Tensor, "h w"] | None = None
    """The image's class-id map, as it is read, if it has one. Its masks are drawn once it is known which are copied."""


def batch_objects(
    images: Images, targets: Sequence[Target] | Integer[Tensor, "n h w"], settings: CopyPasteSettings
) -> list[ImageObjects]:
    """The objects of each image.

    A device is waited for once, to learn boxes, labels and crowds; once more if the settings ask for areas.

    Raises:
        ValueError: targets that do not fit their images; the message names the place.
        TypeError: masks of another type than bool and uint8.
    """
    if isinstance(targets, Tensor):
        check_map_sizes(images, targets)
        return _objects_of_maps(targets, settings)
    batch = checked_instances(images, targets, settings)
    if not batch:
        return []
    area = _areas(targets, batch) if asks_for_areas(settings) else None
    boxes = torch.cat([instances.boxes for instances in batch]).detach().double()
    labels = torch.cat([instances.labels for instances in batch])
    iscrowd = torch.cat([instances.iscrowd for instances in batch])
    numbers = read_back(torch.cat([boxes, labels[:, None], iscrowd[:, None]], dim=1))
    counts = [len(instances.labels) for instances in batch]
    ends = np.cumsum(counts)
    check_boxes(numbers[:, :4], ends)
    if "masks" not in targets[0]:
        batch = [replace(own, masks=box_masks(own.boxes, image)) for own, image in zip(batch, images, strict=True)]
    sizes = image_sizes(images)
    pixels = np.repeat([height * width for height, width in sizes], counts)
    weights = copy_weights(numbers[:, 4], area, pixels, settings) * (numbers[:, 5] == 0)
    return [
        ImageObjects(
            ImageInfo(*size, numbers[end - count : end, :4], weights[end - count : end]),
            instances,
            labels=numbers[end - count : end, 4].astype(np.int64),
            iscrowd=numbers[end - count : end, 5],
            areas=None if area is None else area[end - count : end],
        )
        for size, instances, count, end in zip(sizes, batch, counts, ends.tolist(), strict=True)
    ]


def checked_instances(
    images: Images, targets: Sequence[Target], settings: CopyPasteSettings, *, refuse_positions: bool = True
) -> list[Instances]:
    """The objects of each target, whose further fields have rows of the same shape in all targets.

    Raises:
        ValueError, TypeError: as :func:`batch_objects`, except for wrong positions of boxes.
    """
    if any(isinstance(target, Tensor) for target in targets):
        raise TypeError("targets: expected class ids of all images as one tensor (n, h, w), got a list of tensors")
    passing = () if settings.place_key is None else (settings.place_key,)
    declared = settings.geometry or {}
    named = (*settings.object_keys, *declared) if declared else settings.object_keys
    object_keys = object_keys_of(targets, named, passing, refuse_positions=refuse_positions)
    batch = instances_of(targets, image_sizes(images), object_keys)
    check_named_keys(batch, settings.object_keys, declared)
    for i, instances in enumerate(batch):
        for key, values in instances.extras.items():
            if (row := tuple(values.shape[1:])) != (first := tuple(batch[0].extras[key].shape[1:])):
                raise ValueError(
                    f"targets[{i}]: expected {key!r} with rows of shape {first}, as targets[0] has, got {row}"
                )
            if (device := values.device) != (other := batch[0].extras[key].device):
                raise ValueError(f"targets[{i}]: expected {key!r} on {other}, as targets[0] has it, got {device}")
    return batch


def check_boxes(boxes: Float[ndarray, "m 4"], ends: Integer[ndarray, " n"]) -> None:
    """Raise ``ValueError`` where a row is no box; those of target i end before row ``ends[i]``."""
    near = (abs(boxes) <= FARTHEST).all(axis=1)  # NaN is refused, too
    wrong = np.flatnonzero(~(near & (boxes[:, :2] <= boxes[:, 2:]).all(axis=1)))
    if len(wrong):
        target, box = np.searchsorted(ends, wrong[0], side="right"), boxes[wrong[0]].tolist()
        raise ValueError(
            f"targets[{target}]: expected boxes (x1, y1, x2, y2) in pixels, none beyond {FARTHEST}, with x1 <= x2 and "
            f"y1 <= y2, got {box}"
        )


def box_masks(boxes: Shaped[Tensor, "n 4"], image: Shaped[Tensor, "c h w"]) -> UInt8[Tensor, "n h w"]:
    """Masks of the pixels whose centre lies in each box (x1, y1, x2, y2), on the device of the image."""
    height, width = image.shape[-2:]
    x1, y1, x2, y2 = on_device(boxes.detach(), image.device).T[:, :, None]
    x, y = (torch.arange(side, device=image.device) + 0.5 for side in (width, height))
    across, down = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    return (down[:, :, None] & across[:, None, :]).view(torch.uint8)


def binary_masks(masks: UInt8[Tensor, "n h w"], boxes: Float[ndarray, "n 4"]) -> UInt8[Tensor, "n h w"]:
    """The masks with 1 for anything but 0; on the host the same tensor where they hold nothing else in their boxes.

    A device would have to be waited for to learn that, and copies in no time that counts.
    """
    if masks.is_cpu and not _has_non_binary_values(masks, boxes):
        return masks
    return masks.clamp(max=1)


def _has_non_binary_values(masks: UInt8[Tensor, "n h w"], boxes: Float[ndarray, "n 4"]) -> bool:
    """Whether masks on the host hold anything but 0 and 1, as far as their boxes matter."""
    from composer_copypaste.functional.engines.compilation import can_compile  # 0.5 s to import

    if not can_compile():
        return bool((masks > 1).any())
    from composer_copypaste.functional.engines.numba_masks import has_non_binary_values

    return bool(has_non_binary_values(masks.contiguous().numpy(), boxes))


# How likely objects are to be copied


def copy_weights(
    labels: Shaped[ndarray, " n"],
    area: Float[ndarray, " n"] | None,
    pixels: int | Integer[ndarray, " n"],
    settings: CopyPasteSettings,
) -> Float[ndarray, " n"]:
    """The relative chance of each object to be copied; 0: never.

    Args:
        labels: of the objects.
        area: of their masks, in pixels; None where the settings do not ask for areas.
        pixels: the number of pixels of their images.
        settings: which labels and areas may be copied, and the labels' weights.
    """
    weights = np.ones(len(labels)) if settings.labels is None else np.isin(labels, settings.labels) * 1.0
    for label, weight in (settings.label_weights or {}).items():
        weights[labels == label] *= weight
    for bounds, unit in ((settings.area_range, 1), (settings.relative_area_range, pixels)):
        if bounds is not None and area is not None:
            low, high = bounds[0] * unit - AREA_TOLERANCE, bounds[1] * unit + AREA_TOLERANCE
            weights[(area < low) | (area > high)] = 0.0
    return weights


def asks_for_areas(settings: CopyPasteSettings) -> bool:
    """Whether the settings choose objects by their area."""
    return settings.area_range is not None or settings.relative_area_range is not None


def _areas(targets: Sequence[Target], batch: Sequence[Instances]) -> Float[ndarray, " g"]:
    """The area of every object: from its target, else its mask's number of pixels, else its box's area.

    A device is waited for where it has to count, or has the areas.
    """
    areas = []
    for target, instances in zip(targets, batch, strict=True):
        if "area" in target:
            areas.append(instances.area.detach())
        elif "masks" in target:
            masks = instances.masks
            areas.append(masks.areas if isinstance(masks, CompactMasks) else masks.count_nonzero(dim=(1, 2)))
        else:
            areas.append((instances.boxes[:, 2:] - instances.boxes[:, :2]).prod(dim=1).detach())
    device = next((area.device for area in areas if not area.is_cpu), areas[0].device)
    return read_back(torch.cat([on_device(area, device, torch.float64) for area in areas]))


# Class-id maps


def check_map_sizes(images: Images, maps: Integer[Tensor, "n h w"]) -> None:
    """Raise ``ValueError`` where class-id maps are not of their images' size."""
    for i, size in enumerate(image_sizes(images)):
        if size != tuple(maps.shape[1:]):
            raise ValueError(
                f"targets: expected class ids of shape {(len(maps), *size)}, the size of images[{i}], got "
                f"{tuple(maps.shape)}"
            )


def _objects_of_maps(maps: Integer[Tensor, "n h w"], settings: CopyPasteSettings) -> list[ImageObjects]:
    """The classes of each map, each as one object."""
    if not len(maps):
        return []
    read = IdMaps.of(maps)
    batch = read.classes()
    check_ids([classes.ids for classes in batch], settings.ignore_index, settings.background)
    counts = [len(classes.ids) for classes in batch]
    instances = _class_instances(batch, maps)
    ends = np.cumsum(counts).tolist()
    labels = np.concatenate([classes.ids for classes in batch])
    is_object = (labels != settings.background) & (labels != settings.ignore_index)
    areas = None
    if asks_for_areas(settings):
        counted = [read_back(ids.unique(return_counts=True)[1]) for ids in read.ids]
        areas = np.concatenate(counted).astype(np.float64)
    (height, width), found = maps.shape[1:], []
    weights = copy_weights(labels, areas, height * width, settings) * is_object
    for ids, classes, fields, begin, end in zip(read.ids, batch, instances, [0, *ends], ends, strict=False):
        info = ImageInfo(height, width, classes.boxes, weights[begin:end], is_object[begin:end])
        own_areas = None if areas is None else areas[begin:end]
        found.append(ImageObjects(info, fields, classes.ids, np.zeros(end - begin), own_areas, ids))
    return found


def _class_instances(
    batch: Sequence[Classes], maps: Integer[Tensor, "n h w"], masks: Sequence[ClassMasks] | None = None
) -> list[Instances]:
    """The fields of each map's classes, of which only the labels mean anything; masks of size 0 x 0 if not given."""
    labels = on_device(np.concatenate([classes.ids for classes in batch]), maps.device, maps.dtype)
    none, no_masks = torch.zeros_like(labels), empty_masks(labels)
    counts = [len(classes.ids) for classes in batch]
    fields = Instances(none[:, None].expand(-1, 4), labels, no_masks, area=none, iscrowd=none)
    return fields.split(counts, no_masks.split(counts) if masks is None else masks)


def only_copied_classes(plan: PastePlan, batch: Sequence[ImageObjects]) -> tuple[PastePlan, list[ImageObjects]]:
    """The objects of class-id maps reduced to the classes that the plan copies, and the plan that numbers these."""
    source, instance = plan.source.numpy(), plan.instance.numpy().copy()
    first = np.cumsum([0, *(len(image.labels) for image in batch)])
    rows = np.flatnonzero(source < len(batch))
    copied, place = np.unique(first[source[rows]] + instance[rows], return_inverse=True)
    ends = np.searchsorted(copied, first)
    instance[rows] = place - ends[source[rows]]
    numbers = [copied[ends[i] : ends[i + 1]] - first[i] for i in range(len(batch))]
    classes = [Classes(own.labels[k], own.info.boxes[k]) for own, k in zip(batch, numbers, strict=True)]
    maps = torch.stack([cast(Tensor, own.class_ids) for own in batch])
    fields = _class_instances(classes, maps, masks_of_classes(maps, classes))
    reduced = [
        ImageObjects(
            info=ImageInfo(own.info.height, own.info.width, found.boxes, own.info.weights[k]),
            instances=instances,
            labels=found.ids,
            iscrowd=own.iscrowd[k],
            areas=None,
        )
        for own, k, found, instances in zip(batch, numbers, classes, fields, strict=True)
    ]
    return replace(plan, instance=torch.from_numpy(instance)), reduced
