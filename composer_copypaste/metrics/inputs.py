"""Predictions, targets and official annotations, checked and brought into the form that the metric keeps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from pycocotools import mask as coco_mask
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.data.annotation_json import CocoImage, ReadingOptions, Size, as_whole_number
from composer_copypaste.data.coco_json import LARGEST_ID, CocoAnnotations, garbage_collection_paused
from composer_copypaste.data.rle import count_encoded_pixels, rle_of_segmentation
from composer_copypaste.errors import as_json, count_noun
from composer_copypaste.files import read_json
from composer_copypaste.metrics.scores import Array, CocoDict


@dataclass(frozen=True)
class EncodedMasks:
    """The masks of one image as COCO's compressed run lengths; ``size`` is None where there is no mask to tell it."""

    size: Size | None
    counts: tuple[bytes, ...]

    def rles(self) -> list[CocoDict]:
        """The masks as COCO's dicts of size and counts."""
        return [{"size": list(self.size or ()), "counts": counts} for counts in self.counts]

    def areas(self) -> Float64[Array, " n"]:
        """The number of pixels of each mask."""
        # one at a time: pycocotools 2.0.11 overflows on a list of 256
        return np.array([coco_mask.area(rle) for rle in self.rles()], dtype=np.float64)


@dataclass(frozen=True)
class ScoredDetections:
    """The detections in one image. Boxes are COCO's: x, y, width, height."""

    boxes: Float64[Array, "n 4"]
    categories: Int64[Array, " n"]
    scores: Float64[Array, " n"]
    masks: EncodedMasks | None


@dataclass(frozen=True)
class GroundTruth:
    """The objects in one image. Boxes are COCO's: x, y, width, height."""

    boxes: Float64[Array, "n 4"]
    categories: Int64[Array, " n"]
    areas: Float64[Array, " n"]
    iscrowd: Int64[Array, " n"]
    masks: EncodedMasks | None

    def annotations(self) -> list[CocoDict]:
        """COCO's annotation of each object, without ``id`` and ``image_id``."""
        columns = {
            "bbox": self.boxes.tolist(),
            "category_id": self.categories.tolist(),
            "area": self.areas.tolist(),
            "iscrowd": self.iscrowd.tolist(),
        }
        if self.masks is not None:
            columns["segmentation"] = self.masks.rles()
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class ScoredImage:
    """An image's detections and, without official annotations, its ground truth."""

    size: Size | None
    detections: ScoredDetections
    truth: GroundTruth | None


IN_MEMORY = Path("annotations")
"""How messages name annotations that were not read from a file."""


@dataclass(frozen=True, eq=False)
class FileGroundTruth:
    """The annotations of a COCO instance file. They are never modified, so copies of a metric share them."""

    source: CocoAnnotations
    masks: bool
    """Whether masks are scored."""

    def __deepcopy__(self, memo: dict[int, object]) -> "FileGroundTruth":
        return self

    @cached_property
    def images(self) -> Mapping[int, CocoImage]:
        """The images by id."""
        return {image.id: image for image in self.source.images}

    @cached_property
    def categories(self) -> Mapping[int, str]:
        """The names of the categories by id."""
        return {category.id: category.name for category in self.source.categories}

    def size(self, image_id: int) -> tuple[int, int]:
        """The image's height and width in pixels."""
        image = self.images[image_id]
        return image.height, image.width

    def category_ids(self, image_id: int) -> set[int]:
        """The ids of the categories that have an object in the image."""
        return {annotation["category_id"] for annotation in self.source.annotations[image_id]}

    def truth(self, image_id: int) -> GroundTruth:
        """The image's objects; their masks are drawn once."""
        if image_id not in self._truths:
            annotations = self.source.annotations[image_id]
            size, masks = self.size(image_id), None
            if self.masks:
                codes = (rle_of_segmentation(annotation["segmentation"], size) for annotation in annotations)
                masks = EncodedMasks(size, tuple(code["counts"] for code in codes))
            self._truths[image_id] = GroundTruth(
                boxes=np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4),
                categories=np.array([annotation["category_id"] for annotation in annotations], dtype=np.int64),
                areas=np.array([annotation["area"] for annotation in annotations], dtype=np.float64),
                iscrowd=np.array([annotation["iscrowd"] for annotation in annotations], dtype=np.int64),
                masks=masks,
            )
        return self._truths[image_id]

    @cached_property
    def _truths(self) -> dict[int, GroundTruth]:
        return {}


