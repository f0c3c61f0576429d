"""The mask loss of Mask R-CNN where masks are cut-outs, without making any of the image's size, or are aligned."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.nn import functional
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import roi_align

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.tensors import on_device, take


class TrainsOnCompactMasks(RoIHeads):
    """What lets torchvision's heads take the masks of training targets as cut-outs too, or aligned with pixels.

    The losses are torchvision's, but for the mask loss of aligned masks.

    A class of heads inherits it first. Heads that TorchScript is to compile must be of that class without it.
    """

    compilable: ClassVar[type[RoIHeads]]
    """The same heads without this."""
    aligned: ClassVar[bool] = False
    """Whether the masks to be found are cut out where pixels lie, and not half a pixel off, as torchvision does it."""
    _sampled: tuple[list[Tensor], list[Tensor], list[Tensor]] | None = None
    """In a training step: the proposals sampled of each image, their objects and their labels."""
    _masks_later: bool = False

    def has_mask(self) -> bool:
        """Whether torchvision's own ``forward`` is to compute masks."""
        return not self._masks_later and super().has_mask()

    def select_training_samples(
        self, proposals: list[Tensor], targets: list[dict[str, Any]] | None
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor], Sequence[Tensor]]:
        """As torchvision's; also keeps what was chosen, for the mask loss."""
        chosen = super().select_training_samples(proposals, targets)
        self._sampled = chosen[:3]
        return chosen

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Any]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """As torchvision's, with the mask loss of this module where it is another one."""
        if not (self.training and targets and (self.aligned or isinstance(targets[0].get("masks"), CompactMasks))):
            return super().forward(features, proposals, image_shapes, targets)
        self._masks_later = True
        try:
            result, losses = super().forward(features, proposals, image_shapes, targets)
            sampled, matched, labels = self._sampled  # type: ignore[misc]
        finally:
            self._masks_later, self._sampled = False, None
        found = [torch.where(own > 0)[0] for own in labels]
        boxes = [own[index] for own, index in zip(sampled, found, strict=True)]
        logits = self.mask_predictor(self.mask_head(self.mask_roi_pool(features, boxes, image_shapes)))
        masks = [target["masks"] for target in targets]
        objects = [own[index] for own, index in zip(matched, found, strict=True)]
        chosen = torch.cat([own[index] for own, index in zip(labels, found, strict=True)])
        loss = mask_loss(logits, chosen, masks, boxes, objects, aligned=self.aligned)
        return result, {**losses, "loss_mask": loss}


class CompactMaskRoIHeads(TrainsOnCompactMasks):
    """Torchvision's heads, which take the masks of training targets as planes and as cut-outs."""

    compilable = RoIHeads


class AlignedMaskRoIHeads(CompactMaskRoIHeads):
    """The same heads, trained on masks where pixels lie; what they find is to be drawn there, by ``sample_mask``."""

    aligned = True


def mask_loss(
    logits: Float[Tensor, "r c s s"],
    labels: Int64[Tensor, " r"],
    masks: Sequence[Shaped[Tensor, "_n _h _w"]] | Sequence[CompactMasks],
    boxes: Sequence[Float[Tensor, "_m 4"]],
    objects: Sequence[Int64[Tensor, " _m"]],
    *,
    aligned: bool = False,
) -> Float[Tensor, ""]:
    """The binary cross-entropy of the logits of each proposal's label, as torchvision computes it.

    Args:
        logits: of all proposals, image after image, and all classes.
        labels: of the proposals.
        masks: of the objects of each image, as planes or as cut-outs.
        boxes: the proposals of each image, (x1, y1, x2, y2).
        objects: the index of each proposal's object among those of its image.
        aligned: whether masks are cut out where pixels lie; torchvision does it half a pixel off.
    """
    if not len(labels):
        return logits.sum() * 0  # of no proposals the mean would be NaN
    resample = mask_targets if isinstance(masks[0], CompactMasks) else _targets_of_planes
    expected = resample(masks, boxes, objects, logits.shape[-1], aligned=aligned)  # type: ignore[arg-type]
    chosen = logits[torch.arange(len(labels), device=labels.device), labels]
    return functional.binary_cross_entropy_with_logits(chosen, expected)


