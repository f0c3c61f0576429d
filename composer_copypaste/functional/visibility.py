"""The objects of an image after pasting: which stay, and every field of those."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.layout import Layout, ends_of
from composer_copypaste.functional.tensors import on_device, rows_of
from composer_copypaste.instances import Instances, exact_up_to
from composer_copypaste.settings import CopyPasteSettings


@dataclass(frozen=True)
class Measures:
    """The read-back of objects, on the host; a row for each."""

    area: Integer[ndarray, " n"]
    """Pixels that are visible."""
    former: Integer[ndarray, " n"]
    """Pixels that were, before anything was pasted; of a pasted object, pixels that it has where it lands before
    anything covers it, those beyond the image's edge included: if ``min_visibility`` asks, else 0."""
    boxes: Integer[ndarray, "n 4"]
    """The tight box (x1, y1, x2, y2) around what is visible; of no meaning where that is nothing."""

    def __getitem__(self, index: slice | Int64[ndarray, " k"]) -> "Measures":
        return Measures(self.area[index], self.former[index], self.boxes[index])


def profiles(masks: UInt8[Tensor, "n h w"]) -> Int32[Tensor, "n 5"]:
    """Of each mask the area and the box (x1, y1, x2, y2) around its pixels, on the device."""
    rows, columns = masks.sum(dim=2, dtype=torch.int32), masks.amax(dim=1)
    (x1, x2), (y1, y2) = extents(columns), extents(rows)
    return torch.stack([rows.sum(dim=1, dtype=torch.int32), x1, y1, x2, y2], dim=1)


def extents(occupied: Shaped[Tensor, "n s"]) -> tuple[Int32[Tensor, " n"], Int32[Tensor, " n"]]:
    """The first place of each row that is not 0, and one past the last."""
    size = occupied.shape[1]
    place, filled = torch.arange(size, dtype=torch.int32, device=occupied.device), occupied > 0
    return torch.where(filled, place, size).amin(dim=1), torch.where(filled, place + 1, 0).amax(dim=1)


@dataclass(frozen=True)
class KeptObjects:
    """The objects that images have after pasting, decided on the host.

    A row for each: image after image, first those of its own that stay, then the ones that joined, bottom to top.
    """

    images: Int64[ndarray, " t"]
    """Those on which anything landed, ascending; the others have what they had."""
    target: Int64[ndarray, " r"]
    """The image that has the object."""
    origin: Int64[ndarray, " r"]
    """Which of all objects it is, or is a copy of."""
    landing: Int64[ndarray, " r"]
    """The landing that it is, -1 for an image's own."""
    measure: Int64[ndarray, " r"]
    """Which of the measures says its box and area; -1 where these did not change."""

    def __len__(self) -> int:
        return len(self.target)

    @cached_property
    def ends(self) -> Int64[ndarray, "t 2"]:
        """The first row of each image, and one past its last."""
        return ends_of(self.target, self.images)

    @property
    def place(self) -> Int64[ndarray, " r"]:
        """The place of each among the objects of its image."""
        return np.arange(len(self)) - self.ends[np.searchsorted(self.images, self.target), 0]

    def rows(self) -> dict[int, slice]:
        """Which rows are of each image."""
        return {image: slice(*ends) for image, ends in zip(self.images.tolist(), self.ends.tolist(), strict=True)}

    def added(self, n: int) -> list[int]:
        """How many objects joined each of ``n`` images."""
        return np.bincount(self.target[self.landing >= 0], minlength=n).tolist()


