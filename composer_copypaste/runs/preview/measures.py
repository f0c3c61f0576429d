"""What copy-paste does to the batches of a training: object by object, with where each copy comes from."""

import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import Masks, as_compact
from composer_copypaste.data.cutouts import CutOutPool
from composer_copypaste.functional.bank import InstanceBank
from composer_copypaste.functional.batch_objects import ImageObjects, batch_objects
from composer_copypaste.functional.carry_out import Pasted
from composer_copypaste.functional.copypaste import paste, plan_batch
from composer_copypaste.functional.generators import batch_generator
from composer_copypaste.functional.layout import MARGIN, box_windows
from composer_copypaste.functional.plan import BOX_CORNERS, PastePlan
from composer_copypaste.functional.sources import ExtraSources, Pool
from composer_copypaste.instances import Target
from composer_copypaste.settings import CopyPasteSettings, LargeScaleJitterSettings

Images = Tensor | Sequence[Tensor]
Size = tuple[int, int]


@dataclass(frozen=True)
class Variant:
    """One way to augment batches."""

    name: str
    """On the page."""
    copy_paste: CopyPasteSettings | None
    """With labels in place of names. None: nothing is pasted."""
    jitter: LargeScaleJitterSettings | None = None
    """Large-scale jitter between loader and copy-paste. None: none there."""
    loader_jitters: bool = False
    """Whether the batches come from a loader that applies large-scale jitter."""
    pool: Pool | None = None
    seed: int = 0
    model_scale: Callable[[Size], float] = lambda size: 1.0
    """The factor by which the model resizes an image of this (height, width)."""
    advice: Sequence[str] = ()
    """What is known of its data beforehand, and a user would want to know."""


class OwnObjects(NamedTuple):
    """The objects that images have before anything is pasted, a row for each; crowds are left out."""

    label: Int64[ndarray, " n"]
    area: Float[ndarray, " n"]
    """Number of pixels."""
    area_after: Float[ndarray, " n"]
    """What copies leave of it; 0: the object is dropped."""
    side: Float[ndarray, " n"]
    """Side of a square of this area, in pixels of the image that the model sees."""
    may_be_copied: Bool[ndarray, " n"]


class Copies(NamedTuple):
    """The objects that are drawn to be pasted, a row for each."""

    label: Int64[ndarray, " m"]
    area: Float[ndarray, " m"]
    """Number of visible pixels; 0: the copy is dropped."""
    side: Float[ndarray, " m"]
    """As for `OwnObjects`."""
    beyond_edge: Float[ndarray, " m"]
    """Fraction of the copy's box that lies beyond the image's edge."""


class ImageCounts(NamedTuple):
    """The numbers of objects in images, a row for each; crowds are left out."""

    before: Int64[ndarray, " i"]
    pasted: Int64[ndarray, " i"]
    after: Int64[ndarray, " i"]


@dataclass(frozen=True)
class CopySource:
    """The object that a copy is taken from."""

    image: str
    """The name of its image, or of a cut-out's file."""
    label: int
    box: Float[ndarray, "4"]
    """In the image or crop to which the plan's map leads."""


@dataclass(frozen=True)
class BatchMeasures:
    """What copy-paste does to a batch."""

    images: ImageCounts
    own: OwnObjects
    copies: Copies
    reason: str | None
    """Why nothing could be pasted, whatever was drawn; None where something could."""


