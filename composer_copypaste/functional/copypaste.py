"""Copy-paste on a batch: its arguments are checked, a plan is drawn or given, and carried out."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar, cast, overload

import torch
from jaxtyping import Integer
from torch import Tensor

from composer_copypaste.functional.arguments import check_batch, check_settings_of, checked_arguments
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.batch_objects import ImageObjects, batch_objects
from composer_copypaste.functional.carry_out import Pasted, Targets, carry_out, without_pasting
from composer_copypaste.functional.color_transfer import check_colors
from composer_copypaste.functional.generators import generator_or_default
from composer_copypaste.functional.info import PasteInfo, paste_info, with_counted_pixels
from composer_copypaste.functional.overlap import BatchMasks
from composer_copypaste.functional.panoptic import PanopticPairs, has_pairs, settings_for_pairs
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.sampling import draw_plan
from composer_copypaste.functional.scene import with_places
from composer_copypaste.functional.sources import ExtraSources, Pool
from composer_copypaste.functional.tensors import Images, sequence_like
from composer_copypaste.instances import Target, as_tv_tensor, plain
from composer_copypaste.settings import CopyPasteSettings

GivenImages = TypeVar("GivenImages", bound=Images)
GivenTargets = TypeVar("GivenTargets", bound=Sequence[Mapping[str, object]] | Tensor)


class NothingPastedWarning(UserWarning):
    """Copy-paste left a batch unchanged, for a reason that its user would want to know."""


@overload
def copypaste_batch(
    images: GivenImages,
    targets: GivenTargets,
    *,
    generator: torch.Generator | None = None,
    plan: PastePlan | None = None,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
    category_names: Sequence[str] | None = None,
    settings: CopyPasteSettings | None = None,
    return_info: Literal[False] = False,
    **overrides: object,
) -> tuple[GivenImages, GivenTargets]: ...


@overload
def copypaste_batch(
    images: GivenImages,
    targets: GivenTargets,
    *,
    generator: torch.Generator | None = None,
    plan: PastePlan | None = None,
    bank: InstanceBank | None = None,
    pool: Pool | None = None,
    category_names: Sequence[str] | None = None,
    settings: CopyPasteSettings | None = None,
    return_info: Literal[True],
    **overrides: object,
) -> tuple[GivenImages, GivenTargets, PasteInfo]: ...


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
    return_info: bool = False,
    **overrides: object,
) -> tuple[GivenImages, GivenTargets] | tuple[GivenImages, GivenTargets, PasteInfo]:
    """Images and targets of a batch with objects copied between them ("Simple Copy-Paste", Ghiasi et al., CVPR 2021).

    Works on the device that holds the batch. What the arguments hold is never modified; what no paste overlapped may be
    shared with them. Boxes are expected to enclose their masks: pixels further than one from an object's box are not
    copied with it, and are gone from its mask where others of its pixels were hidden.

    Args:
        images: ``(N, C, H, W)``, or a list or tuple of ``(C, H_i, W_i)``; floating point or uint8.
        targets: for each image torchvision's detection dict: ``boxes`` (x1, y1, x2, y2) in pixels, ``labels``,
            ``masks`` (bool, or uint8, where all but 0 is the object; they come back as 0 and 1, in every image; or
            :class:`CompactMasks` in all targets, which come back as such) and, optionally, ``area``, ``iscrowd`` and
            others. ``keypoints`` (x, y, visibility) move with their objects, left
            and right exchanged in mirrored ones (``keypoint_pairs``); those outside become zeros, and visibility is 1
            at most where something is pasted on them. Of
            other keys those that torchvision and COCO have of each object, such as ``scores``, and those that
            ``object_keys`` names hold tensors with a row for each, which follows its object; positions that would have
            to move, such as ``obb`` or ``segmentation``, are refused; anything else passes through. Where no target has
            ``masks``, boxes are pasted, and cut to what stays visible, as if objects filled them. With ``keep_masks``
            False, masks are used and left out of what comes back. Or class ids
            ``(N, H, W)``: each class of an image is then one object. Or, in place of boxes, labels and masks, a pair of
            maps (H_i, W_i) of whole numbers: ``class_map``, the class id of each pixel, and ``instance_map``, the id of
            its instance, 0 where there is none. Instances are copied, and get ids of their own in the new image.
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
        return_info: whether a :class:`PasteInfo` comes back as a third value: the plan, and for each object whether it
            was pasted, where it comes from and what share of it is visible.
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
    settings, extra = checked_arguments(settings, overrides, category_names, bank, pool)
    if not isinstance(plan, PastePlan | None):
        raise TypeError(f"plan: expected a PastePlan, got {plan!r}; PastePlan.from_json and from_rows make one")
    source = generator_or_default(generator) if plan is None else plan
    result = paste(images, cast(Targets, targets), settings, source, extra, with_info=return_info)
    if result.reason:
        warnings.warn(f"copy-paste changed nothing: {result.reason}", NothingPastedWarning, stacklevel=2)
    after = cast(GivenImages, result.images), cast(GivenTargets, result.targets)
    return after if result.info is None else (*after, result.info)


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
    settings, extra = checked_arguments(settings, overrides, category_names, bank, pool)
    check_batch(images, cast(Targets, targets))
    check_settings_of(cast(Targets, targets), settings)
    if has_pairs(cast(Targets, targets)):
        maps = PanopticPairs.of(images, cast(Sequence[Target], targets), settings.ignore_index)
        targets, settings = maps.detections, settings_for_pairs(settings)
    batch = batch_objects(images, cast(Targets, targets), settings)
    return _drawn_plan(batch, cast(Targets, targets), settings, generator_or_default(generator), extra)


