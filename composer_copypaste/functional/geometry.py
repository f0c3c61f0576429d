"""Rotated boxes, polygons and points of objects: they move with their objects, and follow what stays visible of them.

On the way all are points: the corners of a rotated box, in the order of its width, then its height.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64, Shaped, UInt8
from numpy import ndarray
from torch import Tensor

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.keypoints import PlacedKeypoints, place_keypoints
from composer_copypaste.functional.layout import Layout
from composer_copypaste.functional.resample import PIXEL
from composer_copypaste.functional.tensors import on_device, read_back
from composer_copypaste.functional.visibility import KeptObjects, Measures
from composer_copypaste.settings import ROTATED_BOXES, CopyPasteSettings, GeometryKind

RIGHT_ANGLE = 1e-6
"""Sides whose directions differ from a right angle by a smaller cosine are those of a rectangle."""


# ---- as points, and back


def points_of(kind: GeometryKind, values: Float64[ndarray, "n ..."]) -> Float64[ndarray, "n k 2"]:
    """The points of each object's geometry."""
    if kind not in ("obb_radians", "obb_degrees"):
        return values.reshape(len(values), -1, 2)
    width, height = values[:, 2], values[:, 3]
    angle = values[:, 4] if kind == "obb_radians" else -np.deg2rad(values[:, 4])
    return _corners(values[:, :2], width, height, angle)


def _corners(
    centre: Float64[ndarray, "n 2"],
    width: Float64[ndarray, " n"],
    height: Float64[ndarray, " n"],
    angle: Float64[ndarray, " n"],
) -> Float64[ndarray, "n 4 2"]:
    """The corners of rectangles whose width points at an angle from x towards y, in radians."""
    across = 0.5 * width[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    down = 0.5 * height[:, None] * np.stack([-np.sin(angle), np.cos(angle)], axis=1)
    return np.stack([centre - across - down, centre + across - down, centre + across + down, centre - across + down], 1)


def values_of(kind: GeometryKind, points: Float64[ndarray, "n k 2"], shape: Sequence[int]) -> Float64[ndarray, "n ..."]:
    """The geometry with these points, in rows of a shape; a parallelogram becomes the smallest box around it."""
    if kind not in ("obb_radians", "obb_degrees"):
        return points.reshape(len(points), *shape)
    across, down = points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]
    width, height = np.hypot(*across.T), np.hypot(*down.T)
    boxes = np.column_stack([points.mean(axis=1), width, height, _box_angles(across, down)])
    skewed = np.abs((across * down).sum(axis=1)) > RIGHT_ANGLE * np.maximum(width * height, 1e-12)
    for n in np.flatnonzero(skewed):
        boxes[n] = smallest_box(points[n], boxes[n, 4])
    if kind == "obb_degrees":
        boxes[:, 4] = -np.rad2deg(boxes[:, 4])
    return boxes


def _box_angles(across: Float64[ndarray, "n 2"], down: Float64[ndarray, "n 2"]) -> Float64[ndarray, " n"]:
    """The direction of each box's width, from x towards y in radians; of mirrored boxes, from -pi/2 to pi/2.

    A box turned by half a turn is the same box. A mirrored one with the angle ``a`` is given as ``-a``, as the flips of
    Detectron2 and torchvision do, and not as ``pi - a``, which lies outside the range of most boxes' angles.
    """
    angles = np.arctan2(across[:, 1], across[:, 0])
    is_mirrored = across[:, 0] * down[:, 1] < across[:, 1] * down[:, 0]
    return np.where(is_mirrored, (angles + np.pi / 2) % np.pi - np.pi / 2, angles)


def smallest_box(points: Float64[ndarray, "p 2"], angle: float) -> Float64[ndarray, " 5"]:
    """The rotated box of the smallest area around points: centre, width, height, angle from x towards y in radians.

    Of the four ways to say it, and of boxes of one area, it is the one whose width points least away from ``angle``.
    One of its sides lies on a side of the points' convex hull (Freeman and Shapira, 1975).
    """
    hull = _convex_hull(points)
    sides = np.roll(hull, -1, axis=0) - hull
    along = np.arctan2(sides[:, 1], sides[:, 0])
    along += np.round((angle - along) / (np.pi / 2)) * (np.pi / 2)
    axes = np.stack([np.cos(along), np.sin(along)], axis=1)
    x, y = hull @ axes.T, hull @ np.stack([-axes[:, 1], axes[:, 0]], axis=0)
    low, high = np.stack([x.min(0), y.min(0)], 1), np.stack([x.max(0), y.max(0)], 1)
    areas = (high - low).prod(axis=1)
    best = np.flatnonzero(areas <= areas.min() * (1 + 1e-9) + 1e-12)
    best = best[np.abs(along[best] - angle).argmin()]
    (cos, sin), (u, v) = axes[best], (low[best] + high[best]) / 2
    return np.array([u * cos - v * sin, u * sin + v * cos, *(high[best] - low[best]), along[best]])


