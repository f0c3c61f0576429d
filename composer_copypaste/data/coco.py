"""COCO instance data sets: the annotation file, read and checked at once, and the data set of pictures and targets."""

import copy
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from composer_copypaste.data.check import coco_problems, has_no_extent
from composer_copypaste.data.checksums import checksum
from composer_copypaste.data.json_files import read_json
from composer_copypaste.data.outlines import OutlinedObjects, draw_masks
from composer_copypaste.data.pictures import read_picture
from composer_copypaste.data.records import Category, CocoAnnotation, CocoImage, outlined, parse_annotation
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform, generator_for
from composer_copypaste.errors import DataError, listed
from composer_copypaste.instances import Instances, Target
from composer_copypaste.settings import ImageSettings


@dataclass(frozen=True)
class CocoAnnotations:
    """A COCO instance file, checked.

    Images keep the file's order; categories are ordered by id, and category ``i`` has the label ``i + 1``: 0 is the
    background. ``annotations`` has an entry for every image id, empty where the picture shows no object.
    """

    path: Path
    images: tuple[CocoImage, ...] = field(repr=False)
    categories: tuple[Category, ...]
    annotations: Mapping[int, tuple[CocoAnnotation, ...]] = field(repr=False)

    @classmethod
    def load(cls, path: Path | str) -> "CocoAnnotations":
        """Read and check a file.

        Objects without any extent, of which COCO's own file has two, are left out with a warning.

        Raises:
            DataError: listing everything that is wrong with the file.
        """
        path = Path(path)
        data = read_json(path, "annotation file")
        problems = coco_problems(data)
        if problems:
            raise DataError(listed(str(path), problems))
        images = tuple(
            CocoImage(*(entry[key] for key in ("id", "file_name", "height", "width"))) for entry in data["images"]
        )
        categories = sorted((Category(entry["id"], entry["name"]) for entry in data["categories"]), key=lambda c: c.id)
        return cls(path, images, tuple(categories), _by_image(path, images, data["annotations"]))

    @property
    def category_ids(self) -> list[int]:
        """The file's category ids in the order of their labels."""
        return [category.id for category in self.categories]

    @property
    def num_classes(self) -> int:
        """The number of labels, the background included."""
        return len(self.categories) + 1

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {category.id: label for label, category in enumerate(self.categories, start=1)}

    def objects_of(self, image: CocoImage) -> OutlinedObjects:
        """The image's objects: annotated boxes cut at the picture's edge, annotated areas, masks as in the file."""
        return outlined(image, self.annotations[image.id], self._labels)


class InstanceData(Dataset[tuple[Tensor, Target]]):
    """Pictures and torchvision detection targets, wherever they come from.

    A picture is uint8 RGB (3, height, width). Without a transform its target holds the annotated boxes and areas.
    Transforms are drawn from (``seed``, epoch, index) alone: neither workers nor resumption change what comes out.
    """

    takes_epochs = True
    """Loaders give it (epoch, index)."""

    def __init__(
        self, transform: LargeScaleJitterTransform | FlipTransform | None = None, *, masks: bool = True, seed: int = 0
    ) -> None:
        if transform is not None and not masks:
            raise ValueError("masks=False is for evaluation, without a transform: transforms need the masks")
        self.transform = transform
        self.masks = masks
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """The number of pictures."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the pictures lie."""

    @property
    @abstractmethod
    def categories(self) -> tuple[Category, ...]:
        """What the labels 1, 2, ... stand for."""

    @property
    @abstractmethod
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all pictures."""

    @property
    @abstractmethod
    def annotations(self) -> CocoAnnotations:
        """All annotations, which evaluations take the truth from."""

    @property
    @abstractmethod
    def records(self) -> tuple[Path, ...]:
        """The files that say what the data set holds."""

    def digest(self) -> str:
        """A checksum of these files: equal for the same data, wherever it lies."""
        return checksum(path.read_bytes() for path in self.records)

    @abstractmethod
    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], OutlinedObjects]:
        """A picture as it is stored, from index 0 on, and its objects."""

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """The picture and target at an index, or at (epoch, index); an index alone is of epoch 0.

        Raises:
            DataError: naming the file, where the picture cannot be used.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image, picture, objects = self.read(index)
        if self.transform is not None:
            picture, instances = self.transform(picture, objects, generator_for(self.seed, epoch, index))
            return picture, _target(image, instances, masks=instances.masks)
        return picture.contiguous(), _target(image, objects, masks=draw_masks(objects) if self.masks else None)

    def with_masks(self) -> "InstanceData":
        """The same data as it is stored, with masks."""
        shown = copy.copy(self)
        shown.transform, shown.masks = None, True
        return shown


