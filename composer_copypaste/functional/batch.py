"""Copy-paste on a batch: the steps in a row, for instance and for semantic targets."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Integer
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.compose import Images, Objects, layers_of, paste_images
from composer_copypaste.functional.plan import PastePlan, draw_plan
from composer_copypaste.functional.planes import as_planes, as_tensor
from composer_copypaste.functional.rectangles import with_masks
from composer_copypaste.functional.scene import Scene
from composer_copypaste.functional.selection import weights_of
from composer_copypaste.functional.targets import assemble, decide
from composer_copypaste.functional.visible import Visible, measure, read_back
from composer_copypaste.functional.warp import size_of
from composer_copypaste.functional.windows import Window
from composer_copypaste.instances import Instances, Target, instances_of, target_of
from composer_copypaste.settings import CopyPasteSettings


class NothingPastedWarning(UserWarning):
    """Copy-paste left a batch as it was, for a reason that its user would want to know."""


@dataclass(frozen=True)
class Pasted:
    """A batch after copy-paste, and what was done to it."""

    images: Images
    targets: Sequence[Target] | Integer[Tensor, "n h w"]
    plan: PastePlan
    added: Sequence[int] = ()
    """How many objects were pasted on each image and stayed; they are the last of its target."""
    dropped: int = 0
    """Objects, pasted or not, of which too little was left visible."""
    reason: str | None = None
    """Why nothing could be pasted, whatever had been drawn."""


def copypaste_batch(
    images: Images,
    targets: Sequence[Target] | Integer[Tensor, "n h w"],
    *,
    generator: torch.Generator | None = None,
    plan: PastePlan | None = None,
    settings: CopyPasteSettings | None = None,
    **overrides: object,
) -> tuple[Images, Sequence[Target] | Integer[Tensor, "n h w"]]:
    """Images and targets of a batch with objects copied between them ("Simple Copy-Paste", Ghiasi et al., CVPR 2021).

    Works on the device that holds the batch. What the arguments hold is never modified; what no paste touched may be
    shared with them. Boxes are expected to enclose their masks.

    Args:
        images: ``(N, C, H, W)``, or a list of ``(C, H_i, W_i)``; floating point or uint8.
        targets: for each image torchvision's detection dict: ``boxes`` (x1, y1, x2, y2) in pixels, ``labels``,
            ``masks`` (bool, or uint8 of 0 and 1) and, optionally, ``area``, ``iscrowd`` and others. Further tensors
            with one row per object follow their objects, ``keypoints`` (x, y, visibility) moved with them; anything
            else passes through. Where no target has ``masks``, boxes are pasted, and cut to what stays visible, as if
            objects filled them. Or class ids ``(N, H, W)``: each class of an image is then one object.
        generator: a CPU generator from which everything random is drawn; torch's default one where it is left out.
        plan: what to paste where, instead of drawing it; :func:`plan_batch` draws one.
        settings: all settings in one value.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, targets that do not fit their images, or a plan that does not fit the
            batch; the message names the place.
        TypeError: a setting that does not exist, or masks of another type.

    Warns:
        NothingPastedWarning: where nothing could be pasted, whatever had been drawn; the message says why.

    Example:
        >>> images, targets = copypaste_batch(images, targets, p=0.5, generator=torch.Generator().manual_seed(0))
    """
    settings = replace(settings or CopyPasteSettings(), **overrides)  # type: ignore[arg-type]
    source = (generator or torch.default_generator) if plan is None else plan  # an empty plan is a plan
    result = paste(images, targets, settings, source)
    if result.reason:
        warnings.warn(f"copy-paste changed nothing: {result.reason}", NothingPastedWarning, stacklevel=2)
    return result.images, result.targets


def plan_batch(
    images: Images,
    targets: Sequence[Target] | Integer[Tensor, "n h w"],
    *,
    generator: torch.Generator | None = None,
    settings: CopyPasteSettings | None = None,
    **overrides: object,
) -> PastePlan:
    """The plan that :func:`copypaste_batch` would draw and carry out, with the same arguments."""
    settings = replace(settings or CopyPasteSettings(), **overrides)  # type: ignore[arg-type]
    _check_batch(images, targets)
    if isinstance(targets, Tensor):
        _, objects, weights = _classes(images, targets, settings)
    else:
        _, _, objects, weights = _instances(images, targets, settings)
    return _plan(objects, weights, settings, generator or torch.default_generator)


def paste(
    images: Images,
    targets: Sequence[Target] | Integer[Tensor, "n h w"],
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
) -> Pasted:
    """Carry out a plan, or draw one first; as :func:`copypaste_batch`, with an account of what was done."""
    _check_batch(images, targets)
    if isinstance(targets, Tensor):
        return _paste_classes(images, targets, settings, source)
    return _paste_instances(images, targets, settings, source)


def _check_batch(images: Images, targets: Sequence[Target] | Integer[Tensor, "n h w"]) -> None:
    if len(images) != len(targets):
        raise ValueError(f"expected a target for each image, got {len(images)} images and {len(targets)} targets")
    kinds = {(str(image.dtype), len(image)) for image in images}
    if len(kinds) > 1:
        raise ValueError(f"expected images of one type and number of channels, got {sorted(kinds)}")


def _paste_instances(
    images: Images, targets: Sequence[Target], settings: CopyPasteSettings, source: torch.Generator | PastePlan
) -> Pasted:
    batch, iscrowd, objects, weights = _instances(images, targets, settings)
    plan = _plan(objects, weights, settings, source)
    layers = layers_of(plan, objects, settings.erosion)
    measures = iter(measure([visible for layer in layers for visible in (*layer.pasted, *layer.left)]))
    outcomes = {
        layer.target: decide(
            layer, [next(measures) for _ in (*layer.pasted, *layer.left)], iscrowd[layer.target], settings
        )
        for layer in layers
    }
    changed = [
        target_of(target, assemble(batch[i], outcomes[i], batch)) if i in outcomes else target
        for i, target in enumerate(targets)
    ]
    added = [len(outcomes[i].added) if i in outcomes else 0 for i in range(len(batch))]
    before = sum(len(layer.pasted) + len(batch[layer.target]) for layer in layers)
    after = sum(len(outcome.kept) + len(outcome.added) for outcome in outcomes.values())
    images = paste_images(images, layers, settings.blend_sigma)
    return Pasted(images, changed, plan, added, before - after, _reason(weights, settings))


def _paste_classes(
    images: Images,
    targets: Integer[Tensor, "n h w"],
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
) -> Pasted:
    """Class-id maps: each class of an image is one object."""
    classes, objects, weights = _classes(images, targets, settings)
    plan = _plan(objects, weights, settings, source)
    layers = layers_of(plan, objects, settings.erosion)
    painted = targets.clone()
    for layer in layers:
        for cut in layer.cut_outs:
            below = painted[layer.target][cut.window.slices]
            below.copy_(torch.where(as_tensor(cut.mask).view(torch.bool), classes[cut.source][cut.instance], below))
    images = paste_images(images, layers, settings.blend_sigma)
    received = {layer.target: len(layer.cut_outs) for layer in layers}
    added = [received.get(i, 0) for i in range(len(targets))]
    return Pasted(images, painted, plan, added, 0, _reason(weights, settings))


def _instances(
    images: Images, targets: Sequence[Target], settings: CopyPasteSettings
) -> tuple[list[Instances], list[ndarray], list[Objects], list[ndarray]]:
    """Of each image: all its objects' fields, which are crowds, their masks and boxes, and their selection weights."""
    batch = instances_of(with_masks(targets, list(images)), [size_of(image) for image in images])
    hosted = _on_host(batch)
    objects = [Objects(as_planes(instances.masks), boxes) for instances, (boxes, *_) in zip(batch, hosted, strict=True)]
    weights = [
        weights_of(labels, boxes, image.size, settings) * (iscrowd == 0)
        for (boxes, labels, iscrowd), image in zip(hosted, objects, strict=True)
    ]
    return batch, [iscrowd for *_, iscrowd in hosted], objects, weights


