"""What can be wrong with a COCO instance file, found before training: each problem is a line that names its place.

The functions for one annotation run 860,000 times on COCO: on their usual path they only compare.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from sys import float_info
from typing import Any

from composer_copypaste.data.outlines import rle_counts
from composer_copypaste.errors import counted

TOP_LEVEL = ("images", "annotations", "categories")
ANNOTATION_KEYS = ("image_id", "category_id", "bbox", "segmentation")
SHORTEST_SIDE = 1e-3
"""Of a box, in pixels: float32, in which models take boxes, cannot tell corners apart that are closer."""

LARGEST_ID = 2**63 - 1
"""Ids are 64-bit integers in tensors, and not negative in the engine that scores."""

_NO_AREA = "has no area: width and height must be more than 0"

Json = dict[str, Any]
Size = tuple[int, int]


def coco_problems(data: object) -> list[str]:
    """Everything that keeps the parsed file from being used; empty where nothing does."""
    if not isinstance(data, dict):
        return [f"expected an object with the lists {', '.join(TOP_LEVEL)}"]
    problems = [f"lacks the list {key!r}" for key in TOP_LEVEL if not isinstance(data.get(key), list)]
    if problems:
        return problems
    problems = [f"the list {key!r} is empty" for key in TOP_LEVEL if not data[key]]
    problems += _each("category", data["categories"], _category_problems)
    problems += _each("image", data["images"], _image_problems)
    return [*problems, *_annotations_problems(data)]


def has_no_extent(annotation: Json) -> bool:
    """Whether box and polygons agree that an object has no width or no height.

    COCO's train2017 has two such (https://github.com/cocodataset/cocoapi/issues/355): the box is right, and the object
    covers no pixel.
    """
    polygons = annotation["segmentation"]
    if min(annotation["bbox"][2:]) > SHORTEST_SIDE or not isinstance(polygons, list):
        return False
    return any(all(max(part[axis::2]) - min(part[axis::2]) <= SHORTEST_SIDE for part in polygons) for axis in (0, 1))


def _each(kind: str, entries: Sequence[Any], check: Callable[[Json], Iterator[str]]) -> Iterator[str]:
    """The problems of the images or of the categories, repeated ids included."""
    seen: set[int] = set()
    for number, entry in enumerate(entries, start=1):
        if not _is_named(entry):
            yield f"{kind} number {number} in the file: has no integer 'id'"
            continue
        if entry["id"] in seen:
            yield f"{kind} {entry['id']}: the id is used more than once"
        seen.add(entry["id"])
        if not 0 <= entry["id"] <= LARGEST_ID:
            yield f"{kind} {entry['id']}: expected an id from 0 to {LARGEST_ID}"
        yield from (f"{kind} {entry['id']}: {problem}" for problem in check(entry))


def _category_problems(category: Json) -> Iterator[str]:
    name = category.get("name")
    if not isinstance(name, str):
        yield "has no 'name'"
    elif any("\ud800" <= character <= "\udfff" for character in name):  # JSON can spell them, and no file can hold them
        yield f"name {name!r} has half a character, which cannot be written"


def _image_problems(image: Json) -> Iterator[str]:
    name = image.get("file_name")
    if not isinstance(name, str) or not name:
        yield "has no 'file_name'"
    elif _leaves_the_folder(name):
        yield f"file_name {name!r} leaves the image folder; expected a path relative to it, without '..'"
    for key in ("height", "width"):
        if type(image.get(key)) is not int or image[key] < 1:
            yield f"{key} is {image.get(key)!r}, expected a whole number of pixels"


def _leaves_the_folder(name: str) -> bool:
    """Whether a file name could point outside the folder it is joined to, on Linux or Windows."""
    parts = name.replace("\\", "/").split("/")
    return parts[0] == "" or ".." in parts or parts[0][1:2] == ":" or "\0" in name


def _annotations_problems(data: Json) -> Iterator[str]:
    """The problems of all annotations, each with the annotation's and its image's id."""
    sizes = {image["id"]: _size(image) for image in data["images"] if _is_named(image)}
    categories = {category["id"] for category in data["categories"] if _is_named(category)}
    seen: set[int] = set()
    for number, annotation in enumerate(data["annotations"], start=1):
        if not _is_named(annotation):
            yield f"annotation number {number} in the file: has no integer 'id'"
            continue
        problems = _annotation_problems(annotation, sizes, categories)
        if annotation["id"] in seen:
            problems.append("the id is used more than once")
        seen.add(annotation["id"])
        for problem in problems:
            yield f"annotation {annotation['id']} (image {annotation.get('image_id', 'unknown')}): {problem}"


def _is_named(entry: object) -> bool:
    return isinstance(entry, dict) and type(entry.get("id")) is int


def _size(image: Json) -> Size | None:
    """(height, width), or None where the image states no usable one, which `_image_problems` reports."""
    height, width = image.get("height"), image.get("width")
    return (height, width) if type(height) is type(width) is int and min(height, width) > 0 else None


def _annotation_problems(annotation: Json, sizes: Mapping[int, Size | None], categories: set[int]) -> list[str]:
    problems = [f"lacks {key!r}" for key in ANNOTATION_KEYS if key not in annotation]
    if problems:
        return problems
    image, category = annotation["image_id"], annotation["category_id"]
    if type(category) is not int or category not in categories:
        problems.append(f"category {category!r} is not among the file's categories")
    if annotation.get("iscrowd") not in (None, 0, 1):
        problems.append(f"iscrowd is {annotation['iscrowd']!r}, expected 0 or 1")
    area = annotation.get("area")
    if area is not None and not (isinstance(area, int | float) and 0 <= area <= float_info.max):
        problems.append(f"area is {area!r}, expected a number of pixels")
    if type(image) is not int or image not in sizes:
        problems.append("the image is not among the file's images")
    elif (size := sizes[image]) is not None:
        problems += _shape_problems(annotation, *size)
    return problems


def _shape_problems(annotation: Json, height: int, width: int) -> list[str]:
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, dict):
        problem = _rle_problem(segmentation, height, width)
        problems = [] if problem is None else [problem]
    elif isinstance(segmentation, list) and segmentation:
        limit = 2 * max(height, width)
        found = {_polygon_problem(part, limit): None for part in segmentation}  # each problem once, in order
        problems = [problem for problem in found if problem is not None]
    else:
        problems = ["has no segmentation: expected polygons or a run-length encoding, a box is not enough for masks"]
    problem = _box_problem(annotation["bbox"], height, width)
    if problem is not None and (problems or problem != _NO_AREA or not has_no_extent(annotation)):
        problems.append(f"box {annotation['bbox']} {problem}")
    return problems


def _box_problem(box: Any, height: int, width: int) -> str | None:
    try:
        x, y, w, h = box
        if not all(map(isfinite, box)):
            return "has a number that is not finite"
    except OverflowError:
        return "has a number that is too large"
    except (TypeError, ValueError):
        return "is not [x, y, width, height]"
    if w <= SHORTEST_SIDE or h <= SHORTEST_SIDE:
        return _NO_AREA
    if min(x + w, width) - max(x, 0) <= SHORTEST_SIDE or min(y + h, height) - max(y, 0) <= SHORTEST_SIDE:
        return f"lies outside the picture, which is {width} x {height} (width x height)"
    return None


def _polygon_problem(polygon: Any, limit: int) -> str | None:
    """What is wrong with x1, y1, x2, y2, ...; drawing coordinates far beyond ``limit`` would take gigabytes."""
    try:
        numbers = len(polygon)
        if not isfinite(sum(polygon)):
            return "polygon has a number that is not finite"
    except OverflowError:
        return "polygon has a number that is too large"
    except TypeError:
        return "polygon is not a list of numbers x1, y1, x2, y2, ..."
    if numbers < 6:
        return f"polygon has {counted(numbers, 'number')}, needs at least 6"
    if numbers % 2:
        return f"polygon has {counted(numbers, 'number')}, needs an even count: x1, y1, x2, y2, ..."
    if not -limit < min(polygon) <= max(polygon) < limit:
        return f"polygon reaches from {min(polygon)} to {max(polygon)}, far outside the picture"
    return None


def _rle_problem(rle: Json, height: int, width: int) -> str | None:
    counts = rle.get("counts")
    if rle.get("size") != [height, width]:
        return f"mask has size {rle.get('size')}, the image has [{height}, {width}] (height, width)"
    if isinstance(counts, str):
        try:
            counts = rle_counts(counts.encode())
        except ValueError as error:
            return f"mask cannot be decoded: {error}"
    if not isinstance(counts, list) or any(type(count) is not int or count < 0 for count in counts):
        return "mask cannot be decoded: its counts are not numbers of pixels"
    if sum(counts) != height * width:
        return f"mask's counts sum to {counted(sum(counts), 'pixel')}, the image has {height * width}"
    return None
