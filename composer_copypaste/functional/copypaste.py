"""Copy-paste on a batch: the steps in a row, for instance and for semantic targets."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

from composer_copypaste.errors import counted
from composer_copypaste.functional.bank import CroppedObject, InstanceBank
from composer_copypaste.functional.batch_objects import (
    ImageObjects,
    batch_objects,
    check_sizes,
    objects_without_waiting,
    only_copied,
    remember,
    warn_of_unnamed_keys,
)
from composer_copypaste.functional.category_names import labelled
from composer_copypaste.functional.engines.engine import engine_for
from composer_copypaste.functional.keypoints import place_keypoints
from composer_copypaste.functional.layout import Layout, Objects, layout_of
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.sampling import draw_plan, given_or_default
from composer_copypaste.functional.sources import ExtraSources, Pool, check_pool
from composer_copypaste.functional.tensors import Images, images_like, plain_images, sequence_like, without_autocast
from composer_copypaste.functional.visibility import assemble, decide, without_masks
from composer_copypaste.instances import (
    WHOLE,
    WHOLE_NUMBERS,
    Target,
    as_tv_tensor,
    in_types_of,
    largest_of,
    plain,
    target_of,
)
from composer_copypaste.settings import CopyPasteSettings, settings_from

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
    each: list[Tensor] = list(images)
    for i, image in enumerate(each):
        _check_image(i, image)
    if not isinstance(targets, Tensor | list | tuple):
        raise TypeError(f"targets: expected a list of targets or a tensor of class ids, got {type(targets).__name__}")
    if len(each) != len(targets):
        raise ValueError(
            f"expected a target for each image, got {counted(len(each), 'image')} and {counted(len(targets), 'target')}"
        )
    devices = {image.device for image in each}
    if len(devices) > 1:  # kernels read memory by its address
        named = " and some on ".join(sorted(map(str, devices)))
        raise ValueError(f"expected images on one device, got some on {named}")
    kinds = {(image.dtype, image.shape[0]) for image in each}
    if len(kinds) > 1:
        named = str(sorted((str(dtype), channels) for dtype, channels in kinds))
        raise ValueError(f"expected images of one type and number of channels, got {named}")
    for i, (image, target) in enumerate(zip(each, targets, strict=True)):
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


Targets = Sequence[Target] | Integer[Tensor, "n h w"]
GivenImages = TypeVar("GivenImages", bound=Images)
GivenTargets = TypeVar("GivenTargets", bound=Sequence[Mapping[str, object]] | Tensor)


class NothingPastedWarning(UserWarning):
    """Copy-paste left a batch as it was, for a reason that its user would want to know."""


@dataclass(frozen=True)
class Pasted:
    """A batch after copy-paste, and what was done to it."""

    images: Images
    targets: Targets
    plan: PastePlan
    added: Sequence[int] = ()
    """How many objects were pasted on each image and stayed; they are the last of its target."""
    dropped: int = 0
    """Objects, pasted or not, of which too little was left visible."""
    reason: str | None = None
    """Why nothing could be pasted, whatever had been drawn."""


def copypaste_batch(  # noqa: PLR0913 - by name, and each of its own kind
    images: GivenImages,
    targets: GivenTargets,
    *,
    generator: torch.Generator | None = None,
    plan: PastePlan | None = None,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
    category_names: Sequence[str] | None = None,
    settings: CopyPasteSettings | None = None,
    **overrides: object,
) -> tuple[GivenImages, GivenTargets]:
    """Images and targets of a batch with objects copied between them ("Simple Copy-Paste", Ghiasi et al., CVPR 2021).

    Works on the device that holds the batch. What the arguments hold is never modified; what no paste overlapped may be
    shared with them. Boxes are expected to enclose their masks: pixels further than one from an object's box are not
    copied with it, and are gone from its mask where others of its pixels were hidden.

    Args:
        images: ``(N, C, H, W)``, or a list or tuple of ``(C, H_i, W_i)``; floating point or uint8.
        targets: for each image torchvision's detection dict: ``boxes`` (x1, y1, x2, y2) in pixels, ``labels``,
            ``masks`` (bool, or uint8, where all but 0 is the object; they come back as 0 and 1, in every image) and,
            optionally, ``area``, ``iscrowd`` and others. ``keypoints`` (x, y, visibility) move with their objects, left
            and right exchanged in mirrored ones (``keypoint_pairs``); those outside become zeros, and visibility is 1
            at most where something is pasted on them. Of
            other keys those that torchvision and COCO have of each object, such as ``scores``, and those that
            ``object_keys`` names hold tensors with a row for each, which follows its object; positions that would have
            to move, such as ``obb`` or ``segmentation``, are refused; anything else passes through. Where no target has
            ``masks``, boxes are pasted, and cut to what stays visible, as if objects filled them. Or class ids
            ``(N, H, W)``: each class of an image is then one object.
            torchvision's tv_tensors keep their type and the format of boxes (XYXY, XYWH or CXCYWH). Fields come back in
            the type that they had if it holds all that there can be: boxes and areas in float32 where it holds no
            position or area in images of this size, labels, class ids and further fields, for the whole batch, in one
            that holds those of all targets, and of bank and pool.
        generator: a CPU generator from which everything random is drawn; torch's default one where it is left out.
        plan: what to paste where, instead of drawing it; :func:`plan_batch` draws one.
        bank: objects of earlier batches, as further sources; this batch's objects join it.
        pool: cut-outs as further sources, such as a :class:`CutOutPool`.
        category_names: the name of label 1, of label 2 and so on, for ``categories`` and ``category_weights``.
        settings: all settings in one value.
        **overrides: settings by name: the fields of :class:`CopyPasteSettings`.

    Raises:
        ValueError: a setting out of its limits, a name of no category, targets that do not fit their images, a plan
            that does not fit the batch, ``bank_size`` without a bank, or a pool of which nothing may be copied; the
            message names the place.
        TypeError: a setting that does not exist, or masks of another type.

    Warns:
        NothingPastedWarning: where nothing could be pasted, whatever had been drawn; the message says why.

    Example:
        >>> images, targets = copypaste_batch(images, targets, p=0.5, generator=torch.Generator().manual_seed(0))
    """
    settings = labelled(settings_from(CopyPasteSettings, settings, overrides), category_names)
    further = _further(bank, pool, settings)
    if not isinstance(plan, PastePlan | None):
        raise TypeError(f"plan: expected a PastePlan, got {plan!r}; PastePlan.from_json and from_rows make one")
    source = given_or_default(generator) if plan is None else plan  # an empty plan is a plan
    result = paste(images, cast(Targets, targets), settings, source, further)
    if result.reason:
        warnings.warn(f"copy-paste changed nothing: {result.reason}", NothingPastedWarning, stacklevel=2)
    return cast(GivenImages, result.images), cast(GivenTargets, result.targets)


def plan_batch(  # noqa: PLR0913 - as copypaste_batch
    images: Images,
    targets: Sequence[Mapping[str, object]] | Integer[Tensor, "n h w"],
    *,
    generator: torch.Generator | None = None,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
    category_names: Sequence[str] | None = None,
    settings: CopyPasteSettings | None = None,
    **overrides: object,
) -> PastePlan:
    """The plan that :func:`copypaste_batch` would draw and carry out, with the same arguments; no bank is changed."""
    settings = labelled(settings_from(CopyPasteSettings, settings, overrides), category_names)
    further = _further(bank, pool, settings)
    check_batch(images, cast(Targets, targets))
    source = given_or_default(generator)
    return _plan(batch_objects(images, cast(Targets, targets), settings), settings, source, further)


def paste(
    images: Images,
    targets: Targets,
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
    further: ExtraSources,
) -> Pasted:
    """Carry out a plan, or draw one first; as :func:`copypaste_batch`, with an account of what was done."""
    check_batch(images, targets)
    result = _pasted(plain_images(images), plain(targets), settings, source, further)
    if isinstance(result.targets, Tensor):
        after: Targets = as_tv_tensor(result.targets, targets)
    else:
        after = sequence_like(result.targets, targets)
    return replace(result, images=images_like(result.images, images), targets=after)


def _pasted(
    images: Images,
    targets: Targets,
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
    further: ExtraSources,
) -> Pasted:
    """As :func:`paste`, of plain images and class ids, to plain ones and a list of targets."""
    if not settings.p and isinstance(source, torch.Generator) and further.bank is None:  # nobody asks for all there is
        nothing = Pasted(images, targets, PastePlan.from_rows([]), added=[0] * len(images))
        if isinstance(targets, Tensor):
            check_sizes(images, targets)
            return nothing
        return replace(
            nothing, targets=list(map(_untouched, targets, objects_without_waiting(images, targets, settings)))
        )
    inventories = batch_objects(images, targets, settings)
    if inventories:
        further.check(inventories[0].instances)
    plan = _plan(inventories, settings, source, further)
    result = Pasted(images, targets, plan, added=[0] * len(images), reason=_reason(inventories, settings, further))
    if len(plan):
        result = _carried_out(result, inventories, settings, further)
    if result.targets is targets and not isinstance(targets, Tensor):  # nothing landed
        result = replace(result, targets=list(map(_untouched, targets, [image.objects for image in inventories])))
    if further.bank is not None and len(images):
        further.bank.to(images[0].device)
        remember(further.bank, list(images), inventories)
    return result


def _untouched(target: Target, objects: Objects) -> Target:
    """The target with masks of 0 and 1, as those have on which something landed; the same where it has."""
    masks = target.get("masks")
    if not isinstance(masks, Tensor) or masks.dtype == torch.bool:
        return target
    found = objects.masks_of_0_and_1()
    return target if found is objects.masks else {**target, "masks": as_tv_tensor(found, masks)}


def _carried_out(
    before: Pasted, inventories: Sequence[ImageObjects], settings: CopyPasteSettings, further: ExtraSources
) -> Pasted:
    """The batch after its plan."""
    n, image, plan = len(inventories), before.images[0], before.plan
    if isinstance(before.targets, Tensor):
        plan, inventories = only_copied(plan, inventories)
    named = plan.sources_from(n)
    typical = next((each.instances for each in inventories if len(each.instances)), inventories[0].instances)
    crops = [further.crop(number - n, image, typical) for number in named]
    masks = [image.objects for image in inventories] + [Objects(crop.mask[None], crop.box[None]) for crop in crops]
    layout = layout_of(plan.renumbered(named, n), masks)
    return _laid_out(layout, before, inventories, crops, settings) if len(layout.pasted) else before


def _laid_out(
    layout: Layout,
    before: Pasted,
    inventories: Sequence[ImageObjects],
    crops: Sequence[CroppedObject],
    settings: CopyPasteSettings,
) -> Pasted:
    """The batch with what lands in it; the objects of the layout are those of the inventories, then the crops'."""
    n = len(inventories)
    stacked = engine_for(before.images[0].device).stack(layout, settings)
    objects = without_masks([image.instances for image in inventories] + [crop.fields for crop in crops])
    changed: Sequence[Target] | Tensor
    if isinstance(before.targets, Tensor):
        changed = stacked.class_ids(before.targets, objects.labels)
        added, dropped = np.bincount(layout.pasted.target, minlength=n).tolist(), 0
    else:
        warn_of_unnamed_keys(before.targets, list(inventories[0].instances.extras))
        keypoints = objects.extras.get("keypoints")
        placed = None
        if keypoints is not None:
            whole = [not image.instances.extras["keypoints"].is_floating_point() for image in inventories]
            placed = place_keypoints(keypoints, layout, np.array(whole), settings)
        measures, owners = stacked.measure(None if placed is None else placed.pixels)
        iscrowd = np.concatenate([*(image.iscrowd for image in inventories), np.zeros(len(crops))])
        outcome = decide(layout, measures, iscrowd, settings)
        shown = {} if placed is None else placed.after(objects.extras, outcome, owners)
        masks = stacked.write_masks(outcome) if "masks" in before.targets[0] else {}
        after = assemble(objects, outcome, measures, masks, shown)
        largest = largest_of([image.objects.size for image in inventories])
        changed = [
            target_of(target, after[i], largest)
            if i in after
            else in_types_of(_untouched(target, inventories[i].objects), objects, largest)
            for i, target in enumerate(before.targets)
        ]
        added = outcome.added(n)
        dropped = len(layout.pasted) + int(layout.image_receives.sum()) - len(outcome)
    with without_autocast(before.images[0].device):
        images = stacked.paint(before.images, [crop.image for crop in crops])
    return replace(before, images=images, targets=changed, added=added, dropped=dropped)


