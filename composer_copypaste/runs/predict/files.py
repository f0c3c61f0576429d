"""The files of predictions: COCO results, annotations for labelling tools, and images with the objects drawn."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from composer_copypaste.data.annotation_json import Category, Json
from composer_copypaste.data.coco_write import EncodedJson, encode_entry, write_coco, write_coco_results
from composer_copypaste.data.image_inputs import ImageInputs, InputImage
from composer_copypaste.data.outlines import annotation_fields, mask_of_rle, without_holes
from composer_copypaste.errors import count_noun, warn_of_data
from composer_copypaste.models.prediction import Prediction
from composer_copypaste.runs.predict.records import ImageRecord
from composer_copypaste.visualize.draw import draw_instances, save_png

RESULTS, IMAGES, ANNOTATIONS, DRAWN = "results.json", "images.json", "annotations.json", "drawn"

SURE_SCORE = 0.5
"""Annotations and overlays have the objects of at least this score, unless the user gives another."""

_LARGEST_LABEL = 0.5
"""As a share of its object: larger names and scores are drawn outside of it, so as not to hide it."""

Done = tuple[InputImage, ImageRecord]


def write_results(path: Path, done: Iterable[Done], score: float) -> tuple[int, int]:
    """Write the COCO results file; the number of results, and how many of them have at least this score."""
    written = reached = 0

    def entries() -> Iterator[EncodedJson]:
        nonlocal written, reached
        for _, record in done:
            for result in record.results:
                yield encode_entry(result)
                written += 1
                reached += result["score"] >= score

    write_coco_results(path, entries())
    return written, reached


def write_image_list(path: Path, done: Iterable[Done], inputs: ImageInputs, categories: Mapping[int, Category]) -> None:
    """Write a COCO file of images and categories, to which the results belong."""
    write_coco(path, {"categories": _category_entries(categories, inputs), "images": _image_entries(done, inputs)})


def write_annotations(
    path: Path,
    done: Callable[[], Iterator[Done]],
    inputs: ImageInputs,
    categories: Mapping[int, Category],
    score: float,
) -> None:
    """Write the objects of at least this score as a COCO annotation file; an object without a pixel is left out.

    Masks are polygons that pycocotools draws as the same pixels, with the largest part of an object first. Holes are
    filled, of which a warning tells: labelling tools know no polygons with holes, and some cannot read run lengths.
    Objects of a detector that finds boxes alone have no polygon.
    What else the COCO file of the images has stays in it. Each annotation also has its score.
    """
    kept = {key: value for key, value in inputs.content.items() if key not in ("images", "categories")}
    annotations = list(_annotation_entries(done(), score))
    filled = sum(had_holes for _, had_holes in annotations)
    if filled:
        warn_of_data(f"{path}: filled the holes of {count_noun(filled, 'object')}, which polygons cannot have")
    lists = {
        "categories": _category_entries(categories, inputs),
        "images": _image_entries(done(), inputs),
        "annotations": [entry for entry, _ in annotations],
    }
    write_coco(path, kept | lists)


def _category_entries(categories: Mapping[int, Category], inputs: ImageInputs) -> list[Json]:
    """An entry for each category: that of the images' COCO file, or a new one."""
    given = {int(entry["id"]): entry for entry in inputs.content.get("categories") or []}
    ordered = sorted(categories.values(), key=lambda category: category.id)
    return [given.get(category.id) or {"id": category.id, "name": category.name} for category in ordered]


def _image_entries(done: Iterable[Done], inputs: ImageInputs) -> list[Json]:
    """An entry for each image that was read: that of the images' COCO file, or a new one."""
    given = {int(entry["id"]): entry for entry in inputs.content.get("images", [])}
    return [
        given.get(image.id)
        or {"id": image.id, "file_name": image.file_name, "height": record.size[0], "width": record.size[1]}
        for image, record in done
        if record.size is not None
    ]


def _annotation_entries(done: Iterable[Done], score: float) -> Iterator[tuple[EncodedJson, bool]]:
    """The annotations, and whether holes were filled in each."""
    number = 0
    for _, record in done:
        for result in record.results:
            if "segmentation" not in result:
                if result["score"] >= score:
                    number += 1
                    yield encode_entry({"id": number, "iscrowd": 0, **result, **_fields_of_box(result["bbox"])}), False
                continue
            code = result["segmentation"]
            mask = mask_of_rle({"size": code["size"], "counts": code["counts"].encode()})
            if mask is None or result["score"] < score:
                continue
            number += 1
            ids = {"id": number, "image_id": result["image_id"], "category_id": result["category_id"], "iscrowd": 0}
            solid = without_holes(mask)
            fields = annotation_fields(solid, (code["size"][0], code["size"][1]))
            fields["segmentation"] = _largest_first(fields["segmentation"])
            yield encode_entry(ids | {"score": result["score"]} | fields), solid.area > mask.area


def _fields_of_box(box: Sequence[float]) -> Json:
    """The fields of an annotation that has a box alone; its area is that of the box."""
    return {"segmentation": [], "area": round(box[2] * box[3], 3)}


def _largest_first(outline: EncodedJson) -> EncodedJson:
    """The polygons [[x1, y1, x2, y2, ...], ...] as JSON, with the largest first: some tools read no others."""
    if outline.count("[") <= 2:
        return outline
    parts = sorted(json.loads(outline), key=_polygon_area, reverse=True)
    return EncodedJson(json.dumps(parts, separators=(",", ":")))


def _polygon_area(points: Sequence[float | int]) -> float:
    x, y = np.array(points[::2]), np.array(points[1::2])
    return abs(float(x @ np.roll(y, 1) - y @ np.roll(x, 1))) / 2


def overlay_names(images: Sequence[InputImage]) -> dict[int, str]:
    """The name of each image's overlay, by the image's id: its own with the ending .png.

    Where two would be the same, as of a.jpg and a.tif, the ending is appended.
    """
    names = {image.id: _overlay_candidates(image) for image in images}
    taken = Counter(short for short, _ in names.values())
    return {id_: long if taken[short] > 1 else short for id_, (short, long) in names.items()}


def _overlay_candidates(image: InputImage) -> tuple[str, str]:
    """An overlay's name without and with the ending of its image."""
    name = PurePosixPath(image.file_name.replace("\\", "/"))
    return str(name.with_suffix(".png")), f"{name}.png"


def remove_former_overlays(folder: Path, images: Iterable[InputImage], overlays: Mapping[int, str]) -> None:
    """Remove overlays under names that images had before one of the same name, but for the ending, was added."""
    for name in {name for image in images for name in _overlay_candidates(image)} - set(overlays.values()):
        (folder / name).unlink(missing_ok=True)


def draw_prediction(image: UInt8[Tensor, "3 h w"], found: Prediction, path: Path) -> None:
    """Write the image with its objects' masks, boxes, names and scores as a PNG file."""
    names = [
        found.categories[label].name if label in found.categories else str(label)
        for label in range(1, max(found.categories, default=0) + 1)
    ]
    objects: dict[str, object] = {"boxes": found.boxes, "scores": found.scores, "labels": found.labels}
    objects |= {} if found.rles is None else {"rles": found.rles}
    save_png(draw_instances(image, objects, names, largest_label=_LARGEST_LABEL), path)
