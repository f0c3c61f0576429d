"""The ``segmentation`` and ``bbox`` of an annotation, as the many tools write them: checked and brought into one form.

These functions run 860,000 times on COCO: on their usual path they only compare and convert.
"""

from collections.abc import Sequence
from math import isfinite
from numbers import Integral
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from composer_copypaste.data.rle import (
    Polygons,
    Rle,
    Segmentation,
    cropped_mask,
    draw_cropped_masks,
    rle_counts,
    rle_of,
)
from composer_copypaste.errors import as_json, counted

SHORTEST_SIDE = 1e-3
"""Of a box, in pixels: float32, in which models take boxes, cannot tell corners apart that are closer."""

NO_AREA = "has no area: width and height must be more than 0"

_EXPECTED = "expected [[x1, y1, x2, y2, ...], ...]"
_STRAY_NUMBERS = (0, 2, 4)

Json = dict[str, Any]
Size = tuple[int, int]


class ShapeError(ValueError):
    """An outline or a box cannot be used; the message is what is wrong with it."""


def whole(value: object) -> int | None:
    """A whole number, which JSON may spell 7 or 7.0; None where the value is anything else."""
    if type(value) is int:
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def read_segmentation(value: Any, size: Size) -> Segmentation:
    """The outline of an object in an image of ``size`` (height, width).

    Polygons are COCO's, or kwcoco's ``exterior`` and ``interiors``; run lengths are COCO's of both kinds. Of several
    polygons, those of no, one or two points are dropped: they have no pixel.

    Raises:
        ShapeError: where it is none of these.
    """
    if isinstance(value, dict) and value:
        return _of_exteriors([value], size) if "exterior" in value else _of_run_lengths(value, size)
    if isinstance(value, list | tuple) and value:
        is_kwcoco = all(isinstance(part, dict) and "exterior" in part for part in value)
        return _of_exteriors(value, size) if is_kwcoco else _of_polygons(value, size)
    if isinstance(value, str):
        raise ShapeError(f"segmentation is text, {as_json(value)}; expected polygons or run lengths as JSON")
    raise ShapeError("has no segmentation: expected polygons or a run-length encoding, a box is not enough for masks")


def box_of(segmentation: Segmentation) -> list[float]:
    """The box [x, y, width, height] of an outline: of polygons' corners, or of run lengths' pixels."""
    if not isinstance(segmentation, list):
        box: list[float] = coco_mask.toBbox(segmentation).tolist()
        return box
    xs, ys = (np.concatenate([part[axis::2] for part in segmentation]) for axis in (0, 1))
    left, top = float(xs.min()), float(ys.min())
    return [left, top, float(xs.max()) - left, float(ys.max()) - top]


def area_of(segmentation: Segmentation, size: Size) -> float:
    """The number of pixels of an outline."""
    return float(coco_mask.area(rle_of(segmentation, size)))


def box_problem(box: Any, size: Size) -> str | None:
    """What is wrong with a box [x, y, width, height] in an image of ``size``; None where nothing is."""
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


def has_no_extent(segmentation: Segmentation) -> bool:
    """Whether all polygons of an object lie on one horizontal or one vertical line each.

    COCO's train2017 has two such (https://github.com/cocodataset/cocoapi/issues/355): their boxes are right, and the
    objects cover no pixel.
    """
    return (
        isinstance(segmentation, list)
        and bool(segmentation)
        and any(all(np.ptp(part[axis::2]) <= SHORTEST_SIDE for part in segmentation) for axis in (0, 1))
    )


def _of_polygons(parts: Sequence[Any], size: Size) -> Polygons:
    limit = 2 * max(size)
    polygons = []
    for part in parts:
        problem = _polygon_problem(part, limit)
        if problem is None:
            polygons.append(np.array(part, dtype=np.float64))
        elif not _is_stray(part):
            raise ShapeError(_other_form(parts) or problem)
    if not polygons:
        raise ShapeError(_other_form(parts) or _too_short(parts[0]))
    return polygons


def _is_stray(part: Any) -> bool:
    """Whether a part is one or two points, or none."""
    return isinstance(part, list | tuple) and len(part) in _STRAY_NUMBERS and all(map(_is_number, part))


