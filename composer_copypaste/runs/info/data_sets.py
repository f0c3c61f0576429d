"""What a COCO file holds: a data set, images of a test set, or results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy import ndarray

from composer_copypaste.data.annotation_tools import recognise_tool
from composer_copypaste.data.coco_json import CocoAnnotations, garbage_collection_paused
from composer_copypaste.data.image_files import check_images, with_file_names_in_folder
from composer_copypaste.data.inspection import Inspection, inspect_annotations
from composer_copypaste.errors import DataError
from composer_copypaste.metrics.results import CocoResults, read_results
from composer_copypaste.runs.data import recipe_spelling
from composer_copypaste.runs.info.description import Description, InfoTable, Value
from composer_copypaste.visualize.object_plots import (
    LARGE_AREA,
    SMALL_AREA,
    draw_areas,
    draw_categories,
    draw_numbers,
    draw_scores,
)

SIZE_NAMES = ("small", "medium", "large")
MOST_CATEGORIES = 25
"""Categories in the plot, those with the most objects."""
_AREA_TITLE = "dashed: COCO's limits of small and large objects"


@dataclass(frozen=True, eq=False)
class _Objects:
    """The objects of a file in columns, without crowds; images and categories are indices."""

    areas: ndarray
    categories: ndarray
    images: ndarray
    names: Sequence[str]
    number_of_images: int

    @property
    def per_image(self) -> ndarray:
        """The number of objects in each image."""
        return np.bincount(self.images, minlength=self.number_of_images)

    @property
    def sizes(self) -> ndarray:
        """0, 1 or 2 for small, medium and large objects, by COCO's limits."""
        return np.digitize(self.areas, (SMALL_AREA, LARGE_AREA))


def describe_annotations(content: object, path: Path, images: Path | None = None) -> Description:
    """What a COCO file holds; with ``images``, their folder, the header of each image is read too.

    Raises:
        DataError: where it is no COCO file.
    """
    tool = recognise_tool(content)
    with garbage_collection_paused():
        found = inspect_annotations(content, path, recipe_spelling)
    tool_fact: dict[str, Value] = {} if tool is None else {"tool": tool}
    problems = [*found.problems, *(_image_problems(found, images) if images is not None else [])]
    if not found.has_annotations:
        return Description(
            path,
            "images of a COCO file without annotations, as of test sets",
            tool_fact | _image_facts(found) | {"categories": len(found.categories)},
            problems=problems,
            warnings=found.warnings,
        )
    objects, crowds = _columns(found), _crowds_by_category(found)
    return Description(
        path,
        "a COCO data set",
        tool_fact | _image_facts(found) | _object_facts(found, objects),
        [_category_table(found, objects, crowds)],
        problems,
        found.warnings,
        partial(_draw, objects),
    )


def _image_problems(found: Inspection, folder: Path) -> list[str]:
    """What is wrong with the files of the images."""
    annotations = CocoAnnotations(found.path, tuple(found.images.values()), found.categories, {})
    try:
        check_images(with_file_names_in_folder(annotations, folder), folder)
    except DataError as error:
        first, *others = str(error).splitlines()
        return [line.strip() for line in others] or [first]
    return []


def _image_facts(found: Inspection) -> dict[str, Value]:
    sizes = [f"{image.width} x {image.height}" for image in found.images.values()]
    pixels = np.array([image.width * image.height for image in found.images.values()])
    facts: dict[str, Value] = {"images": len(sizes)}
    if len(sizes):
        smallest, largest = sizes[int(pixels.argmin())], sizes[int(pixels.argmax())]
        facts["size (width x height)"] = smallest if len(set(sizes)) == 1 else f"{smallest} to {largest}"
        facts["different sizes"] = len(set(sizes))
    return facts


def _columns(found: Inspection) -> _Objects:
    numbers = {image: number for number, image in enumerate(found.images)}
    indices = {category.id: number for number, category in enumerate(found.categories)}
    chosen = [a for group in found.groups.values() for a in group if not a["iscrowd"]]
    return _Objects(
        np.array([annotation["area"] for annotation in chosen], dtype=np.float64),
        np.array([indices[annotation["category_id"]] for annotation in chosen], dtype=np.int64),
        np.array([numbers[annotation["image_id"]] for annotation in chosen], dtype=np.int64),
        [category.name for category in found.categories],
        len(numbers),
    )


def _crowds_by_category(found: Inspection) -> Mapping[int, int]:
    counts = dict.fromkeys((category.id for category in found.categories), 0)
    for group in found.groups.values():
        for annotation in group:
            counts[annotation["category_id"]] += annotation["iscrowd"]
    return counts


def _object_facts(found: Inspection, objects: _Objects) -> dict[str, Value]:
    per_image = objects.per_image
    outlines = [annotation["segmentation"] for group in found.groups.values() for annotation in group]
    crowds = sum(annotation["iscrowd"] for group in found.groups.values() for annotation in group)
    polygons = sum(isinstance(outline, list) and bool(outline) for outline in outlines)
    return {
        "images without objects": int((per_image == 0).sum()),
        "objects": len(objects.areas),
        "crowds": crowds,
        "categories": len(found.categories),
        "categories without objects": len(found.categories) - len(np.unique(objects.categories)),
        "objects in an image, median": float(np.median(per_image)) if len(per_image) else None,
        "objects in an image, most": int(per_image.max(initial=0)),
        "area in pixels, median": float(np.median(objects.areas)) if len(objects.areas) else None,
        **_size_facts(objects),
        "outlines as polygons": polygons,
        "outlines as run lengths": sum(not isinstance(outline, list) for outline in outlines),
    }


