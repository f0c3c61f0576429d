"""The objects of an image after pasting: which stay, and every field of those."""

from collections.abc import Iterator, Mapping, Sequence
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

    def __len__(self) -> int:
        return len(self.kept) + len(self.added)

    def new(self) -> list[tuple[int, Visible, Measure]]:
        """The row of each object that lost pixels or was added, and what is visible of it."""
        added = enumerate(self.added, start=len(self.kept))
        return self.changed + [(row, visible, measured) for row, (_, visible, measured) in added]


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


def assemble(batch: Sequence[Instances], outcomes: Mapping[int, Outcome]) -> dict[int, Instances]:
    """The objects of the images that have an outcome: those that stay, then the added ones, bottom to top.

    The small fields of all images are changed together; masks, which are large, are written image by image.
    """
    if not outcomes:
        return {}
    before = concatenate([instances.without_masks() for instances in batch])
    first = np.cumsum([0, *(len(instances) for instances in batch)]).tolist()
    index: list[int] = []
    new: list[tuple[int, Measure]] = []
    cuts: list[tuple[int, CutOut]] = []
    parts: dict[int, slice] = {}
    for target, outcome in outcomes.items():
        start = len(index)
        new += [(start + row, measured) for row, _, measured in outcome.new()]
        index += [first[target] + j for j in outcome.kept]
        cuts += [(len(index) + place, cut) for place, (cut, *_) in enumerate(outcome.added)]
        index += [first[cut.source] + cut.instance for cut, *_ in outcome.added]
        parts[target] = slice(start, len(index))
    after = _measured(before[on_device(index, before.labels.device, torch.int64)], new)
    after = _moved(after, cuts, batch)
    return {
        target: replace(after[part], masks=_masks(batch[target].masks, outcomes[target]))
        for target, part in parts.items()
    }


def _measured(objects: Instances, new: Sequence[tuple[int, Measure]]) -> Instances:
    """The objects with box and area of those in the given rows as they were measured."""
    rows = [row for row, _ in new]
    return replace(
        objects,
        boxes=_with_rows(objects.boxes, rows, [measured.box for _, measured in new]),
        area=_with_rows(objects.area, rows, [measured.area for _, measured in new]),
    )


def _moved(objects: Instances, cuts: Sequence[tuple[int, CutOut]], batch: Sequence[Instances]) -> Instances:
    """The objects with the keypoints of those that were cut out, which stand in those rows, where they landed."""
    keypoints = objects.extras.get("keypoints")
    if keypoints is None or not cuts:
        return objects
    index = on_device([row for row, _ in cuts], keypoints.device)
    sizes = [size_of(batch[cut.target].masks) for _, cut in cuts]
    landed = _move_keypoints(keypoints[index], [cut for _, cut in cuts], sizes)
    return replace(objects, extras={**objects.extras, "keypoints": keypoints.index_copy(0, index, landed)})


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


def _move_keypoints(
    keypoints: Shaped[Tensor, "n k 3"], cuts: Sequence[CutOut], sizes: Sequence[tuple[int, int]]
) -> Shaped[Tensor, "n k 3"]:
    """Keypoints (x, y, visibility) where the objects cut out have them, in images of those sizes (height, width).

    Zeros for those outside or not labelled.
    """
    to_source = np.stack([cut.to_source for cut in cuts]) / 2.0**FRACTION_BITS
    to_target = np.linalg.inv(to_source[:, :, :2])
    shift = -np.einsum("nij,nj->ni", to_target, to_source[:, :, 2])
    ends = np.array([(width, height) for height, width in sizes])[:, None]
    linear, offset, limits = (on_device(part, keypoints.device) for part in (to_target, shift, ends))
    there = keypoints[..., :2].double() @ linear.mT + offset[:, None]
    inside = ((there >= 0) & (there < limits)).all(-1) & (keypoints[..., 2] > 0)
    return torch.cat([there.to(keypoints), keypoints[..., 2:]], dim=-1) * inside[..., None]


def _with_rows(values: Shaped[Tensor, "n ..."], rows: list[int], new: Sequence[object]) -> Shaped[Tensor, "n ..."]:
    """The values with some rows replaced by numbers of the host."""
    if not rows:
        return values
    return values.index_copy(0, on_device(rows, values.device), on_device(new, values.device, values.dtype))


def _masks(own: UInt8[Tensor, "n h w"], outcome: Outcome) -> UInt8[Tensor, "k h w"]:
    """The masks of the kept and the added objects, each plane written once."""
    kept = len(outcome.kept)
    masks = own.new_empty((len(outcome), *own.shape[1:]))
    planes, former = as_planes(masks), as_planes(own)
    for place, run in _runs(outcome.kept):
        planes[place : place + len(run)] = former[run.start : run.stop]
    planes[kept:] = 0
    for row, visible, _ in outcome.new():
        planes[row][visible.window.slices] = visible.mask
    return masks


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, range]]:
    """Where runs of successive numbers begin in an ascending sequence, and the runs: copying one costs one call."""
    for _, group in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0]):
        run = list(group)
        yield run[0][0], range(run[0][1], run[-1][1] + 1)
