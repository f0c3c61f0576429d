"""Reads and checks the content of a COCO instance file, for data sets and for scores alike.

What many tools write differently is taken for what it means: whole numbers as 7.0, missing boxes and areas, annotations
without ids. Everything else that is wrong becomes a line that names its place.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

from composer_copypaste.data.annotation_checks import check_objects
from composer_copypaste.data.json_files import kind_of_content
from composer_copypaste.data.records import Category, CocoAnnotation, CocoImage
from composer_copypaste.data.rle import Segmentation
from composer_copypaste.data.segmentation_json import (
    NO_AREA,
    Json,
    ShapeError,
    Size,
    area_of,
    box_of,
    box_problem,
    has_no_extent,
    read_segmentation,
    whole,
)
from composer_copypaste.errors import DataError, as_json, counted, first_few, listed, warn_of_data

TOP_LEVEL = ("images", "annotations", "categories")

LARGEST_ID = 2**63 - 1
"""Ids are 64-bit integers in tensors, and not negative in the engine that scores."""

LARGEST_AREA = 1e5**2
"""Of COCO's size class "all": larger objects are never scored."""

Crowds = Literal["objects", "ignore"] | None
BadObjects = Literal["refuse", "leave_out"]
Spelling = Callable[[str, str], str]


def in_python(name: str, value: str) -> str:
    """How an argument is given in Python."""
    return f'{name}="{value}"'


@dataclass(frozen=True)
class ReadingOptions:
    """What is made of annotations that can be read in more than one way.

    Attributes:
        crowds: "objects": annotations marked as crowds are single objects; "ignore": they are crowds. None: they are
            crowds, but that all are is refused, and that single objects may be marked so is warned of.
        bad_objects: Whether an object whose outline, box or area cannot be used is refused or left out.
        spelling: How the user gives these two, for messages.
        reads_images: Whether images are to be read: each image needs a file name, and there must be objects.
        outlines: Whether each object must have one. Boxes alone can be scored without.
    """

    crowds: Crowds = None
    bad_objects: BadObjects = "refuse"
    spelling: Spelling = in_python
    reads_images: bool = True
    outlines: bool = True

    def __post_init__(self) -> None:
        if self.crowds not in ("objects", "ignore", None):
            raise ValueError(f'crowds: expected "objects", "ignore" or None, got {self.crowds!r}')
        if self.bad_objects not in ("refuse", "leave_out"):
            raise ValueError(f'bad_objects: expected "refuse" or "leave_out", got {self.bad_objects!r}')


@dataclass(frozen=True)
class CocoContent:
    """What a COCO instance file says; categories in the order of their ids, annotations by image id."""

    images: tuple[CocoImage, ...]
    categories: tuple[Category, ...]
    annotations: dict[int, tuple[CocoAnnotation, ...]]


def read_content(data: object, place: str, options: ReadingOptions) -> CocoContent:
    """The parsed file, checked. Its list of annotations is emptied, to not hold a large file twice.

    Objects without any extent, of which COCO's own file has two, are left out with a warning.

    Raises:
        DataError: listing everything that is wrong.
    """
    lists = _lists(data, place)
    if options.outlines:
        _check_outlines(place, lists["annotations"])
    found = _Findings()
    categories = _categories(lists["categories"], found)
    images = _images(lists["images"], options, found)
    if options.reads_images and not lists["annotations"]:
        found.problems.append("the list 'annotations' is empty")
    groups: dict[int, list[CocoAnnotation]] = {image: [] for image in images}
    if not found.lacks_ids:  # else all that refers to them is wrong
        _read_annotations(lists["annotations"], _Known(images, categories), groups, options, found)
    if not found.problems:
        _check_objects(place, images, groups, options, found)
    found.report(place, options, has_objects=any(groups.values()))
    _check_crowds(place, found.crowds, options)
    _warn_of_same_names(place, categories, groups)
    return CocoContent(
        tuple(images.values()),
        tuple(sorted(categories.values(), key=lambda category: category.id)),
        {image: tuple(annotations) for image, annotations in groups.items()},
    )


