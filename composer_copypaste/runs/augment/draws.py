"""What each new image of an offline data set is made of.

It is drawn from the seed, the base image's id and the copy's number alone, on the host, from boxes: so any process can
make any image, and make it again.
"""

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.cutouts import CutOut, CutOutPool
from composer_copypaste.data.transforms import seeded_generator
from composer_copypaste.functional.batch_objects import copy_weights
from composer_copypaste.functional.generators import uniforms
from composer_copypaste.functional.overlap import IN_POOL, CroppedMask, any_object
from composer_copypaste.functional.plan import ImageInfo, PastePlan
from composer_copypaste.functional.sampling import draw_plan, lies_on_original
from composer_copypaste.runs.augment.images import ImageFile, NewImage, OutlinedObjects
from composer_copypaste.settings import CopyPasteSettings

_OF_THE_DATA, _BACKGROUND = 0, 1


@dataclass(frozen=True)
class BaseImage:
    """An image that objects are pasted on: one of the data set, or a background."""

    file: ImageFile
    file_name: str
    """Relative to its folder."""
    index: int | None
    """Index among the images of the annotations; None for a background."""
    key: tuple[int, ...]
    """What its random numbers depend on, besides the seed."""

    @classmethod
    def of_data(cls, image: CocoImage, index: int, folder: Path) -> "BaseImage":
        """An image of the data set."""
        file = ImageFile(folder / image.file_name, (image.height, image.width))
        return cls(file, image.file_name, index, (_OF_THE_DATA, image.id))

    @classmethod
    def background(cls, name: str, folder: Path, size: tuple[int, int]) -> "BaseImage":
        """A background, known by its name in its folder."""
        number = int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:8])
        return cls(ImageFile(folder / name, size), name, None, (_BACKGROUND, number))


@dataclass(frozen=True, eq=False)
class DrawnImage:
    """A new image as it was drawn."""

    plan: PastePlan
    """The plan of the batch of the base image and, if there is one, the source image: what the first receives."""
    source: int | None
    """Index of the source image among the images of the annotations; None where there is none."""
    new: NewImage

    def cut_out_of_row(self, row: int) -> CutOut:
        """The cut-out that a row of the plan pastes."""
        of_image = (self.plan.source == 1) if self.source is not None else torch.zeros(len(self.plan), dtype=torch.bool)
        return self.new.cut_outs[int((~of_image[:row]).sum())]


@dataclass(frozen=True, eq=False)
class _ImageObjects:
    """The objects of an image of the data set, as drawing knows them."""

    info: ImageInfo
    outlined: OutlinedObjects


@dataclass(frozen=True)
class _OutlinedMasks:
    """Reads masks of a base image and its source from their outlines, and those of cut-outs from their files."""

    images: Sequence[_ImageObjects]
    pool: CutOutPool | None
    _own: dict[int, UInt8[Tensor, "h w"]] = field(default_factory=dict)

    def own(self, target: int) -> UInt8[Tensor, "h w"]:
        """Where an image has an object: 0 elsewhere."""
        if target not in self._own:  # for each try of a place
            self._own[target] = any_object(self._masks(target))
        return self._own[target]

    def of_source(self, source: int, instance: int) -> CroppedMask:
        """The mask of an object of the source image, or of a cut-out."""
        if source == IN_POOL:
            return CroppedMask(cast(CutOutPool, self.pool).read(instance)[1], (0, 0))
        (window,) = self._masks(source, instance).windows.tolist()
        return CroppedMask(self._masks(source, instance).crop(0), tuple(window[:2]))

    def _masks(self, number: int, instance: int | None = None) -> CompactMasks:
        image = self.images[number]
        outlined = image.outlined if instance is None else image.outlined.take(np.array([instance]))
        return outlined.masks((image.info.height, image.info.width))


