"""COCO instance files, read and checked: the one reader for training and for scores.

Harmless differences between tools are accepted: whole numbers written as 7.0, missing boxes and areas, annotations
without ids. Everything else that is wrong becomes a line that names its place.
"""

import gc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_checks import check_crowds, check_objects
from composer_copypaste.data.annotation_json import (
    NO_AREA,
    BadObjects,
    Category,
    CocoAnnotation,
    CocoImage,
    Crowds,
    Json,
    ReadingOptions,
    SettingSpelling,
    annotated_objects,
    area_of_segmentation,
    as_typed_json,
    as_whole_number,
    has_only_flat_polygons,
    labels_by_category_id,
    parse_box_and_segmentation,
    python_spelling,
)
from composer_copypaste.data.other_formats import describe_other_format
from composer_copypaste.data.rle import AnnotatedObjects
from composer_copypaste.errors import DataError, as_json, count_noun, first_few, format_problems, warn_of_data
from composer_copypaste.files import read_json

TOP_LEVEL = ("images", "annotations", "categories")

LONGEST_SIDE = 2**31 - 1
"""Height and width of the largest images that a file can hold, which are PNG's."""

LARGEST_ID = 2**63 - 1
"""Ids are 64-bit integers in tensors, and the scoring engine takes no negative ones."""


@dataclass(frozen=True)
class CocoAnnotations:
    """The content of a COCO instance file, checked.

    Images keep the file's order. Category ``i`` of ``categories`` has the label ``i + 1``: 0 is the background.
    Categories are ordered by id, unless ``with_categories`` gave another order. ``annotations`` has an entry for every
    image id, empty for an image without objects.
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
        outlines: bool = True,
        spelling: SettingSpelling = python_spelling,
    ) -> "CocoAnnotations":
        """Read and check a file.

        Whole numbers may be written as 7.0; boxes, areas and the annotations' ids may be missing; polygons may be
        kwcoco's, with holes. Left out with a warning are objects without any extent, of which COCO's own file has two,
        and parts of one or two points next to real ones.

        Args:
            path: a COCO instance JSON.
            crowds: "objects" takes annotations that are marked as crowds for single objects, "ignore" for crowds. None:
                for crowds, but a file that marks all so is refused, and one that differs from COCO's own, or marks all
                run lengths, is warned of: several tools mark single objects.
            bad_objects: whether an object whose outline, box or area cannot be used is refused, or left out with a
                warning ("leave_out").
            outlines: whether each object must have an outline. False: boxes alone do, as they train and score detectors
                of boxes; outlines are then read only where a box or an area is missing.
            spelling: how the user gives these settings, from name and value, for messages.

        Raises:
            DataError: listing everything that is wrong with the file.
            ValueError: where ``crowds`` or ``bad_objects`` has another value.
        """
        options = ReadingOptions(crowds, bad_objects, spelling, outlines=outlines)
        path = Path(path)
        with garbage_collection_paused():
            return cls.of_content(read_json(path, "annotation file"), path, options)

    @classmethod
    def of_content(cls, data: object, path: Path, options: ReadingOptions) -> "CocoAnnotations":
        """Check parsed JSON. ``path`` names it in messages.

        The list of annotations is emptied on the way: a large file would not fit in memory twice. Objects without any
        extent are left out with a warning.

        Raises:
            DataError: listing everything that is wrong.
        """
        place = str(path)
        lists = find_lists(data, place, options)
        found = Findings()
        categories = parse_categories(lists["categories"], found)
        images = parse_images(lists["images"], options, found)
        if options.reads_images and not lists["annotations"]:
            found.problems.append("the list 'annotations' is empty")
        groups: dict[int, list[CocoAnnotation]] = {image: [] for image in images}
        if not found.lacks_ids:  # without them, every annotation would refer to something unknown
            parse_annotations(lists["annotations"], images, categories, groups, options, found)
        if not found.problems:
            _leave_out_bad_objects(place, images, groups, options, found)
        found.report(place, options, has_objects=any(groups.values()))
        if options.crowds is None:
            check_crowds(place, found.crowds, options.spelling)
        warn_of_same_names(place, categories, groups)
        return cls(
            path,
            tuple(images.values()),
            tuple(sorted(categories.values(), key=lambda category: category.id)),
            {image: tuple(annotations) for image, annotations in groups.items()},
        )

    def with_categories(self, categories: tuple[Category, ...]) -> "CocoAnnotations":
        """The same annotations with labels 1, 2, ... for these categories, which must include all of the file's."""
        return replace(self, categories=categories)

    @property
    def category_ids(self) -> list[int]:
        """The category ids in the order of their labels."""
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
        """The number of crowds."""
        return sum(annotation["iscrowd"] for group in self.annotations.values() for annotation in group)

    @cached_property
    def _labels(self) -> dict[int, int]:
        return labels_by_category_id(self.categories)

    def objects_of(self, image: CocoImage) -> AnnotatedObjects:
        """The image's objects: annotated boxes cut at the image's edge, annotated areas, masks as in the file."""
        return annotated_objects(image, self.annotations[image.id], self._labels)