def file_ground_truth(source: Path | CocoDict | CocoAnnotations, *, masks: bool) -> FileGroundTruth:
    """The annotations of a file, of its parsed content, or loaded before; with ``masks``, each must have an outline.

    Raises:
        DataError: where the file cannot be read, or cannot be scored against; the problems are listed together.
    """
    if isinstance(source, CocoAnnotations):
        return FileGroundTruth(source, masks)
    options = ReadingOptions(reads_images=False, outlines=masks)
    with garbage_collection_paused():
        path = source if isinstance(source, Path) else IN_MEMORY
        content = read_json(path, "annotation file") if isinstance(source, Path) else source
        if content is source and isinstance(content, dict) and isinstance(content.get("annotations"), list):
            content = {**content, "annotations": list(content["annotations"])}  # of_content empties the list
        return FileGroundTruth(CocoAnnotations.of_content(content, path, options), masks)


Fields = Mapping[str, Any]
"""A torchvision detection dict."""

MASK_THRESHOLD = 0.5
"""Mask probabilities above this are inside the mask, as in torchvision's reference evaluation."""


@dataclass(frozen=True)
class InputReader:
    """Reads predictions and targets.

    ``category_ids`` None: labels are category ids. ``official`` None: the ground truth is in the targets.
    """

    masks: bool
    """Whether masks are scored."""
    category_ids: tuple[int, ...] | None
    official: FileGroundTruth | None

    def read(self, prediction: Fields, target: Fields) -> ScoredImage:
        """Read the prediction and the target of one image.

        Raises:
            ValueError: where a field is missing or wrong, or the two disagree; the message names the image.
        """
        number = image_id(target)
        detections = self._detections(prediction, f"prediction for image {number}")
        truth = self._truth(target, f"target of image {number}") if self.official is None else None
        size = self._size(number, target, truth)
        found = None if detections.masks is None else detections.masks.size
        if size is not None and found is not None and size != found:
            raise ValueError(f"prediction for image {number}: expected masks of the original size {size} (height, "
                             f"width), got {found}. Resize predictions to the original image.")  # fmt: skip
        return ScoredImage(size or found, detections, truth)

    def ground_truth(self, number: int, image: ScoredImage) -> GroundTruth:
        """The objects of an image that was read: the official annotations', if there are any."""
        if image.truth is not None:
            return image.truth
        if self.official is None:
            raise ValueError(f"image {number} has no ground truth: it was read with official annotations")
        return self.official.truth(number)

    def _size(self, image: int, target: Fields, truth: GroundTruth | None) -> Size | None:
        if self.official is None:
            return None if truth is None or truth.masks is None else truth.masks.size
        if image not in self.official.images:
            raise ValueError(f"image {image} is not in the annotations: is the data set the one they belong to?")
        if "labels" in target:
            self._check_labels(self.official, image, target)
        return self.official.size(image)

    def _check_labels(self, official: FileGroundTruth, image: int, target: Fields) -> None:
        """Raise ``ValueError`` where a target has categories that its image lacks: its labels mean something else."""
        where = f"target of image {image}"
        given = set(self._categories(_field_array(target, "labels", where, torch.int64), where).tolist())
        if unknown := sorted(given - official.category_ids(image)):
            raise ValueError(f"{where}: its labels mean categories {unknown}, which the annotations do not have there. "
                             "Give category_ids, the category id of label 1, 2, ...")  # fmt: skip

    def _detections(self, fields: Fields, where: str) -> ScoredDetections:
        boxes, labels = _coco_boxes(fields, where), _numbers_per_box(fields, "labels", where, torch.int64)
        scores = _numbers_per_box(fields, "scores", where, torch.float64)
        if not np.isfinite(scores).all():
            raise ValueError(f"{where}: expected finite scores, got {scores.tolist()}. Has the training diverged?")
        masks = _encoded_masks(fields, len(boxes), where) if self.masks else None
        return ScoredDetections(boxes, self._categories(labels, where), scores, masks)

    def _truth(self, fields: Fields, where: str) -> GroundTruth:
        boxes, labels = _coco_boxes(fields, where), _numbers_per_box(fields, "labels", where, torch.int64)
        has_area = "area" in fields
        masks = (
            _encoded_masks(fields, len(boxes), where) if self.masks or ("masks" in fields and not has_area) else None
        )
        if has_area:
            areas = _numbers_per_box(fields, "area", where, torch.float64)
        else:
            areas = boxes[:, 2:].prod(axis=1) if masks is None else masks.areas()
        crowd = (
            _numbers_per_box(fields, "iscrowd", where, torch.int64) if "iscrowd" in fields else np.zeros_like(labels)
        )
        return GroundTruth(boxes, self._categories(labels, where), areas, crowd, masks)

    def _categories(self, labels: Int64[Array, " n"], where: str) -> Int64[Array, " n"]:
        """The category ids of labels."""
        largest = None if self.category_ids is None else len(self.category_ids)
        wrong = labels < 1 if largest is None else (labels < 1) | (labels > largest)
        if wrong.any():
            expected = "labels from 1" if largest is None else f"labels in 1..{largest}, one for each of category_ids"
            raise ValueError(f"{where}: expected {expected} (0 is the background), got {labels[wrong][0]}")
        return labels if self.category_ids is None else np.array(self.category_ids, dtype=np.int64)[labels - 1]


