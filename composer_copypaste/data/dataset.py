"""COCO data sets for training and evaluation: images and torchvision detection targets."""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from composer_copypaste.compact_masks import as_compact
from composer_copypaste.data.annotation_json import Category, CocoImage, Crowds
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import with_file_names_in_folder
from composer_copypaste.data.images import StoredImage
from composer_copypaste.data.rle import AnnotatedObjects, draw_masks, draw_planes
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform, seeded_generator
from composer_copypaste.errors import count_noun
from composer_copypaste.instances import Instances, Target
from composer_copypaste.settings import ImageSettings


def checksum(parts: Iterable[bytes]) -> str:
    """A SHA-256 of several byte strings; it depends on their order, and on where one ends and the next begins."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


MaskForm = bool | Literal["compact"]


class InstanceData(Dataset[tuple[Tensor, Target]]):
    """Images and torchvision detection targets, from a folder or from shards.

    An image is uint8 RGB (3, height, width). Without a transform, its target holds the annotated boxes and areas.
    Transforms are drawn from (``seed``, epoch, index) alone, so the number of workers and a resumption change nothing.
    """

    takes_epochs = True
    """Tells loaders to index with (epoch, index)."""

    def __init__(
        self,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: MaskForm = True,
        seed: int = 0,
    ) -> None:
        self.transform = transform
        self.masks = masks
        self.seed = seed

    @abstractmethod
    def __len__(self) -> int:
        """The number of images."""

    @property
    @abstractmethod
    def place(self) -> str:
        """The folder or the URL of the images, for messages."""

    @property
    @abstractmethod
    def annotations(self) -> CocoAnnotations:
        """All annotations: the ground truth of evaluations."""

    @property
    def categories(self) -> tuple[Category, ...]:
        """The categories of the labels 1, 2, ..."""
        return self.annotations.categories

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all images."""
        return self.annotations.num_objects

    @property
    def num_crowds(self) -> int:
        """The number of crowds in all images."""
        return self.annotations.num_crowds

    @abstractmethod
    def with_categories(self, categories: tuple[Category, ...]) -> "InstanceData":
        """The same data with labels 1, 2, ... for these categories, which must include all of its own."""

    @property
    @abstractmethod
    def records(self) -> tuple[Path, ...]:
        """The files that describe the content of the data set."""

    def digest(self) -> str:
        """A checksum of the ``records``: the same wherever the data lies."""
        return checksum(path.read_bytes() for path in self.records)

    @abstractmethod
    def stored(self, index: int) -> tuple[CocoImage, StoredImage, AnnotatedObjects]:
        """The record, the file and the objects of an image; indices start from 0."""

    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], AnnotatedObjects]:
        """The record, the pixels as stored, and the objects of an image; indices start from 0."""
        image, stored, objects = self.stored(index)
        return image, stored.read(), objects

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """The image and its target at an index, in epoch 0, or at (epoch, index).

        Raises:
            DataError: naming the file, where the image cannot be used.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image, stored, annotated = self.stored(index)
        objects: AnnotatedObjects | Instances = annotated
        if self.transform is None:
            pixels = stored.read()
        else:
            without = {} if self.masks else {"masks": False}
            pixels, objects = self.transform(stored, annotated, seeded_generator(self.seed, epoch, index), **without)
        target: Target = {
            "boxes": objects.boxes,
            "labels": objects.labels,
            "area": objects.area,
            "iscrowd": objects.iscrowd,
        }
        if self.masks:
            masks = draw_masks(objects) if isinstance(objects, AnnotatedObjects) else as_compact(objects.masks)
            target["masks"] = masks if self.masks == "compact" else draw_planes(masks)
        return pixels.contiguous(), target | {"image_id": torch.tensor(image.id)}


class CocoInstances(InstanceData):
    """Images and torchvision detection targets of a COCO instance data set.

    Args:
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON, or annotations that are already loaded.
        transform: applied to image and target; None: no transform.
        masks: "compact" gives them as ``CompactMasks``, a thirtieth of the memory of planes, which True gives. False
            leaves them out, and the time to draw them: evaluations take the masks from the file. A transform then moves
            the annotated boxes, for detectors that are trained by boxes.
        seed: of the transforms.
        image_settings: how the images' files are read; None: the default settings.
        crowds: how annotations marked as crowds are read, see ``CocoAnnotations.load``; only with a file.

    Raises:
        DataError: where the annotations cannot be used, or name files outside the folder.
        ValueError: where ``crowds`` has another value, or is given with loaded annotations.
    """

    def __init__(  # noqa: PLR0913 - by name, and each of its own kind
        self,
        images: Path | str,
        annotations: Path | str | CocoAnnotations,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: MaskForm = True,
        seed: int = 0,
        image_settings: ImageSettings | None = None,
        crowds: Crowds = None,
    ) -> None:
        super().__init__(transform, masks=masks, seed=seed)
        self.image_settings = image_settings
        self.images = Path(images)
        if not isinstance(annotations, CocoAnnotations):
            annotations = CocoAnnotations.load(annotations, crowds=crowds)
        elif crowds is not None:
            raise ValueError("crowds: expected with a file; of loaded annotations, CocoAnnotations.load has it")
        self._annotations = with_file_names_in_folder(annotations, self.images)

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({count_noun(len(self), 'image')} of {self.place})"

    @property
    def place(self) -> str:
        """The folder of the images."""
        return str(self.images)

    @property
    def records(self) -> tuple[Path, ...]:
        """The annotation file."""
        return (self.annotations.path,)

    @property
    def annotations(self) -> CocoAnnotations:
        """The annotation file's content."""
        return self._annotations

    def with_categories(self, categories: tuple[Category, ...]) -> "CocoInstances":
        """The same data with labels 1, 2, ... for these categories, which must include all of its own."""
        same = copy.copy(self)
        same._annotations = self._annotations.with_categories(categories)
        return same

    def stored(self, index: int) -> tuple[CocoImage, StoredImage, AnnotatedObjects]:
        """The record, the file and the objects of an image; indices start from 0."""
        image = self.annotations.images[index]
        size, path = (image.height, image.width), self.images / image.file_name
        return image, StoredImage(path, size, settings=self.image_settings), self.annotations.objects_of(image)
