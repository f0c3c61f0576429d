"""The objects of an image after pasting: which stay, and every field of those."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.compose import Landing, Layer
from composer_copypaste.functional.planes import on_device
from composer_copypaste.functional.visible import Measure
from composer_copypaste.functional.warp import FRACTION_BITS, size_of
from composer_copypaste.instances import Instances
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class Outcome:
    """Which objects an image has after pasting, decided on the host."""

    kept: list[int]
    """Those of its own that stay."""
    changed: list[tuple[int, int, Measure]]
    """Among these the ones that lost pixels: their place in ``kept``, and in the layer's ``touched``."""
    added: list[tuple[int, Measure]]
    """Those of the layer's landings that join, by their place."""

    def __len__(self) -> int:
        return len(self.kept) + len(self.added)

    def new(self) -> list[tuple[int, Measure]]:
        """The row of each object that lost pixels or joined, and its measure."""
        joined = enumerate(self.added, start=len(self.kept))
        return [(row, found) for row, _, found in self.changed] + [(row, found) for row, (_, found) in joined]


def decide(
    layer: Layer, measures: tuple[list[Measure], list[Measure]], iscrowd: ndarray, settings: CopyPasteSettings
) -> Outcome:
    """Which objects stay; the measures are of the layer's landings, and of the objects it touched.

    Objects that lost no pixel stay, whatever their size; crowd regions stay while a pixel of them is visible.
    """
    landed, left = measures
    lost = {j: (k, left[k]) for k, j in enumerate(layer.touched) if left[k].area < left[k].former}

    def stays(j: int) -> bool:
        if j not in lost:
            return True
        _, found = lost[j]
        return found.area > 0 if iscrowd[j] else _stays(found, 1.0, settings)

    kept = [j for j in range(len(iscrowd)) if stays(j)]
    return Outcome(
        kept=kept,
        changed=[(place, *lost[j]) for place, j in enumerate(kept) if j in lost],
        added=[
            (m, found)
            for m, (landing, found) in enumerate(zip(layer.landings, landed, strict=True))
            if _stays(found, landing.enlargement, settings)
        ],
    )


def _stays(found: Measure, enlargement: float, settings: CopyPasteSettings) -> bool:
    """Whether enough is visible of an object that was resized to so many times its former area."""
    return found.area >= max(settings.min_area, settings.min_visibility * found.former * enlargement)


def assemble(
    batch: Sequence[Instances],
    layers: Sequence[Layer],
    outcomes: Mapping[int, Outcome],
    masks: Mapping[int, UInt8[Tensor, "_k _h _w"]],
) -> dict[int, Instances]:
    """The objects of the images that have a layer: those that stay, then the ones that join, bottom to top."""
    if not layers:
        return {}
    before = concatenate([instances.without_masks() for instances in batch])
    first = np.cumsum([0, *(len(instances) for instances in batch)]).tolist()
    index: list[int] = []
    new: list[tuple[int, Measure]] = []
    joined: list[tuple[int, Landing]] = []
    parts: dict[int, slice] = {}
    for layer in layers:
        outcome, start = outcomes[layer.target], len(index)
        landings = [layer.landings[m] for m, _ in outcome.added]
        new += [(start + row, found) for row, found in outcome.new()]
        index += [first[layer.target] + j for j in outcome.kept]
        joined += enumerate(landings, start=len(index))
        index += [first[landing.source] + landing.instance for landing in landings]
        parts[layer.target] = slice(start, len(index))
    after = _measured(before[on_device(index, before.labels.device, torch.int64)], new)
    after = _moved(after, joined, batch)
    return {target: replace(after[part], masks=masks[target]) for target, part in parts.items()}


def _measured(objects: Instances, new: Sequence[tuple[int, Measure]]) -> Instances:
    """The objects with box and area of those in the given rows as they were measured."""
    rows = [row for row, _ in new]
    return replace(
        objects,
        boxes=_with_rows(objects.boxes, rows, [measured.box for _, measured in new]),
        area=_with_rows(objects.area, rows, [measured.area for _, measured in new]),
    )


def _moved(objects: Instances, joined: Sequence[tuple[int, Landing]], batch: Sequence[Instances]) -> Instances:
    """The objects with the keypoints of those that joined, which stand in those rows, where they landed."""
    keypoints = objects.extras.get("keypoints")
    if keypoints is None or not joined:
        return objects
    index = on_device([row for row, _ in joined], keypoints.device)
    sizes = [size_of(batch[landing.target].masks) for _, landing in joined]
    landed = _move_keypoints(keypoints[index], [landing for _, landing in joined], sizes)
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
    keypoints: Shaped[Tensor, "n k 3"], landings: Sequence[Landing], sizes: Sequence[tuple[int, int]]
) -> Shaped[Tensor, "n k 3"]:
    """Keypoints (x, y, visibility) where the landed objects have them, in images of those sizes (height, width).

    Zeros for those outside or not labelled.
    """
    to_source = np.stack([landing.to_source for landing in landings]) / 2.0**FRACTION_BITS
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