def _further(bank: InstanceBank | None, pool: Pool | None, settings: CopyPasteSettings) -> ExtraSources:
    if not isinstance(bank, InstanceBank | None):
        raise TypeError(f"bank: expected an InstanceBank, got {bank!r}")
    if bank is None and settings.bank_size:
        raise ValueError(
            f"bank_size: a function has no memory; make a bank = InstanceBank({settings.bank_size}) once, and give "
            "bank=bank with every batch"
        )
    if bank is not None and settings.bank_size not in (0, bank.size):
        raise ValueError(f"bank_size: expected the size of the bank, {bank.size}, or 0, got {settings.bank_size}")
    if pool is not None:
        check_pool(pool, settings)
    return ExtraSources(bank, pool)


def _plan(
    inventories: Sequence[ImageObjects],
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
    further: ExtraSources,
) -> PastePlan:
    scenes = [image.scene for image in inventories]
    if isinstance(source, torch.Generator):
        return draw_plan(scenes, settings, source, further.bank, further.pool)
    source.check(scenes, len(further))
    return source


def _reason(inventories: Sequence[ImageObjects], settings: CopyPasteSettings, further: ExtraSources) -> str | None:
    """Why nothing could be pasted, if nothing could."""
    if settings.p == 0 or len(further):
        return None
    if len(inventories) == 1 and further.bank is None:
        return (
            "a batch of one image has no other image to copy from; raise the batch size, or give an instance bank "
            "(bank_size), which remembers objects of earlier batches"
        )
    objects = sum(len(image.weights) for image in inventories)
    if objects and not any(image.weights.any() for image in inventories):
        number = counted(objects, "object")
        return f"none of the batch's {number} may be copied; see the settings, and iscrowd in the targets"
    return None
