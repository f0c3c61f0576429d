"""What the images of a batch hold: the objects of detection targets, or the classes of class-id maps."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.bank import BankImage, InstanceBank
from composer_copypaste.functional.class_maps import Classes, classes_of, masks_of
from composer_copypaste.functional.layout import Objects, object_windows
from composer_copypaste.functional.plan import ImageInfo, PastePlan, asks_for_areas, weights_of
from composer_copypaste.functional.resample import size_of
from composer_copypaste.functional.tensors import Images, copied, on_device, read_back, rows_of
from composer_copypaste.functional.windows import Window, are_empty
from composer_copypaste.instances import OBJECT_FIELDS, Instances, Target, instances_of, is_tv_tensor
from composer_copypaste.settings import CopyPasteSettings

COCO_AND_TORCHVISION = frozenset(
    {
        "keypoints",  # COCO's annotations and torchvision's targets; moved with their objects
        "num_keypoints",  # COCO's annotations
        "category_id",  # COCO's annotations, beside the labels that are made of them
        "category_ids",
        "id",  # COCO's annotations; that of the image is "image_id" beside them
        "ids",
        "annotation_id",
        "annotation_ids",
        "ann_id",
        "ann_ids",
        "score",  # COCO's results
        "scores",  # torchvision's detections, such as pseudo-labels
        "keypoints_scores",  # torchvision's detections
        "track_id",  # COCO-style videos (TAO, MOT)
        "track_ids",
        "instance_id",  # COCO-style videos (YouTube-VIS)
        "instance_ids",
        "pasted",  # ours
    }
)
"""Names, beside those of :class:`Instances`, that hold something of each object where they hold several values."""

TELLING_OF_KEYPOINTS = ("keypoints_scores", "num_keypoints")
"""Those that follow the keypoints beside them, not their objects alone."""

MOVED_NOWHERE = frozenset(
    {
        "bbox",
        "bboxes",
        "contours",
        "corners",
        "landmarks",
        "obb",
        "obbs",
        "oriented_boxes",
        "outlines",
        "panoptic_seg",
        "points",
        "polygon",
        "polygons",
        "quad",
        "quads",
        "rbox",
        "rboxes",
        "rle",
        "rles",
        "rotated_boxes",
        "rotated_bboxes",
        "segmentation",
        "segmentations",
        "segments",
        "sem_seg",
    }
)
"""Names of positions in the image, of objects or pixels, which would have to move or be cut, and do not."""

OF_THE_IMAGE = frozenset({"image_id", "file_name", "orig_size", "size", "image_size", "height", "width"})
"""Names that nobody takes for something of each object, whatever the length of their values."""


def object_keys_of(targets: Sequence[Target], named: Sequence[str]) -> list[str]:
    """The further keys with something of each object that targets have: known ones and those that the settings name."""
    found: dict[str, None] = {}
    for target in targets:
        for key, values in target.items():
            if key not in OBJECT_FIELDS and (key in named or _is_known(key, values)):
                found[key] = None
    return list(found)


def refuse_positions(targets: Sequence[Target], object_keys: Sequence[str]) -> None:
    """Raise ``ValueError`` where a key holds positions that would have to move, which only those of known fields do."""
    for i, target in enumerate(targets):
        for key, values in target.items():
            if key in OBJECT_FIELDS or key in object_keys or values is None:
                continue
            if key in MOVED_NOWHERE or is_tv_tensor(values):
                raise ValueError(
                    f"targets[{i}]: {key!r} holds positions in the image, which would have to move with what is "
                    "copied, cut or resized, as only boxes, masks and keypoints do. Leave it out; or, if it holds "
                    "none, name it in object_keys: its rows then follow their objects as they are"
                )


def warn_of_unnamed_keys(targets: Sequence[Target], object_keys: Sequence[str]) -> None:
    """Warn, once for each, of keys that pass through, but look as if they held something of each object."""
    known = {*OBJECT_FIELDS, *OF_THE_IMAGE, *object_keys}
    for key in targets[0]:
        if key not in known and all(_has_a_row_per_object(target, key) for target in targets):
            warn_once(
                f"targets: {key!r} has as many rows as each image of the batch has objects, and passes through, as "
                "what describes the image does. If its rows belong to the objects, give it as a tensor and name it "
                "in object_keys: they then stay with their objects (said once)"
            )


@cache
def warn_once(message: str) -> None:
    """Warn, the first time in this process; Python's own "once" forgets where a library changes the filters."""
    warnings.warn(message, stacklevel=2)


