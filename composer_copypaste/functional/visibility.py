"""Which objects are still visible after pasting, and their fields then (``min_visibility``, ``min_area``)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Int64, Integer, Shaped
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.batch_objects import AREA_TOLERANCE
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.tensors import on_device
from composer_copypaste.instances import Instances, empty_masks, exact_up_to
from composer_copypaste.settings import CopyPasteSettings


class Measures(NamedTuple):
    """What was counted of objects, on the host; a row for each."""

    area: Integer[ndarray, " n"]
    """Number of visible pixels."""
    former: Integer[ndarray, " n"]
    """Number of pixels before anything was pasted. For a pasted object, the pixels it has at its new place before
    others cover it, those beyond the image's edge included, if ``min_visibility`` asks for them, else 0."""
    boxes: Integer[ndarray, "n 4"]
    """The tight box (x1, y1, x2, y2) around the visible pixels; undefined where there are none."""


class KeptObjects(NamedTuple):
    """The objects that images have after pasting, as the host decided; only images on which something was pasted.

    A row for each object, image after image: first the image's own objects that stay, then the pasted ones, bottom to
    top.
    """

    images: Int64[ndarray, " t"]
    """Batch indices of the images, ascending."""
    ends: Int64[ndarray, "t 2"]
    """For each image the index of its first row, and of its last plus 1."""
    target: Int64[ndarray, " r"]
    """Batch index of the image that has the object."""
    place: Int64[ndarray, " r"]
    """Index of the object within its image."""
    origin: Int64[ndarray, " r"]
    """Index within the layout of the object, or of the one that it is a copy of."""
    instance: Int64[ndarray, " r"]
    """Object index within its source."""
    pasted: Int64[ndarray, " r"]
    """Index among the pasted objects; -1 for an image's own."""
    row: Int64[ndarray, " r"]
    """Row of the plan; -1 for an image's own."""
    measure: Int64[ndarray, " r"]
    """Row of the measures with its box and area; -1 where these did not change."""
    windows: Int64[ndarray, "r 4"]
    """The window of its image in which the object's mask is kept."""


def decide_kept_objects(
    layout: Layout,
    measures: Measures,
    iscrowd: Shaped[ndarray, " g"],
    settings: CopyPasteSettings,
    *,
    cut_out: bool,
) -> KeptObjects:
    """Which objects stay, given the measures of the pasted objects, followed by those of the overlapped objects.

    Objects that lost no pixel stay, whatever their size. Crowd regions stay while one of their pixels is visible. With
    ``cut_out`` masks are kept in windows around their pixels, else in the whole image.
    """
    from composer_copypaste.functional.engines.numba_objects import keep_objects  # takes half a second

    limits = float(settings.min_visibility), float(settings.min_area), AREA_TOLERANCE
    objects = layout.objects, layout.overlapped, layout.pasted
    columns, ends, windows = keep_objects(*objects, measures, iscrowd != 0, limits)
    target, place, origin, instance, pasted, row, measure = columns[:, : len(windows)]
    if not cut_out:
        windows = np.zeros_like(windows)
        windows[:, 2:] = layout.sizes[target]
    images = layout.pasted.receiving
    return KeptObjects(images, ends, target, place, origin, instance, pasted, row, measure, windows)


def assemble_kept_objects(
    objects: Instances,
    kept: KeptObjects,
    measures: Measures,
    masks: Mapping[int, CompactMasks],
    keypoint_fields: Mapping[str, Shaped[Tensor, "r ..."]],
) -> dict[int, Instances]:
    """The objects that images have after pasting, by the batch index of the image.

    Args:
        objects: of all sources, in the layout's order, without masks.
        kept: which stay.
        measures: the boxes and areas of those that changed.
        masks: of the objects that each image has now; empty where targets have none.
        keypoint_fields: further fields of the objects that stay, which replace their own.
    """
    after = objects.take(kept.origin)
    changed = np.flatnonzero(kept.measure >= 0)
    rows, fields = kept.measure[changed], []
    for values, new in ((after.boxes, measures.boxes[rows]), (after.area, measures.area[rows])):
        device = values.device
        fields.append(values.index_copy(0, on_device(changed, device), on_device(new, device, values.dtype)))
    after = replace(after, boxes=fields[0], area=fields[1], extras={**after.extras, **keypoint_fields})
    images, counts = kept.images.tolist(), (kept.ends[:, 1] - kept.ends[:, 0]).tolist()
    of_images = [masks[image] for image in images] if masks else cast(Tensor, after.masks).split(counts)
    return dict(zip(images, after.split(counts, of_images), strict=True))


def joined_fields(parts: Sequence[Instances]) -> Instances:
    """The objects of all parts in a row, with masks of size 0 x 0, which cost nothing to index.

    Labels and further fields get one type, which holds the numbers of all parts.
    """
    labels = joined_rows([part.labels for part in parts])
    return Instances(
        boxes=joined_rows([part.boxes for part in parts]),
        labels=labels,
        masks=empty_masks(labels),
        area=joined_rows([part.area for part in parts]),
        iscrowd=joined_rows([part.iscrowd for part in parts]),
        extras={name: joined_rows([part.extras[name] for part in parts]) for name in parts[0].extras},
    )


def joined_rows(parts: Sequence[Shaped[Tensor, "_n ..."]]) -> Shaped[Tensor, "n ..."]:
    """All rows, in a type that holds the numbers of all parts; parts without rows do not matter."""
    types = {part.dtype for part in parts}
    if len(types) > 1:
        types = {part.dtype for part in parts if len(part)} or types
        common = reduce(torch.promote_types, types)
        real = [dtype for dtype in types if not dtype.is_complex]
        lossy = common.is_floating_point and max(map(exact_up_to, real)) > exact_up_to(common)
        parts = [part.to(torch.float64 if lossy else common) for part in parts]
    return torch.cat(list(parts))
