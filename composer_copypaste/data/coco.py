"""COCO instance data sets: the annotation file, read and checked at once, and the data set of pictures and targets."""

import json
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from jaxtyping import UInt8
from pycocotools import mask as coco_mask
from torch import Tensor
from torch.utils.data import Dataset

from composer_copypaste.data.check import coco_problems, has_no_extent
from composer_copypaste.data.outlines import OutlinedObjects, Segmentation, draw_masks, rle_of_polygons
from composer_copypaste.data.pictures import picture_problem, read_picture
from composer_copypaste.data.transforms import FlipTransform, LargeScaleJitterTransform, generator_for
from composer_copypaste.errors import DataError, listed
from composer_copypaste.instances import Instances, Target

_HEADER_THREADS = 16


@dataclass(frozen=True)
class Category:
    """A category as the file names it."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoImage:
    """A picture as the file describes it; ``file_name`` is relative to the image folder."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """An annotation with COCO's keys, and nothing else.

    Polygons are float64 arrays and run-length encodings compressed: a quarter of the memory of lists of numbers.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: Segmentation


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
        data = _read_json(path)
        problems = coco_problems(data)
        if problems:
            raise DataError(_report(str(path), problems))
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

    def label_of(self, category_id: int) -> int:
        """The label, 1 or more, of a category id."""
        return self._labels[category_id]

    @cached_property
    def _labels(self) -> dict[int, int]:
        return {category.id: label for label, category in enumerate(self.categories, start=1)}

    def objects_of(self, image: CocoImage) -> OutlinedObjects:
        """The image's objects: annotated boxes cut at the picture's edge, annotated areas, masks as in the file."""
        annotations = self.annotations[image.id]
        boxes = torch.tensor([annotation["bbox"] for annotation in annotations], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        limits = torch.tensor([image.width, image.height, image.width, image.height])
        return OutlinedObjects(
            size=(image.height, image.width),
            boxes=boxes.clamp(min=0).minimum(limits).float(),
            labels=torch.tensor([self._labels[a["category_id"]] for a in annotations], dtype=torch.int64),
            area=torch.tensor([annotation["area"] for annotation in annotations], dtype=torch.float32),
            iscrowd=torch.tensor([annotation["iscrowd"] for annotation in annotations], dtype=torch.int64),
            segmentations=tuple(annotation["segmentation"] for annotation in annotations),
        )


def check_pictures(annotations: CocoAnnotations, folder: Path) -> None:
    """Look at the header of every picture.

    Raises:
        DataError: listing the files that are missing, no pictures, or of another size than the annotations say.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder of pictures")

    def problem_of(image: CocoImage) -> str | None:
        problem = picture_problem(folder / image.file_name, (image.height, image.width))
        return problem and f"{image.file_name} (image {image.id}): {problem}"

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        problems = [problem for problem in pool.map(problem_of, annotations.images) if problem is not None]
    if problems:
        raise DataError(_report(str(folder), problems))


class CocoInstances(Dataset[tuple[Tensor, Target]]):
    """Pictures and torchvision detection targets of a COCO instance data set.

    A picture is uint8 RGB (3, height, width). Without a transform its target holds the annotated boxes and areas.
    Transforms are drawn from (``seed``, epoch, index) alone: neither workers nor resumption change what comes out.

    Args:
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON, or one that is loaded already.
        transform: what is done to picture and target, or None.
        masks: False leaves the masks out, and saves drawing them; for evaluation, which takes the truth from the file.
        seed: of the transforms.

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
    ) -> None:
        if transform is not None and not masks:
            raise ValueError("masks=False is for evaluation, without a transform: transforms need the masks")
        self.images = Path(images)
        self.annotations = (
            annotations if isinstance(annotations, CocoAnnotations) else CocoAnnotations.load(annotations)
        )
        self.transform = transform
        self.masks = masks
        self.seed = seed

    def __len__(self) -> int:
        return len(self.annotations.images)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[UInt8[Tensor, "3 h w"], Target]:
        """The picture and target at an index, or at (epoch, index); an index alone is of epoch 0.

        Raises:
            DataError: naming the file, where the picture cannot be used.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        index = range(len(self))[index]
        image = self.annotations.images[index]
        picture = read_picture(self.images / image.file_name, (image.height, image.width))
        objects = self.annotations.objects_of(image)
        if self.transform is not None:
            picture, instances = self.transform(picture, objects, generator_for(self.seed, epoch, index))
            return picture, _target(image, instances, masks=instances.masks)
        return picture.contiguous(), _target(image, objects, masks=draw_masks(objects) if self.masks else None)


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


def _report(place: str, problems: list[str]) -> str:
    """One line for one problem; a heading and a list for several."""
    if len(problems) == 1:
        return f"{place}: {problems[0]}"
    return listed(f"{place}: {len(problems)} problems", problems)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such annotation file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid JSON: byte {error.start} is not UTF-8") from None


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
            groups[entry["image_id"]].append(_annotation(entry, sizes[entry["image_id"]]))
    if left_out:
        warnings.warn(f"{path}: left out annotations of objects without any extent: {left_out}", stacklevel=3)
    return {image: tuple(annotations) for image, annotations in groups.items()}


def _annotation(entry: dict[str, Any], size: tuple[int, int]) -> CocoAnnotation:
    """A checked annotation; a missing area is computed, a missing ``iscrowd`` is 0."""
    segmentation = _segmentation(entry["segmentation"], size)
    area = entry.get("area")
    if area is None:
        rle = rle_of_polygons(segmentation, size) if isinstance(segmentation, list) else segmentation
        area = coco_mask.area(rle)
    return {
        "id": entry["id"],
        "image_id": entry["image_id"],
        "category_id": entry["category_id"],
        "bbox": entry["bbox"],
        "area": float(area),
        "iscrowd": entry.get("iscrowd") or 0,
        "segmentation": segmentation,
    }


def _segmentation(value: Any, size: tuple[int, int]) -> Segmentation:
    if isinstance(value, list):
        return [np.array(part, dtype=np.float64) for part in value]
    if isinstance(value["counts"], str):
        return {"size": value["size"], "counts": value["counts"].encode()}
    return coco_mask.frPyObjects(value, *size)
