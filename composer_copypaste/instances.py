"""One image's objects, every field in step: what a torchvision detection target becomes inside the package."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TypeVar

import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from torch import Tensor

from composer_copypaste.errors import counted

FORMATS = ("XYXY", "XYWH", "CXCYWH")
"""Of boxes: two corners; a corner, width and height; the centre, width and height."""

Values = TypeVar("Values")


def is_tv_tensor(values: object) -> bool:
    """Whether it is an image, boxes, masks or keypoints of torchvision's."""
    tv_tensors = sys.modules.get("torchvision.tv_tensors")
    return tv_tensors is not None and isinstance(values, tv_tensors.TVTensor)


def plain(values: Values) -> Values:
    """A plain tensor with the same memory; anything but a tv_tensor as it is."""
    return values.as_subclass(Tensor) if is_tv_tensor(values) else values  # type: ignore[attr-defined]


def as_tv_tensor(
    values: Shaped[Tensor, "..."], former: object, size: tuple[int, int] | None = None
) -> Shaped[Tensor, "..."]:
    """The values as the tv_tensor that the former ones were, if they were one, in an image of another size if given."""
    if not is_tv_tensor(former):
        return values
    changed = {} if size is None else {"canvas_size": size}
    return sys.modules["torchvision.tv_tensors"].wrap(values, like=former, **changed)


def box_format(boxes: object) -> str:
    """The name of the boxes' format; that of plain tensors is XYXY."""
    return getattr(getattr(boxes, "format", None), "name", "XYXY")


def corners(boxes: Shaped[Tensor, "n 4"]) -> Shaped[Tensor, "n 4"]:
    """Boxes of any of ``FORMATS`` as plain (x1, y1, x2, y2), in float64 where they were of another, to lose nothing."""
    kind = box_format(boxes)
    if kind == "XYXY":
        return plain(boxes)
    start, side = plain(boxes).double().split(2, dim=1)
    first = start if kind == "XYWH" else start - side / 2
    return torch.cat([first, first + side], dim=1)


def in_format(boxes: Float[Tensor, "n 4"], kind: str) -> Float[Tensor, "n 4"]:
    """Boxes (x1, y1, x2, y2) in another format."""
    first, last = boxes.split(2, dim=1)
    return torch.cat([first if kind == "XYWH" else (first + last) / 2, last - first], dim=1)


Target = dict[str, object]
"""torchvision's detection target: ``boxes``, ``labels``, ``masks``, optionally ``area``, ``iscrowd`` and others."""

WHOLE_NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
"""The types that torch can index; of its other whole numbers it can do little with."""
WHOLE = "whole numbers, signed or uint8"
NUMBERS = frozenset((*WHOLE_NUMBERS, torch.float16, torch.bfloat16, torch.float32, torch.float64))
"""The types of boxes, areas and keypoints."""
FIELD_TYPES = NUMBERS | {torch.bool, torch.complex64, torch.complex128}
"""The types that further fields can have."""
REQUIRED_FIELDS = ("boxes", "labels")
OBJECT_FIELDS = frozenset({*REQUIRED_FIELDS, "masks", "area", "iscrowd"})
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
    targets: Sequence[Target],
    sizes: Sequence[tuple[int, int]],
    object_keys: Sequence[str],
    canvas: tuple[int, int] = (0, 0),
) -> list[Instances]:
    """The objects of each target of a batch.

    Boxes are (x1, y1, x2, y2), in whatever format they were given. Where no target has masks, all planes are empty.

    Args:
        targets: of the batch.
        sizes: of its images (height, width).
        object_keys: the further keys whose tensors have a row for each object.
        canvas: a size that the images will get.

    Raises:
        ValueError: a field is missing, of another length than ``labels``, or the masks are not of the image's size; the
            message says which target and which field.
        TypeError: a field of a type that it cannot have.
    """
    _check_masks(targets)
    largest = largest_of([*sizes, canvas])
    return [_instances(f"targets[{i}]", target, sizes[i], object_keys, largest) for i, target in enumerate(targets)]