def _size_facts(objects: _Objects) -> dict[str, Value]:
    limits = (f"area below {SMALL_AREA:,}", f"area below {LARGE_AREA:,}", "larger")
    counts = np.bincount(objects.sizes, minlength=3).tolist()
    return {f"{name} objects ({limit})": n for name, limit, n in zip(SIZE_NAMES, limits, counts, strict=True)}


def _category_table(found: Inspection, objects: _Objects, crowds: Mapping[int, int]) -> InfoTable:
    rows: list[list[Value]] = []
    by_size = np.bincount(objects.categories * 3 + objects.sizes, minlength=3 * len(found.categories)).reshape(-1, 3)
    pairs = np.unique(objects.categories * max(1, objects.number_of_images) + objects.images)
    in_images = np.bincount(pairs // max(1, objects.number_of_images), minlength=len(found.categories))
    for number, category in enumerate(found.categories):
        areas = objects.areas[objects.categories == number]
        rows.append(
            [
                category.name,
                category.id,
                len(areas),
                int(in_images[number]),
                crowds[category.id],
                *by_size[number].tolist(),
                float(np.median(areas)) if len(areas) else None,
            ]
        )
    headers = ["category", "id", "objects", "images", "crowds", *SIZE_NAMES, "median area"]
    return InfoTable("categories", headers, sorted(rows, key=lambda row: -int(row[2] or 0)))


def _draw(objects: _Objects) -> Figure:
    figure = Figure(figsize=(15, max(4.5, 1.2 + 0.24 * min(len(objects.names), MOST_CATEGORIES))), layout="constrained")
    areas, numbers, categories = figure.subplots(1, 3)
    draw_areas(areas, {"": objects.areas})
    areas.set_title(_AREA_TITLE, fontsize="medium")
    draw_numbers(numbers, {"": objects.per_image})
    draw_categories(categories, {"": objects.categories + 1}, objects.names, MOST_CATEGORIES)
    return figure


# ---- results


def describe_results(content: object, path: Path, names: Mapping[int, str] | None = None) -> Description:
    """What a file of COCO results holds; ``names`` are those of its categories by id, where they are known.

    Raises:
        DataError: where it is no list of results.
    """
    is_empty = content == []
    with garbage_collection_paused():
        found = read_results(content, path)
    scores, categories, areas, per_image = _result_columns(found.results)
    facts: dict[str, Value] = {
        "images with results": len(per_image),
        "results": len(scores),
        "categories": len(np.unique(categories)),
        "masks": found.results.masks,
        "results in an image, median": float(np.median(per_image)) if len(per_image) else None,
        "results in an image, most": int(per_image.max(initial=0)),
        "lowest score": float(scores.min()) if len(scores) else None,
        "median score": float(np.median(scores)) if len(scores) else None,
        "highest score": float(scores.max()) if len(scores) else None,
    }
    table = _result_table(scores, categories, areas, names or {})
    warnings = list(found.warnings)
    if is_empty:
        warnings.append("the list is empty: results in which nothing was found; a data set would be no list")
    if len(scores) and (scores.max() > 1 or scores.min() < 0):
        warnings.append("scores are not between 0 and 1")
    drawing = partial(_draw_results, scores, per_image, areas)
    return Description(path, "COCO results", facts, [table], found.problems, warnings, drawing)


def _result_columns(results: CocoResults) -> tuple[ndarray, ndarray, ndarray, ndarray]:
    """Score, category id and area of each result, and the number of results in each image."""
    found = list(results.images.values())
    areas = [each.boxes[:, 2:].prod(axis=1) if each.masks is None else each.masks.areas() for each in found]
    return (
        np.concatenate([np.zeros(0), *(each.scores for each in found)]),
        np.concatenate([np.zeros(0, np.int64), *(each.categories for each in found)]),
        np.concatenate([np.zeros(0), *areas]),
        np.array([len(each.scores) for each in found], dtype=np.int64),
    )


def _result_table(scores: ndarray, categories: ndarray, areas: ndarray, names: Mapping[int, str]) -> InfoTable:
    sizes = np.digitize(areas, (SMALL_AREA, LARGE_AREA))
    rows: list[list[Value]] = []
    for category in np.unique(categories).tolist():
        own = categories == category
        counts = np.bincount(sizes[own], minlength=3).tolist()
        rows.append([names.get(category, f"id {category}"), int(own.sum()), float(np.median(scores[own])), *counts])
    headers = ["category", "results", "median score", *SIZE_NAMES]
    return InfoTable("categories", headers, sorted(rows, key=lambda row: -int(row[1] or 0)))


def _draw_results(scores: ndarray, per_image: ndarray, areas: ndarray) -> Figure:
    figure = Figure(figsize=(15, 4.5), layout="constrained")
    of_scores, of_areas, numbers = figure.subplots(1, 3)
    draw_scores(of_scores, scores)
    draw_areas(of_areas, {"": areas})
    of_areas.set_title(_AREA_TITLE, fontsize="medium")
    draw_numbers(numbers, {"": per_image})
    return figure