def _polygon_problem(polygon: Any, limit: int) -> str | None:
    """What is wrong with x1, y1, x2, y2, ...; drawing coordinates far beyond ``limit`` would take gigabytes."""
    try:
        numbers = len(polygon)
        if not isfinite(sum(polygon)):
            return "polygon has a number that is not finite"
    except OverflowError:
        return "polygon has a number that is too large"
    except TypeError:
        return f"polygon is not a list of numbers x1, y1, x2, y2, ...: {as_json(polygon)}"
    if numbers < 6:
        return _too_short(polygon)
    if numbers % 2:
        return f"polygon has {counted(numbers, 'number')}, needs an even count: x1, y1, x2, y2, ..."
    if not -limit < min(polygon) <= max(polygon) < limit:
        return f"polygon reaches from {min(polygon)} to {max(polygon)}, far outside the image"
    return None


def _too_short(polygon: Sequence[Any]) -> str:
    numbers = len(polygon)
    hint = f": {as_json(list(polygon))} may be a box, which is no outline" if numbers == 4 else ""
    return f"polygon has {counted(numbers, 'number')}, needs at least 6{hint}"


def _other_form(parts: Sequence[Any]) -> str | None:
    """What a list is that holds no polygons, if it is a form that is met now and then."""
    first = parts[0]
    shown = f"{_EXPECTED}, got {as_json(parts)}"
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


def _of_exteriors(parts: Sequence[Json], size: Size) -> Segmentation:
    """Polygons as kwcoco writes them, points of an exterior and of its holes; with holes, they become run lengths."""
    drawable = [part for part in parts if not _is_stray_exterior(part["exterior"])] or parts
    exteriors = [_flat(part["exterior"], size) for part in drawable]
    holes = [[_flat(hole, size) for hole in part.get("interiors") or ()] for part in drawable]
    if not any(holes):
        return exteriors
    drawn, cut = (
        draw_cropped_masks([cropped_mask(polygons, size) if polygons else None for polygons in parts], size).numpy()
        for parts in ([[exterior] for exterior in exteriors], holes)
    )
    rle: Rle = coco_mask.encode(np.asfortranarray((drawn > cut).any(axis=0).astype(np.uint8)))
    return {"size": list(size), "counts": rle["counts"]}


def _is_stray_exterior(points: Any) -> bool:
    return isinstance(points, list) and len(points) < 3 and all(map(_is_point, points))


def _flat(points: Any, size: Size) -> np.ndarray:
    """The polygon [[x1, y1], [x2, y2], ...] as x1, y1, x2, y2, ..."""
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ShapeError(f"exterior and interiors: expected points [[x1, y1], [x2, y2], ...], got {as_json(points)}")
    [polygon] = _of_polygons([[coordinate for point in points for coordinate in point]], size)
    return polygon


def _of_run_lengths(rle: Json, size: Size) -> Rle:
    if "counts" not in rle:
        raise ShapeError(f'segmentation has {", ".join(map(as_json, rle))}; expected polygons, or "size" and "counts"')
    height, width = size
    if "size" not in rle:
        raise ShapeError(f'mask has no "size"; expected [{height}, {width}] (height, width)')
    if rle["size"] not in ([height, width], (height, width)):
        raise ShapeError(f"mask has size {as_json(rle['size'])}, the image has [{height}, {width}] (height, width)")
    if rle.get("order", "F") != "F":
        raise ShapeError(f"mask's run lengths have the order {as_json(rle['order'])}; expected them column by column")
    encoded, counts = _counts(rle["counts"])
    if any(count is None or count < 0 for count in counts):
        raise ShapeError(f"mask cannot be decoded: its counts are not numbers of pixels: {as_json(rle['counts'])}")
    pixels = sum(count for count in counts if count is not None)
    if pixels != height * width:
        raise ShapeError(f"mask's counts sum to {counted(pixels, 'pixel')}, the image has {height * width}")
    if encoded is None:
        return coco_mask.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [height, width], "counts": encoded}


def _counts(value: Any) -> tuple[bytes | None, Sequence[int | None]]:
    """The compressed text of run lengths, None where they are numbers in the file, and the numbers."""
    if isinstance(value, str | bytes):
        try:
            encoded = value if isinstance(value, bytes) else value.encode()
            return encoded, rle_counts(encoded)
        except ValueError as error:
            raise ShapeError(f"mask cannot be decoded: {error} in its counts, {as_json(value)}") from None
    if not isinstance(value, list):
        raise ShapeError(f"mask cannot be decoded: its counts are not numbers of pixels: {as_json(value)}")
    return None, [whole(count) for count in value]