@dataclass
class _Findings:
    """What is found while a file is read."""

    problems: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    """What is wrong with each object that can be left out."""
    flat: list[int] = field(default_factory=list)
    """Annotations of objects without any extent."""
    stray: list[int] = field(default_factory=list)
    """Annotations with parts of one or two points beside real ones."""
    crowds: Counter[tuple[bool, bool]] = field(default_factory=Counter)
    """How many annotations have run lengths or not, and are marked as crowds or not."""
    lacks_ids: bool = False
    """Whether an image or a category has no usable id, or there is none."""

    def report(self, place: str, options: ReadingOptions, *, has_objects: bool) -> None:
        """Raise ``DataError`` for problems; warn of what is left out. ``has_objects``: whether any is good."""
        leaves_out = options.bad_objects == "leave_out" and has_objects
        problems = self.problems if leaves_out else [*self.problems, *self.bad]
        if problems:
            hint = f"{options.spelling('bad_objects', 'leave_out')} leaves such objects out"
            offered = self.bad and has_objects and options.bad_objects == "refuse"
            text = listed(place, problems)
            between = "\n  " if "\n" in text else "; "
            raise DataError(text + (f"{between}{hint}" if offered else ""))
        if self.bad:
            warn_of_data(f"{place}: left out {counted(len(self.bad), 'bad object')}: {first_few(self.bad)}")
        if self.flat:
            warn_of_data(f"{place}: left out annotations of objects without any extent: [{first_few(self.flat, 20)}]")
        if self.stray:
            warn_of_data(f"{place}: dropped parts of one or two points of the annotations {first_few(self.stray)}")


def _lists(data: object, place: str) -> dict[str, list[Any]]:
    wrong = kind_of_content(data)
    if wrong is not None:
        raise DataError(f"{place}: {wrong}")
    if not isinstance(data, dict):
        raise DataError(f"{place}: expected an object with the lists {', '.join(TOP_LEVEL)}, got {as_json(data)}")
    problems = [
        f"{key} is {as_json(data[key])}, expected a list" if key in data else f"lacks the list {key!r}"
        for key in TOP_LEVEL
        if not isinstance(data.get(key), list)
    ]
    if problems:
        raise DataError(listed(place, problems))
    return {key: data[key] for key in TOP_LEVEL}