class CocoInstances(InstanceData):
    """Pictures and torchvision detection targets of a COCO instance data set.

    Args:
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON, or one that is loaded already.
        transform: what is done to picture and target, or None.
        masks: False leaves the masks out, and saves drawing them; for evaluation, which takes the truth from the file.
        seed: of the transforms.
        image_settings: how the images' files are read; None: the default settings.

    Raises:
        DataError: where the annotations cannot be used.
    """

    def __init__(
        self,
        images: Path | str,
        annotations: Path | str | CocoAnnotations,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: bool = True,
        seed: int = 0,
        image_settings: ImageSettings | None = None,
    ) -> None:
        super().__init__(transform, masks=masks, seed=seed)
        self.image_settings = image_settings
        self.images = Path(images)
        self._annotations = (
            annotations if isinstance(annotations, CocoAnnotations) else CocoAnnotations.load(annotations)
        )

    def __len__(self) -> int:
        return len(self.annotations.images)

    @property
    def place(self) -> str:
        """The folder of the pictures."""
        return str(self.images)

    @property
    def categories(self) -> tuple[Category, ...]:
        """What the labels 1, 2, ... stand for."""
        return self.annotations.categories

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all pictures."""
        return sum(len(annotations) for annotations in self.annotations.annotations.values())

    @property
    def records(self) -> tuple[Path, ...]:
        """The annotation file."""
        return (self.annotations.path,)

    @property
    def annotations(self) -> CocoAnnotations:
        """The annotation file's content."""
        return self._annotations

    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], OutlinedObjects]:
        """A picture as it is stored, from index 0 on, and its objects."""
        image = self.annotations.images[index]
        picture = read_picture(self.images / image.file_name, (image.height, image.width), settings=self.image_settings)
        return image, picture, self.annotations.objects_of(image)


def _target(image: CocoImage, objects: Instances | OutlinedObjects, *, masks: Tensor | None) -> Target:
    target: Target = {
        "boxes": objects.boxes,
        "labels": objects.labels,
        "area": objects.area,
        "iscrowd": objects.iscrowd,
    }
    if masks is not None:
        target["masks"] = masks
    return target | {"image_id": torch.tensor(image.id)}


def _by_image(
    path: Path, images: tuple[CocoImage, ...], entries: list[dict[str, Any]]
) -> dict[int, tuple[CocoAnnotation, ...]]:
    """The checked file's annotations, grouped by image; ``entries`` is emptied, to not hold a large file twice."""
    sizes = {image.id: (image.height, image.width) for image in images}
    groups: dict[int, list[CocoAnnotation]] = {image.id: [] for image in images}
    left_out = []
    entries.reverse()
    while entries:
        entry = entries.pop()
        if has_no_extent(entry):
            left_out.append(entry["id"])
        else:
            groups[entry["image_id"]].append(parse_annotation(entry, sizes[entry["image_id"]]))
    if left_out:
        warnings.warn(f"{path}: left out annotations of objects without any extent: {left_out}", stacklevel=3)
    return {image: tuple(annotations) for image, annotations in groups.items()}