def _convex_hull(points: Float64[ndarray, "p 2"]) -> Float64[ndarray, "h 2"]:
    """The corners of the convex hull, in order (Andrew, 1979)."""
    ordered = sorted(set(map(tuple, points.tolist())))
    halves = []
    for side in (ordered, ordered[::-1]):
        half: list[tuple[float, float]] = []
        for x, y in side:
            while len(half) > 1 and _turns_left(half[-2], half[-1], (x, y)) <= 0:
                half.pop()
            half.append((x, y))
        halves += half[:-1]
    return np.array(halves or ordered)


def _turns_left(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def pixel_corners(mask: UInt8[ndarray, "h w"], left: int, top: int) -> Float64[ndarray, "p 2"]:
    """The corners of the first and the last pixel of each row of a mask; ``left`` and ``top`` are its place."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1) + left
    last = left + mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    columns, y = np.concatenate([first, last]), np.tile(rows + top, 2)
    return np.concatenate([np.stack([columns, y], 1), np.stack([columns, y + 1], 1)]).astype(np.float64)


def follow_visible(
    kind: GeometryKind, points: Float64[ndarray, "n k 2"], masks: Mapping[int, Float64[ndarray, "_p 2"]]
) -> Float64[ndarray, "n k 2"]:
    """The points of objects of which a part is hidden.

    Args:
        kind: rotated boxes become the smallest one around what is visible, and polygons NaN, as they are no outline any
            more; points are followed one by one, elsewhere.
        points: of all objects, where they have moved to.
        masks: the corners of the visible pixels of each such object, by its row.
    """
    points = points.copy()
    for row, corners in masks.items():
        if kind == "polygons":
            points[row] = np.nan
        elif kind in ROTATED_BOXES and np.isfinite(points[row]).all():
            across, down = points[row, [1]] - points[row, [0]], points[row, [3]] - points[row, [0]]
            turned = np.arctan2(across[:, 1], across[:, 0]) if kind == "corners" else _box_angles(across, down)
            box = smallest_box(corners, float(turned[0]))
            points[row] = _corners(box[None, :2], box[None, 2], box[None, 3], box[None, 4])[0]
    return points


# ---- after copy-paste


@dataclass(frozen=True)
class PlacedGeometry:
    """The geometry of a batch on which something is pasted, as a layout places it."""

    layout: Layout
    kinds: Mapping[str, GeometryKind]
    values: Mapping[str, Float64[ndarray, "g ..."]]
    """Of all sources' objects, by key."""
    points: PlacedKeypoints | None
    """The points of all keys of that kind, side by side; None where there are none, or where hidden ones stay."""
    follows_visible: bool

    def fields_after(
        self,
        extras: Mapping[str, Shaped[Tensor, "g ..."]],
        kept: KeptObjects,
        measures: Measures,
        masks: Mapping[int, CompactMasks],
        owners: Int64[ndarray, " p"],
    ) -> dict[str, Shaped[Tensor, "r ..."]]:
        """The geometry of the objects that stay; ``owners`` are those of the pixels of ``points``."""
        hidden = _hidden_rows(kept, measures, masks) if self.follows_visible else {}
        linear, shift = _maps(self.layout, kept)
        fields, taken = {}, 0
        for key, kind in self.kinds.items():
            own = self.values[key][kept.origin]
            points = points_of(kind, own)
            moved = points @ linear.transpose(0, 2, 1) + shift[:, None]
            if kind == "points" and self.points is not None:
                shown = read_back(self.points.fields_after({}, kept, owners)["keypoints"])
                shown = shown[:, taken : taken + points.shape[1]]
                taken += points.shape[1]
                moved = np.where(shown[..., 2:] > 1, shown[..., :2], np.nan)
            moved = follow_visible(kind, moved, hidden)
            changed = kept.pasted >= 0
            changed[list(hidden)] = True
            changed |= kind == "points"
            after = np.where(changed.reshape(-1, *[1] * (own.ndim - 1)), values_of(kind, moved, own.shape[1:]), own)
            fields[key] = on_device(after, extras[key].device, extras[key].dtype)
        return fields


def place_geometry(
    extras: Mapping[str, Shaped[Tensor, "g ..."]], layout: Layout, settings: CopyPasteSettings, *, masks: bool
) -> PlacedGeometry:
    """The declared geometry of all sources' objects; a device that holds it is waited for.

    Without ``masks``, nothing says what is visible of an object: its geometry moves as a whole.
    """
    kinds = {key: kind for key, kind in (settings.geometry or {}).items() if key in extras}
    values = {key: read_back(extras[key].detach().double()) for key in kinds}
    follows = settings.hidden_geometry == "visible" and masks
    points = [points_of("points", values[key]) for key, kind in kinds.items() if kind == "points"]
    placed = None
    if points and follows:
        joined = np.concatenate(points, axis=1)
        known = np.isfinite(joined).all(axis=2, keepdims=True)
        keypoints = torch.from_numpy(np.concatenate([np.where(known, joined, 0.0), 2.0 * known], axis=2))
        whole = np.zeros(len(layout.sizes), dtype=bool)
        placed = place_keypoints(keypoints, layout, whole, replace(settings, keypoint_pairs=()))
    return PlacedGeometry(layout, kinds, values, placed, follows)


def _maps(layout: Layout, kept: KeptObjects) -> tuple[Float64[ndarray, "r 2 2"], Float64[ndarray, "r 2"]]:
    """The linear part and the shift of each object's map from its source; those of an image's own change nothing."""
    to_source = layout.pasted.to_source / PIXEL
    to_target = np.linalg.inv(to_source[:, :, :2])
    shift = -np.einsum("mij,mj->mi", to_target, to_source[:, :, 2])
    is_pasted = kept.pasted >= 0
    linear = np.where(is_pasted[:, None, None], to_target[kept.pasted], np.eye(2))
    return linear, np.where(is_pasted[:, None], shift[kept.pasted], 0.0)


def _hidden_rows(
    kept: KeptObjects, measures: Measures, masks: Mapping[int, CompactMasks]
) -> dict[int, Float64[ndarray, "_p 2"]]:
    """The corners of the visible pixels of each object of which a part is hidden or cut off, by its row."""
    measured = kept.measure >= 0
    lost = measured & (measures.area[kept.measure] < measures.former[kept.measure])
    found = {}
    for row in np.flatnonzero(lost).tolist():
        own, place = masks[int(kept.target[row])], int(kept.place[row])
        x1, y1, x2, y2 = measures.boxes[kept.measure[row]].tolist()
        top, left = own.windows[place, :2].tolist()
        crop = own.crop(place)[y1 - top : y2 - top, x1 - left : x2 - left]
        found[row] = pixel_corners(read_back(crop), x1, y1)
    return found


# ---- after large-scale jitter


def crop_resized(
    kind: GeometryKind,
    values: Float64[ndarray, "n ..."],
    linear: Float64[ndarray, "2 2"],
    shift: Float64[ndarray, " 2"],
    size: tuple[int, int],
    hidden: Mapping[int, Float64[ndarray, "_p 2"]] | None,
) -> Float64[ndarray, "n ..."]:
    """The geometry after an image's crop and resize.

    Args:
        kind: what it is.
        values: of the objects that stay.
        linear: the linear part of the map.
        shift: its shift.
        size: height and width that the image has now; points outside become NaN.
        hidden: the corners of the pixels of each object that was cut, by its row; None: geometry stays whole.
    """
    moved = points_of(kind, values) @ linear.T + shift
    if hidden is not None:
        moved = follow_visible(kind, moved, hidden)
        if kind == "points":
            inside = ((moved >= 0) & (moved < np.array(size[::-1]))).all(axis=2, keepdims=True)
            moved = np.where(inside, moved, np.nan)
    return values_of(kind, moved, values.shape[1:])


def hidden_by_crop(boxes: Float64[ndarray, "n 4"], window: tuple[int, int, int, int]) -> Bool[ndarray, " n"]:
    """Whether a window (top, left, height, width) cuts each box (x1, y1, x2, y2)."""
    top, left, height, width = window
    return (boxes[:, :2] < [left, top]).any(axis=1) | (boxes[:, 2:] > [left + width, top + height]).any(axis=1)
