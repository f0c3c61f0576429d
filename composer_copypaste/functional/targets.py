"""The objects of an image after pasting: which stay, and every field of those."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.compose import Layer
from composer_copypaste.functional.paste import CutOut
from composer_copypaste.functional.planes import as_planes, on_device
from composer_copypaste.functional.visible import Measure, Visible
from composer_copypaste.functional.warp import FRACTION_BITS, size_of
from composer_copypaste.instances import Instances
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class Outcome:
    """Which objects an image has after pasting, decided on the host."""

    kept: list[int]
    """Those of its own that stay."""
    changed: list[tuple[int, Visible, Measure]]
    """Among these, by their place in ``kept``, the ones that lost pixels."""
    added: list[tuple[CutOut, Visible, Measure]]


def decide(layer: Layer, measures: Sequence[Measure], iscrowd: ndarray, settings: CopyPasteSettings) -> Outcome:
    """Which objects stay; ``measures`` are those of the layer's pasted objects, then of the touched ones.

    Objects that lost no pixel stay, whatever their size; crowd regions stay while a pixel of them is visible.
    """
    new, old = measures[: len(layer.pasted)], measures[len(layer.pasted) :]
    lost = {
        j: (visible, measured)
        for j, visible, measured in zip(layer.touched, layer.left, old, strict=True)
        if measured.area < measured.former
    }
    kept = [
        j
        for j in range(len(iscrowd))
        if j not in lost or (lost[j][1].area > 0 if iscrowd[j] else _stays(lost[j][1], settings))
    ]
    changed = [(place, *lost[j]) for place, j in enumerate(kept) if j in lost]
    pasted = zip(layer.cut_outs, layer.pasted, new, strict=True)
    return Outcome(kept, changed, [row for row in pasted if _stays(row[2], settings)])


def _stays(measured: Measure, settings: CopyPasteSettings) -> bool:
    return measured.area >= settings.min_area and measured.area >= settings.min_visibility * measured.former


def assemble(own: Instances, outcome: Outcome, batch: Sequence[Instances]) -> Instances:
    """The image's objects after pasting: its own that stay, in their order, then the pasted ones, bottom to top."""
    kept = on_device(outcome.kept, own.labels.device, torch.int64)
    parts = [own.without_masks()[kept]]
    for source, group in groupby(outcome.added, key=lambda row: row[0].source):
        parts.append(_copied(batch[source], [cut for cut, _, _ in group], size_of(own.masks)))
    fields = concatenate(parts)
    rows = [place for place, _, _ in outcome.changed] + list(range(len(outcome.kept), len(fields)))
    measured = [measured for *_, measured in (*outcome.changed, *outcome.added)]
    return replace(
        fields,
        boxes=_with_rows(fields.boxes, rows, [measure.box for measure in measured]),
        area=_with_rows(fields.area, rows, [measure.area for measure in measured]),
        masks=_masks(own.masks, outcome),
    )


def concatenate(parts: Sequence[Instances]) -> Instances:
    """The objects of all parts, in a row; masks of one size."""
    return Instances(
        boxes=torch.cat([part.boxes for part in parts]),
        labels=torch.cat([part.labels for part in parts]),
        masks=torch.cat([part.masks for part in parts]),
        area=torch.cat([part.area for part in parts]),
        iscrowd=torch.cat([part.iscrowd for part in parts]),
        extras={name: torch.cat([part.extras[name] for part in parts]) for name in parts[0].extras},
    )


def _copied(source: Instances, cuts: Sequence[CutOut], size: tuple[int, int]) -> Instances:
    """The source's objects that were cut out; boxes, areas and masks are still to be set."""
    index = on_device([cut.instance for cut in cuts], source.labels.device)
    copies = source.without_masks()[index]
    keypoints = copies.extras.get("keypoints")
    if keypoints is None:
        return copies
    return replace(copies, extras={**copies.extras, "keypoints": _move_keypoints(keypoints, cuts, size)})


def _move_keypoints(keypoints: Shaped[Tensor, "n k 3"], cuts: Sequence[CutOut], size: tuple[int, int]) -> Tensor:
    """Keypoints (x, y, visibility) where the pasted objects have them; zeros for those outside or not labelled."""
    to_source = np.stack([cut.to_source for cut in cuts]) / 2.0**FRACTION_BITS
    to_target = np.linalg.inv(to_source[:, :, :2])
    shift = -np.einsum("nij,nj->ni", to_target, to_source[:, :, 2])
    linear, shift = (on_device(part, keypoints.device) for part in (to_target, shift))
    there = keypoints[..., :2].double() @ linear.mT + shift[:, None]
    height, width = size
    inside = (there >= 0).all(-1) & (there[..., 0] < width) & (there[..., 1] < height) & (keypoints[..., 2] > 0)
    return torch.cat([there.to(keypoints), keypoints[..., 2:]], dim=-1) * inside[..., None]


def _with_rows(values: Shaped[Tensor, "n ..."], rows: list[int], new: Sequence[object]) -> Shaped[Tensor, "n ..."]:
    """The values with some rows replaced by numbers of the host."""
    if not rows:
        return values
    return values.index_copy(0, on_device(rows, values.device), on_device(new, values.device, values.dtype))


def _masks(own: UInt8[Tensor, "n h w"], outcome: Outcome) -> UInt8[Tensor, "k h w"]:
    """The masks of the kept and the added objects, each plane written once."""
    kept = len(outcome.kept)
    masks = own.new_empty((kept + len(outcome.added), *own.shape[1:]))
    if kept == len(own):
        masks[:kept] = own
    else:
        torch.index_select(own, 0, on_device(outcome.kept, own.device, torch.int64), out=masks[:kept])
    masks[kept:] = 0
    planes = as_planes(masks)
    added = [(place, visible, measured) for place, (_, visible, measured) in enumerate(outcome.added, start=kept)]
    for place, visible, _ in (*outcome.changed, *added):
        planes[place][visible.window.slices] = visible.mask
    return masks