def _is_known(key: str, values: object) -> bool:
    return key in COCO_AND_TORCHVISION and isinstance(values, Tensor | ndarray | list | tuple)


def _has_a_row_per_object(target: Target, key: str) -> bool:
    values, labels = target.get(key), target["labels"]
    if isinstance(values, Tensor | ndarray) and not values.ndim:
        return False
    return isinstance(values, Tensor | ndarray | list) and isinstance(labels, Tensor) and len(values) == len(labels)


def rectangles(boxes: Shaped[Tensor, "n 4"], image: Shaped[Tensor, "c h w"]) -> UInt8[Tensor, "n h w"]:
    """The pixels whose centre lies in each box (x1, y1, x2, y2), on the device of the image."""
    height, width = size_of(image)
    x1, y1, x2, y2 = on_device(boxes.detach(), image.device).T[:, :, None]
    x, y = (torch.arange(side, device=image.device) + 0.5 for side in (width, height))
    across, down = (x1 <= x) & (x < x2), (y1 <= y) & (y < y2)
    return (down[:, :, None] & across[:, None, :]).view(torch.uint8)


FARTHEST = 1 << 16
"""Boxes may reach beyond their image, but no farther from its corner than positions stay exact."""


@dataclass(frozen=True)
class ImageObjects:
    """One image's objects: every field of them, and what the host knows."""

    instances: Instances
    objects: Objects
    labels: Integer[ndarray, " n"]
    iscrowd: Shaped[ndarray, " n"]
    weights: Float[ndarray, " n"]
    """The relative chance of each object to be copied; 0: never."""
    areas: Float[ndarray, " n"] | None
    """Of the masks, in pixels; None where the settings do not ask for them."""
    class_ids: Integer[Tensor, "h w"] | None = None
    """Of a class-id map, whose objects' masks are drawn when it is known which of them are copied."""

    @property
    def scene(self) -> ImageInfo:
        """The image as a plan sees it."""
        return ImageInfo(*self.objects.size, self.objects.boxes, self.weights)

    def remembered(self, image: Shaped[Tensor, "c h w"], at_most: int) -> BankImage:
        """The objects that may be copied, the last ones of more than that, each cropped from the image."""
        rows = object_windows(self.objects.boxes, self.objects.size)
        kept = np.flatnonzero((self.weights > 0) & ~are_empty(rows)).tolist()
        kept = kept[max(0, len(kept) - at_most) :]
        windows = [Window(*rows[j].tolist()) for j in kept]
        fields = self.instances.without_masks()
        return BankImage(
            size=self.objects.size,
            boxes=self.objects.boxes[kept],
            labels=self.labels[kept],
            areas=None if self.areas is None else self.areas[kept],
            windows=windows,
            images=[copied(image[:, *window.slices]) for window in windows],
            masks=[self._mask(j, window) for j, window in zip(kept, windows, strict=True)],
            fields=rows_of(fields, kept).map(copied),
        )

    def _mask(self, j: int, window: Window) -> UInt8[Tensor, "h w"]:
        if self.class_ids is None:
            return copied(self.objects.masks[j][window.slices])
        return (self.class_ids[window.slices] == int(self.labels[j])).view(torch.uint8)

    def classes(self, numbers: Int64[ndarray, " k"]) -> "ImageObjects":
        """Some of a class-id map's objects, their masks drawn."""
        found, where = Classes(self.labels, self.objects.boxes)[numbers], self.class_ids
        objects = Objects(masks_of(cast(Tensor, where), found), found.boxes)
        fields = rows_of(self.instances.without_masks(), numbers)
        instances = replace(fields, masks=objects.masks)
        return ImageObjects(instances, objects, found.ids, self.iscrowd[numbers], self.weights[numbers], None, where)


def only_copied(plan: PastePlan, inventories: Sequence[ImageObjects]) -> tuple[PastePlan, list[ImageObjects]]:
    """The plan for class-id maps of which only the classes that it copies are objects, and these."""
    source, instance = plan.source.numpy(), plan.instance.numpy().copy()
    copied_classes = []
    for i, inventory in enumerate(inventories):
        numbers, instance[source == i] = np.unique(instance[source == i], return_inverse=True)
        copied_classes.append(inventory.classes(numbers))
    return replace(plan, instance=torch.from_numpy(instance)), copied_classes


