"""One image's objects, every field in step: what a torchvision detection target becomes inside the package."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Integer, Shaped, UInt8
from torch import Tensor

from composer_copypaste.errors import counted

Target = dict[str, object]
"""torchvision's detection target: ``boxes``, ``labels``, ``masks``, optionally ``area``, ``iscrowd`` and others."""

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The types that torch can index; of its other whole numbers it can do little with."""
WHOLE = "whole numbers, signed or uint8"
REQUIRED_FIELDS = ("boxes", "labels", "masks")
OBJECT_FIELDS = frozenset({*REQUIRED_FIELDS, "area", "iscrowd"})
"""The keys of a target that are fields of :class:`Instances`."""


@dataclass(frozen=True, eq=False)  # tensors have no single truth to compare by
class Instances:
    """The ``n`` objects of one image.

    ``boxes`` are (x1, y1, x2, y2) in pixels with x2 one past the last pixel; ``masks`` hold 0 where the object
    is not.
    ``extras`` are further per-object tensors.
    """

    boxes: Shaped[Tensor, "n 4"]
    labels: Integer[Tensor, " n"]
    masks: UInt8[Tensor, "n h w"]
    area: Shaped[Tensor, " n"]
    iscrowd: Shaped[Tensor, " n"]
    extras: Mapping[str, Shaped[Tensor, "n ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: Tensor | slice) -> "Instances":
        """All fields of the objects that ``index`` (booleans, integers or a slice) selects."""
        return self.map(lambda values: values[index])

    def split(self, counts: Sequence[int]) -> "list[Instances]":
        """The first so many objects, the next so many, and so on to the last."""
        fields = (self.boxes, self.labels, self.masks, self.area, self.iscrowd, *self.extras.values())
        return [
            Instances(boxes, labels, masks, area, iscrowd, dict(zip(self.extras, extras, strict=True)))
            for boxes, labels, masks, area, iscrowd, *extras in zip(*(f.split(counts) for f in fields), strict=True)
        ]

    def without_masks(self) -> "Instances":
        """The same objects with masks of no size, beside the labels: indexing them costs nothing, on any device."""
        return replace(self, masks=self.labels.new_empty((len(self), 0, 0), dtype=torch.uint8))

    def map(self, function: Callable[[Tensor], Tensor]) -> "Instances":
        """The function applied to each field."""
        return Instances(
            boxes=function(self.boxes),
            labels=function(self.labels),
            masks=function(self.masks),
            area=function(self.area),
            iscrowd=function(self.iscrowd),
            extras={name: function(values) for name, values in self.extras.items()},
        )


def instances_of(
    targets: Sequence[Target], sizes: Sequence[tuple[int, int]], object_keys: Sequence[str]
) -> list[Instances]:
    """The objects of each target of a batch, whose images have those sizes (height, width).

    Args:
        targets: of the batch.
        sizes: of its images.
        object_keys: the further keys whose tensors have a row for each object.

    Raises:
        ValueError: a field is missing, of another length than ``labels``, or the masks are not of the image's size; the
            message says which target and which field.
        TypeError: masks that are neither bool nor uint8.
    """
    return [_instances(f"targets[{i}]", target, sizes[i], object_keys) for i, target in enumerate(targets)]


def target_of(target: Target, instances: Instances) -> Target:
    """The target with other objects: the same keys, the same types; masks only if it had some."""
    fields = {
        "boxes": instances.boxes,
        "labels": instances.labels,
        "area": instances.area,
        "iscrowd": instances.iscrowd,
        **instances.extras,
    }
    if "masks" in target:
        fields["masks"] = instances.masks.view(_tensor("target", "masks", target["masks"]).dtype)
    return {key: _as(value, fields[key]) if key in fields else value for key, value in target.items()}


def _as(former: object, values: Tensor) -> Tensor:
    """The values in the type of those they replace, to the nearest whole number where it holds only these."""
    if not isinstance(former, Tensor):
        return values
    whole = values.is_floating_point() and not former.is_floating_point()
    return (values.round() if whole else values).to(former.dtype)


def _instances(name: str, target: Target, size: tuple[int, int], extras: Sequence[str]) -> Instances:
    for key in REQUIRED_FIELDS:
        if key not in target:
            raise ValueError(f"{name}: expected {key!r}, got {sorted(target)}")
    boxes, labels, masks = (_tensor(name, key, target[key]) for key in REQUIRED_FIELDS)
    _check_kinds(name, labels, boxes)
    n = len(labels)
    if masks.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"{name}: expected masks of bool or of uint8 (0: none), got {masks.dtype}")
    _check_keypoints(name, target, n)
    area = _tensor(name, "area", target.get("area", boxes.new_zeros(n)))
    iscrowd = _tensor(name, "iscrowd", target.get("iscrowd", labels.new_zeros(n)))
    shapes = {"boxes": (boxes, (n, 4)), "masks": (masks, (n, *size)), "area": (area, (n,)), "iscrowd": (iscrowd, (n,))}
    for key, (values, expected) in shapes.items():
        if tuple(values.shape) != expected:
            raise ValueError(
                f"{name}: expected {key!r} of shape {expected} ({counted(n, 'label')}, "
                f"image of {size[0]} x {size[1]}), got {tuple(values.shape)}"
            )
    return Instances(
        boxes=boxes,
        labels=labels,
        masks=masks.view(torch.uint8),
        area=area,
        iscrowd=iscrowd,
        extras={key: _extra(name, target, key, n) for key in extras},
    )


def _check_kinds(name: str, labels: Tensor, boxes: Tensor) -> None:
    if labels.ndim != 1 or labels.dtype not in WHOLE_NUMBERS:
        raise TypeError(
            f"{name}: expected 'labels' of shape (n,) and of {WHOLE}, got {tuple(labels.shape)} and {labels.dtype}; "
            "without objects, torch.zeros(0, dtype=torch.int64)"
        )
    if boxes.is_complex() or boxes.dtype == torch.bool:
        raise TypeError(f"{name}: expected 'boxes' of numbers, got {boxes.dtype}")
    kind = getattr(getattr(boxes, "format", None), "name", "XYXY")  # torchvision's BoundingBoxes have a format
    if kind != "XYXY":
        raise ValueError(f"{name}: expected boxes of format XYXY, got {kind}; torchvision.ops.box_convert changes it")


def _check_keypoints(name: str, target: Target, n: int) -> None:
    keypoints = target.get("keypoints")
    if isinstance(keypoints, Tensor) and (keypoints.ndim != 3 or len(keypoints) != n or keypoints.shape[2] != 3):
        raise ValueError(f"{name}: expected 'keypoints' of shape ({n}, k, 3), got {tuple(keypoints.shape)}")


def _extra(name: str, target: Target, key: str, n: int) -> Tensor:
    if key not in target:
        raise ValueError(f"{name}: lacks {key!r}, which other targets of the batch have for each object ({n} here)")
    values = _tensor(name, key, target[key])
    if not values.ndim or len(values) != n:
        raise ValueError(
            f"{name}: expected {key!r} to have a row for each of its {n} objects, got shape {tuple(values.shape)}"
        )
    return values


def _tensor(name: str, key: str, values: object) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected {key!r} to be a tensor, got {type(values).__name__}")
    if values.layout != torch.strided:
        raise TypeError(f"{name}: expected {key!r} to be a dense tensor, got {values.layout}; .to_dense() gives one")
    return values