def resized_masks(
    masks: Tensor | CompactMasks, size: tuple[int, int], *, aligned: bool = False
) -> Tensor | CompactMasks:
    """The masks in their image resized to ``size``.

    Each pixel is the one in which its middle lies, if ``aligned``; else the one in which its upper left corner lies, as
    torchvision takes it. There the result lies half a pixel off, which a mask loss that is not aligned makes good.

    They are resized as uint8: as float32, as torchvision does, they would take four times the memory.
    """
    if tuple(masks.shape[1:]) == size:
        return masks
    if not isinstance(masks, CompactMasks):
        mode = "nearest-exact" if aligned else "nearest"
        return functional.interpolate(masks.view(torch.uint8)[:, None], size, mode=mode)[:, 0]
    first = np.float32(0.5 if aligned else 0)
    rows, columns = (
        np.floor((first + np.arange(new, dtype=np.float32)) * np.float32(old / new)).astype(np.int64)
        for old, new in zip(masks.size, size, strict=True)
    )
    windows, parts = np.zeros_like(masks.windows), []
    for window, crop, (y1, x1, y2, x2) in zip(windows, masks.crops(), masks.windows.tolist(), strict=True):
        window[[0, 2]], window[[1, 3]] = np.searchsorted(rows, [y1, y2]), np.searchsorted(columns, [x1, x2])
        shown = take(crop, rows[window[0] : window[2]] - y1, 0)
        parts.append(take(shown, columns[window[1] : window[3]] - x1, 1).reshape(-1))
    return CompactMasks(torch.cat(parts) if parts else masks.pixels, windows, size)


class _Place(NamedTuple):
    """Where an object's cut-out lies on a canvas of zeros."""

    canvas: tuple[int, int]
    y: int
    x: int


def mask_targets(
    masks: Sequence[CompactMasks],
    boxes: Sequence[Float[Tensor, "_m 4"]],
    objects: Sequence[Int64[Tensor, " _m"]],
    side: int,
    *,
    aligned: bool = False,
) -> Float[Tensor, "r side side"]:
    """What a mask head should find in each proposal: the part of its object's mask, resampled to ``side`` pixels.

    As torchvision resamples it (RoIAlign), but from cut-outs: those of about the same size lie on canvases of one size,
    at most four times as large as the objects, so that one operation resamples all of them. The device is waited for
    once, to learn which objects have proposals.
    """
    device = boxes[0].device
    image = np.repeat(np.arange(len(boxes)), [len(own) for own in boxes])
    number = torch.cat(list(objects)).cpu().numpy()
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    pairs, which = np.unique(np.stack([image, number], axis=1), axis=0, return_inverse=True)
    places = [_place(masks[i], k) for i, k in pairs.tolist()]
    for row, place in enumerate(places):
        groups[place.canvas].append(row)
    corners = np.array([masks[i].windows[k, [1, 0, 1, 0]] for i, k in pairs.tolist()])
    shifts = corners - np.array([(place.x, place.y) * 2 for place in places])
    shifted = torch.cat(list(boxes)) - on_device(shifts[which], device, boxes[0].dtype)
    found = shifted.new_empty((len(shifted), side, side))
    for canvas, rows in groups.items():
        planes = shifted.new_zeros((len(rows), 1, *canvas))
        for plane, row in zip(planes[:, 0], rows, strict=True):
            crop, place = masks[pairs[row, 0]].crop(int(pairs[row, 1])), places[row]
            plane[place.y : place.y + crop.shape[0], place.x : place.x + crop.shape[1]] = crop
        members = np.flatnonzero(np.isin(which, rows))
        index = on_device(members, device)
        plane_of = on_device(np.searchsorted(rows, which[members]), device, shifted.dtype)
        rois = torch.cat([plane_of[:, None], shifted[index]], dim=1)
        found[index] = roi_align(planes, rois, (side, side), 1.0, aligned=aligned)[:, 0]
    return found


def _targets_of_planes(
    masks: Sequence[Shaped[Tensor, "_n h w"]],
    boxes: Sequence[Float[Tensor, "_m 4"]],
    objects: Sequence[Int64[Tensor, " _m"]],
    side: int,
    *,
    aligned: bool,
) -> Float[Tensor, "r side side"]:
    """As :func:`mask_targets`, from planes, all of an image at once, as torchvision does it."""
    found = []
    for planes, own, index in zip(masks, boxes, objects, strict=True):
        rois = torch.cat([index[:, None].to(own.dtype), own], dim=1)
        found.append(roi_align(planes[:, None].to(own.dtype), rois, (side, side), 1.0, aligned=aligned)[:, 0])
    return torch.cat(found)


def _place(masks: CompactMasks, number: int) -> _Place:
    """Where an object lies on its canvas: with a pixel of zeros around it, but at the image's edges without.

    RoIAlign repeats the pixels at an edge, for proposals that reach beyond it.
    """
    y1, x1, y2, x2 = masks.windows[number].tolist()
    (rows, y), (columns, x) = (
        _span(low, high, side) for low, high, side in ((y1, y2, masks.size[0]), (x1, x2, masks.size[1]))
    )
    return _Place((rows, columns), y, x)


def _span(low: int, high: int, side: int) -> tuple[int, int]:
    """The length of a canvas along one axis, and where on it an object from low to high lies."""
    if low == 0 and high == side:
        return side, 0
    length = 1 << (high - low + 1).bit_length()  # the object, and two pixels more
    if high == side:
        return length, length - (high - low)
    return length, 0 if low == 0 else 1
