"""Inputs of detectors: images as floating point, and checks of training targets that torchvision does not make.

Torchvision trains on wrong labels, boxes and masks without an error.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.errors import count_noun
from composer_copypaste.instances import NUMBERS, WHOLE, WHOLE_NUMBERS, box_format

TrainingTarget = Mapping[str, Any]
"""A dict of tensors; ``masks`` may be ``CompactMasks``."""


def float_images(images: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The images of a batch as floating point in [0, 1]; uint8 images are divided by 255."""
    return [image if image.is_floating_point() else image.float() / 255 for image in images]


def target_without_crowds(target: TrainingTarget, *, masks: bool = True) -> dict[str, Any]:
    """The boxes, labels and masks to train on, in torchvision's types; crowds are no examples of one object.

    Without ``masks``, for detectors that find boxes alone, these are left out.
    """
    fields = {"boxes": target["boxes"].float(), "labels": target["labels"].long()}
    if masks:
        fields["masks"] = target["masks"]
        if isinstance(fields["masks"], CompactMasks):  # Composer moves tensors alone
            fields["masks"] = fields["masks"].to(fields["boxes"].device, non_blocking=True)
    crowds = target.get("iscrowd")
    if crowds is None or not crowds.any():
        return fields
    return {name: values[crowds == 0] for name, values in fields.items()}


def check_targets(images: Tensor | Sequence[Tensor], targets: object, num_classes: int, *, masks: bool = True) -> None:
    """Check that a detector can train on these targets.

    Types and shapes are compared first. Then the device is waited for once to check the values: labels from 1 to
    ``num_classes`` - 1; boxes finite, with positive width and height unless they are of crowds; masks of 0 and 1.
    Without ``masks``, for detectors that find boxes alone, these are neither needed nor looked at.

    Raises:
        TypeError: naming the target and its field, where one has another type.
        ValueError: naming them, where a shape or value cannot be trained on.
    """
    if not len(images):
        raise ValueError("images: expected at least one, got none")
    if not isinstance(targets, list | tuple):
        raise TypeError(f"targets: expected a list of targets, got {type(targets).__name__}")
    if len(images) != len(targets):
        raise ValueError(f"targets: expected one for each of {len(images)} images, got {len(targets)}")
    for i, (image, target) in enumerate(zip(images, targets, strict=True)):
        _check_target_types(f"targets[{i}]", target, masks=masks)
        _check_target_shapes(f"targets[{i}]", target, (image.shape[-2], image.shape[-1]), masks=masks)
    wrong = [
        torch.cat([_wrong_labels(target, num_classes) for target in targets]).any(),
        torch.cat([_wrong_boxes(target) for target in targets]).any(),
        *(_has_other_values(_pixels(target["masks"])) for target in targets if masks),
    ]
    if any(torch.stack(wrong).tolist()):
        raise ValueError(next(_find_wrong_values(targets, num_classes)))


def _check_target_types(name: str, target: object, *, masks: bool) -> None:
    needed = ("boxes", "labels", "masks") if masks else ("boxes", "labels")
    if not isinstance(target, Mapping):
        expected = "boxes, labels and masks" if masks else "boxes and labels"
        raise TypeError(f"{name}: expected a dict with {expected}, got {type(target).__name__}")
    missing = [key for key in needed if key not in target]
    if missing:
        detector = "Mask R-CNN" if masks else "a detector"
        raise ValueError(f"{name}: lacks {missing[0]!r}, which {detector} is trained on; it has {sorted(target)}")
    for key in (*needed, "iscrowd"):
        if key in target and not isinstance(target[key], Tensor | CompactMasks if key == "masks" else Tensor):
            raise TypeError(f"{name}: expected {key!r} to be a tensor, got {type(target[key]).__name__}")
    if target["labels"].dtype not in WHOLE_NUMBERS:
        raise TypeError(f"{name}: expected 'labels' of {WHOLE}, got {target['labels'].dtype}; .long() gives that")
    if target["boxes"].dtype not in NUMBERS:
        raise TypeError(
            f"{name}: expected 'boxes' of floating point or {WHOLE}, got {target['boxes'].dtype}; .float() gives that"
        )


def _check_target_shapes(name: str, target: TrainingTarget, size: tuple[int, int], *, masks: bool) -> None:
    n = target["labels"].numel()
    shapes: dict[str, tuple[int, ...]] = {"boxes": (n, 4), "labels": (n,), "iscrowd": (n,)}
    shapes |= {"masks": (n, *size)} if masks else {}
    for key, expected in shapes.items():
        if key in target and tuple(target[key].shape) != expected:
            raise ValueError(
                f"{name}: expected {key!r} of shape {expected} ({count_noun(n, 'label')}, "
                f"image of {size[0]} x {size[1]}), got {tuple(target[key].shape)}; "
                "all fields need a row for each object, in the same order"
            )
    if (kind := box_format(target["boxes"])) != "XYXY":
        raise ValueError(
            f"{name}: expected 'boxes' of format XYXY, got {kind}; torchvision.ops.box_convert gives such boxes"
        )


def _wrong_labels(target: TrainingTarget, num_classes: int) -> Bool[Tensor, " n"]:
    labels = target["labels"].long()  # num_classes would overflow a small type
    return (labels < 1) | (labels >= num_classes)


def _wrong_boxes(target: TrainingTarget) -> Bool[Tensor, " n"]:
    boxes = target["boxes"]
    right = boxes.isfinite().all(dim=1) & (boxes[:, :2] < boxes[:, 2:]).all(dim=1)
    return ~right if "iscrowd" not in target else ~right & (target["iscrowd"] == 0)


def _pixels(masks: Tensor | CompactMasks) -> Tensor:
    """The values of planes or cut-outs."""
    return masks.pixels if isinstance(masks, CompactMasks) else masks


def _has_other_values(masks: Tensor) -> Bool[Tensor, ""]:
    """Whether the masks hold anything but 0 and 1."""
    if masks.dtype == torch.bool or not masks.numel():
        return torch.zeros((), dtype=torch.bool, device=masks.device)  # torch.tensor(False) would wait for the device
    if masks.dtype == torch.uint8:
        return masks.amax() > 1
    return ((masks != 0) & (masks != 1)).any()


def _find_wrong_values(targets: Sequence[TrainingTarget], num_classes: int) -> Iterator[str]:
    """What is wrong with the values of the targets; each value read waits for the device."""
    for i, target in enumerate(targets):
        labels = target["labels"][_wrong_labels(target, num_classes)]
        if len(labels):
            yield (
                f"targets[{i}]: expected labels from 1 to {num_classes - 1} (0 is the background, counted in "
                f"num_classes={num_classes}), got {sorted(set(labels.tolist()))}; count labels from 1, or raise "
                "num_classes"
            )
        boxes = target["boxes"][_wrong_boxes(target)]
        if len(boxes):
            yield (
                f"targets[{i}]: expected 'boxes' (x1, y1, x2, y2) of finite numbers with x1 < x2 and y1 < y2, got "
                f"{boxes[0].tolist()}; leave such objects out, or set their iscrowd to 1"
            )
        if "masks" in target and _has_other_values(masks := _pixels(target["masks"])):
            other = masks[(masks != 0) & (masks != 1)].unique()[:3].tolist()
            yield (
                f"targets[{i}]: expected 'masks' of 0 and 1, got {', '.join(map(str, other))}; "
                "masks > 0 gives such masks where every other value than 0 is the object"
            )
