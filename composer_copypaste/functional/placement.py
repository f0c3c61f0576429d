"""Where what is copied is put: the draw."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

from composer_copypaste.functional.draw import uniforms
from composer_copypaste.functional.scene import Scene
from composer_copypaste.settings import CopyPasteSettings

MOST_CELLS = 1 << 18
"""Cells between the edges of boxes that are looked at together."""


def draw_shifts(
    linear: Float[ndarray, "k 2 2"],
    boxes: Float[ndarray, "m 4"],
    which: Int64[ndarray, " m"],
    scenes: Sequence[tuple[Scene, Scene]],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw the shifts, in whole pixels, that follow the linear maps.

    Args:
        linear: from source to target, one for each pair of scenes or one for each object, by ``settings.jitter``.
        boxes: of the objects, in their sources.
        which: the pair of scenes of each object, ascending.
        scenes: sources and targets.
        settings: what to draw.
        generator: a CPU generator.

    Returns:
        The shift of each object, and whether it has a place.
    """
    everywhere = np.full(len(boxes), True)
    if settings.placement == "source" and settings.jitter == "image":
        sides = np.array([(source.width, source.height) for source, _ in scenes], dtype=np.float64)
        whole = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return _inside(_extents(linear, whole), sides, uniforms((len(scenes), 2), generator))[which], everywhere
    linear = linear[which] if settings.jitter == "image" else linear
    if settings.placement == "source":
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.rint(centre - np.einsum("mij,mj->mi", linear, centre)), everywhere
    parts = [which == k for k in range(len(scenes))]
    drawn = [
        draw_free_shifts(linear[part], boxes[part], target, settings, generator)
        for part, (_, target) in zip(parts, scenes, strict=True)
    ]
    return np.concatenate([shifts for shifts, _ in drawn]), np.concatenate([placed for _, placed in drawn])


def draw_free_shifts(
    linear: Float[ndarray, "m 2 2"],
    boxes: Float[ndarray, "m 4"],
    target: Scene,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw a place in the target for each object, again where it would hide too much, a bounded number of times.

    What has no place of its own is put inside where ``placement`` is "source".
    """
    extents, canvas = _extents(linear, boxes), np.array([target.width, target.height])
    place = _anywhere if settings.placement == "anywhere" else _inside
    any_will_do = settings.max_overlap == 1
    shifts, placed = np.zeros((len(boxes), 2)), np.full(len(boxes), False)
    for u in uniforms((1 if any_will_do else settings.placement_tries, len(boxes), 2), generator):
        tried = place(extents, canvas, u)
        waiting = np.flatnonzero(~placed)
        landed = (extents + np.tile(tried, 2)).clip(0, np.tile(canvas, 2))[waiting]
        fits = [any_will_do or covered_fraction(box, target.boxes) <= settings.max_overlap for box in landed]
        new = waiting[np.array(fits, dtype=bool)]
        shifts[new], placed[new] = tried[new], True
    return shifts, placed


def backwards(inverse: Float[ndarray, "m 2 2"], shifts: Float[ndarray, "m 2"]) -> Float[ndarray, "m 2 3"]:
    """The maps from target to source."""
    back = -np.einsum("mij,mj->mi", inverse, shifts)
    return np.concatenate([inverse, back[:, :, None]], axis=2)


def covered_fraction(box: Float[ndarray, "4"], others: Float[ndarray, "n 4"]) -> float:
    """The fraction of a box that others cover together; 0 of a box without area."""
    parts = np.concatenate([np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])], axis=1)
    parts = parts[(parts[:, :2] < parts[:, 2:]).all(axis=1)]
    if not len(parts):
        return 0.0
    x, y = np.unique(parts[:, ::2]), np.unique(parts[:, 1::2])  # the edges cut the box into cells
    columns, rows = np.searchsorted(x, parts[:, ::2]).T, np.searchsorted(y, parts[:, 1::2]).T
    step = max(1, MOST_CELLS // len(x))
    strips = (
        _covered_area(columns, rows, x, y[start : start + step + 1], start) for start in range(0, len(y) - 1, step)
    )
    return float(sum(strips) / np.prod(box[2:] - box[:2]))


def _covered_area(
    columns: Int64[ndarray, "2 n"],
    rows: Int64[ndarray, "2 n"],
    x: Float[ndarray, " w"],
    y: Float[ndarray, " h"],
    start: int,
) -> float:
    """The area that boxes cover of a strip of cells between edges, of which the first row is number ``start``.

    ``columns`` and ``rows`` number the edges that begin and end each box.
    """
    begins, ends = (rows - start).clip(0, len(y) - 1)
    change = np.zeros((len(y), len(x)), dtype=np.int32)  # by how many boxes more than above and to the left a cell has
    for row, column, boxes in ((begins, 0, 1), (ends, 0, -1), (begins, 1, -1), (ends, 1, 1)):
        np.add.at(change, (row, columns[column]), boxes)
    covered = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float((covered * np.diff(y)[:, None] * np.diff(x)).sum())


def _inside(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts each extent at fraction ``u`` of the room that the canvas (width, height) leaves.

    What is larger than the canvas covers it: the room is then negative.
    """
    low, high = extents[:, :2], extents[:, 2:]
    return np.rint(u * (canvas - (high - low)) - low)


def _anywhere(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts the middle of each extent at fraction ``u`` of the canvas (width, height)."""
    return np.rint(u * canvas - (extents[:, :2] + extents[:, 2:]) / 2)


def _extents(linear: Float[ndarray, "m 2 2"], boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4"]:
    """The boxes around the boxes' images under the maps."""
    corners = np.einsum("mij,mcj->mci", linear, box_corners(boxes))
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def box_corners(boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4 2"]:
    """The four corners (x, y) of boxes (x1, y1, x2, y2)."""
    return boxes[:, [0, 1, 2, 1, 0, 3, 2, 3]].reshape(-1, 4, 2)
