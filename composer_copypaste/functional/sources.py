"""Cut-outs from elsewhere as sources: what a pool of them is, and the draw."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Float, Integer, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.errors import counted
from composer_copypaste.functional.bank import CroppedObject, InstanceBank, check_extras
from composer_copypaste.functional.batch_objects import TELLING_OF_KEYPOINTS
from composer_copypaste.functional.plan import asks_for_areas, weights_of
from composer_copypaste.functional.tensors import on_device
from composer_copypaste.instances import Instances, exact_up_to
from composer_copypaste.settings import CopyPasteSettings

LIMITS = ("labels", "area_range", "relative_area_range")
"""The settings that say which cut-outs may be copied."""
Groups = dict[int, Integer[ndarray, " _k"]]
_FOUND: "WeakKeyDictionary[Pool, list[tuple[CopyPasteSettings, Groups]]]" = WeakKeyDictionary()
"""Of pools that are in use, the cut-outs of each label, for the limits of the last few settings."""


@runtime_checkable
class Pool(Protocol):
    """Cut-outs, which do not change: what is known of them on the host, and a way to their pixels.

    A pool may have ``areas`` (n,) as well, of its masks in pixels: else all masks are read where ``area_range`` asks.
    """

    labels: Integer[ndarray, " n"]
    boxes: Float[ndarray, "n 4"]
    """In the images that ``read`` gives."""
    images: Integer[ndarray, " n"]
    """So many pixels has the image that each is cut from."""

    def read(self, number: int) -> tuple[UInt8[Tensor, "3 h w"], UInt8[Tensor, "h w"]]:
        """The image and the mask, of 0 and 1, of a cut-out."""
        ...

    def __hash__(self) -> int: ...


def check_pool(pool: Pool, settings: CopyPasteSettings) -> None:
    """Raise ``ValueError`` where the settings let no cut-out of the pool be copied, ``TypeError`` where it is none."""
    if not isinstance(pool, Pool):
        raise TypeError(f"pool: expected a pool of cut-outs such as a CutOutPool, got {pool!r}")
    if not any(weight for _, weight, _ in weighted_categories(pool, settings)):
        raise ValueError(
            f"pool: none of its {counted(len(pool.labels), 'cut-out')} may be copied; see categories, "
            "category_weights, labels, label_weights, area_range and relative_area_range"
        )


def weighted_categories(pool: Pool, settings: CopyPasteSettings) -> list[tuple[int, float, Integer[ndarray, " _k"]]]:
    """Label, weight, and the cut-outs that may be copied, of each category that has any."""
    weights = settings.label_weights or {}
    return [(label, float(weights.get(label, 1)), numbers) for label, numbers in _by_label(pool, settings).items()]


def _by_label(pool: Pool, settings: CopyPasteSettings) -> Groups:
    """The cut-outs of each label that may be copied, found once: a pool may hold a million."""
    limits = CopyPasteSettings(**{name: getattr(settings, name) for name in LIMITS})
    known = _FOUND.setdefault(pool, [])
    for former, groups in known:
        if former == limits:
            return groups
    areas = _areas(pool) if asks_for_areas(limits) else None
    allowed = np.flatnonzero(weights_of(pool.labels, areas, pool.images, limits))
    labels = pool.labels[allowed]
    known[:] = [*known[-3:], (limits, {int(label): allowed[labels == label] for label in np.unique(labels)})]
    return known[-1][1]


def check_cut_outs_have(instances: Instances) -> None:
    """Raise ``ValueError`` where objects of a batch have further fields of which a cut-out has none."""
    lacking = sorted(set(instances.extras) - {"keypoints", *TELLING_OF_KEYPOINTS})  # zeros mean "not labelled"
    if lacking:
        raise ValueError(
            f"targets: {lacking[0]!r} has a row for each object, but cut-outs of the pool have none; leave it out, or "
            "paste without a pool"
        )


def _areas(pool: Pool) -> Float[ndarray, " n"]:
    """The area of each cut-out's mask; counted, once, where a pool does not say it."""
    given = getattr(pool, "areas", None)
    if given is not None:
        return given
    return np.array([int(pool.read(number)[1].count_nonzero()) for number in range(len(pool.labels))], dtype=np.float64)


def cut_out_of(pool: Pool, number: int, image: Shaped[Tensor, "c _h _w"], instances: Instances) -> CroppedObject:
    """A cut-out on the device and with the types of a batch's image and of its objects, where these hold its label.

    Raises:
        ValueError: where the images are not RGB, or their objects have fields that a cut-out has not.
    """
    if len(image) != 3:
        raise ValueError(f"pool: its cut-outs are RGB, expected images of 3 channels, got {len(image)}")
    check_cut_outs_have(instances)
    colors, mask = pool.read(number)
    one = instances.without_masks().map(lambda values: values.new_zeros((1, *values.shape[1:])))
    label = int(pool.labels[number])
    dtype = one.labels.dtype if label <= exact_up_to(one.labels.dtype) else torch.int64
    return CroppedObject(
        image=_in_range_of(image, on_device(colors, image.device)),
        mask=on_device(mask, instances.masks.device),
        box=pool.boxes[number],
        fields=Instances(
            one.boxes, on_device([label], one.labels.device, dtype), one.masks, one.area, one.iscrowd, one.extras
        ),
    )


def _in_range_of(image: Shaped[Tensor, "c _h _w"], colors: UInt8[Tensor, "c h w"]) -> Shaped[Tensor, "c h w"]:
    """The colors as the image has them: in [0, 1] where it is of floating point."""
    return (colors.float() / 255).to(image.dtype) if image.is_floating_point() else colors


@dataclass(frozen=True)
class ExtraSources:
    """Where objects come from besides the other images of the batch.

    In the plan of a batch of N images its sources are number N, N + 1 and so on, each with one object: those that the
    bank remembers, oldest first, then the cut-outs of the pool.
    """

    bank: InstanceBank | None = None
    pool: Pool | None = None

    def __len__(self) -> int:
        return self._remembered + (0 if self.pool is None else len(self.pool.labels))

    @property
    def _remembered(self) -> int:
        return 0 if self.bank is None else len(self.bank)

    def check(self, instances: Instances) -> None:
        """Raise ``ValueError`` where objects of a batch have other fields than these sources, drawn or not."""
        if self.bank is not None and len(self.bank):
            check_extras(self.bank.newest.fields, instances)
        if self.pool is not None:
            check_cut_outs_have(instances)

    def crop(self, number: int, image: Shaped[Tensor, "c h w"], instances: Instances) -> CroppedObject:
        """A source, on the device and with the types of a batch's image and of its objects."""
        if self.bank is not None and number < self._remembered:
            return self.bank.crop(number).beside(image, instances)
        if self.pool is None:
            raise IndexError(f"there are {len(self)} further sources")
        return cut_out_of(self.pool, number - self._remembered, image, instances)