def image_id(target: Fields) -> int:
    """The id of the target's image.

    Raises:
        ValueError: where it has none, or one beyond 64 bits.
    """
    if "image_id" not in target:
        raise ValueError("a target has no 'image_id': each image needs its own, or it would be counted twice in a "
                         f"distributed evaluation; got {', '.join(map(repr, target))}")  # fmt: skip
    value = target["image_id"]
    holds_one = isinstance(value, Tensor | np.ndarray) and value.reshape(-1).shape == (1,)
    id_ = as_whole_number(value.item() if holds_one else value)
    if id_ is None:
        raise ValueError(f"image_id of a target: expected a whole number, got {value!r}")
    if abs(id_) > LARGEST_ID:
        raise ValueError(f"image_id of a target: expected at most {LARGEST_ID}, got {value!r}")
    return id_


def _coco_boxes(fields: Fields, where: str) -> Float64[Array, "n 4"]:
    """The field ``boxes``, x1, y1, x2, y2, as x, y, width, height."""
    corners = _field_array(fields, "boxes", where, torch.float64)
    if corners.size and corners.shape[1:] != (4,):
        raise ValueError(f"{where}: expected boxes of shape (n, 4), got {corners.shape}")
    corners = corners.reshape(-1, 4)
    if not np.isfinite(corners).all():
        wrong = corners[~np.isfinite(corners).all(axis=1)][0].tolist()
        raise ValueError(f"{where}: expected finite boxes, got {wrong}. Has the training diverged?")
    reversed_ = (corners[:, 2:] < corners[:, :2]).any(axis=1)
    if reversed_.any():
        raise ValueError(f"{where}: expected boxes x1, y1, x2, y2 with x2 not below x1 and y2 not below y1, got "
                         f"{corners[reversed_][0].tolist()}. Are they x, y, width, height?")  # fmt: skip
    return np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def _numbers_per_box(fields: Fields, name: str, where: str, dtype: torch.dtype) -> Array:
    """A field with one number for each box."""
    column = _field_array(fields, name, where, dtype)
    if column.shape != (len(fields["boxes"]),):
        raise ValueError(
            f"{where}: expected {name} for {count_noun(len(fields['boxes']), 'box', 'boxes')}, got shape {column.shape}"
        )
    return column


