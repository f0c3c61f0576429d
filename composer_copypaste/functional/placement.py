"""Where objects are put: their places, drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

from composer_copypaste.functional.generators import uniforms
from composer_copypaste.functional.overlap import IN_POOL, Overlaps, ToPlace, mapped_boxes
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.scene import draw_pixels, points_of, scales_of, weights_of
from composer_copypaste.settings import CopyPasteSettings

SMALLEST, LARGEST = 0.01, 10.0
"""The resize factors that an object has at least and at most where its size follows its place."""
EDGE = 1e-6
"""In pixels: an object may reach so far beyond the image, by rounding, and still be inside."""


class Pairing(NamedTuple):
    """An image that receives objects, and the image that they come from."""

    target: int
    source: int
    """Index within the batch, or batch size plus index within the bank's images."""
    target_info: ImageInfo
    source_info: ImageInfo


class Places(NamedTuple):
    """Where objects are put; a row for each."""

    objects: ToPlace
    """The objects, resized once more where their size follows their place."""
    shifts: Float[ndarray, "m 2"]
    """In whole pixels; they follow the linear maps."""
    has_place: Bool[ndarray, " m"]
    """Whether a place was found; the objects of which none was are left out."""
    overlap: Float[ndarray, " m"]
    """The fraction of the object that lies on the image's own objects; 0 where nothing depends on it."""


def draw_places(
    objects: ToPlace,
    pair: Int64[ndarray, " m"],
    pairings: Sequence[Pairing],
    generator: torch.Generator,
    overlaps: Overlaps,
) -> Places:
    """Draw where the objects of several images are put.

    Args:
        objects: of all pairings, in their order.
        pair: index of each object's pairing, ascending.
        pairings: of sources and targets.
        generator: a CPU generator.
        overlaps: measures overlaps as the settings say, by which all is drawn.
    """
    settings = overlaps.settings
    if settings.placement != "source":
        drawn = [
            draw_free_places(objects.rows(pair == k), pairing.target, pairing.target_info, generator, overlaps)
            for k, pairing in enumerate(pairings)
        ]
        objects = ToPlace(*(np.concatenate(column) for column in zip(*(each.objects for each in drawn), strict=True)))
        return Places(objects, *(np.concatenate(column) for column in zip(*(each[1:] for each in drawn), strict=True)))
    shifts = _shifts_as_in_source(objects, pair, pairings, settings, generator)
    if not overlaps.matter:
        return Places(objects, shifts, np.full(len(shifts), True), np.zeros(len(shifts)))
    overlap = np.concatenate(
        [
            overlaps.fractions(pairing.target, pairing.target_info, objects.rows(pair == k), shifts[pair == k])
            for k, pairing in enumerate(pairings)
        ]
    )
    return Places(objects, shifts, overlap <= settings.max_overlap, overlap)


def _shifts_as_in_source(
    objects: ToPlace,
    pair: Int64[ndarray, " m"],
    pairings: Sequence[Pairing],
    settings: CopyPasteSettings,
    generator: torch.Generator,
) -> Float[ndarray, "m 2"]:
    """The shifts that put each object where the jittered source has it."""
    if settings.jitter == "instance":
        centre = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
        return np.rint(centre - np.einsum("mij,mj->mi", objects.linear, centre))
    sides = np.array([(source.width, source.height) for *_, source in pairings], dtype=np.float64)
    u = uniforms((len(pairings), 2), generator)
    if not len(pair):
        return np.zeros((0, 2))
    # of each image's objects the first; all have its map, and of an image without objects nothing is used
    first = np.minimum(pair.searchsorted(np.arange(len(pairings))), len(pair) - 1)
    whole = np.concatenate([np.zeros_like(sides), sides], axis=1)
    return _shift_inside(mapped_boxes(objects.linear[first], whole), sides, u)[pair]


