"""Carrying out a plan on a batch: objects are pasted, and targets follow what stays visible; or nothing is pasted."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Int64, Integer
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks, Masks, as_compact
from composer_copypaste.errors import count_noun
from composer_copypaste.functional.bank import CroppedObject, object_of_crop
from composer_copypaste.functional.batch_objects import (
    ImageObjects,
    binary_masks,
    check_boxes,
    check_map_sizes,
    checked_instances,
    only_copied_classes,
)
from composer_copypaste.functional.engines.engine import engine_for
from composer_copypaste.functional.geometry import place_geometry
from composer_copypaste.functional.info import Outcome, PasteInfo
from composer_copypaste.functional.keypoints import place_keypoints
from composer_copypaste.functional.layout import Layout, SourceObjects, layout_of
from composer_copypaste.functional.object_keys import warn_of_unnamed_keys
from composer_copypaste.functional.panoptic import has_pairs
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.sources import ExtraSources
from composer_copypaste.functional.tensors import Images, sequence_like, without_autocast
from composer_copypaste.functional.transformed_objects import TransformSource, transformed_objects
from composer_copypaste.functional.visibility import (
    KeptObjects,
    assemble_kept_objects,
    decide_kept_objects,
    joined_fields,
    joined_rows,
)
from composer_copypaste.instances import Target, as_tv_tensor, in_types_of, target_of
from composer_copypaste.settings import CopyPasteSettings

Targets = Sequence[Target] | Integer[Tensor, "n h w"]


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


def carry_out(
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


def without_pasting(images: Images, targets: Targets, settings: CopyPasteSettings) -> Pasted:
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


def with_pasted_flags(result: Pasted) -> Targets:
    """The targets, with ``pasted`` added to detections: for each object, whether it was pasted."""
    if isinstance(result.targets, Tensor) or has_pairs(result.targets):
        return result.targets
    flagged = [
        {**target, "pasted": torch.arange(n := len(cast(Tensor, target["labels"]))) >= n - added}
        for target, added in zip(result.targets, result.added, strict=True)
    ]
    return sequence_like(flagged, result.targets)
