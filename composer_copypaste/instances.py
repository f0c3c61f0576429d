"""The objects of one image, and torchvision's detection targets that they are made from and become again.

torchvision's tv_tensors (boxes, masks and images that know their kind) are unwrapped and wrapped here, without
importing torchvision: where nobody has imported it, there are none.
"""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Float, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, Masks
from composer_copypaste.errors import count_noun

Target = dict[str, object]
"""torchvision's detection target: ``boxes``, ``labels``, ``masks``, optionally ``area``, ``iscrowd`` and others."""

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The integer types that all of torch's operations support."""
WHOLE = "whole numbers, signed or uint8"
NUMBERS = frozenset((*WHOLE_NUMBERS, torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""The types that boxes, areas and keypoints can have."""
FIELD_TYPES = NUMBERS | {torch.bool, torch.complex64, torch.complex128}
"""The types that other fields can have."""
TYPES_OF_FIELDS = {"boxes": NUMBERS, "area": NUMBERS, "keypoints": NUMBERS, "iscrowd": NUMBERS | {torch.bool}}
"""The types of those that are computed with."""
REQUIRED_FIELDS = ("boxes", "labels")
OBJECT_FIELDS = frozenset({*REQUIRED_FIELDS, "masks", "area", "iscrowd"})
"""The keys of a target that are fields of :class:`Instances`."""
BOX_FORMATS = ("XYXY", "XYWH", "CXCYWH")
"""Two corners; a corner, width and height; the centre, width and height."""

Values = TypeVar("Values")


@dataclass(frozen=True, eq=False)  # two tensors are not simply equal or unequal
class Instances:
    """The ``n`` objects of one image; a row of every field for each.

    ``boxes`` are (x1, y1, x2, y2) in pixels, x2 one past the last pixel. ``masks`` are 0 outside the object; they can
    only be mapped as planes. ``extras`` are further tensors with a row for each object.
    """

    boxes: Shaped[Tensor, "n 4"]
    labels: Integer[Tensor, " n"]
    masks: Masks
    area: Shaped[Tensor, " n"]
    iscrowd: Shaped[Tensor, " n"]
    extras: Mapping[str, Shaped[Tensor, "n ..."]] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __repr__(self) -> str:
        height, width = self.masks.shape[1:]
        extras = f", with {', '.join(self.extras)}" if self.extras else ""
        return f"Instances({count_noun(len(self), 'object')} of {height} x {width}, on {self.labels.device}{extras})"

    def __getitem__(self, index: Tensor | slice) -> "Instances":
        """The selected objects; ``index`` holds booleans or integers, or is a slice."""
        return self.map(lambda values: values[index])

    def take(self, numbers: Sequence[int] | Int64[ndarray, " k"]) -> "Instances":
        """The objects with these indices, with masks of size 0 x 0.

        Each field gets the indices on its own device, as only that waits for no device.
        """
        fields = self._fields()
        index = {
            device: torch.as_tensor(numbers, dtype=torch.int64).to(device, non_blocking=device.type != "cpu")
            for device in {values.device for values in fields}
        }
        boxes, labels, area, iscrowd, *extras = (values.index_select(0, index[values.device]) for values in fields)
        return Instances(boxes, labels, empty_masks(labels), area, iscrowd, dict(zip(self.extras, extras, strict=True)))

    def split(self, counts: Sequence[int], masks: Sequence[Tensor | CompactMasks]) -> "list[Instances]":
        """The objects in groups of these sizes, in order, with these masks."""
        parts = (torch.split_with_sizes(values, counts) for values in self._fields())
        return [
            Instances(boxes, labels, own_masks, area, iscrowd, dict(zip(self.extras, extras, strict=True)))
            for own_masks, boxes, labels, area, iscrowd, *extras in zip(masks, *parts, strict=True)
        ]

    def _fields(self) -> "tuple[Tensor, ...]":
        """All fields but the masks."""
        return (self.boxes, self.labels, self.area, self.iscrowd, *self.extras.values())

    def without_masks(self) -> "Instances":
        """The same objects with masks of size 0 x 0, which cost nothing to index."""
        return Instances(self.boxes, self.labels, empty_masks(self.labels), self.area, self.iscrowd, self.extras)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Instances":
        """The objects with the function applied to each field."""
        return Instances(
            boxes=function(self.boxes),
            labels=function(self.labels),
            masks=function(cast(Tensor, self.masks)),
            area=function(self.area),
            iscrowd=function(self.iscrowd),
            extras={name: function(values) for name, values in self.extras.items()},
        )


def empty_masks(labels: Integer[Tensor, " n"]) -> UInt8[Tensor, "n 0 0"]:
    """Masks of size 0 x 0 for objects with these labels, where their masks are somewhere else."""
    return labels.new_empty((labels.shape[0], 0, 0), dtype=torch.uint8)


# From targets


def instances_of(
    targets: Sequence[Target],
    sizes: Sequence[tuple[int, int]],
    object_keys: Sequence[str],
    canvas: tuple[int, int] = (0, 0),
) -> list[Instances]:
    """The objects of each target of a batch.

    Boxes become (x1, y1, x2, y2), whatever their format was. Where no target has masks, all masks are empty.

    Args:
        targets: of the batch.
        sizes: (height, width) of each image.
        object_keys: further keys whose tensors have a row for each object.
        canvas: the size that the images will get, where that is another.

    Raises:
        ValueError: a field is missing, of another length than ``labels``, or the masks are not of the image's size; the
            message names target and field.
        TypeError: a field of a type that it cannot have.
    """
    lacking = [i for i, target in enumerate(targets) if "masks" not in target]
    if lacking and len(lacking) < len(targets):
        raise ValueError(
            f"targets[{lacking[0]}]: has no 'masks', which other targets of the batch have. "
            "Give masks to all of them, or to none: then boxes are pasted."
        )
    planes = [i for i, target in enumerate(targets) if not isinstance(target.get("masks"), CompactMasks)]
    if planes and len(planes) < len(targets):
        raise ValueError(
            f"targets[{planes[0]}]: has no CompactMasks, which other targets of the batch have; "
            "CompactMasks.from_dense makes them of a tensor"
        )
    height, width = map(max, zip(*sizes, canvas, strict=True))
    return [
        _instances(f"targets[{i}]", target, sizes[i], object_keys, (height, width)) for i, target in enumerate(targets)
    ]


def _instances(
    name: str, target: Target, size: tuple[int, int], object_keys: Sequence[str], largest: tuple[int, int]
) -> Instances:
    """The objects of one target; ``name`` is its name in messages, ``largest`` the largest size in the batch."""
    for key in REQUIRED_FIELDS:
        if key not in target:
            raise ValueError(f"{name}: expected {key!r}, got {sorted(target)}")
    for key in object_keys:
        if key not in target:
            n = len(_checked_field(name, target, "labels"))
            raise ValueError(f"{name}: lacks {key!r}, which other targets of the batch have for each object ({n} here)")
    keys = [*REQUIRED_FIELDS, *(key for key in ("masks", "area", "iscrowd") if key in target), *object_keys]
    fields: dict[str, Any] = {
        key: values if isinstance(values := target[key], CompactMasks) else _checked_field(name, target, key)
        for key in keys
    }
    boxes, labels = fields["boxes"], fields["labels"]
    n = labels.shape[0]
    if "masks" not in fields:
        fields["masks"] = plain(labels).new_zeros((), dtype=torch.uint8).expand(n, *size)  # takes no memory
    area = fields["area"] if "area" in fields else boxes.new_zeros(n)
    iscrowd = fields["iscrowd"] if "iscrowd" in fields else labels.new_zeros(n)
    if isinstance(target.get("keypoints"), Tensor):
        _check_keypoints(name, target, n)
    _check_shapes(name, fields, size, object_keys)
    extras = {key: plain(fields[key]) for key in object_keys}
    if "keypoints" in extras:
        extras["keypoints"] = in_type(extras["keypoints"], _type_for(extras["keypoints"].dtype, max(largest)))
    corner = boxes if type(boxes) is Tensor else corners(boxes)
    return Instances(
        boxes=in_type(corner, _type_for(corner.dtype, max(largest))),
        labels=plain(labels),
        masks=masks if isinstance(masks := fields["masks"], CompactMasks) else plain(masks).view(torch.uint8),
        area=in_type(plain(area), _type_for(area.dtype, math.prod(largest))),
        iscrowd=plain(iscrowd),
        extras=extras,
    )


def _check_shapes(name: str, fields: Mapping[str, Any], size: tuple[int, int], object_keys: Sequence[str]) -> None:
    """Raise ``ValueError`` where a field has not a row for each label, or masks are not of the image's size."""
    n = fields["labels"].shape[0]
    for key, shape in (("boxes", (n, 4)), ("masks", (n, *size)), ("area", (n,)), ("iscrowd", (n,))):
        if key in fields and fields[key].shape != shape:
            raise ValueError(
                f"{name}: expected {key!r} of shape {shape} ({count_noun(n, 'label')}, "
                f"image of {size[0]} x {size[1]}), got {tuple(fields[key].shape)}"
            )
    for key in object_keys:
        if not fields[key].ndim or len(fields[key]) != n:
            raise ValueError(
                f"{name}: expected {key!r} to have a row for each of its {n} objects, got shape "
                f"{tuple(fields[key].shape)}"
            )


def _checked_field(name: str, target: Target, key: str) -> Tensor:
    """A target's field: a dense tensor of a type that this field can have."""
    values = target[key]
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected {key!r} to be a tensor, got {type(values).__name__}")
    if values.layout != torch.strided:
        raise TypeError(f"{name}: expected {key!r} to be a dense tensor, got {values.layout}; .to_dense() gives one")
    if key == "labels":
        if values.ndim != 1 or values.dtype not in WHOLE_NUMBERS:
            raise TypeError(
                f"{name}: expected 'labels' of shape (n,) and of {WHOLE}, got {tuple(values.shape)} and "
                f"{values.dtype}; without objects, torch.zeros(0, dtype=torch.int64)"
            )
    elif key == "masks":
        if values.dtype not in (torch.bool, torch.uint8):
            raise TypeError(f"{name}: expected masks of bool or of uint8 (0: none), got {values.dtype}")
    elif values.dtype not in TYPES_OF_FIELDS.get(key, FIELD_TYPES):
        raise TypeError(
            f"{name}: expected {key!r} of floating point or {WHOLE}, got {values.dtype}; .float() or .long() gives that"
        )
    if key == "boxes" and (kind := box_format(values)) not in BOX_FORMATS:
        raise ValueError(
            f"{name}: expected boxes of format {', '.join(BOX_FORMATS)}, got {kind}; give rotated boxes under a key of "
            "their own, which the setting geometry names, and upright ones as 'boxes'"
        )
    return values


def _check_keypoints(name: str, target: Target, n: int) -> None:
    """Raise ``ValueError`` where keypoints, their scores or their numbers are not those of ``n`` objects."""
    keypoints = _checked_field(name, target, "keypoints")
    if keypoints.ndim != 3 or len(keypoints) != n or keypoints.shape[2] != 3:
        raise ValueError(f"{name}: expected 'keypoints' of shape ({n}, k, 3), got {tuple(keypoints.shape)}")
    for key, shape in (("keypoints_scores", tuple(keypoints.shape[:2])), ("num_keypoints", (n,))):
        values = target.get(key)
        if isinstance(values, Tensor) and tuple(values.shape) != shape:
            raise ValueError(
                f"{name}: expected {key!r} of shape {shape}, as its keypoints are, got {tuple(values.shape)}"
            )


# Back to targets


def target_of(
    target: Target,
    instances: Instances,
    largest: tuple[int, int],
    canvas: tuple[int, int] | None = None,
    *,
    fractions: bool = False,
) -> Target:
    """The target with other objects: the same keys, format of boxes and kinds of tensor; masks only if it had some.

    Args:
        target: the former one.
        instances: its objects now; labels and further fields keep the type that they have here.
        largest: the largest height and width of the batch's images. Boxes and areas whose type does not hold every
            position or area there become float32.
        canvas: the size of its image, if that has changed.
        fractions: whether boxes and areas may be other than whole numbers, so that no integer type holds them.
    """
    kind = box_format(target["boxes"])
    fields = {
        "boxes": instances.boxes if kind == "XYXY" else _in_format(instances.boxes.double(), kind),
        "labels": instances.labels,
        "area": instances.area,
        "iscrowd": instances.iscrowd,
        **instances.extras,
    }
    types = _types(target, instances, largest, fractions=fractions)
    after: Target = {
        key: as_tv_tensor(in_type(fields[key], types[key]), former, canvas) if key in fields else former
        for key, former in target.items()
    }
    if (former := target.get("masks")) is not None:
        after["masks"] = _in_form_of(former, instances.masks, canvas)
    return after


def _in_form_of(former: object, masks: Masks, canvas: tuple[int, int] | None) -> Tensor | CompactMasks:
    """The masks as cut-outs or planes, and of the type, as the former ones are."""
    if not isinstance(former, Tensor):
        return masks
    planes = masks.dense() if isinstance(masks, CompactMasks) else masks
    return as_tv_tensor(planes.view(former.dtype), former, canvas)


def in_types_of(target: Target, instances: Instances, largest: tuple[int, int]) -> Target:
    """The target with the same objects, in the types that :func:`target_of` gives other targets of its batch."""
    changed = {}
    for key, dtype in _types(target, instances, largest).items():
        former = target[key]
        if isinstance(former, Tensor) and former.dtype != dtype:
            changed[key] = as_tv_tensor(in_type(plain(former), dtype), former)
    return {**target, **changed} if changed else target


def _types(
    target: Target, instances: Instances, largest: tuple[int, int], *, fractions: bool = False
) -> dict[str, torch.dtype]:
    """The type that each field of a target comes back in, masks left out."""
    types = {"labels": instances.labels.dtype}
    for name, values in instances.extras.items():
        types[name] = values.dtype
    for key in ("boxes", "area", "iscrowd", "keypoints"):
        if isinstance(own := target.get(key), Tensor):
            types[key] = own.dtype
    halves = fractions or box_format(target["boxes"]) == "CXCYWH"
    types["boxes"] = _type_for(types["boxes"], max(largest), fractions=halves)
    if "keypoints" in types:
        types["keypoints"] = _type_for(types["keypoints"], max(largest))
    if "area" in types:
        types["area"] = _type_for(types["area"], largest[0] * largest[1], fractions=fractions)
    return types


# Types of numbers


@cache
def _type_for(dtype: torch.dtype, largest: int, *, fractions: bool = False) -> torch.dtype:
    """The type, or float32 where it does not hold every whole number (or half) up to the largest."""
    if dtype.is_floating_point:
        return dtype if exact_up_to(dtype) >= largest * (2 if fractions else 1) else torch.float32
    return dtype if exact_up_to(dtype) >= largest and not fractions else torch.float32


def exact_up_to(dtype: torch.dtype) -> int:
    """The largest number such that the type holds every whole number from 0 up to it."""
    if dtype == torch.bool:
        return 1
    if dtype.is_floating_point or dtype.is_complex:
        return int(2 / torch.finfo(dtype).eps)
    return torch.iinfo(dtype).max


def in_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The values in a type, rounded if it is an integer type."""
    whole = values.is_floating_point() and not dtype.is_floating_point
    return (values.round() if whole else values).to(dtype)


# tv_tensors


def is_tv_tensor(values: object) -> bool:
    """Whether the values are one of torchvision's tv_tensors."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    return tv_tensors is not None and isinstance(values, tv_tensors.TVTensor)


def plain(values: Values) -> Values:
    """A tv_tensor as a plain tensor of the same memory; anything else unchanged."""
    if type(values) is Tensor or not is_tv_tensor(values):
        return values
    return values.as_subclass(Tensor)  # type: ignore[attr-defined]


def as_tv_tensor(
    values: Shaped[Tensor, "..."], former: object, size: tuple[int, int] | None = None
) -> Shaped[Tensor, "..."]:
    """The values as a tv_tensor of the former one's kind, in an image of ``size`` if given; plain if that was plain."""
    if type(former) is Tensor or not is_tv_tensor(former):
        return values
    changed = {} if size is None else {"canvas_size": size}
    return sys.modules["torchvision.tv_tensors"].wrap(values, like=former, **changed)


def box_format(boxes: object) -> str:
    """The name of the boxes' format; XYXY for plain tensors."""
    return getattr(getattr(boxes, "format", None), "name", "XYXY")


def corners(boxes: Shaped[Tensor, "n 4"]) -> Shaped[Tensor, "n 4"]:
    """Boxes of any of ``BOX_FORMATS`` as plain (x1, y1, x2, y2), in float64 if converted, so that nothing is lost."""
    kind = box_format(boxes)
    if kind == "XYXY":
        return plain(boxes)
    start, side = plain(boxes).double().split(2, dim=1)
    first = start if kind == "XYWH" else start - side / 2
    return torch.cat([first, first + side], dim=1)


def _in_format(boxes: Float[Tensor, "n 4"], kind: str) -> Float[Tensor, "n 4"]:
    """Boxes (x1, y1, x2, y2) in another format."""
    first, last = boxes.split(2, dim=1)
    return torch.cat([first if kind == "XYWH" else (first + last) / 2, last - first], dim=1)