def read_categories(path: Path) -> tuple[Category, ...]:
    """The categories of a COCO file, which needs no other list, or of a list of them; ordered by id.

    Raises:
        DataError: where there are none, or one of them cannot be used.
    """
    data = read_json(path, "file of categories")
    entries = data.get("categories") if isinstance(data, dict) else data
    if not isinstance(entries, list):
        raise DataError(f"{path}: expected a COCO file with the list 'categories', got {as_json(data)}")
    found = Findings()
    categories = parse_categories(entries, found)
    found.report(str(path), ReadingOptions(), has_objects=False)
    return tuple(sorted(categories.values(), key=lambda category: category.id))


def images_without_annotations(data: object, path: Path) -> CocoAnnotations:
    """The images of a COCO file's parsed JSON, as of a test set's, and its categories, if it has any.

    Annotations are not looked at. ``path`` names the file in messages.

    Raises:
        DataError: listing what is wrong with images or categories.
    """
    entries = data.get("images") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(entries, list):
        kind = describe_other_format(data)
        raise DataError(f"{path}: {kind or f'expected a COCO file with the list images, got {as_json(data)}'}")
    found, named = Findings(), data.get("categories")
    categories = parse_categories(named, found) if isinstance(named, list) and named else {}
    images = parse_images(entries, ReadingOptions(), found)
    found.report(str(path), ReadingOptions(), has_objects=False)
    ordered = tuple(sorted(categories.values(), key=lambda category: category.id))
    return CocoAnnotations(path, tuple(images.values()), ordered, dict.fromkeys(images, ()))


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Pauses the search for reference cycles, which takes longer the more objects exist: COCO's file has millions."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class Findings:
    """What is wrong or odd in a file, collected while it is read."""

    problems: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    """Problems of single objects, which can be left out."""
    flat: list[int] = field(default_factory=list)
    """Ids of annotations of objects without any extent."""
    stray: list[int] = field(default_factory=list)
    """Ids of annotations with parts of one or two points next to real ones."""
    crowds: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """The number of annotations by (outline is run lengths, marked as crowd)."""
    lacks_ids: bool = False
    """Whether images or categories are missing, or one of them has no usable id."""

    def report(self, place: str, options: ReadingOptions, *, has_objects: bool) -> None:
        """Raise ``DataError`` for problems; warn of objects left out. ``has_objects``: whether any object is good."""
        leaves_out = options.bad_objects == "leave_out" and has_objects
        problems = self.problems if leaves_out else [*self.problems, *self.bad]
        if problems:
            hint = f"{options.spelling('bad_objects', 'leave_out')} leaves such objects out"
            offered = self.bad and has_objects and options.bad_objects == "refuse"
            text = format_problems(place, problems)
            between = "\n  " if "\n" in text else "; "
            raise DataError(text + (f"{between}{hint}" if offered else ""))
        if self.bad:
            warn_of_data(f"{place}: left out {count_noun(len(self.bad), 'bad object')}: {first_few(self.bad)}")
        self.warn_of_left_out_parts(place)

    def warn_of_left_out_parts(self, place: str) -> None:
        """Warn of objects and parts without any extent, which are left out."""
        if self.flat:
            warn_of_data(f"{place}: left out annotations of objects without any extent: [{first_few(self.flat, 20)}]")
        if self.stray:
            warn_of_data(f"{place}: dropped parts of one or two points of the annotations {first_few(self.stray)}")


