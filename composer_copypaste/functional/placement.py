"""Where objects are put: their shifts, drawn, and how much of the image's own objects they would cover."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

from composer_copypaste.functional.generators import uniforms
from composer_copypaste.functional.plan import BOX_CORNERS, ImageInfo
from composer_copypaste.settings import CopyPasteSettings

MOST_CELLS = 1 << 18
"""The largest number of cells between the edges of boxes that are looked at together."""


class Pairing(NamedTuple):
    """An image that receives objects, and the image that they come from."""

    target: int
    source: int
    """Index within the batch, or batch size plus index within the bank's images."""
    target_info: ImageInfo
    source_info: ImageInfo


def draw_shifts(
    linear: Float[ndarray, "k 2 2"],
    boxes: Float[ndarray, "m 4"],
    pair: Int64[ndarray, " m"],
    pairings: Sequence[Pairing],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw the shifts, in whole pixels, that follow the linear maps.

    Args:
        linear: from source to target; one for each pairing or one for each object, by ``settings.jitter``.
        boxes: of the objects, in their sources.
        pair: index of each object's pairing, ascending.
        pairings: of sources and targets.
        settings: what to draw.
        generator: a CPU generator.

    Returns:
        The shift of each object, and whether it has a place.
    """
    everywhere = np.full(len(boxes), True)
    if settings.placement == "source" and settings.jitter == "image":
        sides = np.array([(source.width, source.height) for *_, source in pairings], dtype=np.float64)
        whole = np.concatenate([np.zeros_like(sides), sides], axis=1)
        return _shift_inside(_extents(linear, whole), sides, uniforms((len(pairings), 2), generator))[pair], everywhere
    linear = linear[pair] if settings.jitter == "image" else linear
    if settings.placement == "source":
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        return np.rint(centre - np.einsum("mij,mj->mi", linear, centre)), everywhere
    drawn = [
        draw_free_shifts(linear[pair == k], boxes[pair == k], pairing.target_info, settings, generator)
        for k, pairing in enumerate(pairings)
    ]
    return np.concatenate([shifts for shifts, _ in drawn]), np.concatenate([has_place for _, has_place in drawn])


def draw_free_shifts(
    linear: Float[ndarray, "m 2 2"],
    boxes: Float[ndarray, "m 4"],
    target: ImageInfo,
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> tuple[Float[ndarray, "m 2"], Bool[ndarray, " m"]]:
    """Draw a place in the target for each object, anew where it would hide too much, at most ``placement_tries`` times.

    Objects whose ``placement`` is "source" but that have no place of their own are put inside.
    """
    extents, canvas = _extents(linear, boxes), np.array([target.width, target.height])
    shift = _shift_anywhere if settings.placement == "anywhere" else _shift_inside
    any_will_do = settings.max_overlap == 1
    shifts, has_place = np.zeros((len(boxes), 2)), np.full(len(boxes), False)
    for u in uniforms((1 if any_will_do else settings.placement_tries, len(boxes), 2), generator):
        tried = shift(extents, canvas, u)
        waiting = np.flatnonzero(~has_place)
        visible = (extents + np.tile(tried, 2)).clip(0, np.tile(canvas, 2))[waiting]
        fits = [any_will_do or covered_fraction(box, target.boxes) <= settings.max_overlap for box in visible]
        new = waiting[np.array(fits, dtype=bool)]
        shifts[new], has_place[new] = tried[new], True
    return shifts, has_place


def _shift_inside(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts each extent at fraction ``u`` of the room that the canvas (width, height) leaves.

    The room is negative for an extent larger than the canvas, which it then covers.
    """
    low, high = extents[:, :2], extents[:, 2:]
    return np.rint(u * (canvas - (high - low)) - low)


def _shift_anywhere(
    extents: Float[ndarray, "m 4"], canvas: Shaped[ndarray, "*m 2"], u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts the middle of each extent at fraction ``u`` of the canvas (width, height)."""
    return np.rint(u * canvas - (extents[:, :2] + extents[:, 2:]) / 2)


def _extents(linear: Float[ndarray, "m 2 2"], boxes: Float[ndarray, "m 4"]) -> Float[ndarray, "m 4"]:
    """The boxes (x1, y1, x2, y2) around the mapped boxes."""
    corners = np.einsum("mij,mcj->mci", linear, boxes[:, BOX_CORNERS])
    return np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)


def covered_fraction(box: Float[ndarray, "4"], others: Float[ndarray, "n 4"]) -> float:
    """The fraction of a box that other boxes cover together; 0 for a box without area."""
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
    """The area that boxes cover in a strip of cells whose first row is number ``start``.

    ``columns`` and ``rows`` number the edges that begin and end each box; ``x`` and ``y`` are the strip's edges.
    """
    begins, ends = (rows - start).clip(0, len(y) - 1)
    change = np.zeros((len(y), len(x)), dtype=np.int32)  # how many more boxes a cell has than its neighbours before it
    for row, column, boxes in ((begins, 0, 1), (ends, 0, -1), (begins, 1, -1), (ends, 1, 1)):
        np.add.at(change, (row, columns[column]), boxes)
    covered = change.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] > 0
    return float((covered * np.diff(y)[:, None] * np.diff(x)).sum())