@dataclass(frozen=True)
class PastedBatch:
    """A batch before and after copy-paste."""

    variant: Variant
    number: int
    """Counted from 0."""
    names: Sequence[str]
    """The names of the images."""
    images: Images
    targets: Sequence[Target]
    objects: Sequence[ImageObjects]
    """The objects of each target, as copy-paste knows them."""
    sources: Sequence[CopySource]
    """For each row of the plan."""
    result: Pasted
    scales: Float[ndarray, " n"]
    """The factor by which the model resizes each image."""

    @property
    def targets_after(self) -> Sequence[Target]:
        """The targets after copy-paste."""
        return cast(Sequence[Target], self.result.targets)

    @property
    def pastes_nothing(self) -> bool:
        """Whether its variant never pastes anything."""
        return self.variant.copy_paste is None or not self.variant.copy_paste.p

    def dropped(self, image: int) -> Int64[ndarray, " k"]:
        """Indices of the image's own objects that are dropped."""
        return np.setdiff1d(np.arange(len(self.objects[image].labels)), self.result.origins(image)[0])

    def pasted(self, image: int) -> Counter[tuple[str, int]]:
        """Number of pasted objects that stay in an image, by the image that they come from and their label."""
        rows = self.result.origins(image)[1]
        return Counter((self.sources[row].image, self.sources[row].label) for row in rows)

    def measures(self) -> "BatchMeasures":
        """What is kept of the batch when its pixels are gone."""
        return BatchMeasures(self._image_counts(), self._own_objects(), self._copies(), self.result.reason)

    def _own_objects(self) -> OwnObjects:
        parts = []
        for number, (objects, target, scale) in enumerate(zip(self.objects, self.targets, self.scales, strict=True)):
            kept, _ = self.result.origins(number)
            area, area_after = _areas(target), np.zeros(len(objects.labels))
            area_after[kept] = _areas(self.targets_after[number])[: len(kept)]
            rows = OwnObjects(objects.labels, area, area_after, scale * np.sqrt(area), objects.info.weights > 0)
            parts.append(OwnObjects(*(column[objects.iscrowd == 0] for column in rows)))
        return concatenate_rows(parts)

    def _copies(self) -> Copies:
        plan = self.result.plan
        area = np.zeros(len(plan))
        for number, target in enumerate(self.targets_after):
            kept, rows = self.result.origins(number)
            area[rows] = _areas(target)[len(kept) :]
        boxes = np.array([source.box for source in self.sources]).reshape(-1, 4)
        sizes = np.array([(objects.info.height, objects.info.width) for objects in self.objects])
        return Copies(
            label=np.array([source.label for source in self.sources], dtype=np.int64),
            area=area,
            side=self.scales[plan.target.numpy()] * np.sqrt(area),
            beyond_edge=_fractions_beyond_edge(plan, boxes, sizes),
        )

    def _image_counts(self) -> ImageCounts:
        before = np.array([(objects.iscrowd == 0).sum() for objects in self.objects])
        dropped = [(self.objects[i].iscrowd[self.dropped(i)] == 0).sum() for i in range(len(self.objects))]
        pasted = np.array(self.result.added, dtype=np.int64)
        return ImageCounts(before, pasted, before - np.array(dropped) + pasted)


class Paster:
    """Carries out copy-paste on one batch after the other as a training does, and remembers where copies come from.

    Args:
        variant: how.
        image_name: the name of a target's image.
    """

    def __init__(self, variant: Variant, image_name: Callable[[Target], str]) -> None:
        self.variant = variant
        self.settings = variant.copy_paste
        self.image_name = image_name
        size = 0 if self.settings is None else self.settings.bank_size
        self.bank = InstanceBank(size) if size else None
        self.names_in_bank: deque[str] = deque(maxlen=size)
        """The name of the image of each of the bank's objects."""

    def paste(self, number: int, images: Images, targets: Sequence[Target]) -> PastedBatch:
        """The batch before and after copy-paste; ``number`` counts batches from 0."""
        names = [self.image_name(target) for target in targets]
        objects = batch_objects(images, targets, self.settings or CopyPasteSettings())
        scales = np.array([self.variant.model_scale((each.info.height, each.info.width)) for each in objects])
        if self.settings is None:
            nothing = Pasted(images, targets, PastePlan.from_rows([]), added=[0] * len(images))
            return PastedBatch(self.variant, number, names, images, targets, objects, [], nothing, scales)
        generator, pool = batch_generator(self.variant.seed, 0, number), self.variant.pool
        plan = plan_batch(images, targets, generator=generator, bank=self.bank, pool=pool, settings=self.settings)
        sources = self._sources_of(plan, objects, names)
        result = paste(images, targets, self.settings, plan, ExtraSources(self.bank, pool))
        if self.bank is not None:
            self.names_in_bank += _names_for_bank(objects, names)
        return PastedBatch(self.variant, number, names, images, targets, objects, sources, result, scales)

    def _sources_of(
        self, plan: PastePlan, objects: Sequence[ImageObjects], names: Sequence[str]
    ) -> Sequence[CopySource]:
        """The source of each row of a plan; the bank must be as it was when the plan was drawn."""
        in_bank = len(self.names_in_bank)
        found = []
        for source, instance in zip(plan.source.tolist(), plan.instance.tolist(), strict=True):
            beyond = source - len(objects)
            if beyond < 0:
                own = objects[source]
                found.append(CopySource(names[source], int(own.labels[instance]), own.info.boxes[instance]))
            elif self.bank is not None and beyond < in_bank:
                crop = self.bank.cropped_object(beyond)
                found.append(CopySource(self.names_in_bank[beyond], int(crop.fields.labels[0]), crop.box))
            else:
                found.append(_source_in_pool(cast(Pool, self.variant.pool), beyond - in_bank))
        return found