def draw_free_places(
    objects: ToPlace, target: int, info: ImageInfo, generator: torch.Generator, overlaps: Overlaps
) -> Places:
    """Draw a place in the target for each object, anew where it would hide too much, at most ``placement_tries`` times.

    Of all tries the one of least overlap is taken if ``least_overlap_first`` says so. Cut-outs of a pool, which have no
    place of their own, are put inside where ``placement`` is "source" or "near".
    """
    settings, extents, canvas = overlaps.settings, objects.extents, np.array([info.width, info.height])
    if settings.has_scene:
        return _draw_scene_places(objects, target, info, generator, overlaps)
    is_near = settings.placement == "near" and IN_POOL not in objects.source
    shift = _shift_anywhere if settings.placement == "anywhere" else _shift_inside
    shifts, least = np.zeros((len(extents), 2)), np.full(len(extents), np.inf)
    for u in uniforms((settings.placement_tries if overlaps.matter else 1, len(extents), 2), generator):
        tried = _shift_near(extents, objects.boxes, settings.max_shift, u) if is_near else shift(extents, canvas, u)
        if not overlaps.matter:
            return Places(objects, tried, np.full(len(tried), True), np.zeros(len(tried)))
        waiting = np.flatnonzero(least > 0 if settings.least_overlap_first else np.isinf(least))
        found = overlaps.fractions(target, info, objects.rows(waiting), tried[waiting])
        better = (found <= settings.max_overlap) & (found < least[waiting])
        new = waiting[better]
        shifts[new], least[new] = tried[new], found[better]
    return Places(objects, shifts, np.isfinite(least), least)


def _draw_scene_places(
    objects: ToPlace, target: int, info: ImageInfo, generator: torch.Generator, overlaps: Overlaps
) -> Places:
    """Draw places as :func:`draw_free_places`, by what the image shows where: pixels, in which the objects' points lie.

    Objects become as large as things are there; with ``placement`` "random" another place is tried for one that would
    reach beyond the image.
    """
    settings, m = overlaps.settings, len(objects.boxes)
    weights, scales = weights_of(settings, info), scales_of(settings, info.height, info.width)
    u = uniforms((settings.placement_tries, m), generator)
    factors, shifts, least = np.ones(m), np.zeros((m, 2)), np.where(objects.own_scale > 0, np.inf, -1.0)
    if not weights.any():
        return Places(objects, shifts, np.full(m, False), np.zeros(m))
    rows, columns = draw_pixels(weights, u)
    sizes = np.sqrt(np.abs(np.linalg.det(objects.linear)))
    for y, x in zip(rows, columns, strict=True):
        waiting = np.flatnonzero(least > 0 if settings.least_overlap_first else np.isinf(least))
        if not len(waiting):
            break
        by = np.ones(len(waiting))
        if scales is not None:
            by = scales[y, x][waiting] / objects.own_scale[waiting]
            by = (by * sizes[waiting]).clip(SMALLEST, LARGEST) / sizes[waiting]
        resized = objects.rows(waiting).resized(by)
        tried = np.stack([x, y], axis=1)[waiting] - np.floor(points_of(resized.extents, settings))
        found = np.full(len(waiting), np.inf)
        fits = np.full(len(waiting), True)
        if settings.placement == "random":
            boxes = resized.extents + np.tile(tried, 2)
            fits = ((boxes >= -EDGE) & (boxes <= np.tile([info.width, info.height], 2) + EDGE)).all(axis=1)
        found[fits] = overlaps.fractions(target, info, resized.rows(fits), tried[fits]) if overlaps.matter else 0.0
        better = (found <= settings.max_overlap) & (found < least[waiting])
        new = waiting[better]
        factors[new], shifts[new], least[new] = by[better], tried[better], found[better]
    has_place = np.isfinite(least) & (least >= 0)
    return Places(objects.resized(factors), shifts, has_place, np.maximum(least, 0))


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


def _shift_near(
    extents: Float[ndarray, "m 4"], boxes: Float[ndarray, "m 4"], farthest: float, u: Float[ndarray, "m 2"]
) -> Float[ndarray, "m 2"]:
    """The shift that puts each extent's middle within ``farthest`` of its width and height from that of a box."""
    low, high = extents[:, :2], extents[:, 2:]
    return np.rint((boxes[:, :2] + boxes[:, 2:] - low - high) / 2 + (2 * u - 1) * farthest * (high - low))
