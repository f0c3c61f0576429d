"""What Detectron2's models take, from images and targets in torchvision's form; on the device where these are."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor
from torch.nn.functional import interpolate

from composer_copypaste.compact_masks import as_planes
from composer_copypaste.integrations.detectron2.config import Resizing
from composer_copypaste.models.inputs import TrainingTarget, target_without_crowds
from composer_copypaste.models.pillow_resize import resize_as_pillow

Inputs = list[dict[str, Any]]
"""A batch in Detectron2's form."""


def model_inputs(images: Tensor | Sequence[Tensor], input_format: str, resizing: Resizing | None) -> Inputs:
    """Images as Detectron2's data loaders give them: in its order of colors, from 0 to 255, resized.

    Args:
        images: RGB, (n, 3, h, w) or a list of (3, h, w), uint8 or floating point in [0, 1].
        input_format: "BGR" or "RGB".
        resizing: of the images; a length of several is drawn from torch's global generator, as models do.
    """
    inputs: Inputs = []
    for image in images:
        height, width = image.shape[1:]
        pixels = image.flip(0) if input_format == "BGR" else image
        pixels = pixels if pixels.dtype == torch.uint8 else pixels.float() * 255
        resized = _resize(pixels, resized_size((height, width), resizing))
        inputs.append({"image": resized, "height": height, "width": width})
    return inputs


def training_inputs(
    images: Tensor | Sequence[Tensor],
    targets: Sequence[TrainingTarget],
    input_format: str,
    resizing: Resizing | None,
) -> Inputs:
    """The same with the objects to train on, in ``instances``: crowds are left out, labels count from 0."""
    inputs = model_inputs(images, input_format, resizing)
    for each, target in zip(inputs, targets, strict=True):
        sizes = (each["height"], each["width"]), tuple(each["image"].shape[1:])
        each["instances"] = _instances(target_without_crowds(target), *sizes)
    return inputs


def _instances(target: dict[str, Any], size: tuple[int, int], resized: tuple[int, int]) -> Instances:
    """The objects of an image of this (height, width), after it was resized."""
    height, width = resized
    masks, scale = as_planes(target["masks"]), target["boxes"].new_tensor([width / size[1], height / size[0]] * 2)
    if resized != size:
        masks = interpolate(masks.to(torch.uint8)[:, None], resized, mode="nearest-exact")[:, 0]
    return Instances(
        (height, width),
        gt_boxes=Boxes(target["boxes"] * scale),
        gt_classes=target["labels"] - 1,
        gt_masks=BitMasks(masks.bool()),
    )


def resized_size(size: tuple[int, int], resizing: Resizing | None) -> tuple[int, int]:
    """The height and width of an image after it is resized."""
    if resizing is None:
        return size
    sides = resizing.sides
    if resizing.sampling == "range":
        side = sides[0] if sides[0] == sides[-1] else int(torch.randint(sides[0], sides[-1] + 1, ()))
    else:
        side = sides[0] if len(sides) == 1 else sides[int(torch.randint(len(sides), ()))]
    return ResizeShortestEdge.get_output_shape(*size, side, resizing.max_size)


def _resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """The image at another (height, width); of uint8 exactly as Detectron2's loaders resize, with Pillow."""
    if tuple(image.shape[1:]) == size:
        return image
    if image.dtype == torch.uint8:
        return resize_as_pillow(image, size)
    return interpolate(image[None], size, mode="bilinear", antialias=True)[0]