def remember(
    bank: InstanceBank, images: Sequence[Shaped[Tensor, "c _h _w"]], inventories: Sequence[ImageObjects]
) -> None:
    """Add a batch's objects to the bank; those that would leave it at once are not even cropped."""
    added, room = [], bank.size
    for image, inventory in reversed(list(zip(images, inventories, strict=True))):
        added.append(inventory.remembered(image, at_most=room))
        room -= len(added[-1])
    for one in reversed(added):
        bank.add(one)


def batch_objects(
    images: Images, targets: Sequence[Target] | Integer[Tensor, "n h w"], settings: CopyPasteSettings
) -> list[ImageObjects]:
    """What each image holds.

    Raises:
        ValueError: targets that do not fit their images; the message names the place.
        TypeError: masks of another type than bool and uint8.
    """
    if not isinstance(targets, Tensor):
        return _of_targets(images, targets, settings)
    check_sizes(images, targets)
    return [_of_classes(ids, classes, settings) for ids, classes in zip(targets, classes_of(targets), strict=True)]


def _of_targets(images: Images, targets: Sequence[Target], settings: CopyPasteSettings) -> list[ImageObjects]:
    sizes = [size_of(image) for image in images]
    batch = _instances(targets, sizes, settings)
    if not batch:
        return []
    refuse_positions(targets, list(batch[0].extras))
    area = _areas(targets, batch) if asks_for_areas(settings) else None
    numbers, counts = _on_host(batch), [len(instances) for instances in batch]
    ends = np.cumsum(counts)
    check_boxes(numbers[:, :4], ends)
    if not any("masks" in target for target in targets):
        drawn = [rectangles(own.boxes, image) for own, image in zip(batch, images, strict=True)]
        batch = [replace(own, masks=masks) for own, masks in zip(batch, drawn, strict=True)]
    boxes, labels, iscrowd = numbers[:, :4], numbers[:, 4].astype(np.int64), numbers[:, 5]
    pixels = np.repeat([math.prod(size) for size in sizes], counts)
    weights = weights_of(labels, area, pixels, settings) * (iscrowd == 0)
    parts = [slice(end - count, end) for count, end in zip(counts, ends.tolist(), strict=True)]
    return [
        ImageObjects(
            instances,
            Objects(instances.masks, boxes[part]),
            labels[part],
            iscrowd[part],
            weights[part],
            None if area is None else area[part],
        )
        for instances, part in zip(batch, parts, strict=True)
    ]


def objects_without_waiting(images: Images, targets: Sequence[Target], settings: CopyPasteSettings) -> list[Objects]:
    """The objects of each image, with boxes as large as it where theirs are on a device, which is not waited for.

    Raises:
        ValueError, TypeError: as :func:`batch_objects`, but for what boxes on a device hold.
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


def _areas(targets: Sequence[Target], batch: Sequence[Instances]) -> Float[ndarray, " g"]:
    """The area of every object's mask: the one that its target gives, else its number of pixels, or its box's area.

    A device is waited for where it has to count, or has the areas.
    """
    areas = [_area(target, instances) for target, instances in zip(targets, batch, strict=True)]
    device = next((area.device for area in areas if not area.is_cpu), areas[0].device)
    return read_back(torch.cat([on_device(area.detach(), device, torch.float64) for area in areas]))


def _area(target: Target, instances: Instances) -> Shaped[Tensor, " n"]:
    if "area" in target:
        return instances.area
    if "masks" in target:
        return instances.masks.count_nonzero(dim=(1, 2))
    return (instances.boxes[:, 2:] - instances.boxes[:, :2]).prod(dim=1)


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


def _of_classes(ids: Integer[Tensor, "h w"], classes: Classes, settings: CopyPasteSettings) -> ImageObjects:
    """Each class of a map of ids is one object."""
    none_yet = torch.zeros((), dtype=torch.uint8, device=ids.device).expand(len(classes.ids), *ids.shape)
    labels, objects = classes.ids, Objects(none_yet, classes.boxes)
    is_object = (labels != settings.background) & (labels != settings.ignore_index)
    areas = read_back(ids.unique(return_counts=True)[1]).astype(np.float64) if asks_for_areas(settings) else None
    weights = weights_of(labels, areas, math.prod(objects.size), settings) * is_object
    present = on_device(labels, ids.device, ids.dtype)
    none = torch.zeros_like(present)
    instances = Instances(none[:, None].expand(-1, 4), present, objects.masks, area=none, iscrowd=none)
    return ImageObjects(instances, objects, labels, np.zeros(len(labels)), weights, areas, ids)
