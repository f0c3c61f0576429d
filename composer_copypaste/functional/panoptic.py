"""Panoptic targets, a map of classes and a map of instances for each image, as the objects that copy-paste knows.

``class_map`` has the class id of each pixel. ``instance_map`` is 0 where the pixel belongs to no instance (stuff, and
what is not annotated), and else the id of its instance, which is one object of one class. Every pixel keeps the class
and the instance that the image shows there, so both maps follow from the masks of the objects that were pasted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard, cast

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.semantic_maps import Classes, IdMaps, check_ids
from composer_copypaste.functional.tensors import Images, on_device, read_back
from composer_copypaste.instances import OBJECT_FIELDS, WHOLE, WHOLE_NUMBERS, Target, as_tv_tensor, plain
from composer_copypaste.settings import CopyPasteSettings

CLASS_MAP, INSTANCE_MAP = MAPS = "class_map", "instance_map"
NO_INSTANCE = 0
STALE_FIELDS = (*sorted(OBJECT_FIELDS), "segments_info")
"""Keys that would say of the same objects what the maps say, and would not follow them."""


def has_pairs(targets: Sequence[Target] | Sequence[Tensor] | Tensor) -> TypeGuard[Sequence[Target]]:
    """Whether targets are pairs of maps: whether any of them has such a map."""
    return any(isinstance(target, Mapping) and any(key in target for key in MAPS) for target in targets)


def check_pairs(images: Images, targets: Sequence[Target]) -> None:
    """Raise ``ValueError`` or ``TypeError`` where a target has not both maps, or they are not those of its image."""
    for number, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_pair(f"targets[{number}]", target, image)


@dataclass(frozen=True)
class PanopticPairs:
    """The pairs of a batch, and the detection targets of their instances."""

    given: Sequence[Target]
    detections: Sequence[Target]
    """With boxes, labels and masks of the instances, in the order of their ids, and with all other keys."""
    largest: Sequence[int]
    """The largest id of each instance map; 0 where there is no instance."""

    @classmethod
    def of(cls, images: Images, targets: Sequence[Target], ignore_index: int | None) -> "PanopticPairs":
        """The pairs of a batch; instances of the class ``ignore_index`` are crowds, which are not copied.

        A device is waited for as for class-id maps, and once more for the classes of the instances.

        Raises:
            ValueError: maps that do not fit their image or each other; the message names the place.
            TypeError: maps that are no tensors of whole numbers.
        """
        check_pairs(images, targets)
        maps = [_map_of(target, INSTANCE_MAP) for target in targets]
        found = [_without_stuff(f"targets[{i}]", each) for i, each in enumerate(_ids_of_maps(maps))]
        crops = [_crops_of(ids, instances) for ids, instances in zip(maps, found, strict=True)]
        ranges = [_class_ranges(target, own, each) for target, own, each in zip(targets, crops, found, strict=True)]
        classes = read_back(torch.cat([values.long() for values in ranges]))
        _check_classes(found, classes)
        check_ids(np.split(classes[:, 0], np.cumsum([len(each.ids) for each in found])[:-1]), ignore_index)
        ignored = on_device([] if ignore_index is None else [ignore_index], maps[0].device, torch.int64)
        detections = []
        for target, ids, instances, own, values in zip(targets, maps, found, crops, ranges, strict=True):
            pixels = torch.cat([crop.reshape(-1) for crop in own]) if own else ids.new_zeros(0, dtype=torch.bool)
            windows = instances.boxes[:, [1, 0, 3, 2]].astype(np.int64)
            fields = {
                "boxes": on_device(instances.boxes, ids.device, torch.float32),
                "labels": values[:, 0],
                "iscrowd": torch.isin(values[:, 0].long(), ignored).long(),
                "masks": CompactMasks.unchecked(pixels.view(torch.uint8), windows, (ids.shape[0], ids.shape[1])),
            }
            detections.append({**{key: value for key, value in target.items() if key not in MAPS}, **fields})
        return cls(targets, detections, [int(each.ids.max(initial=0)) for each in found])

    def after(self, detections: Sequence[Target], added: Sequence[int]) -> list[Target]:
        """The pairs with the objects that were pasted, the last ``added`` of each detection target.

        Their instances are numbered on from the largest id of their map. Ids come back in the maps' type if it holds
        all of the batch, else in a wider one.
        """
        most = max(largest + count for largest, count in zip(self.largest, added, strict=True))
        return [
            {**given, **_painted(given, found, count, largest, most)}
            for given, found, count, largest in zip(self.given, detections, added, self.largest, strict=True)
        ]


def settings_for_pairs(settings: CopyPasteSettings) -> CopyPasteSettings:
    """The settings with which the detection targets of pairs are pasted.

    Raises:
        ValueError: where the settings leave out objects of which little is visible: their pixels would have no class.
    """
    if settings.min_visibility or settings.min_area > 1:
        raise ValueError(
            "min_visibility, min_area: expected 0 and 1 with class_map and instance_map, in which each visible pixel "
            f"keeps its instance, got {settings.min_visibility} and {settings.min_area}"
        )
    return replace(settings, keep_masks=True)


def _map_of(target: Target, key: str) -> Tensor:
    return cast(Tensor, plain(target[key]))


# From maps to objects


def _check_pair(name: str, target: Target, image: Tensor) -> None:
    """Raise where a target has not both maps, or they are not those of its image."""
    for key in MAPS:
        if key not in target:
            raise ValueError(f"{name}: expected {' and '.join(MAPS)}, as other targets have, got no {key}")
        values = target[key]
        if not isinstance(values, Tensor) or values.dtype not in WHOLE_NUMBERS:
            found = values.dtype if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(f"{name}: expected {key!r} to be a tensor of {WHOLE}, got {found}")
        if values.shape != image.shape[-2:]:
            raise ValueError(
                f"{name}: expected {key!r} of the image's size {tuple(image.shape[-2:])}, got {tuple(values.shape)}"
            )
        if values.device != image.device:
            raise ValueError(f"{name}: expected {key!r} where its image is, on {image.device}, got {values.device}")
    if stale := [key for key in STALE_FIELDS if key in target]:
        raise ValueError(f"{name}: has {stale[0]!r} beside its maps, which would not follow them; leave it out")


def _ids_of_maps(maps: Sequence[Integer[Tensor, "_h _w"]]) -> list[Classes]:
    """The ids of each map, together where all have one size."""
    if len({ids.shape for ids in maps}) == 1:
        return IdMaps.of(torch.stack(list(maps))).classes()
    return [IdMaps.of(ids[None]).classes()[0] for ids in maps]


def _without_stuff(name: str, found: Classes) -> Classes:
    """The instances of a map: all ids but 0."""
    if (found.ids < 0).any():
        raise ValueError(f"{name}: expected 'instance_map' with ids from 1, and 0 for none, got {found.ids.min()}")
    return Classes(found.ids[found.ids != NO_INSTANCE], found.boxes[found.ids != NO_INSTANCE])


def _crops_of(ids: Integer[Tensor, "h w"], instances: Classes) -> list[Tensor]:
    """The mask of each instance, of bool, in its box."""
    boxes = instances.boxes.astype(int).tolist()
    return [ids[y1:y2, x1:x2] == number for number, (x1, y1, x2, y2) in zip(instances.ids.tolist(), boxes, strict=True)]


def _class_ranges(target: Target, crops: Sequence[Tensor], instances: Classes) -> Integer[Tensor, "n 2"]:
    """The least and the largest class id at the pixels of each instance, in the type of the class map."""
    classes = _map_of(target, CLASS_MAP)
    ends = torch.iinfo(classes.dtype)
    found = [classes.new_zeros(0)]
    for crop, (x1, y1, x2, y2) in zip(crops, instances.boxes.astype(int).tolist(), strict=True):
        own = classes[y1:y2, x1:x2]
        found.append(torch.stack([own.masked_fill(~crop, ends.max).amin(), own.masked_fill(~crop, ends.min).amax()]))
    return torch.cat(found).reshape(-1, 2)


def _check_classes(found: Sequence[Classes], ranges: Integer[np.ndarray, "m 2"]) -> None:
    """Raise ``ValueError`` where an instance has pixels of several classes."""
    wrong = np.flatnonzero(ranges[:, 0] != ranges[:, 1])
    if len(wrong):
        ends = np.cumsum([len(each.ids) for each in found])
        number = int(np.searchsorted(ends, wrong[0], side="right"))
        instance = found[number].ids[wrong[0] - ends[number]]
        one, other = ranges[wrong[0]].tolist()
        raise ValueError(
            f"targets[{number}]: expected one class for each instance, got {one} and {other} in 'class_map' where "
            f"'instance_map' is {instance}"
        )


# From objects to maps


def _painted(given: Target, found: Target, count: int, largest: int, most: int) -> Target:
    """Both maps of an image with the last ``count`` objects of its detection target painted on."""
    labels, masks = cast(Tensor, found["labels"]), cast(CompactMasks, found["masks"])
    classes, ids = (_map_of(given, key) for key in MAPS)
    classes, ids = classes.to(labels.dtype, copy=count > 0), ids.to(_type_for(ids.dtype, most), copy=count > 0)
    for place, number in enumerate(range(len(masks) - count, len(masks)), start=1):
        (y1, x1, y2, x2), mask = masks.windows[number].tolist(), masks.crop(number).bool()
        classes[y1:y2, x1:x2].masked_fill_(mask, labels[number])
        ids[y1:y2, x1:x2].masked_fill_(mask, largest + place)
    return {CLASS_MAP: as_tv_tensor(classes, given[CLASS_MAP]), INSTANCE_MAP: as_tv_tensor(ids, given[INSTANCE_MAP])}


def _type_for(dtype: torch.dtype, most: int) -> torch.dtype:
    """The type if it holds the number, else the first wider one that does."""
    wider = (dtype, torch.int16, torch.int32, torch.int64)
    return next(each for each in wider if torch.iinfo(each).max >= most)
