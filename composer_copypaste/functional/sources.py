"""Sources beyond the batch: pools of cut-outs, and how the objects of bank and pool are numbered in a plan."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import count_noun
from composer_copypaste.functional.bank import CroppedObject, InstanceBank, check_extras
from composer_copypaste.functional.batch_objects import asks_for_areas, copy_weights
from composer_copypaste.functional.object_keys import KEYPOINT_FIELDS
from composer_copypaste.functional.tensors import on_device
from composer_copypaste.instances import Instances, exact_up_to
from composer_copypaste.settings import CopyPasteSettings
from composer_copypaste.settings.idle import WITHOUT_POOL, check_not_idle

POOL_SETTINGS = ("labels", "area_range", "relative_area_range")
"""The settings that decide which cut-outs may be copied."""
CutOutsByLabel = dict[int, Integer[ndarray, " _k"]]
_BY_LABEL: "WeakKeyDictionary[Pool, list[tuple[CopyPasteSettings, CutOutsByLabel]]]" = WeakKeyDictionary()
"""The cut-outs of each label, found once for each pool and its last few settings, as a pool may hold a million. An
entry lives as long as its pool."""


@runtime_checkable
class Pool(Protocol):
    """Cut-outs, which do not change: what the host knows of them, and how to read their pixels.

    A pool may also have ``areas`` (n,), of its masks in pixels; without it all masks are read if ``area_range`` asks.
    And ``has_background`` (n,), whether the images show what is around their cut-outs; without it they do.
    """

    labels: Integer[ndarray, " n"]
    boxes: Float[ndarray, "n 4"]
    """In the images that ``read`` returns."""
    image_pixels: Integer[ndarray, " n"]
    """Number of pixels of each cut-out's source image."""

    def read(self, number: int) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "h w"]]:
        """The image and the mask, of 0 and 1, of a cut-out."""
        ...

    def __hash__(self) -> int: ...


def check_pool(pool: Pool | None, settings: CopyPasteSettings) -> None:
    """Raise ``TypeError`` for what is no pool, ``ValueError`` for settings that do not fit it.

    Those let none of its cut-outs be copied, or change nothing, as there is no pool.
    """
    if pool is None:
        check_not_idle(settings, WITHOUT_POOL)
        return
    if not isinstance(pool, Pool):
        raise TypeError(f"pool: expected a pool of cut-outs such as a CutOutPool, got {pool!r}")
    if not any(weight for _, weight, _ in weighted_categories(pool, settings)):
        raise ValueError(
            f"pool: none of its {count_noun(len(pool.labels), 'cut-out')} may be copied; see categories, "
            "category_weights, labels, label_weights, area_range and relative_area_range"
        )


def weighted_categories(pool: Pool, settings: CopyPasteSettings) -> list[tuple[int, float, Integer[ndarray, " _k"]]]:
    """Label, weight, and numbers of the cut-outs that may be copied, for each category that has any."""
    weights = settings.label_weights or {}
    return [(label, float(weights.get(label, 1)), numbers) for label, numbers in _by_label(pool, settings).items()]


def _by_label(pool: Pool, settings: CopyPasteSettings) -> CutOutsByLabel:
    """The numbers of the cut-outs of each label that may be copied."""
    limits = CopyPasteSettings(**{name: getattr(settings, name) for name in POOL_SETTINGS})
    known = _BY_LABEL.setdefault(pool, [])
    for former, groups in known:
        if former == limits:
            return groups
    areas = getattr(pool, "areas", None)
    if areas is None and asks_for_areas(limits):
        counts = [int(pool.read(number)[1].count_nonzero()) for number in range(len(pool.labels))]
        areas = np.array(counts, dtype=np.float64)
    allowed = np.flatnonzero(copy_weights(pool.labels, areas, pool.image_pixels, limits))
    labels = pool.labels[allowed]
    known[:] = [*known[-3:], (limits, {int(label): allowed[labels == label] for label in np.unique(labels)})]
    return known[-1][1]


def check_cut_outs_have(instances: Instances) -> None:
    """Raise ``ValueError`` where a batch's objects have further fields, which cut-outs lack."""
    lacking = sorted(set(instances.extras) - {"keypoints", *KEYPOINT_FIELDS})  # zeros mean "not labelled"
    if lacking:
        raise ValueError(
            f"targets: {lacking[0]!r} has a row for each object, but cut-outs of the pool have none; leave it out, or "
            "paste without a pool"
        )


def cut_out_from_pool(pool: Pool, number: int, image: Shaped[Tensor, "c _h _w"], instances: Instances) -> CroppedObject:
    """A cut-out, on the device and in the types of a batch's image and objects, where these hold its label.

    Raises:
        ValueError: where the images are not RGB.
    """
    if len(image) != 3:
        raise ValueError(f"pool: its cut-outs are RGB, expected images of 3 channels, got {len(image)}")
    colors, mask = pool.read(number)
    colors = on_device(colors, image.device)
    backgrounds = getattr(pool, "has_background", None)
    one = instances.without_masks().map(lambda values: values.new_zeros((1, *values.shape[1:])))
    label = int(pool.labels[number])
    dtype = one.labels.dtype if label <= exact_up_to(one.labels.dtype) else torch.int64
    return CroppedObject(
        image=(colors.float() / 255).to(image.dtype) if image.is_floating_point() else colors,
        mask=on_device(mask, instances.masks.device),
        box=pool.boxes[number],
        fields=Instances(
            one.boxes, on_device([label], one.labels.device, dtype), one.masks, one.area, one.iscrowd, one.extras
        ),
        has_background=backgrounds is None or bool(backgrounds[number]),
    )


@dataclass(frozen=True)
class ExtraSources:
    """Where objects come from besides the other images of the batch.

    In the plan of a batch of N images, sources number N, N + 1 and so on are single objects: those of the bank, oldest
    first, then the cut-outs of the pool.
    """

    bank: InstanceBank | None = None
    pool: Pool | None = None

    def __len__(self) -> int:
        return self.in_bank + (0 if self.pool is None else len(self.pool.labels))

    @property
    def in_bank(self) -> int:
        """The number of objects in the bank."""
        return 0 if self.bank is None else len(self.bank)

    def check(self, instances: Instances) -> None:
        """Raise ``ValueError`` where a batch's objects have other fields than these sources, drawn or not."""
        if self.in_bank and self.bank is not None:
            check_extras(self.bank.newest.fields, instances)
        if self.pool is not None:
            check_cut_outs_have(instances)

    def read(self, number: int, image: Shaped[Tensor, "c h w"], instances: Instances) -> CroppedObject:
        """A source's object, on the devices of a batch's image and objects; ``number`` is counted from the bank's."""
        if self.bank is not None and number < self.in_bank:
            return self.bank.cropped_object(number).moved_to(image, instances)
        if self.pool is None:
            raise IndexError(f"expected one of {len(self)} extra sources, got number {number}")
        return cut_out_from_pool(self.pool, number - self.in_bank, image, instances)
