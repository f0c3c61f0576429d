"""One annotation of a COCO file: its outline, its box and its numbers, checked and brought into one form.

Tools write annotations in many ways; `ReadingOptions` decide about those that can be understood in two. These functions
run 860,000 times on COCO: in the usual case they only compare and convert.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from numbers import Integral
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from pycocotools import mask as coco_mask

from composer_copypaste.data.rle import (
    AnnotatedObjects,
    Polygons,
    Rle,
    Segmentation,
    cropped_mask,
    draw_cropped_masks,
    rle_of_segmentation,
)
from composer_copypaste.errors import as_json, count_noun
from composer_copypaste.run_lengths import decode_counts

SHORTEST_SIDE = 1e-3
"""Shortest side of a box in pixels: models take boxes as float32, which cannot tell closer corners apart."""

LONGEST_RUN = 2**32 - 1
"""Run lengths are 32-bit integers in pycocotools."""

LARGEST_AREA = 1e5**2
"""Upper limit of COCO's size class "all": larger objects are never scored."""

NO_AREA = "has no area: width and height must be more than 0"

Json = dict[str, Any]
Size = tuple[int, int]
"""Height and width in pixels."""

Crowds = Literal["objects", "ignore"] | None
BadObjects = Literal["refuse", "leave_out"]
SettingSpelling = Callable[[str, str], str]
"""How a user gives a setting, from its name and value, for messages."""


def python_spelling(name: str, value: str) -> str:
    """How a setting is given in Python, for messages."""
    return f'{name}="{value}"'


@dataclass(frozen=True)
class ReadingOptions:
    """How annotations are read that can be understood in more than one way.

    Attributes:
        crowds: "objects": annotations marked as crowds are single objects; "ignore": they are crowds. None: they are
            crowds, but a file that marks all of them is refused, and one that may mark single objects is warned of.
        bad_objects: Whether an object whose outline, box or area cannot be used is refused or left out.
        spelling: How the user gives these two settings, from name and value, for messages.
        reads_images: Whether the images will be read: each then needs a file name, and there must be objects.
        outlines: Whether each object must have an outline. Scoring boxes does not need it.
    """

    crowds: Crowds = None
    bad_objects: BadObjects = "refuse"
    spelling: SettingSpelling = python_spelling
    reads_images: bool = True
    outlines: bool = True

    def __post_init__(self) -> None:
        if self.crowds not in ("objects", "ignore", None):
            raise ValueError(f'crowds: expected "objects", "ignore" or None, got {self.crowds!r}')
        if self.bad_objects not in ("refuse", "leave_out"):
            raise ValueError(f'bad_objects: expected "refuse" or "leave_out", got {self.bad_objects!r}')


@dataclass(frozen=True)
class Category:
    """A category of a COCO file."""

    id: int
    name: str


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file; ``file_name`` is relative to the image folder."""

    id: int
    file_name: str
    height: int
    width: int


class CocoAnnotation(TypedDict):
    """An annotation with COCO's keys, and no others.

    Polygons are float64 arrays and run lengths are compressed: a quarter of the memory of lists of numbers.
    """

    id: int
    image_id: int
    category_id: int
    bbox: list[float]
    area: float
    iscrowd: int
    segmentation: Segmentation


def labels_by_category_id(categories: Sequence[Category]) -> dict[int, int]:
    """The label, 1, 2, ..., of each category id."""
    return {category.id: label for label, category in enumerate(categories, start=1)}


def annotated_objects(
    image: CocoImage, annotations: Sequence[CocoAnnotation], labels: Mapping[int, int]
) -> AnnotatedObjects:
    """The objects of an image, from its annotations; ``labels`` maps category ids to labels."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return AnnotatedObjects(
        size=(image.height, image.width),
        annotated_boxes=boxes,
        labels=torch.tensor([labels[a["category_id"]] for a in annotations], dtype=torch.int64),
        area=torch.tensor([annotation["area"] for annotation in annotations], dtype=torch.float32),
        iscrowd=torch.tensor([annotation["iscrowd"] for annotation in annotations], dtype=torch.int64),
        segmentations=tuple(annotation["segmentation"] for annotation in annotations),
    )


class SegmentationError(ValueError):
    """An outline or a box cannot be used; the message says what is wrong with it."""