def paste(
    images: Images,
    targets: Targets,
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
    extra: ExtraSources,
    *,
    with_info: bool = False,
) -> Pasted:
    """Carry out a plan, or draw one from a generator first; as :func:`copypaste_batch`, and says what was done."""
    check_batch(images, targets)
    check_settings_of(targets, settings)
    if has_pairs(targets):
        pairs, settings = PanopticPairs.of(images, targets, settings.ignore_index), settings_for_pairs(settings)
        result = _paste_checked(images, pairs.detections, settings, source, extra, with_info=with_info)
        changed = pairs.after(cast(Sequence[Target], result.targets), result.added)
        return replace(result, targets=sequence_like(changed, targets))
    return _paste_checked(images, targets, settings, source, extra, with_info=with_info)


def _paste_checked(
    images: Images,
    targets: Targets,
    settings: CopyPasteSettings,
    source: torch.Generator | PastePlan,
    extra: ExtraSources,
    *,
    with_info: bool = False,
) -> Pasted:
    """As :func:`paste`, of detection targets and class-id maps that fit their images."""
    if with_info or (settings.geometry and not isinstance(targets, Tensor)):
        settings = with_counted_pixels(settings)
    check_colors(images, settings)
    given_images, given_targets = images, targets
    images = plain(images) if isinstance(images, Tensor) else [plain(image) for image in images]
    targets = plain(targets) if isinstance(targets, Tensor) else targets
    is_known = settings.p == 0 and isinstance(source, torch.Generator) and extra.bank is None
    if is_known and not with_info:  # no need to know the objects
        result = without_pasting(images, targets, settings)
    else:
        batch = batch_objects(images, targets, settings)
        if batch:
            extra.check(batch[0].instances)
        if isinstance(source, PastePlan):
            plan = source
            plan.check([image.info for image in batch], len(extra))
        else:
            plan = _drawn_plan(batch, targets, settings, source, extra)
        result = carry_out(images, targets, plan, batch, settings, extra)
        if with_info:
            known, are_maps = 0 if extra.bank is None else len(extra.bank), isinstance(targets, Tensor)
            info = paste_info(plan, batch, result.outcome, bank_objects=known, are_maps=are_maps)
            result = replace(result, info=info)
        if extra.bank is not None and len(images):
            extra.bank.to(images[0].device)
            extra.bank.add_batch(list(images), batch)
    return _as_given(result, given_images, given_targets)


def _as_given(result: Pasted, images: Images, targets: Targets) -> Pasted:
    """The result as lists, tuples and tv_tensors, as images and targets were given."""
    after_images: Images
    if isinstance(images, Tensor):
        after_images = as_tv_tensor(cast(Tensor, result.images), images)
    else:
        pairs = zip(result.images, images, strict=True)
        after_images = sequence_like([as_tv_tensor(image, former) for image, former in pairs], images)
    after = result.targets
    if isinstance(after, Tensor) and isinstance(targets, Tensor):
        after = as_tv_tensor(after, targets)
    elif isinstance(targets, tuple):
        after = tuple(after)
    return replace(result, images=after_images, targets=after)


def _drawn_plan(
    batch: Sequence[ImageObjects],
    targets: Targets,
    settings: CopyPasteSettings,
    generator: torch.Generator,
    extra: ExtraSources,
) -> PastePlan:
    infos = [image.info for image in batch]
    if settings.place_key is not None:
        infos = with_places(infos, targets, settings.place_key)
    by_mask = settings.overlap_by == "mask"
    masks = BatchMasks(batch, settings, extra.bank, extra.pool) if by_mask else None
    return draw_plan(infos, settings, generator, extra.bank, extra.pool, masks)