def _check_outlines(place: str, entries: Sequence[Any]) -> None:
    """Raise ``DataError`` where no annotation at all has an outline."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    if len(objects) > 1 and not any(entry.get("segmentation") for entry in objects):
        instead = "keypoints" if any("keypoints" in entry for entry in objects) else "boxes"
        raise DataError(
            f"{place}: no annotation has an outline ('segmentation'), only {instead}; expected polygons or run "
            "lengths, from which masks are drawn"
        )


@dataclass(frozen=True)
class _Known:
    """What annotations refer to, by id."""

    images: Mapping[int, CocoImage]
    categories: Mapping[int, Category]


def _categories(entries: Sequence[Any], found: _Findings) -> dict[int, Category]:
    categories = {}
    for id_, entry in _with_ids("category", entries, found):
        name = entry.get("name")
        if not isinstance(name, str):
            found.problems.append(f"category {id_}: {_lacks(entry, 'name', 'text')}")
        elif any("\ud800" <= character <= "\udfff" for character in name):  # JSON can spell them, no file can hold them
            found.problems.append(f"category {id_}: name {as_json(name)} has half a character, which cannot be written")
        categories[id_] = Category(id_, str(name))
    return categories


def _images(entries: Sequence[Any], options: ReadingOptions, found: _Findings) -> dict[int, CocoImage]:
    images = {}
    for id_, entry in _with_ids("image", entries, found):
        name, height, width = entry.get("file_name"), whole(entry.get("height")), whole(entry.get("width"))
        if options.reads_images and (not isinstance(name, str) or not name):
            found.problems.append(f"image {id_}: {_lacks(entry, 'file_name', 'text')}")
        for key, side in (("height", height), ("width", width)):
            if side is None or side < 1:
                found.problems.append(f"image {id_}: {_lacks(entry, key, 'a whole number of pixels')}")
        images[id_] = CocoImage(id_, name if isinstance(name, str) else "", height or 0, width or 0)
    return images


def _lacks(entry: Json, key: str, expected: str) -> str:
    return f"{key} is {as_json(entry[key])}, expected {expected}" if key in entry else f"has no {key!r}"


def _with_ids(kind: str, entries: Sequence[Any], found: _Findings) -> Iterator[tuple[int, Json]]:
    """The images or categories with their ids; entries without a usable one are problems."""
    if not entries:
        found.problems.append(f"the list {_PLURALS[kind]!r} is empty")
        found.lacks_ids = True
    seen: set[int] = set()
    for number, entry in enumerate(entries, start=1):
        id_ = _id(f"{kind} number {number} in the file", entry, found)
        if id_ is None:
            found.lacks_ids = True
            continue
        if id_ in seen:
            found.problems.append(f"{kind} {id_}: the id is used more than once")
        if not 0 <= id_ <= LARGEST_ID:
            found.problems.append(f"{kind} {id_}: expected an id from 0 to {LARGEST_ID}")
        seen.add(id_)
        yield id_, entry


_PLURALS = {"image": "images", "category": "categories"}


def _id(place: str, entry: Any, found: _Findings) -> int | None:
    if not isinstance(entry, dict):
        found.problems.append(f"{place}: expected an object, got {as_json(entry)}")
        return None
    id_ = whole(entry.get("id"))
    if id_ is None:
        got = f"id is {_typed(entry['id'])}, expected a whole number" if "id" in entry else "has no 'id'"
        found.problems.append(f"{place}: {got}")
    return id_


def _read_annotations(
    entries: list[Any],
    known: _Known,
    groups: dict[int, list[CocoAnnotation]],
    options: ReadingOptions,
    found: _Findings,
) -> None:
    """Put the annotations into the groups of their images, in the file's order."""
    # labelformat writes no ids
    are_numbered = any(isinstance(entry, dict) and entry.get("id") is not None for entry in entries)
    seen: set[int] = set()
    number = 0
    entries.reverse()
    while entries:
        entry, number = entries.pop(), number + 1
        place = f"annotation number {number} in the file"
        id_ = number if isinstance(entry, dict) and not are_numbered else _id(place, entry, found)
        if id_ is None:
            continue
        if id_ in seen:
            found.problems.append(f"{_place(id_, entry)}: the id is used more than once")
        seen.add(id_)
        image, category = whole(entry.get("image_id")), whole(entry.get("category_id"))
        if image is not None and category is not None and image in known.images and category in known.categories:
            annotation = _read_annotation(entry, (id_, category), known.images[image], options, found)
            if annotation is not None:
                groups[image].append(annotation)
        else:
            problems = _wrong_references(entry, image in known.images, category in known.categories)
            found.problems += [f"{_place(id_, entry)}: {problem}" for problem in problems]


def _place(id_: int, entry: Json) -> str:
    return f"annotation {id_} (image {as_json(entry['image_id']) if 'image_id' in entry else 'unknown'})"


def _wrong_references(entry: Json, has_image: bool, has_category: bool) -> Iterator[str]:
    if not has_category:
        yield _no_id(entry, "category_id", "categories") or (
            f"category {as_json(entry['category_id'])} is not among the file's categories"
        )
    if not has_image:
        yield _no_id(entry, "image_id", "images") or "the image is not among the file's images"


def _no_id(entry: Json, key: str, of: str) -> str | None:
    if key not in entry:
        return f"lacks {key!r}"
    return f"{key} is {_typed(entry[key])}, the {of}' ids are whole numbers" if whole(entry[key]) is None else None


def _typed(value: object) -> str:
    return f"{as_json(value)} (text)" if isinstance(value, str) else as_json(value)


def _read_annotation(
    entry: Json, ids: tuple[int, int], image: CocoImage, options: ReadingOptions, found: _Findings
) -> CocoAnnotation | None:
    """The annotation, of its own id and its category's; None where it cannot be used, or its object has no extent."""
    size = image.height, image.width
    if min(size) < 1:  # which is a problem of the image
        return None
    crowd, area = entry.get("iscrowd"), entry.get("area")
    problems = list(_wrong_numbers(crowd, area))
    box, outline = _shape(entry, size, options, problems)
    if len(problems) == 1 and problems[0].endswith(NO_AREA) and has_no_extent(outline):
        found.flat.append(ids[0])
        return None
    if problems:
        found.bad.append(f"{_place(ids[0], entry)}: {'; '.join(problems)}")
        return None
    raw = entry.get("segmentation")
    if isinstance(outline, list) and isinstance(raw, list) and 0 < len(outline) < len(raw):
        found.stray.append(ids[0])
    found.crowds[isinstance(raw, dict) and "counts" in raw, bool(crowd)] += 1
    return {
        "id": ids[0],
        "image_id": image.id,
        "category_id": ids[1],
        "bbox": box,
        "area": float(area or (area_of(outline, size) if outline else box[2] * box[3])),
        "iscrowd": 0 if options.crowds == "objects" else int(crowd or 0),
        "segmentation": outline,
    }


