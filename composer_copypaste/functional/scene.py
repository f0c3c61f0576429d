"""What an image shows where, as settings and targets say it: how likely objects are put at each pixel, and how large.

All of it is nearest values at the centres of pixels, so that what is drawn can be checked pixel by pixel.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy import ndarray
from torch import Tensor

from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.tensors import read_back
from composer_copypaste.scene_maps import Polygon, SceneMap, problem_of_map
from composer_copypaste.settings import CopyPasteSettings

LAST_ROW = np.array([0.0, 0.5])
"""From the lower edge of a box up to the middle of its last row of pixels."""


def check_scene(settings: CopyPasteSettings) -> None:
    """Read the files of the maps; raise ``DataError`` where one cannot be used."""
    for given in (settings.place_map, settings.scale_map):
        if given is not None:
            given.values  # noqa: B018 - reads the file


# Points of objects


def points_of(boxes: Float[ndarray, "m 4"], settings: CopyPasteSettings) -> Float[ndarray, "m 2"]:
    """The point (x, y) of each box that the scene refers to."""
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    if settings.place_point == "centre":
        return middle
    return np.stack([middle[:, 0], boxes[:, 3]], axis=1) - LAST_ROW


def own_scales(boxes: Float[ndarray, "m 4"], info: ImageInfo, settings: CopyPasteSettings) -> Float[ndarray, " m"]:
    """The size of things where each object of a source is; 1 where sizes do not follow the place."""
    scales = scales_of(settings, info.height, info.width)
    if scales is None:
        return np.ones(len(boxes))
    x, y = np.floor(points_of(boxes, settings)).astype(np.int64).T
    return scales[y.clip(0, info.height - 1), x.clip(0, info.width - 1)]


# Maps in the pixels of an image


@lru_cache(maxsize=16)
def _scales(line: float | None, given: SceneMap | None, height: int, width: int) -> Float[ndarray, "h w"] | None:
    if line is None and given is None:
        return None
    scales = np.ones((height, width)) if given is None else stretched(given.values, height, width)
    if line is not None:
        scales = scales * np.maximum(np.arange(height) + 0.5 - line * height, 0)[:, None]
    return scales


def scales_of(settings: CopyPasteSettings, height: int, width: int) -> Float[ndarray, "h w"] | None:
    """The size of things at each pixel of an image, in some unit; None where sizes do not follow the place."""
    return _scales(settings.vanishing_line, settings.scale_map, height, width)


@lru_cache(maxsize=16)
def _weights(
    polygons: tuple[Polygon, ...] | None, given: SceneMap | None, height: int, width: int
) -> Float[ndarray, "h w"]:
    weights = np.ones((height, width)) if given is None else stretched(given.values, height, width)
    if polygons is not None:
        size = np.array([width, height])
        weights = weights * inside_polygons([np.array(polygon) * size for polygon in polygons], height, width)
    return weights


def weights_of(settings: CopyPasteSettings, info: ImageInfo) -> Float[ndarray, "h w"]:
    """How likely an object's point is at each pixel of an image, in some unit."""
    height, width = info.height, info.width
    weights = _weights(settings.place_region, settings.place_map, height, width)
    if isinstance(info.place, ndarray):
        weights = weights * stretched(info.place, height, width)
    elif info.place is not None:
        weights = weights * inside_polygons(info.place, height, width)
    scales = scales_of(settings, height, width)
    return weights if scales is None else weights * (scales > 0)


def draw_pixels(
    weights: Float[ndarray, "h w"], u: Float[ndarray, "t m"]
) -> tuple[Int64[ndarray, "t m"], Int64[ndarray, "t m"]]:
    """The rows and columns of pixels drawn by their weights, some of which are above 0; ``u`` is uniform in [0, 1)."""
    cumulative = np.cumsum(weights)
    found = np.searchsorted(cumulative, u * cumulative[-1], side="right")
    rows, columns = np.divmod(np.minimum(found, np.flatnonzero(weights)[-1]), weights.shape[1])
    return rows, columns


def stretched(values: Float[ndarray, "h2 w2"], height: int, width: int) -> Float[ndarray, "h w"]:
    """A map over an image: at each pixel the number that its centre lies in."""
    rows, columns = (
        ((2 * np.arange(side) + 1) * cells // (2 * side)).astype(np.int64)
        for side, cells in zip((height, width), values.shape, strict=True)
    )
    return np.asarray(values[rows[:, None], columns])


def inside_polygons(polygons: Sequence[Float[ndarray, "_k 2"]], height: int, width: int) -> Bool[ndarray, "h w"]:
    """Which pixels have their centre in one of the polygons, whose points are (x, y) in pixels (even-odd rule)."""
    inside = np.full((height, width), False)
    middles = np.arange(height) + 0.5
    for polygon in polygons:
        edges = np.zeros((height, width + 1), dtype=np.int32)  # the number of edges to the left of each centre
        for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            rows = np.flatnonzero((y1 <= middles) != (y2 <= middles))
            crossing = x1 + (middles[rows] - y1) * ((x2 - x1) / (y2 - y1)) if len(rows) else np.zeros(0)
            first = np.clip(np.floor(crossing - 0.5) + 1, 0, width).astype(np.int64)
            edges[rows, first] += 1
        inside |= np.cumsum(edges[:, :width], axis=1) % 2 == 1
    return inside


# Of one image, from its target


def with_places(
    infos: Sequence[ImageInfo], targets: Sequence[Mapping[str, object]] | Tensor, key: str
) -> list[ImageInfo]:
    """What sampling knows of the images, with the map or the polygons that each target has under a key.

    Raises:
        ValueError: where a target has none, or what it has is none.
        TypeError: where targets are class-id maps.
    """
    if isinstance(targets, Tensor):
        raise TypeError("place_key: class-id maps have no keys; give place_region or place_map, which hold for all")
    return [
        replace(info, place=_place(target, key, f"targets[{i}]"))
        for i, (info, target) in enumerate(zip(infos, targets, strict=True))
    ]


def _place(
    target: Mapping[str, object], key: str, where: str
) -> Float[ndarray, "ph pw"] | list[Float[ndarray, "_k 2"]]:
    expected = (
        f"{where}: expected {key!r}, which place_key names, to be a map (h, w) of numbers of 0 or more, or a "
        "list of polygons, each (k, 2)"
    )
    if key not in target:
        raise ValueError(f"{expected}; the target has no such key")
    value = target[key]
    if isinstance(value, list | tuple):
        found = [_numbers(polygon) for polygon in value]
        polygons = [points for points in found if points is not None and points.ndim == 2 and points.shape[1] == 2]
        if len(polygons) < len(found) or not all(np.isfinite(points).all() for points in polygons):
            raise ValueError(f"{expected}, got a list of something else")
        return polygons
    values = _numbers(value)
    if values is None:
        raise ValueError(f"{expected}, got {type(value).__name__}")
    problem = problem_of_map(values)
    if problem is not None and problem != "zeros alone":  # an image may have no place for objects
        raise ValueError(f"{expected}, got {problem}")
    return values


def _numbers(value: object) -> Float[ndarray, "..."] | None:
    if isinstance(value, Tensor):
        return read_back(value.detach().to(torch.float64))
    if isinstance(value, ndarray | list | tuple):
        try:
            return np.asarray(value, dtype=np.float64)
        except (TypeError, ValueError):
            return None
    return None