def find_lists(data: object, place: str, options: ReadingOptions) -> dict[str, list[Any]]:
    """The three lists of a COCO file; ``DataError`` where it is none."""
    values = data if isinstance(data, dict) else {}
    problems = [
        f"{key} is {as_json(values[key])}, expected a list" if key in values else f"lacks the list {key!r}"
        for key in TOP_LEVEL
        if not isinstance(values.get(key), list)
    ]
    entries = [] if problems else values["annotations"]
    if problems or (entries and isinstance(entries[0], dict) and "segmentation" not in entries[0]):
        kind = describe_other_format(data)
        if kind is not None:
            raise DataError(f"{place}: {kind}")
    if not isinstance(data, dict):
        raise DataError(f"{place}: expected an object with the lists {', '.join(TOP_LEVEL)}, got {as_json(data)}")
    if problems:
        raise DataError(format_problems(place, problems))
    objects = [entry for entry in entries if isinstance(entry, dict)] if options.outlines else []
    if len(objects) > 1 and not any(entry.get("segmentation") for entry in objects):
        instead = "keypoints" if any("keypoints" in entry for entry in objects) else "boxes"
        alone = (
            "; boxes alone train model.name=faster_rcnn, retinanet or fcos, with copy_paste=null"
            if instead == "boxes"
            else ""
        )
        raise DataError(
            f"{place}: no annotation has an outline ('segmentation'), only {instead}; expected polygons or run "
            f"lengths, from which masks are drawn{alone}"
        )
    return {key: data[key] for key in TOP_LEVEL}


def parse_categories(entries: Sequence[Any], found: Findings) -> dict[int, Category]:
    """The categories by id; what is wrong with them is added to the findings."""
    categories = {}
    for id_, entry in _entries_with_ids("category", "categories", entries, found):
        name = entry.get("name")
        if not isinstance(name, str):
            found.problems.append(f"category {id_}: {_describe_missing_or_wrong(entry, 'name', 'text')}")
        elif any("\ud800" <= character <= "\udfff" for character in name):  # JSON can spell them, no file can hold them
            found.problems.append(f"category {id_}: name {as_json(name)} has half a character, which cannot be written")
        categories[id_] = Category(id_, str(name))
    return categories


def parse_images(entries: Sequence[Any], options: ReadingOptions, found: Findings) -> dict[int, CocoImage]:
    """The images by id; what is wrong with them is added to the findings."""
    images = {}
    for id_, entry in _entries_with_ids("image", "images", entries, found):
        name, height, width = entry.get("file_name"), _side_of(entry, "height"), _side_of(entry, "width")
        if options.reads_images and (not isinstance(name, str) or not name):
            found.problems.append(f"image {id_}: {_describe_missing_or_wrong(entry, 'file_name', 'text')}")
        for key, side in (("height", height), ("width", width)):
            if not side:
                found.problems.append(
                    f"image {id_}: {_describe_missing_or_wrong(entry, key, 'a whole number of pixels')}"
                )
        images[id_] = CocoImage(id_, name if isinstance(name, str) else "", height, width)
    return images


def _side_of(entry: Json, key: str) -> int:
    """An image's height or width in pixels; 0 where it is none, or longer than any file's."""
    side = as_whole_number(entry.get(key))
    return side if side is not None and 1 <= side <= LONGEST_SIDE else 0


def _describe_missing_or_wrong(entry: Json, key: str, expected: str) -> str:
    return f"{key} is {as_json(entry[key])}, expected {expected}" if key in entry else f"has no {key!r}"


def _entries_with_ids(kind: str, kinds: str, entries: Sequence[Any], found: Findings) -> Iterator[tuple[int, Json]]:
    """The images or categories with their ids; those without a usable id are added to the problems."""
    if not entries:
        found.problems.append(f"the list {kinds!r} is empty")
        found.lacks_ids = True
    seen: set[int] = set()
    for number, entry in enumerate(entries, start=1):
        id_ = _parse_id(f"{kind} number {number} in the file", entry, found)
        if id_ is None:
            found.lacks_ids = True
            continue
        if id_ in seen:
            found.problems.append(f"{kind} {id_}: the id is used more than once")
        if not 0 <= id_ <= LARGEST_ID:
            found.problems.append(f"{kind} {id_}: expected an id from 0 to {LARGEST_ID}")
        seen.add(id_)
        yield id_, entry


def _parse_id(place: str, entry: Any, found: Findings) -> int | None:
    """The id of an image, a category or an annotation; None, and a problem, where it has none."""
    if not isinstance(entry, dict):
        found.problems.append(f"{place}: expected an object, got {as_json(entry)}")
        return None
    id_ = as_whole_number(entry.get("id"))
    if id_ is None:
        got = f"id is {as_typed_json(entry['id'])}, expected a whole number" if "id" in entry else "has no 'id'"
        found.problems.append(f"{place}: {got}")
    return id_


