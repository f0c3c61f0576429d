"""Copy-paste on a batch: the steps in order, for detection targets and for class-id maps."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar, cast, overload

import numpy as np
import torch
from jaxtyping import Int64, Integer
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, Masks, as_compact
from composer_copypaste.errors import count_noun
from composer_copypaste.functional.arguments import check_batch, check_settings_of, checked_arguments
from composer_copypaste.functional.bank import CroppedObject, InstanceBank, object_of_crop
from composer_copypaste.functional.batch_objects import (
    ImageObjects,
    batch_objects,
    binary_masks,
    check_boxes,
    check_map_sizes,
    checked_instances,
    only_copied_classes,
)
from composer_copypaste.functional.color_transfer import check_colors
from composer_copypaste.functional.engines.engine import engine_for
from composer_copypaste.functional.generators import generator_or_default
from composer_copypaste.functional.geometry import place_geometry
from composer_copypaste.functional.info import Outcome, PasteInfo, paste_info, with_counted_pixels
from composer_copypaste.functional.keypoints import place_keypoints
from composer_copypaste.functional.layout import Layout, SourceObjects, layout_of
from composer_copypaste.functional.object_keys import warn_of_unnamed_keys
from composer_copypaste.functional.overlap import BatchMasks
from composer_copypaste.functional.panoptic import PanopticPairs, has_pairs, settings_for_pairs
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.sampling import draw_plan
from composer_copypaste.functional.scene import with_places
from composer_copypaste.functional.sources import ExtraSources, Pool
from composer_copypaste.functional.tensors import Images, sequence_like, without_autocast
from composer_copypaste.functional.transformed_objects import TransformSource, transformed_objects
from composer_copypaste.functional.visibility import (
    KeptObjects,
    assemble_kept_objects,
    decide_kept_objects,
    joined_fields,
    joined_rows,
)
from composer_copypaste.instances import (
    Target,
    as_tv_tensor,
    in_types_of,
    plain,
    target_of,
)
from composer_copypaste.settings import CopyPasteSettings

Targets = Sequence[Target] | Integer[Tensor, "n h w"]
GivenImages = TypeVar("GivenImages", bound=Images)
GivenTargets = TypeVar("GivenTargets", bound=Sequence[Mapping[str, object]] | Tensor)


class NothingPastedWarning(UserWarning):
    """Copy-paste left a batch unchanged, for a reason that its user would want to know."""


@dataclass(frozen=True)
class Pasted:
    """A batch after copy-paste, and what was done to it."""

    images: Images
    targets: Targets
    plan: PastePlan
    added: Sequence[int] = ()
    """Number of pasted objects that stayed, for each image; they are the last of its target."""
    reason: str | None = None
    """Why nothing could be pasted, whatever was drawn; None where something could."""
    kept: KeptObjects | None = None
    """The objects of the images that received any; None where nothing was pasted, and of class-id maps."""
    outcome: Outcome | None = None
    """What :func:`paste_info` needs; None where nothing was pasted."""
    info: PasteInfo | None = None
    """What was done, where it was asked for."""

    @property
    def dropped(self) -> int:
        """Number of objects, pasted or not, that were dropped because too little of them is visible."""
        return 0 if self.outcome is None else self.outcome.dropped

    def origins(self, image: int) -> tuple[Int64[ndarray, " k"], Int64[ndarray, " m"]]:
        """Where the objects of a detection target come from, by the image's index in the batch.

        Returns:
            The object indices that the image's own objects had before, and the rows of the plan that describe the
            pasted ones; in the order in which the target has them, first its own.
        """
        if self.kept is None or image not in self.kept.images:
            count = len(cast(Tensor, cast(Sequence[Target], self.targets)[image]["labels"]))
            return np.arange(count), np.arange(0)
        objects = slice(*self.kept.ends[np.searchsorted(self.kept.images, image)])
        is_pasted = self.kept.pasted[objects] >= 0
        return self.kept.instance[objects][~is_pasted], self.kept.row[objects][is_pasted]


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
        result = _without_pasting(images, targets, settings)
    else:
        batch = batch_objects(images, targets, settings)
        if batch:
            extra.check(batch[0].instances)
        if isinstance(source, PastePlan):
            plan = source
            plan.check([image.info for image in batch], len(extra))
        else:
            plan = _drawn_plan(batch, targets, settings, source, extra)
        result = _carry_out(images, targets, plan, batch, settings, extra)
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


def with_pasted_flags(result: Pasted) -> Targets:
    """The targets, with ``pasted`` added to detections: for each object, whether it was pasted."""
    if isinstance(result.targets, Tensor) or has_pairs(result.targets):
        return result.targets
    flagged = [
        {**target, "pasted": torch.arange(n := len(cast(Tensor, target["labels"]))) >= n - added}
        for target, added in zip(result.targets, result.added, strict=True)
    ]
    return sequence_like(flagged, result.targets)


def _carry_out(
    images: Images,
    targets: Targets,
    plan: PastePlan,
    batch: Sequence[ImageObjects],
    settings: CopyPasteSettings,
    extra: ExtraSources,
) -> Pasted:
    """The batch after a plan: plain tensors, and a list of targets."""
    n = len(batch)
    if len(plan.target):
        copied, numbered = batch, plan
        if isinstance(targets, Tensor):
            numbered, copied = only_copied_classes(plan, batch)
        objects = [SourceObjects(as_compact(image.instances.masks), image.info.boxes) for image in copied]
        crops: list[CroppedObject] = []
        if extra.bank is not None or extra.pool is not None:
            used = numbered.sources_from(n)
            numbered = numbered.renumbered(used, n)
            example = next((image.instances for image in copied if len(image.labels)), copied[0].instances)
            crops = [extra.read(number - n, images[0], example) for number in used]
            objects += map(object_of_crop, crops)
        if settings.object_transform is not None:
            given = [*zip(images, objects[:n], [image.instances for image in copied], strict=True)]
            given += zip([crop.image for crop in crops], objects[n:], [crop.fields for crop in crops], strict=True)
            sources, transform = [TransformSource(*each) for each in given], settings.object_transform
            numbered, crops = transformed_objects(numbered, sources, n, transform)
            objects = [*objects[:n], *map(object_of_crop, crops)]
        layout = layout_of(numbered.completed(settings), objects)
        if len(layout.pasted.target):
            paste_on = _paste_classes if isinstance(targets, Tensor) else _paste_objects
            return paste_on(Pasted(images, targets, plan), layout, copied, crops, settings)
    reason = None if len(plan.target) else _reason(batch, settings, extra)
    if not isinstance(targets, Tensor):
        targets = [
            _with_binary_masks(target, image.instances.masks, image.info.boxes)
            for target, image in zip(_returned(targets, settings), batch, strict=True)
        ]
    return Pasted(images, targets, plan, added=[0] * n, reason=reason)


def _paste_objects(
    before: Pasted,
    layout: Layout,
    batch: Sequence[ImageObjects],
    crops: Sequence[CroppedObject],
    settings: CopyPasteSettings,
) -> Pasted:
    """The batch with objects pasted; the layout's objects are those of the batch, then those of the crops."""
    targets, n = cast(Sequence[Target], before.targets), len(batch)
    warn_of_unnamed_keys(targets, list(batch[0].instances.extras))
    objects = joined_fields([image.instances for image in batch] + [crop.fields for crop in crops])
    keypoints = objects.extras.get("keypoints")
    placed = None
    if keypoints is not None:
        whole = [not image.instances.extras["keypoints"].is_floating_point() for image in batch]
        placed = place_keypoints(keypoints, layout, np.array(whole), settings)
    geometry = None
    if settings.geometry:
        geometry = place_geometry(objects.extras, layout, settings, masks="masks" in targets[0])
    stacked = engine_for(before.images[0].device).stack(layout, settings)
    points = None if geometry is None else geometry.points
    placed_pixels = [each.pixels for each in (placed, points) if each is not None]
    measures, owners = stacked.measure(_joined_pixels(placed_pixels))
    iscrowd = np.concatenate([*(image.iscrowd for image in batch), np.zeros(len(crops))])
    cut_out = isinstance(targets[0].get("masks"), CompactMasks)
    kept = decide_kept_objects(layout, measures, iscrowd, settings, cut_out=cut_out)
    first = 0 if placed is None else len(placed.pixels)
    keypoint_fields = {} if placed is None else placed.fields_after(objects.extras, kept, owners[:first])
    had_masks, targets = "masks" in targets[0], _returned(targets, settings)
    masks = stacked.write_masks(kept) if "masks" in targets[0] or (geometry is not None and had_masks) else {}
    if geometry is not None:
        keypoint_fields |= geometry.fields_after(objects.extras, kept, measures, masks, owners[first:])
    after = assemble_kept_objects(objects, kept, measures, masks, keypoint_fields)
    largest = max(image.info.height for image in batch), max(image.info.width for image in batch)
    changed = []
    for i, (target, image) in enumerate(zip(targets, batch, strict=True)):
        if i in after:
            changed.append(target_of(target, after[i], largest))
        else:
            same = _with_binary_masks(target, image.instances.masks, image.info.boxes)
            changed.append(in_types_of(same, objects, largest))
    with without_autocast(before.images[0].device):
        images = stacked.paint(before.images, [crop.image for crop in crops])
    added = np.bincount(kept.target[kept.pasted >= 0], minlength=n).tolist()
    outcome = Outcome(layout, stacked, kept, measures)
    return replace(before, images=images, targets=changed, added=added, kept=kept, outcome=outcome)