def _classes(
    images: Images, targets: Integer[Tensor, "n h w"], settings: CopyPasteSettings
) -> tuple[list[Tensor], list[Objects], list[ndarray]]:
    """The classes of each image: their ids, their masks and boxes, and their chances to be copied."""
    if any(size_of(image) != tuple(targets.shape[1:]) for image in images):
        sizes = sorted({size_of(image) for image in images})
        raise ValueError(f"expected class ids of the images' size {sizes}, got {tuple(targets.shape[1:])}")
    classes = [ids.unique() for ids in targets]
    objects = [_class_objects(ids, present) for ids, present in zip(targets, classes, strict=True)]
    weights = [_class_weights(read_back(ids), image, settings) for ids, image in zip(classes, objects, strict=True)]
    return classes, objects, weights


def _class_weights(
    classes: Integer[ndarray, " k"], objects: Objects, settings: CopyPasteSettings
) -> Float[ndarray, " k"]:
    is_object = (classes != settings.background) & (classes != settings.ignore_index)
    return weights_of(classes, objects.boxes, objects.size, settings) * is_object


def _plan(
    objects: Sequence[Objects],
    weights: Sequence[Float[ndarray, " _n"]],
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
) -> PastePlan:
    scenes = [Scene(*image.size, image.boxes, chances) for image, chances in zip(objects, weights, strict=True)]
    if isinstance(source, torch.Generator):
        return draw_plan(scenes, settings, source)
    source.check(scenes)
    return source


def _class_objects(ids: Integer[Tensor, "h w"], present: Integer[Tensor, " k"]) -> Objects:
    masks = as_planes((ids == present[:, None, None]).view(torch.uint8))
    everywhere = [Visible(Window(0, 0, *ids.shape), mask, former=mask) for mask in masks]
    return Objects(masks, np.array([found.box for found in measure(everywhere)], dtype=np.float64).reshape(-1, 4))


def _reason(weights: Sequence[Float[ndarray, " _n"]], settings: CopyPasteSettings) -> str | None:
    """Why nothing could be pasted, if nothing could."""
    if settings.p == 0:
        return None
    if len(weights) == 1:
        return "a batch of one image has no other image to copy from; raise the batch size"
    objects = sum(len(chances) for chances in weights)
    if objects and not any(chances.any() for chances in weights):
        return f"none of the batch's {objects} objects may be copied; see the settings, and iscrowd in the targets"
    return None


def _on_host(batch: Sequence[Instances]) -> list[tuple[ndarray, ndarray, ndarray]]:
    """Boxes, labels and iscrowd of every image, with one transfer for the whole batch."""
    columns = [
        torch.cat([instances.boxes.double(), instances.labels[:, None], instances.iscrowd[:, None]], dim=1)
        for instances in batch
    ]
    if not columns:
        return []
    numbers = read_back(torch.cat(columns))
    ends = np.cumsum([len(instances) for instances in batch])
    return [(part[:, :4], part[:, 4].astype(np.int64), part[:, 5]) for part in np.split(numbers, ends[:-1])]
