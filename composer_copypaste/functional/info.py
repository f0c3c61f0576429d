"""What copy-paste did to a batch, as a value: the plan, and where each object comes from and what is visible of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import count_noun
from composer_copypaste.functional.batch_objects import ImageObjects
from composer_copypaste.functional.engines.engine import ObjectStack
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.plan import PastePlan
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import CopyPasteSettings

SMALLEST_VISIBILITY = 1e-9
"""A ``min_visibility`` that drops nothing. Where it is 0, engines do not count what pasted objects had before."""


@dataclass(frozen=True, eq=False)
class PasteInfo:
    """What :func:`copypaste_batch` did to a batch; all on the host.

    A row for each object of the targets that came back, image after image, in the order in which the target has them:
    the image's own objects, then the pasted ones, bottom to top. Of class-id maps, a row for each pasted class of which
    a pixel is visible.
    """

    plan: PastePlan
    """What was pasted where. Its rows may be more than the pasted objects here: some miss the image or are hidden."""

    image: Int64[Tensor, " k"]
    """Batch index of the image that has the object."""

    pasted: Bool[Tensor, " k"]
    """Whether it was pasted."""

    source: Int64[Tensor, " k"]
    """Batch index of the image that it comes from, its own unless it was pasted. In a batch of N images, numbers from N
    on are the bank's objects, oldest first, then the pool's cut-outs, as in the plan."""

    instance: Int64[Tensor, " k"]
    """Object index within the source: the row that it had in the target there; 0 of the bank and the pool. Of class-id
    maps, the place of its class among the ids that the image there has, ascending, background included."""

    row: Int64[Tensor, " k"]
    """Row of the plan that describes it; only where it was pasted."""

    visible: Float64[Tensor, " k"]
    """The share of its former pixels that is visible, as ``min_visibility`` compares it: 1 where nothing covers it. The
    pixels of a pasted object are those it has after resizing, also beyond the image's edge, before ``erosion``."""

    boxes: Float64[Tensor, "k 4"]
    """Its box (x1, y1, x2, y2) now."""

    images: int
    """Number of images in the batch."""

    bank_objects: int
    """Number of objects that the bank had."""

    dropped: int
    """Number of objects, pasted or not, that are gone because too little of them is visible; 0 of class-id maps."""

    def __len__(self) -> int:
        return self.image.shape[0]

    def __repr__(self) -> str:
        counts = {"bank": int((self.pasted & self.from_bank).sum()), "pool": int((self.pasted & self.from_pool).sum())}
        others = "".join(f", {count} from the {name}" for name, count in counts.items() if count)
        return (
            f"PasteInfo({count_noun(self.images, 'image')}: {count_noun(len(self), 'object')}, of which "
            f"{int(self.pasted.sum())} pasted{others}; {self.dropped} dropped)"
        )

    @property
    def from_bank(self) -> Bool[Tensor, " k"]:
        """Whether each object comes from the bank; its number there is ``source - images``."""
        return (self.source >= self.images) & (self.source < self.images + self.bank_objects)

    @property
    def from_pool(self) -> Bool[Tensor, " k"]:
        """Whether each object comes from the pool; its number there is ``source - images - bank_objects``."""
        return self.source >= self.images + self.bank_objects


class Outcome(NamedTuple):
    """What became of the objects of a batch on which something was pasted."""

    layout: Layout
    stack: ObjectStack
    kept: KeptObjects | None
    """Which objects stayed; None of class-id maps."""
    measures: Measures | None
    """What was counted of the objects; None of class-id maps, of which nothing needs it."""

    @property
    def dropped(self) -> int:
        """Number of objects, pasted or not, that are gone because too little of them is visible; 0 of class-id maps."""
        if self.kept is None:
            return 0
        objects = len(self.layout.pasted.target) + int(self.layout.objects.image_receives.sum())
        return objects - len(self.kept.target)


def with_counted_pixels(settings: CopyPasteSettings) -> CopyPasteSettings:
    """The settings, with a visibility that makes engines count all pixels of pasted objects, and drops nothing."""
    return replace(settings, min_visibility=max(settings.min_visibility, SMALLEST_VISIBILITY))


