"""The transform of the user's own for each pasted object (``object_transform``): objects become cut-outs of their own.

A cut-out is what the source shows of an object, before it is resized: the window of its box and one pixel around it,
with its mask as alpha. After the transform it is a source of one object, like the cut-outs of a pool, and takes the
place of the object in the plan. So all that follows is the same on every engine.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.bank import CroppedObject
from composer_copypaste.functional.layout import MARGIN, SourceObjects, box_windows
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.resample import PIXEL, size_of
from composer_copypaste.functional.tensors import on_device
from composer_copypaste.functional.windows import Window
from composer_copypaste.instances import Instances
from composer_copypaste.object_transform import ObjectTransform
from composer_copypaste.settings import CopyPasteSettings

OPAQUE = 255
THRESHOLD = 127
"""Pixels with an alpha above it belong to the object, as in images with transparency."""


@dataclass(frozen=True)
class TransformSource:
    """What objects may be cut from: an image, or a crop, and its objects."""

    image: Shaped[Tensor, "c h w"]
    objects: SourceObjects
    fields: Instances
    """All other fields of the objects."""


def check_object_transform(settings: CopyPasteSettings) -> None:
    """Import the transform; raise ``DataError`` where it is not found."""
    if settings.object_transform is not None:
        settings.object_transform.function  # noqa: B018 - imports it


def transformed_objects(
    plan: PastePlan, sources: Sequence[TransformSource], n: int, transform: ObjectTransform
) -> tuple[PastePlan, list[CroppedObject]]:
    """The plan with a source of its own for each row, numbered from ``n`` on, and these: its object, transformed.

    Raises:
        ValueError, TypeError: where the transform returns no image and alpha that fit each other.
    """
    to_source, cut_outs = plan.to_source.clone(), []
    for row, (source, instance) in enumerate(zip(plan.source.tolist(), plan.instance.tolist(), strict=True)):
        given = sources[source]
        (corners,) = box_windows(given.objects.boxes[instance][None] + MARGIN, size_of(given.image)).tolist()
        window = Window(*corners)
        if window.is_empty:  # nothing of it would be pasted
            window = Window(0, 0, 1, 1)
        image, alpha = given.image[:, *window.slices], _alpha(given.objects, instance, window)
        with _seeded(int(plan.seed[row]), image.device):
            image, alpha = _transformed(image, alpha, transform)
        beyond = (np.array(size_of(image)) - window.shape)[::-1] / 2  # its middle stays where it is
        shift = np.array([window.x1, window.y1]) - beyond
        fixed = torch.round(to_source[row, :, 2] * PIXEL) / PIXEL
        to_source[row, :, 2] = fixed - torch.from_numpy(shift)
        cut_outs.append(_cut_out(image, alpha, given.fields.take([instance]), shift))
    numbers = torch.arange(n, n + len(plan))
    return replace(plan, source=numbers, instance=torch.zeros_like(numbers), to_source=to_source), cut_outs


def _alpha(objects: SourceObjects, instance: int, window: Window) -> UInt8[Tensor, "h w"]:
    if not isinstance(objects.masks, CompactMasks):
        raise TypeError("expected masks that are drawn")
    return objects.masks.part(instance, window).ne(0).to(torch.uint8) * OPAQUE


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """A context in which torch's own generators begin with the seed; afterwards they go on as if nothing had been."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        for generator in generators:
            generator.manual_seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _transformed(
    image: Shaped[Tensor, "c h w"], alpha: UInt8[Tensor, "h w"], transform: ObjectTransform
) -> tuple[Shaped[Tensor, "c h2 w2"], UInt8[Tensor, "h2 w2"]]:
    """Image and mask after the transform, which may modify the alpha, and gets a copy of the image."""
    found = transform(image.detach().clone(), alpha[None])
    if not (isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(it, Tensor) for it in found)):
        raise TypeError(f"object_transform: expected it to return (image, alpha), got {type(found).__name__}")
    changed, opacity = (each.as_subclass(Tensor) for each in found)
    if (changed.dtype, changed.device, changed.shape[:-2]) != (image.dtype, image.device, image.shape[:-2]):
        raise ValueError(
            f"object_transform: expected an image of {len(image)} channels of {image.dtype} on {image.device}, got "
            f"{tuple(changed.shape)} of {changed.dtype} on {changed.device}"
        )
    if opacity.shape != (1, *changed.shape[1:]) or opacity.dtype != torch.uint8 or not opacity.numel():
        raise ValueError(
            f"object_transform: expected an alpha of torch.uint8 of shape {(1, *changed.shape[1:])}, as large as the "
            f"image and of at least one pixel, got {tuple(opacity.shape)} of {opacity.dtype}"
        )
    return changed, (opacity[0] > THRESHOLD).to(torch.uint8)


def _cut_out(
    image: Shaped[Tensor, "c h w"], mask: UInt8[Tensor, "h w"], fields: Instances, shift: Float[ndarray, "2"]
) -> CroppedObject:
    """The cut-out, whose corner lies at ``shift`` (x, y) in its source."""
    height, width = size_of(image)
    if (keypoints := fields.extras.get("keypoints")) is not None:
        moved = keypoints.double() - on_device([*shift.tolist(), 0], keypoints.device, torch.float64)
        fields = replace(fields, extras={**fields.extras, "keypoints": moved})
    return CroppedObject(image, mask, np.array([0.0, 0.0, width, height]), fields)