def as_whole_number(value: object) -> int | None:
    """A whole number, which JSON may spell 7 or 7.0; None where the value is anything else."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def as_typed_json(value: object) -> str:
    """A value as JSON, for messages in which a number that is written as text must not look like a number."""
    return f"{as_json(value)} (text)" if isinstance(value, str) else as_json(value)


def parse_box_and_segmentation(entry: Json, size: Size, *, outlines: bool) -> tuple[list[Any], Segmentation, list[str]]:
    """The box and the outline of an annotation, and what is wrong with its values; if anything is, ignore the two.

    Args:
        entry: the annotation as the file has it.
        size: height and width of its image.
        outlines: whether the outline is required. If not, it is read only in place of a bad box or a missing area.
    """
    crowd, area, box = entry.get("iscrowd"), entry.get("area"), entry.get("bbox")
    problems = []
    if crowd not in (None, 0, 1):
        problems.append(f"iscrowd is {as_typed_json(crowd)}, expected 0 or 1")
    is_number = isinstance(area, int | float) and not isinstance(area, bool)
    if area is not None and not (is_number and 0 <= area <= LARGEST_AREA):
        problems.append(f"area is {as_typed_json(area)}, expected a number of pixels")
    outline: Segmentation = []
    if outlines or (entry.get("segmentation") and not (box and area and box_problem(box, size) is None)):
        try:
            outline = parse_segmentation(entry.get("segmentation"), size)
        except SegmentationError as error:
            problems.append(str(error) if "segmentation" in entry else "lacks 'segmentation'")
    whose = ""
    if box is None or (isinstance(box, list) and not box):
        if not outline:
            return [], outline, problems or ["lacks 'bbox'"]
        box, whose = box_of_segmentation(outline), "its outline's "
    problem = box_problem(box, size)
    if problem is not None:
        return [], outline, [*problems, f"{whose}box {as_json(box)} {problem}"]
    return list(box), outline, problems


def parse_segmentation(value: Any, size: Size) -> Segmentation:
    """The outline of an object in an image of this (height, width).

    Accepted are COCO's polygons, kwcoco's polygons with ``exterior`` and ``interiors``, and COCO's run lengths,
    compressed or not. Of several polygons, those with two points or fewer are dropped: they cover no pixel.

    Raises:
        SegmentationError: for anything else.
    """
    if isinstance(value, dict) and value:
        return _parse_kwcoco_polygons([value], size) if "exterior" in value else _parse_run_lengths(value, size)
    if isinstance(value, list | tuple) and value:
        is_kwcoco = all(isinstance(part, dict) and "exterior" in part for part in value)
        return _parse_kwcoco_polygons(value, size) if is_kwcoco else _parse_polygons(value, size)
    if isinstance(value, str):
        raise SegmentationError(f"segmentation is text, {as_json(value)}; expected polygons or run lengths as JSON")
    raise SegmentationError(
        "has no segmentation: expected polygons or a run-length encoding, a box is not enough for masks"
    )


def box_of_segmentation(segmentation: Segmentation) -> list[float]:
    """The box [x, y, width, height] around a polygon's corners, or around the pixels of run lengths."""
    if not isinstance(segmentation, list):
        box: list[float] = coco_mask.toBbox(segmentation).tolist()
        return box
    xs, ys = (np.concatenate([part[axis::2] for part in segmentation]) for axis in (0, 1))
    left, top = float(xs.min()), float(ys.min())
    return [left, top, float(xs.max()) - left, float(ys.max()) - top]


def area_of_segmentation(segmentation: Segmentation, size: Size) -> float:
    """The number of pixels inside an outline."""
    return float(coco_mask.area(rle_of_segmentation(segmentation, size)))


def box_problem(box: Any, size: Size) -> str | None:
    """What is wrong with a box [x, y, width, height] in an image of this (height, width); None: nothing."""
    height, width = size
    try:
        x, y, w, h = box
        if not all(map(isfinite, box)):
            return "has a number that is not finite"
    except OverflowError:
        return "has a number that is too large"
    except (TypeError, ValueError):
        return "is not 4 numbers, [x, y, width, height]"
    if w <= SHORTEST_SIDE or h <= SHORTEST_SIDE:
        return NO_AREA
    if min(x + w, width) - max(x, 0) <= SHORTEST_SIDE or min(y + h, height) - max(y, 0) <= SHORTEST_SIDE:
        return f"lies outside the image, which is {width} x {height} (width x height)"
    return None


def has_only_flat_polygons(segmentation: Segmentation) -> bool:
    """Whether all polygons of an object lie on horizontal lines, or all on vertical lines.

    COCO's train2017 has two such objects (https://github.com/cocodataset/cocoapi/issues/355): their boxes are right,
    and they cover no pixel.
    """
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and any(all(np.ptp(part[axis::2]) <= SHORTEST_SIDE for part in segmentation) for axis in (0, 1))
    )


def _parse_polygons(parts: Sequence[Any], size: Size) -> Polygons:
    limit = 2 * max(size)  # coordinates far beyond the image would take gigabytes to draw
    polygons = []
    for part in parts:
        problem = _polygon_problem(part, limit)
        if problem is None:
            polygons.append(np.array(part, dtype=np.float64))
        elif not (isinstance(part, list | tuple) and len(part) in (0, 2, 4) and all(map(_is_number, part))):
            raise SegmentationError(_describe_other_form(parts) or problem)
    if not polygons:
        raise SegmentationError(_describe_other_form(parts) or _describe_short_polygon(parts[0]))
    return polygons