def _joined_pixels(parts: Sequence[Int64[Tensor, " _p"]]) -> Int64[Tensor, " p"] | None:
    """The pixels of all parts, on the device of the first; None where there are none."""
    if len(parts) < 2:
        return parts[0] if parts else None
    return torch.cat([part.to(parts[0].device) for part in parts])


def _paste_classes(
    before: Pasted,
    layout: Layout,
    batch: Sequence[ImageObjects],
    crops: Sequence[CroppedObject],
    settings: CopyPasteSettings,
) -> Pasted:
    """The batch with classes of class-id maps pasted; as :func:`_paste_objects`."""
    maps, labels = cast(Tensor, before.targets), [image.instances.labels for image in batch]
    stacked = engine_for(before.images[0].device).stack(layout, settings)
    of_all = joined_rows([*labels, *(crop.fields.labels for crop in crops)])
    ids = stacked.class_ids(maps, of_all.to(torch.promote_types(of_all.dtype, maps.dtype)))
    with without_autocast(before.images[0].device):
        images = stacked.paint(before.images, [crop.image for crop in crops])
    added = np.bincount(layout.pasted.target, minlength=len(batch)).tolist()
    return replace(before, images=images, targets=ids, added=added, outcome=Outcome(layout, stacked, None, None))


def _without_pasting(images: Images, targets: Targets, settings: CopyPasteSettings) -> Pasted:
    """The batch with nothing pasted, after the same checks, but without waiting for a device to send its boxes."""
    nothing = Pasted(images, targets, PastePlan.from_rows([]), added=[0] * len(images))
    if isinstance(targets, Tensor):
        check_map_sizes(images, targets)
        return nothing
    batch = checked_instances(images, targets, settings, refuse_positions=False)
    on_host = all(instances.boxes.is_cpu for instances in batch)
    if batch and on_host:
        boxes = torch.cat([instances.boxes for instances in batch]).detach().double().numpy()
        check_boxes(boxes, np.cumsum([len(instances) for instances in batch]))
    changed = []
    for target, image, instances in zip(_returned(targets, settings), images, batch, strict=True):
        height, width = image.shape[-2:]
        whole = np.tile([0.0, 0.0, width, height], (len(instances), 1))
        known = instances.boxes.detach().double().numpy() if on_host else whole
        changed.append(_with_binary_masks(target, instances.masks, known))
    return replace(nothing, targets=changed)