def _shape(entry: Json, size: Size, options: ReadingOptions, problems: list[str]) -> tuple[list[Any], Segmentation]:
    """The box and the outline; what is wrong with them is added to the problems, and the values mean nothing then."""
    outline = _outline(entry, size, problems) if options.outlines or _needs_outline(entry, size) else []
    box, whose = entry.get("bbox"), ""
    if box is None or (isinstance(box, list) and not box):
        if not outline:
            problems += [] if problems else ["lacks 'bbox'"]
            return [], outline
        box, whose = box_of(outline), "its outline's "
    problem = box_problem(box, size)
    if problem is not None:
        problems.append(f"{whose}box {as_json(box)} {problem}")
        return [], outline
    return list(box), outline


def _outline(entry: Json, size: Size, problems: list[str]) -> Segmentation:
    try:
        return read_segmentation(entry.get("segmentation"), size)
    except ShapeError as error:
        problems.append(str(error) if "segmentation" in entry else "lacks 'segmentation'")
        return []


def _needs_outline(entry: Json, size: Size) -> bool:
    """Whether an object of which the box alone is scored has an outline, and no good box or no area besides."""
    box = entry.get("bbox")
    return bool(entry.get("segmentation") and not (box and entry.get("area") and box_problem(box, size) is None))


def _wrong_numbers(crowd: object, area: object) -> Iterator[str]:
    if crowd not in (None, 0, 1):
        yield f"iscrowd is {_typed(crowd)}, expected 0 or 1"
    if area is not None and not (_is_number(area) and 0 <= area <= LARGEST_AREA):
        yield f"area is {_typed(area)}, expected a number of pixels"


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_objects(
    place: str,
    images: Mapping[int, CocoImage],
    groups: dict[int, list[CocoAnnotation]],
    options: ReadingOptions,
    found: _Findings,
) -> None:
    """Move objects that cannot be used, though each of their values is in order, from the groups to what is found."""
    how, leave_out = options.spelling("bad_objects", "leave_out"), options.bad_objects == "leave_out"
    bad = check_objects(place, images, groups, leave_out=leave_out, how_to_leave_out=how)
    for image, annotations in groups.items():
        wrong = [annotation["id"] for annotation in annotations if annotation["id"] in bad]
        found.bad += [f"annotation {id_} (image {image}): {bad[id_]}" for id_ in wrong]
        if wrong:
            groups[image] = [annotation for annotation in annotations if annotation["id"] not in bad]


def _check_crowds(place: str, crowds: Counter[tuple[bool, bool]], options: ReadingOptions) -> None:
    """Look whether single objects may be marked as crowds, as several tools do."""
    of_run_lengths, of_polygons = crowds[True, True], crowds[False, True]
    marked, total = of_run_lengths + of_polygons, crowds.total()
    if options.crowds is not None or not marked:
        return
    as_objects, as_crowds = (options.spelling("crowds", value) for value in ("objects", "ignore"))
    if marked == total:
        raise DataError(
            f"{place}: all annotations, {total}, are marked as crowds (iscrowd 1), of which nothing is learned or "
            f"scored. Tools such as datumaro and CVAT mark every mask so: {as_objects} takes them for single objects, "
            f"{as_crowds} for crowds"
        )
    if of_polygons or not crowds[True, False] or marked > total / 2:
        warn_of_data(
            f"{place}: {marked} of {total} annotations are marked as crowds (iscrowd 1), which are neither learned nor "
            f"scored. Where they are single objects, which supervision, darwin and geococo mark so, give {as_objects}; "
            f"{as_crowds} leaves this line out"
        )


def _warn_of_same_names(
    place: str, categories: Mapping[int, Category], groups: Mapping[int, Sequence[CocoAnnotation]]
) -> None:
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