def largest_of(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The largest height and the largest width."""
    return max(height for height, _ in sizes), max(width for _, width in sizes)


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
        instances: its objects now; their labels and further fields have the types that they come back in.
        largest: the largest height and width of the batch's images. Boxes and areas that come in a type which does not
            hold all positions or areas there come back in float32.
        canvas: the size of its image, if that is another now.
        fractions: whether boxes and areas are other than whole numbers, so that no type of these holds them.
    """
    kind = box_format(target["boxes"])
    fields = {
        "boxes": instances.boxes if kind == "XYXY" else in_format(instances.boxes.double(), kind),
        "labels": instances.labels,
        "area": instances.area,
        "iscrowd": instances.iscrowd,
        **instances.extras,
    }
    if "masks" in target:
        fields["masks"] = instances.masks.view(_tensor("target", "masks", target["masks"]).dtype)
    types = _types(target, instances, largest, fractions=fractions)
    return {
        key: as_tv_tensor(in_type(fields[key], types.get(key)), former, canvas) if key in fields else former
        for key, former in target.items()
    }


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
    """The types that the fields of a target come back in, but for its masks."""
    types = {"labels": instances.labels.dtype}
    for name, values in instances.extras.items():
        types[name] = values.dtype
    for key in ("boxes", "area", "iscrowd", "keypoints"):
        if isinstance(own := target.get(key), Tensor):
            types[key] = own.dtype
    parts = fractions or box_format(target["boxes"]) == "CXCYWH"
    types["boxes"] = _holding(types["boxes"], max(largest), fractions=parts)
    if "keypoints" in types:
        types["keypoints"] = _holding(types["keypoints"], max(largest))
    if "area" in types:
        types["area"] = _holding(types["area"], largest[0] * largest[1], fractions=fractions)
    return types


@cache
def _holding(dtype: torch.dtype, largest: int, *, fractions: bool = False) -> torch.dtype:
    """The type, or float32 where it does not hold every whole number up to the largest, or every half of one."""
    if dtype.is_floating_point:
        return dtype if exact_up_to(dtype) >= largest * (2 if fractions else 1) else torch.float32
    return dtype if exact_up_to(dtype) >= largest and not fractions else torch.float32


def exact_up_to(dtype: torch.dtype) -> int:
    """The type holds every whole number from 0 up to this one."""
    if dtype == torch.bool:
        return 1
    if dtype.is_floating_point or dtype.is_complex:
        return int(2 / torch.finfo(dtype).eps)
    return torch.iinfo(dtype).max


def in_type(values: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The values in a type, rounded where it holds whole numbers; as they are where there is none."""
    if dtype is None or values.dtype == dtype:
        return values
    whole = values.is_floating_point() and not dtype.is_floating_point
    return (values.round() if whole else values).to(dtype)


def _check_masks(targets: Sequence[Target]) -> None:
    """Raise ``ValueError`` where some targets have masks and others have none."""
    lacking = [i for i, target in enumerate(targets) if "masks" not in target]
    if lacking and len(lacking) < len(targets):
        raise ValueError(
            f"targets[{lacking[0]}]: has no 'masks', which other targets of the batch have. "
            "Give masks to all of them, or to none: then boxes are pasted."
        )


def _instances(
    name: str, target: Target, size: tuple[int, int], extras: Sequence[str], largest: tuple[int, int]
) -> Instances:
    for key in REQUIRED_FIELDS:
        if key not in target:
            raise ValueError(f"{name}: expected {key!r}, got {sorted(target)}")
    boxes, labels = _field(name, "boxes", target["boxes"]), _tensor(name, "labels", target["labels"])
    _check_kinds(name, labels, boxes)
    n = len(labels)
    masks = _tensor(name, "masks", target["masks"]) if "masks" in target else _empty_planes(labels, n, size)
    if masks.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"{name}: expected masks of bool or of uint8 (0: none), got {masks.dtype}")
    _check_keypoints(name, target, n)
    area = _field(name, "area", target.get("area", boxes.new_zeros(n)))
    iscrowd = _field(name, "iscrowd", target.get("iscrowd", labels.new_zeros(n)))
    shapes = {"boxes": (boxes, (n, 4)), "masks": (masks, (n, *size)), "area": (area, (n,)), "iscrowd": (iscrowd, (n,))}
    for key, (values, expected) in shapes.items():
        if tuple(values.shape) != expected:
            raise ValueError(
                f"{name}: expected {key!r} of shape {expected} ({counted(n, 'label')}, "
                f"image of {size[0]} x {size[1]}), got {tuple(values.shape)}"
            )
    positions = max(largest)
    further = {key: _extra(name, target, key, n) for key in extras}
    if "keypoints" in further:
        further["keypoints"] = in_type(further["keypoints"], _holding(further["keypoints"].dtype, positions))
    corner = corners(boxes)
    return Instances(
        boxes=in_type(corner, _holding(corner.dtype, positions)),
        labels=plain(labels),
        masks=plain(masks).view(torch.uint8),
        area=in_type(plain(area), _holding(area.dtype, math.prod(largest))),
        iscrowd=plain(iscrowd),
        extras=further,
    )


def _empty_planes(labels: Tensor, n: int, size: tuple[int, int]) -> UInt8[Tensor, "n h w"]:
    """Masks without a pixel, which take no memory."""
    return plain(labels).new_zeros((), dtype=torch.uint8).expand(n, *size)


def _check_kinds(name: str, labels: Tensor, boxes: Tensor) -> None:
    if labels.ndim != 1 or labels.dtype not in WHOLE_NUMBERS:
        raise TypeError(
            f"{name}: expected 'labels' of shape (n,) and of {WHOLE}, got {tuple(labels.shape)} and {labels.dtype}; "
            "without objects, torch.zeros(0, dtype=torch.int64)"
        )
    if (kind := box_format(boxes)) not in FORMATS:
        raise ValueError(
            f"{name}: expected boxes of format {', '.join(FORMATS)}, got {kind}: boxes that are turned cannot be pasted"
        )


def _check_keypoints(name: str, target: Target, n: int) -> None:
    keypoints = target.get("keypoints")
    if not isinstance(keypoints, Tensor):
        return
    if keypoints.ndim != 3 or len(keypoints) != n or keypoints.shape[2] != 3:
        raise ValueError(f"{name}: expected 'keypoints' of shape ({n}, k, 3), got {tuple(keypoints.shape)}")
    for key, shape in (("keypoints_scores", tuple(keypoints.shape[:2])), ("num_keypoints", (n,))):
        values = target.get(key)
        if isinstance(values, Tensor) and tuple(values.shape) != shape:
            raise ValueError(
                f"{name}: expected {key!r} of shape {shape}, as its keypoints are, got {tuple(values.shape)}"
            )


def _extra(name: str, target: Target, key: str, n: int) -> Tensor:
    if key not in target:
        raise ValueError(f"{name}: lacks {key!r}, which other targets of the batch have for each object ({n} here)")
    values = _field(name, key, target[key])
    if not values.ndim or len(values) != n:
        raise ValueError(
            f"{name}: expected {key!r} to have a row for each of its {n} objects, got shape {tuple(values.shape)}"
        )
    return plain(values)


def _tensor(name: str, key: str, values: object) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"{name}: expected {key!r} to be a tensor, got {type(values).__name__}")
    if values.layout != torch.strided:
        raise TypeError(f"{name}: expected {key!r} to be a dense tensor, got {values.layout}; .to_dense() gives one")
    return values


def _field(name: str, key: str, values: object) -> Tensor:
    """A field, of a type that it can have."""
    found = _tensor(name, key, values)
    if found.dtype not in (NUMBERS if key in ("boxes", "area", "keypoints") else FIELD_TYPES):
        raise TypeError(
            f"{name}: expected {key!r} of floating point or {WHOLE}, got {found.dtype}; .float() or .long() gives that"
        )
    return found