def parse_annotations(
    entries: list[Any],
    images: Mapping[int, CocoImage],
    categories: Mapping[int, Category],
    groups: dict[int, list[CocoAnnotation]],
    options: ReadingOptions,
    found: Findings,
) -> None:
    """Add the annotations to the groups of their images, in the file's order; ``entries`` is emptied."""
    # labelformat writes no ids
    are_numbered = any(isinstance(entry, dict) and entry.get("id") is not None for entry in entries)
    seen: set[int] = set()
    number = 0
    entries.reverse()
    while entries:
        entry, number = entries.pop(), number + 1
        place = f"annotation number {number} in the file"
        id_ = number if isinstance(entry, dict) and not are_numbered else _parse_id(place, entry, found)
        if id_ is None:
            continue
        if id_ in seen:
            found.problems.append(f"{_annotation_place(id_, entry)}: the id is used more than once")
        seen.add(id_)
        image, category = as_whole_number(entry.get("image_id")), as_whole_number(entry.get("category_id"))
        if image is not None and category is not None and image in images and category in categories:
            annotation = _parse_annotation(entry, (id_, category), images[image], options, found)
            if annotation is not None:
                groups[image].append(annotation)
            continue
        if category not in categories:
            unknown = f"category {as_json(entry.get('category_id'))} is not among the file's categories"
            wrong = _describe_unknown_id(entry, "category_id", "categories") or unknown
            found.problems.append(f"{_annotation_place(id_, entry)}: {wrong}")
        if image not in images:
            unknown = "the image is not among the file's images"
            wrong = _describe_unknown_id(entry, "image_id", "images") or unknown
            found.problems.append(f"{_annotation_place(id_, entry)}: {wrong}")


def _annotation_place(id_: int, entry: Json) -> str:
    return f"annotation {id_} (image {as_json(entry['image_id']) if 'image_id' in entry else 'unknown'})"


def _describe_unknown_id(entry: Json, key: str, of: str) -> str | None:
    if key not in entry:
        return f"lacks {key!r}"
    return (
        f"{key} is {as_typed_json(entry[key])}, the {of}' ids are whole numbers"
        if as_whole_number(entry[key]) is None
        else None
    )


def _parse_annotation(
    entry: Json, ids: tuple[int, int], image: CocoImage, options: ReadingOptions, found: Findings
) -> CocoAnnotation | None:
    """The annotation with these ids, its own and its category's; None where it cannot be used."""
    size = image.height, image.width
    if min(size) < 1:  # already a problem of the image
        return None
    box, outline, problems = parse_box_and_segmentation(entry, size, outlines=options.outlines)
    if len(problems) == 1 and problems[0].endswith(NO_AREA) and has_only_flat_polygons(outline):
        found.flat.append(ids[0])
        return None
    if problems:
        found.bad.append(f"{_annotation_place(ids[0], entry)}: {'; '.join(problems)}")
        return None
    raw, crowd = entry.get("segmentation"), entry.get("iscrowd")
    if isinstance(outline, list) and isinstance(raw, list) and 0 < len(outline) < len(raw):
        found.stray.append(ids[0])
    found.crowds[isinstance(raw, dict) and "counts" in raw, bool(crowd)] += 1
    return {
        "id": ids[0],
        "image_id": image.id,
        "category_id": ids[1],
        "bbox": box,
        "area": float(entry.get("area") or (area_of_segmentation(outline, size) if outline else box[2] * box[3])),
        "iscrowd": 0 if options.crowds == "objects" else int(crowd or 0),
        "segmentation": outline,
    }


def _leave_out_bad_objects(
    place: str,
    images: Mapping[int, CocoImage],
    groups: dict[int, list[CocoAnnotation]],
    options: ReadingOptions,
    found: Findings,
) -> None:
    """Move objects that are valid by themselves, but not together with others, from the groups to ``found``."""
    bad = check_objects(place, images, groups, options)
    for image, annotations in groups.items():
        wrong = [annotation["id"] for annotation in annotations if annotation["id"] in bad]
        found.bad += [f"annotation {id_} (image {image}): {bad[id_]}" for id_ in wrong]
        if wrong:
            groups[image] = [annotation for annotation in annotations if annotation["id"] not in bad]


def warn_of_same_names(
    place: str, categories: Mapping[int, Category], groups: Mapping[int, Sequence[CocoAnnotation]]
) -> None:
    """Warn of categories that share their name."""
    counts = Counter(category.name for category in categories.values())
    repeated = [category for category in categories.values() if counts[category.name] > 1]
    if not repeated:
        return
    used = {annotation["category_id"] for annotations in groups.values() for annotation in annotations}
    described = ", ".join(
        f"{category.id} {as_json(category.name)}{'' if category.id in used else ' (of no object)'}"
        for category in repeated
    )
    warn_of_data(f"{place}: categories of the same name, each with a label of its own: {described}")
