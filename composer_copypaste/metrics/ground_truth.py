"""The official annotations of a data set, whose own areas and crowds exact COCO numbers need."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pycocotools import mask as coco_mask

from composer_copypaste.errors import DataError, listed
from composer_copypaste.metrics.engine import CocoDict


@dataclass(frozen=True, eq=False)
class OfficialTruth:
    """A COCO instance file, indexed by image. It is never modified, so copies of a metric share it."""

    images: Mapping[int, CocoDict]
    annotations: Mapping[int, tuple[CocoDict, ...]]
    categories: Mapping[int, str]

    def __deepcopy__(self, memo: dict[int, object]) -> "OfficialTruth":
        return self

    def size(self, image_id: int) -> tuple[int, int]:
        """The image's height and width in pixels."""
        return self.images[image_id]["height"], self.images[image_id]["width"]


def official_truth(source: Path | CocoDict, *, masks: bool) -> OfficialTruth:
    """The annotations in a file or in its parsed content; ``masks`` says whether each must have a segmentation.

    Raises:
        DataError: where the file cannot be read, or lacks what an evaluation needs; the problems are listed together.
    """
    name = str(source) if isinstance(source, Path) else "annotations"
    data = _parsed(source) if isinstance(source, Path) else source
    if problems := list(_problems(data, masks)):
        raise DataError(listed(f"{name}: cannot be evaluated against", problems))
    annotations: dict[int, list[CocoDict]] = {image["id"]: [] for image in data["images"]}
    images = {image["id"]: image for image in data["images"]}
    for annotation in data["annotations"]:
        annotations[annotation["image_id"]].append(_complete(annotation, images[annotation["image_id"]]))
    return OfficialTruth(
        images=images,
        annotations={image: tuple(group) for image, group in annotations.items()},
        categories={category["id"]: category["name"] for category in data["categories"]},
    )


def _complete(annotation: CocoDict, image: CocoDict) -> CocoDict:
    """The annotation as the engines take it: nothing null, whole numbers for the size of a mask."""
    area = annotation.get("area")
    complete = {
        **annotation,
        "area": _area(annotation, image) if area is None else area,
        "iscrowd": annotation.get("iscrowd") or 0,
    }
    if isinstance(annotation.get("segmentation"), dict):
        complete["segmentation"] = {**annotation["segmentation"], "size": [image["height"], image["width"]]}
    return complete


def _area(annotation: CocoDict, image: CocoDict) -> float:
    """The number of pixels of an annotation's mask, or of its box where it has none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        return float(annotation["bbox"][2] * annotation["bbox"][3])
    if isinstance(segmentation, list) or isinstance(segmentation["counts"], list):
        segmentation = coco_mask.frPyObjects(segmentation, image["height"], image["width"])
    return float(coco_mask.area(coco_mask.merge(segmentation) if isinstance(segmentation, list) else segmentation))


def _parsed(path: Path) -> CocoDict:
    try:
        data: CocoDict = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file; expected COCO instance annotations (JSON)") from None
    except ValueError as error:
        raise DataError(f"{path}: expected COCO instance annotations, but this is no JSON: {error}") from None
    return data


def _problems(data: CocoDict, masks: bool) -> Iterator[str]:
    parts = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not data.keys() >= set(parts):
        yield f"expected an object with {', '.join(parts)}, got {', '.join(data) if isinstance(data, dict) else data}"
        return
    for place, image in enumerate(data["images"]):
        if absent := [key for key in ("id", "height", "width") if key not in image]:
            yield f"image {image.get('id', f'at position {place}')}: no {', '.join(absent)}"
    images = {image.get("id") for image in data["images"]}
    categories = {category.get("id") for category in data["categories"]}
    for place, annotation in enumerate(data["annotations"]):
        where = f"annotation {annotation.get('id', f'at position {place}')}"
        if annotation.get("image_id") not in images:
            yield f"{where}: no image has its image_id {annotation.get('image_id')}"
        if annotation.get("category_id") not in categories:
            yield f"{where}: no category has its category_id {annotation.get('category_id')}"
        if len(annotation.get("bbox", ())) != 4:
            yield f"{where}: expected a bbox [x, y, width, height], got {annotation.get('bbox')}"
        if masks and not annotation.get("segmentation"):
            yield f"{where}: no segmentation, which 'segm' needs; evaluate with iou_types=('bbox',)"