def _returned(targets: Sequence[Target], settings: CopyPasteSettings) -> Sequence[Target]:
    """The targets, without masks where these are only for pasting."""
    if settings.keep_masks:
        return targets
    return [{key: values for key, values in target.items() if key != "masks"} for target in targets]


def _with_binary_masks(target: Target, masks: Masks, boxes: np.ndarray) -> Target:
    """The target with masks of 0 and 1, as those have on which something was pasted; the same if it has no others."""
    own = target.get("masks")
    if not isinstance(own, Tensor) or own.dtype == torch.bool or isinstance(masks, CompactMasks):
        return target
    found = binary_masks(masks, boxes)
    return target if found is masks else {**target, "masks": as_tv_tensor(found, own)}


def _reason(batch: Sequence[ImageObjects], settings: CopyPasteSettings, extra: ExtraSources) -> str | None:
    """Why nothing could be pasted, if nothing could."""
    if settings.p == 0 or len(extra):
        return None
    if len(batch) == 1 and extra.bank is None and settings.source == "batch":
        return (
            "a batch of one image has no other image to copy from; raise the batch size, give an instance bank "
            '(bank_size), which remembers objects of earlier batches, or set source to "self", for copies of its own'
        )
    objects = sum(len(image.labels) for image in batch)
    if objects and not any(image.info.weights.any() for image in batch):
        number = count_noun(objects, "object")
        return (
            f"none of the batch's {number} may be copied; see the settings labels, categories, weights and ranges of "
            "area, and iscrowd in the targets, or for class-id maps background and ignore_index"
        )
    return None