def decide(
    layout: Layout, measures: Measures, iscrowd: Shaped[ndarray, " g"], settings: CopyPasteSettings
) -> KeptObjects:
    """Which objects stay; the measures are of the landings, then of the objects that were overlapped.

    Objects that lost no pixel stay, whatever their size; crowd regions stay while a pixel of them is visible.
    """
    pasted, overlapped, m = layout.pasted, layout.overlapped, len(layout.pasted)
    landed, left = measures[:m], measures[m:]
    lost = left.area < left.former
    enough = np.where(iscrowd[overlapped] != 0, left.area > 0, _is_enough(left, settings))
    stays = layout.image_receives.copy()
    stays[overlapped[lost & ~enough]] = False
    changed = np.full(len(stays), -1)
    changed[overlapped[lost]] = m + np.flatnonzero(lost)
    own = np.flatnonzero(stays)
    joined = np.flatnonzero(_is_enough(landed, settings))
    target = np.concatenate([layout.source[own], pasted.target[joined]])
    order = np.argsort(target, kind="stable")
    return KeptObjects(
        images=pasted.receiving,
        target=target[order],
        origin=np.concatenate([own, pasted.origin[joined]])[order],
        landing=np.concatenate([np.full(len(own), -1), joined])[order],
        measure=np.concatenate([changed[own], joined])[order],
    )


def _is_enough(measures: Measures, settings: CopyPasteSettings) -> Bool[ndarray, " n"]:
    """Whether as many pixels are visible as the settings ask for, to a thousandth of a pixel.

    Without that tolerance 7 of 100 pixels would be fewer than 0.07 of them.
    """
    least = settings.min_visibility * measures.former - 1e-3
    return (measures.area >= settings.min_area) & (measures.area >= least)


def assemble(
    objects: Instances,
    outcome: KeptObjects,
    measures: Measures,
    masks: Mapping[int, UInt8[Tensor, "_k _h _w"]],
    keypoints: Mapping[str, Shaped[Tensor, "r ..."]],
) -> dict[int, Instances]:
    """The objects of the images on which anything landed.

    Args:
        objects: of all sources, in the layout's order, without masks.
        outcome: which stay.
        measures: of what changed.
        masks: of the objects that each image has now; none where targets have none.
        keypoints: the further fields of those that stay that tell of keypoints, if objects have any.
    """
    after = rows_of(objects, outcome.origin)
    changed = np.flatnonzero(outcome.measure >= 0)
    found = measures[outcome.measure[changed]]
    after = replace(
        after,
        boxes=_with_rows(after.boxes, changed, found.boxes),
        area=_with_rows(after.area, changed, found.area),
        extras={**after.extras, **keypoints},
    )
    parts = after.split(np.diff(outcome.ends)[:, 0].tolist())
    return {
        image: replace(part, masks=masks.get(image, part.masks))
        for image, part in zip(outcome.images.tolist(), parts, strict=True)
    }


def _with_rows(
    values: Shaped[Tensor, "n ..."], rows: Int64[ndarray, " k"], new: Shaped[ndarray, "k ..."]
) -> Shaped[Tensor, "n ..."]:
    """The values with some rows replaced by numbers of the host."""
    return values.index_copy(0, on_device(rows, values.device), on_device(new, values.device, values.dtype))


def joined_fields(parts: Sequence[Instances]) -> Instances:
    """The objects of all parts, in a row, with masks of no size: indexing those costs nothing, on any device.

    Labels and further fields are of one type, which holds those of all parts.
    """
    labels = joined_rows([part.labels for part in parts])
    return Instances(
        boxes=joined_rows([part.boxes for part in parts]),
        labels=labels,
        masks=labels.new_empty((len(labels), 0, 0), dtype=torch.uint8),
        area=joined_rows([part.area for part in parts]),
        iscrowd=joined_rows([part.iscrowd for part in parts]),
        extras={name: joined_rows([part.extras[name] for part in parts]) for name in parts[0].extras},
    )


def joined_rows(parts: Sequence[Shaped[Tensor, "_n ..."]]) -> Shaped[Tensor, "n ..."]:
    """All rows, of a type that holds them; what has no rows has no say in it."""
    types = {part.dtype for part in parts}
    if len(types) > 1:
        common = _common({part.dtype for part in parts if len(part)} or types)
        parts = [part.to(common) for part in parts]
    return torch.cat(list(parts))


def _common(types: Collection[torch.dtype]) -> torch.dtype:
    """A type that holds the numbers of all of them."""
    common = reduce(torch.promote_types, types)
    real = [dtype for dtype in types if not dtype.is_complex]
    lossy = common.is_floating_point and max(map(exact_up_to, real)) > exact_up_to(common)
    return torch.float64 if lossy else common
