"""What a batch must be, before anything is read from it."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Integer
from torch import Tensor

from composer_copypaste.errors import counted
from composer_copypaste.functional.planes import Images
from composer_copypaste.instances import WHOLE, WHOLE_NUMBERS, Target

IMAGE_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_batch(images: Images, targets: Sequence[Target] | Sequence[Tensor] | Integer[Tensor, "n h w"]) -> None:
    """Raise where these are no images or targets, an image lacks a target, or masks or images are not of one kind.

    Raises:
        TypeError: something is no tensor, no target or of another type.
        ValueError: everything else; both name the place.
    """
    if not isinstance(images, Tensor | list | tuple):
        raise TypeError(
            f"images: expected a tensor (n, c, h, w) or a list of tensors (c, h, w), got {type(images).__name__}"
        )
    pictures: list[Tensor] = list(images)
    for i, image in enumerate(pictures):
        _check_image(i, image)
    if not isinstance(targets, Tensor | list | tuple):
        raise TypeError(f"targets: expected a list of targets or a tensor of class ids, got {type(targets).__name__}")
    if len(pictures) != len(targets):
        raise ValueError(
            f"expected a target for each image, got {counted(len(pictures), 'image')} "
            f"and {counted(len(targets), 'target')}"
        )
    devices = {image.device for image in pictures}
    if len(devices) > 1:  # kernels read memory by its address
        named = " and some on ".join(sorted(map(str, devices)))
        raise ValueError(f"expected images on one device, got some on {named}")
    kinds = {(image.dtype, image.shape[0]) for image in pictures}
    if len(kinds) > 1:
        named = str(sorted((str(dtype), channels) for dtype, channels in kinds))
        raise ValueError(f"expected images of one type and number of channels, got {named}")
    for i, (image, target) in enumerate(zip(pictures, targets, strict=True)):
        _check_target(i, target, image)
    if len({isinstance(target, Tensor) for target in targets}) > 1:
        raise TypeError("targets: expected dicts or class ids for all images, got some of both")


def _check_image(i: int, image: object) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(f"images[{i}]: expected a tensor (c, h, w), got {type(image).__name__}")
    if image.ndim != 3 or not image.numel():
        raise ValueError(f"images[{i}]: expected a tensor (c, h, w) with pixels, got shape {tuple(image.shape)}")
    if image.dtype not in IMAGE_TYPES:
        expected = "uint8 or floating point of 16 to 64 bits"
        raise TypeError(f"images[{i}]: expected {expected}, got {image.dtype}; .float() gives that")
    if image.layout != torch.strided:
        raise TypeError(f"images[{i}]: expected a dense tensor, got {image.layout}; .to_dense() gives one")


def _check_target(i: int, target: object, image: Tensor) -> None:
    if not isinstance(target, Tensor | Mapping):
        raise TypeError(f"targets[{i}]: expected a dict with boxes, labels and masks, got {type(target).__name__}")
    if isinstance(target, Tensor) and target.dtype not in WHOLE_NUMBERS:
        raise TypeError(f"targets[{i}]: expected class ids of {WHOLE}, got {target.dtype}; .long() gives some")
    masks = target if isinstance(target, Tensor) else target.get("masks")
    if isinstance(masks, Tensor) and masks.device != image.device:
        raise ValueError(f"targets[{i}]: expected masks where their image is, on {image.device}, got {masks.device}")