def _polygon_problem(polygon: Any, limit: int) -> str | None:
    """What is wrong with x1, y1, x2, y2, ..., each of which must lie within ``limit`` of 0; None: nothing."""
    try:
        numbers = len(polygon)
        if not isfinite(sum(polygon)):
            return "polygon has a number that is not finite"
    except OverflowError:
        return "polygon has a number that is too large"
    except TypeError:
        return f"polygon is not a list of numbers x1, y1, x2, y2, ...: {as_json(polygon)}"
    if numbers < 6:
        return _describe_short_polygon(polygon)
    if numbers % 2:
        return f"polygon has {count_noun(numbers, 'number')}, needs an even count: x1, y1, x2, y2, ..."
    if not -limit < min(polygon) <= max(polygon) < limit:
        return f"polygon reaches from {min(polygon)} to {max(polygon)}, far outside the image"
    return None


def _describe_short_polygon(polygon: Sequence[Any]) -> str:
    numbers = len(polygon)
    hint = f": {as_json(list(polygon))} may be a box, which is no outline" if numbers == 4 else ""
    return f"polygon has {count_noun(numbers, 'number')}, needs at least 6{hint}"


def _describe_other_form(parts: Sequence[Any]) -> str | None:
    """The form of a list that holds no polygons, if it is one that some tools write; None: not known."""
    first = parts[0]
    shown = f"expected [[x1, y1, x2, y2, ...], ...], got {as_json(parts)}"
    if all(map(_is_number, parts)):
        return f"polygon is not in a list of its own: {shown}"
    if len(parts) > 2 and all(_is_point(part) for part in parts):
        return f"polygon is written as points [x, y]: {shown}"
    if isinstance(first, dict) and "counts" in first:
        return f"run lengths stand in a list: expected them alone, got {as_json(parts)}"
    if isinstance(first, str):
        return f"polygon is text: {shown}"
    if isinstance(first, list | tuple) and first and isinstance(first[0], list | tuple):
        return f"polygon is written as points [x, y]: {shown}" if _is_point(first[0]) else f"nested too deep: {shown}"
    return None


def _is_point(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number)


def _parse_kwcoco_polygons(parts: Sequence[Json], size: Size) -> Segmentation:
    """Kwcoco's polygons, each an exterior and its holes; if any has a hole, they become run lengths."""
    drawable = [part for part in parts if not _has_two_points_at_most(part["exterior"])] or parts
    exteriors = [_flatten_points(part["exterior"], size) for part in drawable]
    holes = [[_flatten_points(hole, size) for hole in part.get("interiors") or ()] for part in drawable]
    if not any(holes):
        return exteriors
    drawn, cut = (
        draw_cropped_masks([cropped_mask(polygons, size) if polygons else None for polygons in parts], size).numpy()
        for parts in ([[exterior] for exterior in exteriors], holes)
    )
    rle: Rle = coco_mask.encode(np.asfortranarray((drawn > cut).any(axis=0).astype(np.uint8)))
    return {"size": list(size), "counts": rle["counts"]}


def _has_two_points_at_most(exterior: Any) -> bool:
    return isinstance(exterior, list) and len(exterior) < 3 and all(map(_is_point, exterior))


def _flatten_points(points: Any, size: Size) -> np.ndarray:
    """The polygon [[x1, y1], [x2, y2], ...] as x1, y1, x2, y2, ..."""
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise SegmentationError(
            f"exterior and interiors: expected points [[x1, y1], [x2, y2], ...], got {as_json(points)}"
        )
    [polygon] = _parse_polygons([[coordinate for point in points for coordinate in point]], size)
    return polygon


def _parse_run_lengths(rle: Json, size: Size) -> Rle:
    if "counts" not in rle:
        raise SegmentationError(
            f'segmentation has {", ".join(map(as_json, rle))}; expected polygons, or "size" and "counts"'
        )
    height, width = size
    if "size" not in rle:
        raise SegmentationError(f'mask has no "size"; expected [{height}, {width}] (height, width)')
    if rle["size"] not in ([height, width], (height, width)):
        raise SegmentationError(
            f"mask has size {as_json(rle['size'])}, the image has [{height}, {width}] (height, width)"
        )
    if rle.get("order", "F") != "F":
        raise SegmentationError(
            f"mask's run lengths have the order {as_json(rle['order'])}; expected them column by column"
        )
    encoded, counts = _parse_counts(rle["counts"])
    if any(count is None or not 0 <= count <= LONGEST_RUN for count in counts):
        raise SegmentationError(
            f"mask cannot be decoded: its counts are not numbers of pixels: {as_json(rle['counts'])}"
        )
    pixels = sum(count for count in counts if count is not None)
    if pixels != height * width:
        raise SegmentationError(f"mask's counts sum to {count_noun(pixels, 'pixel')}, the image has {height * width}")
    if encoded is None:
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded}


def _parse_counts(value: Any) -> tuple[bytes | None, Sequence[int | None]]:
    """The compressed run lengths, None if the file has them as numbers, and the numbers."""
    if isinstance(value, str | bytes):
        try:
            encoded = value if isinstance(value, bytes) else value.encode()
            return encoded, decode_counts(encoded).tolist()
        except ValueError as error:
            raise SegmentationError(f"mask cannot be decoded: {error} in its counts, {as_json(value)}") from None
    if not isinstance(value, list):
        raise SegmentationError(f"mask cannot be decoded: its counts are not numbers of pixels: {as_json(value)}")
    return None, [as_whole_number(count) for count in value]