@dataclass
class OfflineDraws:
    """Draws what new images are made of.

    Attributes:
        annotations: of the data set, with file names that lie in ``folder``.
        folder: of its images.
        seed: of everything random.
        settings: of copy-paste, with labels in place of names.
        pool: cut-outs, which are pasted too.
        keypoints: (k, 3) by the annotation's id, for those that have some.
    """

    annotations: CocoAnnotations
    folder: Path
    seed: int
    settings: CopyPasteSettings
    pool: CutOutPool | None = None
    keypoints: Mapping[int, Float[ndarray, "k 3"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._certain = replace(self.settings, p=1.0, source="batch")  # the base image's own source is drawn here
        self._points = max(map(len, self.keypoints.values()), default=0)
        self._none = OutlinedObjects(np.zeros((0, 4)), (), np.zeros(0, np.int64), np.zeros((0, self._points, 3)))
        self._objects = [self._objects_of(image) for image in self.annotations.images]
        self._sources = [index for index, objects in enumerate(self._objects) if objects.info.weights.any()]

    @property
    def can_paste(self) -> bool:
        """Whether there is anything to paste at all."""
        return bool(self._sources) or self.pool is not None

    def draw(self, base: BaseImage, copy: int, attempt: int, path: Path) -> DrawnImage | None:
        """What a new image is made of; None where this attempt pastes nothing on it.

        Args:
            base: its base image.
            copy: the number of this new image among those of the base image.
            attempt: counted up where what was drawn before pastes nothing that is visible.
            path: of the new image's file.
        """
        if self.settings.p < 1 and uniforms((), seeded_generator(self.seed, *base.key, copy)) >= self.settings.p:
            return self.unchanged(base, path)
        generator = seeded_generator(self.seed, *base.key, copy, attempt)
        source = self._draw_source(base, generator)
        infos = [self._info(base)] + ([] if source is None else [self._objects[source].info])
        masks = _OutlinedMasks([self._outlined(base), *([] if source is None else [self._objects[source]])], self.pool)
        plan = draw_plan(infos, self._certain, generator, pool=self.pool, masks=masks)
        rows = plan.target == 0
        if source is not None and source == base.index:
            rows &= ~torch.from_numpy(lies_on_original(plan.to_source.numpy()))
        plan = PastePlan(*(getattr(plan, column.name)[rows] for column in fields(PastePlan)))
        return self.of_plan(base, source, plan, path) if len(plan) else None

    def _draw_source(self, base: BaseImage, generator: torch.Generator) -> int | None:
        """The index of an image with objects that may be copied; None where there is none.

        Whether the base image is one of them, or the only one, is the setting ``source``.
        """
        place = len(self._sources) if base.index is None else bisect_left(self._sources, base.index)
        is_source = place < len(self._sources) and self._sources[place] == base.index
        if self.settings.source == "self":
            return base.index if is_source else None
        others = len(self._sources) - (is_source and self.settings.source == "batch")
        if not others:
            return None
        drawn = int(torch.randint(others, (), generator=generator))
        return self._sources[drawn + (is_source and self.settings.source == "batch" and drawn >= place)]

    def of_plan(self, base: BaseImage, source: int | None, plan: PastePlan, path: Path) -> DrawnImage:
        """The new image of a plan."""
        first = 1 if source is None else 2
        of_image = (plan.source == 1).numpy() if source is not None else np.zeros(len(plan), dtype=bool)
        copied = self._none if source is None else self._objects[source].outlined.take(plan.instance.numpy()[of_image])
        cut_outs = (
            tuple(self.pool.cut_out(int(number) - first) for number in plan.source[~of_image]) if self.pool else ()
        )
        numbered = replace(plan, source=plan.source.clone(), instance=torch.zeros_like(plan.instance))
        numbered.instance[of_image] = torch.arange(int(of_image.sum()))
        numbered.source[~of_image] = first + torch.arange(int((~of_image).sum()))
        own = self._none if base.index is None else self._objects[base.index].outlined
        file = None if source is None else self._file(source)
        return DrawnImage(plan, source, NewImage(path, base.file, own, file, copied, cut_outs, numbered))

    def unchanged(self, base: BaseImage, path: Path) -> DrawnImage:
        """A new image that is a copy of its base image."""
        plan = PastePlan.from_rows([])
        return DrawnImage(plan, None, NewImage(path, base.file, self._none, None, self._none, (), plan))

    def _info(self, base: BaseImage) -> ImageInfo:
        return self._outlined(base).info

    def _outlined(self, base: BaseImage) -> "_ImageObjects":
        if base.index is not None:
            return self._objects[base.index]
        return _ImageObjects(ImageInfo(*base.file.size, self._none.boxes, np.zeros(0)), self._none)

    def _size(self, index: int) -> tuple[int, int]:
        return self._objects[index].info.height, self._objects[index].info.width

    def _file(self, index: int) -> ImageFile:
        return ImageFile(self.folder / self.annotations.images[index].file_name, self._size(index))

    def _objects_of(self, image: CocoImage) -> _ImageObjects:
        objects = self.annotations.objects_of(image)
        boxes, labels, areas, iscrowd = (
            values.numpy()
            for values in (objects.boxes.double(), objects.labels, objects.area.double(), objects.iscrowd)
        )
        weights = copy_weights(labels, areas, image.height * image.width, self.settings) * (iscrowd == 0)
        ids = [annotation["id"] for annotation in self.annotations.annotations[image.id]]
        keypoints = np.zeros((len(ids), self._points, 3))
        for place, id_ in enumerate(ids):
            if id_ in self.keypoints:
                keypoints[place, : len(self.keypoints[id_])] = self.keypoints[id_]
        return _ImageObjects(
            ImageInfo(image.height, image.width, boxes, weights),
            OutlinedObjects(boxes, objects.segmentations, iscrowd, keypoints),
        )