def _source_in_pool(pool: Pool, number: int) -> CopySource:
    name = pool.cut_out(number).name if isinstance(pool, CutOutPool) else str(number)
    return CopySource(f"cut-out {name}", int(pool.labels[number]), pool.boxes[number])


def _names_for_bank(objects: Sequence[ImageObjects], names: Sequence[str]) -> list[str]:
    """The name of its image for each object of a batch that the bank takes, in the bank's order."""
    found = []
    for image, name in zip(objects, names, strict=True):
        windows = box_windows(image.info.boxes + MARGIN, (image.info.height, image.info.width))
        taken = (image.info.weights > 0) & (windows[:, :2] < windows[:, 2:]).all(axis=1)
        found += [name] * int(taken.sum())
    return found


def _areas(target: Target) -> Float[ndarray, " n"]:
    """The area of each object: the target's own, or else that of its masks or its boxes."""
    if "area" in target:
        area = cast(Tensor, target["area"])
    elif "masks" in target:
        area = as_compact(cast(Masks, target["masks"])).areas
    else:
        boxes = cast(Tensor, target["boxes"])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
    return area.to(torch.float64).numpy()


def _fractions_beyond_edge(
    plan: PastePlan, boxes: Float[ndarray, "m 4"], sizes: Int64[ndarray, "n 2"]
) -> Float[ndarray, " m"]:
    """The fraction of each copy's box that lies beyond the edge of the image that receives it."""
    to_source = plan.to_source.numpy()
    corners = np.einsum(
        "mij,mcj->mci", np.linalg.inv(to_source[:, :, :2]), boxes[:, BOX_CORNERS] - to_source[:, None, :, 2]
    )
    low, high = corners.min(axis=1), corners.max(axis=1)
    edges = sizes[plan.target.numpy(), ::-1]
    inside = (np.clip(high, 0, edges) - np.clip(low, 0, edges)).prod(axis=1)
    return 1 - inside / np.maximum((high - low).prod(axis=1), 1e-9)


@dataclass(frozen=True)
class Measures:
    """What a variant does, measured over batches."""

    variant: Variant
    batches: int
    images: ImageCounts
    own: OwnObjects
    copies: Copies
    unchanged: Counter[str]
    """Number of batches in which nothing could be pasted whatever was drawn, by the reason."""

    @property
    def share_of_images(self) -> float:
        """Fraction of the images that something was pasted on: the log's ``copy_paste/share_of_images``."""
        return mean(self.images.pasted > 0)

    @property
    def visible(self) -> Bool[ndarray, " m"]:
        """Which copies stay."""
        return self.copies.area > 0

    @property
    def cut_off(self) -> Bool[ndarray, " m"]:
        """Which copies stay, with at least `CUT_OFF` of their box beyond the image's edge."""
        return self.visible & (self.copies.beyond_edge >= CUT_OFF)

    @property
    def dropped(self) -> Bool[ndarray, " n"]:
        """Which of the images' own objects are dropped."""
        return self.own.area_after == 0

    @property
    def partly_hidden(self) -> Bool[ndarray, " n"]:
        """Which of the images' own objects stay, with fewer visible pixels."""
        return (self.own.area_after > 0) & (self.own.area_after < self.own.area)

    @property
    def areas_after(self) -> Float[ndarray, " k"]:
        """The areas of all objects after copy-paste."""
        return np.concatenate([self.own.area_after[~self.dropped], self.copies.area[self.visible]])

    @property
    def labels_after(self) -> Int64[ndarray, " k"]:
        """The labels of the objects after copy-paste."""
        return np.concatenate([self.own.label[~self.dropped], self.copies.label[self.visible]])


CUT_OFF = 0.25
"""A copy is cut off where at least this fraction of its box lies beyond the image's edge."""


def measures_of(variant: Variant, batches: Sequence[BatchMeasures]) -> Measures:
    """The measures of a variant, from those of each batch; there must be one."""
    return Measures(
        variant,
        len(batches),
        concatenate_rows([batch.images for batch in batches]),
        concatenate_rows([batch.own for batch in batches]),
        concatenate_rows([batch.copies for batch in batches]),
        Counter(batch.reason for batch in batches if batch.reason is not None),
    )


def mean(values: Bool[ndarray, " n"] | Int64[ndarray, " n"] | Float[ndarray, " n"]) -> float:
    """The mean, NaN where there are no values."""
    return float(values.mean()) if len(values) else math.nan


Rows = TypeVar("Rows", OwnObjects, Copies, ImageCounts)


def concatenate_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all parts; there must be a part."""
    return type(parts[0])(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
