"""What callers of the augmentations give, checked before anything is done with it."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from jaxtyping import Integer
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.errors import count_noun
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.category_names import with_labels
from composer_copypaste.functional.panoptic import has_pairs
from composer_copypaste.functional.scene import check_scene
from composer_copypaste.functional.sources import ExtraSources, Pool, check_pool
from composer_copypaste.functional.tensors import Images
from composer_copypaste.functional.transformed_objects import check_object_transform
from composer_copypaste.instances import WHOLE, WHOLE_NUMBERS, Target
from composer_copypaste.settings import CopyPasteSettings, settings_from
from composer_copypaste.settings.idle import FOR_DETECTION, FOR_PAIRS, IN_CLASS_MAPS, OF_TRAININGS, check_not_idle

READ_TOGETHER = ("boxes", "labels", "iscrowd")
"""The fields that the host reads, in one transfer."""
IMAGE_TYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)
INSTEAD = {"boxes": "boxes", "labels": "labels", "keypoints": "keypoints", "area": "boxes", "iscrowd": "labels"}
"""For each field of objects the one on whose device it is made if a target lacks it."""


def checked_arguments(
    settings: CopyPasteSettings | None,
    overrides: Mapping[str, object],
    category_names: Sequence[str] | None,
    bank: InstanceBank | None,
    pool: Pool | None,
) -> tuple[CopyPasteSettings, ExtraSources]:
    """The settings, with labels in place of names, and the sources beyond the batch."""
    settings = settings_from(CopyPasteSettings, settings, overrides)
    check_not_idle(settings, {name: need for name, need in OF_TRAININGS.items() if name in overrides})
    settings = checked_settings(settings, category_names, pool, stacklevel=5)
    if not isinstance(bank, InstanceBank | None):
        raise TypeError(f"bank: expected an InstanceBank, got {bank!r}")
    if bank is None and settings.bank_size:
        raise ValueError(
            f"bank_size: a function has no memory; make a bank = InstanceBank({settings.bank_size}) once, and give "
            "bank=bank with every batch"
        )
    if bank is not None and settings.bank_size not in (0, bank.size):
        raise ValueError(f"bank_size: expected the size of the bank, {bank.size}, or 0, got {settings.bank_size}")
    if bank is not None and settings.source == "self":
        raise ValueError('bank: expected None with source "self", which copies no object of earlier batches')
    if bank is not None and settings.geometry:
        raise ValueError("geometry: expected None with a bank, whose crops keep only keypoints; leave one of them out")
    return settings, ExtraSources(bank, pool)


def checked_settings(
    settings: CopyPasteSettings, category_names: Sequence[str] | None, pool: Pool | None, *, stacklevel: int = 4
) -> CopyPasteSettings:
    """The settings with labels in place of names, after all checks that need no batch.

    Args:
        settings: as the user gave them.
        category_names: the names of labels 1, 2 and so on; None if they are not known.
        pool: what the settings have to fit; None: there is none.
        stacklevel: of warnings, as of ``warnings.warn``: 4 is the caller of a constructor that calls this.

    Raises:
        DataError: where the file of a map, or the transform, is not found or cannot be used.
        TypeError, ValueError: as of :func:`with_labels` and :func:`check_pool`.
    """
    settings = with_labels(settings, category_names, stacklevel=stacklevel)
    check_pool(pool, settings)
    check_scene(settings)
    check_object_transform(settings)
    return settings


def check_batch(images: Images, targets: Sequence[Target] | Sequence[Tensor] | Integer[Tensor, "n h w"]) -> None:
    """Raise where images or targets are of a wrong kind, an image lacks a target, or images differ in kind or device.

    Raises:
        TypeError: something is no tensor, no target or of another type.
        ValueError: everything else; both name the place.
    """
    if not isinstance(images, Tensor | list | tuple):
        raise TypeError(
            f"images: expected a tensor (n, c, h, w) or a list of tensors (c, h, w), got {type(images).__name__}"
        )
    if not isinstance(targets, Tensor | list | tuple):
        raise TypeError(f"targets: expected a list of targets or a tensor of class ids, got {type(targets).__name__}")
    _check_images(images, len(targets))
    for i, target in enumerate(targets):
        if not isinstance(target, Tensor | Mapping):
            raise TypeError(f"targets[{i}]: expected a dict with boxes, labels and masks, got {type(target).__name__}")
        if isinstance(target, Tensor) and target.dtype not in WHOLE_NUMBERS:
            raise TypeError(f"targets[{i}]: expected class ids of {WHOLE}, got {target.dtype}; .long() gives some")
        if isinstance(target, Tensor) and target.layout != torch.strided:
            raise TypeError(f"targets[{i}]: expected a dense tensor, got {target.layout}; .to_dense() gives one")
        masks = target if isinstance(target, Tensor) else target.get("masks")
        if isinstance(masks, Tensor | CompactMasks) and masks.device != images[0].device:
            found = f"expected masks where their image is, on {images[0].device}, got {masks.device}"
            raise ValueError(f"targets[{i}]: {found}")
    if len({isinstance(target, Tensor) for target in targets}) > 1:
        raise TypeError("targets: expected dicts or class ids for all images, got some of both")
    if len(targets) and not isinstance(targets[0], Tensor):
        _check_devices(cast(Sequence[Target], targets))


def check_settings_of(targets: Sequence[Target] | Tensor, settings: CopyPasteSettings) -> None:
    """Raise ``ValueError`` where a setting of copy-paste changes nothing for targets of this kind."""
    if isinstance(targets, Tensor):
        check_not_idle(settings, IN_CLASS_MAPS)
    else:
        check_not_idle(settings, FOR_PAIRS if has_pairs(targets) else FOR_DETECTION)


def _check_devices(targets: Sequence[Target]) -> None:
    """Raise where a field of objects, which targets may have on the host, is there for some of them only.

    A missing field is made on the device of another.
    """
    for name, instead in INSTEAD.items():
        values = [target[name] if name in target else target.get(instead) for target in targets]
        devices = {value.device for value in values if isinstance(value, Tensor)}
        if len(devices) > 1:
            named = " and some on ".join(sorted(map(str, devices)))
            raise ValueError(f"targets: expected {name!r} of all images on one device, got some on {named}")
    read = [(name, value) for name in READ_TOGETHER if isinstance(value := targets[0].get(name), Tensor)]
    if len({value.device for _, value in read}) > 1:
        named = ", ".join(f"{name!r} on {value.device}" for name, value in read)
        raise ValueError(f"targets: expected {', '.join(READ_TOGETHER)} on one device, got {named}")


def _check_images(images: Images, targets: int) -> None:
    """Raise where images are none, differ in kind or device, or are not as many as targets."""
    each = [images[0]] if isinstance(images, Tensor) and len(images) else images
    for i, image in enumerate(each):
        if not isinstance(image, Tensor):
            raise TypeError(f"images[{i}]: expected a tensor (c, h, w), got {type(image).__name__}")
        if image.ndim != 3 or not image.numel():
            raise ValueError(f"images[{i}]: expected a tensor (c, h, w) with pixels, got shape {tuple(image.shape)}")
        if image.shape[2] in (1, 3, 4) and min(image.shape[:2]) > 4:
            raise ValueError(
                f"images[{i}]: expected a tensor (c, h, w), got shape {tuple(image.shape)}, which looks like "
                "(h, w, c); .permute(2, 0, 1) gives (c, h, w)"
            )
        if image.dtype not in IMAGE_TYPES:
            expected = "uint8 or floating point of 16 to 64 bits"
            raise TypeError(f"images[{i}]: expected {expected}, got {image.dtype}; .float() gives that")
        if image.layout != torch.strided:
            raise TypeError(f"images[{i}]: expected a dense tensor, got {image.layout}; .to_dense() gives one")
    if targets != len(images):
        raise ValueError(
            f"expected a target for each image, got {count_noun(len(images), 'image')} and "
            f"{count_noun(targets, 'target')}"
        )
    devices = {image.device for image in each}
    if len(devices) > 1:  # kernels read memory by its address
        named = " and some on ".join(sorted(map(str, devices)))
        raise ValueError(f"expected images on one device, got some on {named}")
    kinds = {(image.dtype, image.shape[0]) for image in each}
    if len(kinds) > 1:
        named = str(sorted((str(dtype), channels) for dtype, channels in kinds))
        raise ValueError(f"expected images of one type and number of channels, got {named}")
