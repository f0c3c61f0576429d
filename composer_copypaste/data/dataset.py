"""COCO instance data sets: the annotation file, read and checked at once, and the data set of images and targets."""

import copy
import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.utils.data import Dataset

from composer_copypaste.data.coco_json import BadObjects, Crowds, ReadingOptions, Spelling, in_python, read_content
from composer_copypaste.data.file_names import located
from composer_copypaste.data.images import read_image
from composer_copypaste.data.json_files import garbage_collection_paused, read_json
from composer_copypaste.data.records import Category, CocoAnnotation, CocoImage, labels_of, outlined
from composer_copypaste.data.rle import OutlinedObjects, draw_masks
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform, generator_for
from composer_copypaste.instances import Instances, Target
from composer_copypaste.settings import ImageSettings


def checksum(parts: Iterable[bytes]) -> str:
    """A SHA-256 of the parts in their order; the same bytes parted otherwise have another."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


@dataclass(frozen=True)
class CocoAnnotations:
    """A COCO instance file, checked.

    Images keep the file's order; category ``i`` of ``categories`` has the label ``i + 1``: 0 is the background.
    Categories are ordered by id, unless ``with_categories`` gave another order. ``annotations`` has an entry for every
    image id, empty where the image shows no object.
    """

    path: Path
    images: tuple[CocoImage, ...] = field(repr=False)
    categories: tuple[Category, ...]
    annotations: Mapping[int, tuple[CocoAnnotation, ...]] = field(repr=False)

    @classmethod
    def load(
        cls,
        path: Path | str,
        *,
        crowds: Crowds = None,
        bad_objects: BadObjects = "refuse",
        spelling: Spelling = in_python,
    ) -> "CocoAnnotations":
        """Read and check a file.

        Whole numbers may be written 7.0, boxes, areas and the annotations' ids may be missing, and polygons may be
        kwcoco's, with holes. Objects without any extent, of which COCO's own file has two, are left out with a warning,
        as are parts of one or two points beside real ones.

        Args:
            path: a COCO instance JSON.
            crowds: "objects" takes annotations that are marked as crowds for single objects, "ignore" for crowds. None:
                for crowds, but a file that marks all so is refused, and one that differs from COCO's own, or marks all
                run lengths, is warned of: several tools mark single objects.
            bad_objects: whether an object whose outline, box or area cannot be used is refused, or left out with a
                warning ("leave_out").
            spelling: how the user gives these two, for messages.

        Raises:
            DataError: listing everything that is wrong with the file.
            ValueError: where ``crowds`` or ``bad_objects`` is none of these.
        """
        options = ReadingOptions(crowds, bad_objects, spelling)
        path = Path(path)
        with garbage_collection_paused():
            return cls.of_content(read_json(path, "annotation file"), path, options)

    @classmethod
    def of_content(cls, data: object, path: Path, options: ReadingOptions) -> "CocoAnnotations":
        """Check parsed JSON; its list of annotations is emptied. ``path`` is where it was read, for messages."""
        content = read_content(data, str(path), options)
        return cls(path, content.images, content.categories, content.annotations)

    def with_categories(self, categories: tuple[Category, ...]) -> "CocoAnnotations":
        """The same with labels 1, 2, ... for these categories, all of the file's."""
        return replace(self, categories=categories)

    @property
    def category_ids(self) -> list[int]:
        """The file's category ids in the order of their labels."""
        return [category.id for category in self.categories]

    @property
    def num_classes(self) -> int:
        """The number of labels, the background included."""
        return len(self.categories) + 1

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included."""
        return sum(map(len, self.annotations.values()))

    @property
    def num_crowds(self) -> int:
        """The number of these that are crowds."""
        return sum(annotation["iscrowd"] for group in self.annotations.values() for annotation in group)

    @cached_property
    def _labels(self) -> dict[int, int]:
        return labels_of(self.categories)

    def objects_of(self, image: CocoImage) -> OutlinedObjects:
        """The image's objects: annotated boxes cut at the image's edge, annotated areas, masks as in the file."""
        return outlined(image, self.annotations[image.id], self._labels)


def in_folder(annotations: CocoAnnotations, folder: Path) -> CocoAnnotations:
    """The annotations with file names that lie in the folder, where other ones can be found in it by their ends.

    Raises:
        DataError: listing the names that lead out of the folder, or nowhere.
    """
    return replace(annotations, images=located(annotations.images, folder, str(annotations.path)))


class InstanceData(Dataset[tuple[Tensor, Target]]):
    """Images and torchvision detection targets, wherever they come from.

    An image is uint8 RGB (3, height, width). Without a transform its target holds the annotated boxes and areas.
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
        """The number of images."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the images lie."""

    @property
    @abstractmethod
    def categories(self) -> tuple[Category, ...]:
        """What the labels 1, 2, ... stand for."""

    @property
    @abstractmethod
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all images."""

    @property
    @abstractmethod
    def num_crowds(self) -> int | None:
        """The number of these that are crowds; None where shards do not say it."""

    @property
    @abstractmethod
    def annotations(self) -> CocoAnnotations:
        """All annotations, which evaluations take the truth from."""

    @abstractmethod
    def with_categories(self, categories: tuple[Category, ...]) -> "InstanceData":
        """The same data with labels 1, 2, ... for these categories, which must be all of its own."""

    @property
    @abstractmethod
    def records(self) -> tuple[Path, ...]:
        """The files that say what the data set holds."""

    def digest(self) -> str:
        """A checksum of these files: equal for the same data, wherever it lies."""
        return checksum(path.read_bytes() for path in self.records)

    @abstractmethod
    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], OutlinedObjects]:
        """A pixels as it is stored, from index 0 on, and its objects."""

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """The pixels and target at an index, or at (epoch, index); an index alone is of epoch 0.

        Raises:
            DataError: naming the file, where the pixels cannot be used.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image, pixels, objects = self.read(index)
        if self.transform is not None:
            pixels, instances = self.transform(pixels, objects, generator_for(self.seed, epoch, index))
            return pixels, _target(image, instances, masks=instances.masks)
        return pixels.contiguous(), _target(image, objects, masks=draw_masks(objects) if self.masks else None)