def _field_array(fields: Fields, name: str, where: str, dtype: torch.dtype) -> Array:
    if name not in fields:
        raise ValueError(f"{where}: expected '{name}', got only {', '.join(map(repr, fields))}")
    try:
        values = torch.as_tensor(fields[name]).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: expected numbers in {name}, got {fields[name]!r}") from None
    if dtype == torch.int64 and values.is_floating_point() and not torch.equal(values, values.round()):
        raise ValueError(f"{where}: expected whole numbers in {name}, got {values.tolist()}")
    return values.to(dtype, copy=True).numpy()


def _encoded_masks(fields: Fields, count: int, where: str) -> EncodedMasks:
    """The masks, one for each box, from run lengths or pixels."""
    if "rles" in fields:
        masks = _masks_from_rles(fields["rles"], where)
    elif "masks" in fields:
        masks = _masks_from_pixels(_planes(fields["masks"], where), where)
    elif count == 0:
        masks = EncodedMasks(size=None, counts=())
    else:
        raise ValueError(f"{where}: 'segm' needs 'masks' or 'rles', got {', '.join(map(repr, fields))}; "
                         "for boxes alone evaluate with iou_types=('bbox',)")  # fmt: skip
    if len(masks.counts) != count:
        raise ValueError(
            f"{where}: expected a mask for each of {count_noun(count, 'box', 'boxes')}, got {len(masks.counts)}"
        )
    return masks


def _masks_from_rles(rles: Sequence[Any], where: str) -> EncodedMasks:
    if wrong := [rle for rle in rles if not isinstance(rle, dict) or not rle.keys() >= {"size", "counts"}]:
        raise ValueError(f"{where}: expected rles with 'size' and 'counts', got {wrong[0]!r}")
    if not rles:
        return EncodedMasks(size=None, counts=())
    sizes = {tuple(rle["size"]) for rle in rles}
    height, width = map(as_whole_number, rles[0]["size"]) if len(rles[0]["size"]) == 2 else (None, None)
    if len(sizes) > 1 or height is None or width is None:
        raise ValueError(f"{where}: expected masks of one size (height, width), got {sorted(sizes)}")
    codes = tuple(_encoded_counts(rle["counts"], where) for rle in rles)
    pixels = count_encoded_pixels(codes)
    if (off := pixels != height * width).any():
        code, found = codes[off.argmax()], pixels[off.argmax()]
        said = "cannot be decoded" if found < 0 else f"sum to {count_noun(int(found), 'pixel')}"
        raise ValueError(
            f"{where}: expected run lengths of masks of {height} x {width} = {height * width} pixels, got some that "
            f"{said}: {code[:40]!r}"
        )
    return EncodedMasks(size=(height, width), counts=codes)


def _encoded_counts(counts: object, where: str) -> bytes:
    match counts:
        case str():
            return counts.encode()
        case bytes():
            return counts
    raise ValueError(
        f"{where}: expected compressed run lengths, text or bytes, got {counts!r}; pycocotools.mask.frPyObjects "
        "compresses numbers"
    )


def _planes(masks: object, where: str) -> Tensor:
    """Masks as a tensor, on the device that they are on."""
    try:
        return torch.as_tensor(masks.dense() if isinstance(masks, CompactMasks) else masks)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"{where}: expected numbers in masks, got {as_json(masks)}") from None


def _masks_from_pixels(planes: Tensor, where: str) -> EncodedMasks:
    """From masks of 0 and 1 (n, h, w), or from torchvision's probabilities (n, 1, h, w)."""
    if planes.ndim == 4 and planes.shape[1] == 1:
        planes = planes[:, 0]
    if planes.ndim != 3:
        raise ValueError(f"{where}: expected masks (n, h, w) or (n, 1, h, w), got shape {tuple(planes.shape)}")
    inside = planes > MASK_THRESHOLD if planes.is_floating_point() else planes != 0
    height, width = planes.shape[1:]
    columns_first = np.asfortranarray(inside.to(torch.uint8).permute(1, 2, 0).cpu().numpy())
    return EncodedMasks(size=(height, width), counts=tuple(rle["counts"] for rle in coco_mask.encode(columns_first)))