def paste_info(
    plan: PastePlan, batch: Sequence[ImageObjects], outcome: Outcome | None, *, bank_objects: int, are_maps: bool
) -> PasteInfo:
    """What was done to a batch.

    Args:
        plan: what was pasted where.
        batch: the objects that the images had.
        outcome: of settings ``with_counted_pixels``; None where nothing was pasted.
        bank_objects: the number of the bank's objects.
        are_maps: whether the targets are class-id maps.
    """
    parts = []
    receiving = set[int]() if outcome is None else set(outcome.layout.pasted.receiving.tolist())
    if not are_maps:
        parts.append(_untouched_objects([i for i in range(len(batch)) if i not in receiving], batch))
    if outcome is not None:
        measures = outcome.measures or outcome.stack.measure(None)[0]
        parts.append(
            _pasted_classes(plan, outcome.layout, measures)
            if outcome.kept is None
            else _kept_objects(plan, batch, outcome.kept, measures)
        )
    columns = _in_order_of_images(parts or [_untouched_objects([], batch)])
    image, pasted, source, instance, row, visible, boxes = (
        torch.from_numpy(np.ascontiguousarray(column)) for column in columns
    )
    dropped = 0 if outcome is None else outcome.dropped
    return PasteInfo(plan, image, pasted, source, instance, row, visible, boxes, len(batch), bank_objects, dropped)


class _Columns(NamedTuple):
    """The columns of a `PasteInfo`."""

    image: Int64[ndarray, " k"]
    pasted: Bool[ndarray, " k"]
    source: Int64[ndarray, " k"]
    instance: Int64[ndarray, " k"]
    row: Int64[ndarray, " k"]
    visible: Float64[ndarray, " k"]
    boxes: Float64[ndarray, "k 4"]


def _untouched_objects(images: Sequence[int], batch: Sequence[ImageObjects]) -> _Columns:
    """The objects of images on which nothing was pasted."""
    counts = [len(batch[i].labels) for i in images]
    image = np.repeat(np.array(images, dtype=np.int64), counts)
    n = len(image)
    return _Columns(
        image,
        np.zeros(n, dtype=bool),
        image,
        np.concatenate([np.arange(count) for count in [0, *counts]]),
        np.full(n, -1),
        np.ones(n),
        np.concatenate([np.zeros((0, 4)), *(batch[i].info.boxes for i in images)]),
    )


def _kept_objects(plan: PastePlan, batch: Sequence[ImageObjects], kept: KeptObjects, measures: Measures) -> _Columns:
    """The objects of images on which something was pasted."""
    pasted, changed = kept.pasted >= 0, kept.measure >= 0
    former = np.concatenate([*(image.info.boxes for image in batch), np.zeros((1, 4))])
    own = np.where(pasted, len(former) - 1, kept.origin)  # a pasted object's box is always measured
    return _Columns(
        kept.target,
        pasted,
        np.where(pasted, plan.source.numpy()[kept.row], kept.target),
        np.where(pasted, plan.instance.numpy()[kept.row], kept.instance),
        kept.row,
        np.where(changed, _visible_share(measures)[kept.measure], 1.0),
        np.where(changed[:, None], measures.boxes[kept.measure].astype(np.float64), former[own]),
    )


def _pasted_classes(plan: PastePlan, layout: Layout, measures: Measures) -> _Columns:
    """The pasted classes of which a pixel is visible."""
    shown = np.flatnonzero(measures.area[: len(layout.pasted.target)])
    row = layout.pasted.row[shown]
    return _Columns(
        layout.pasted.target[shown],
        np.ones(len(shown), dtype=bool),
        plan.source.numpy()[row],
        plan.instance.numpy()[row],
        row,
        _visible_share(measures)[shown],
        measures.boxes[shown].astype(np.float64),
    )


def _visible_share(measures: Measures) -> Float64[ndarray, " n"]:
    return measures.area / np.maximum(measures.former, 1)


def _in_order_of_images(parts: Sequence[_Columns]) -> _Columns:
    """All rows, image after image; the rows of one image keep their order."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return _Columns(*(column[order] for column in columns))