class CocoInstances(InstanceData):
    """Images and torchvision detection targets of a COCO instance data set.

    Args:
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON, or one that is loaded already.
        transform: what is done to image and target, or None.
        masks: False leaves the masks out, and saves drawing them; for evaluation, which takes the truth from the file.
        seed: of the transforms.
        image_settings: how the images' files are read; None: the default settings.
        crowds: of a file, see ``CocoAnnotations.load``, which can also leave out bad objects.

    Raises:
        DataError: where the annotations cannot be used, or name files outside the folder.
        ValueError: where ``crowds`` is none of these, or given with what is loaded already.
    """

    def __init__(  # noqa: PLR0913 - by name, and each of its own kind
        self,
        images: Path | str,
        annotations: Path | str | CocoAnnotations,
        transform: LargeScaleJitterTransform | FlipTransform | None = None,
        *,
        masks: bool = True,
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
        self._annotations = in_folder(annotations, self.images)

    def __len__(self) -> int:
        return len(self.annotations.images)

    @property
    def place(self) -> str:
        """The folder of the images."""
        return str(self.images)

    @property
    def categories(self) -> tuple[Category, ...]:
        """What the labels 1, 2, ... stand for."""
        return self.annotations.categories

    @property
    def num_objects(self) -> int:
        """The number of objects, crowds included, in all images."""
        return self.annotations.num_objects

    @property
    def num_crowds(self) -> int:
        """The number of these that are crowds."""
        return self.annotations.num_crowds

    @property
    def records(self) -> tuple[Path, ...]:
        """The annotation file."""
        return (self.annotations.path,)

    @property
    def annotations(self) -> CocoAnnotations:
        """The annotation file's content."""
        return self._annotations

    def with_categories(self, categories: tuple[Category, ...]) -> "CocoInstances":
        """The same data with labels 1, 2, ... for these categories, which must be all of its own."""
        same = copy.copy(self)
        same._annotations = self._annotations.with_categories(categories)
        return same

    def read(self, index: int) -> tuple[CocoImage, UInt8[Tensor, "3 h w"], OutlinedObjects]:
        """A pixels as it is stored, from index 0 on, and its objects."""
        image = self.annotations.images[index]
        pixels = read_image(self.images / image.file_name, (image.height, image.width), settings=self.image_settings)
        return image, pixels, self.annotations.objects_of(image)


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
