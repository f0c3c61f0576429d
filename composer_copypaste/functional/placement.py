"""Where objects are put: their places, drawn."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from numpy import ndarray

from composer_copypaste.functional.generators import uniforms
from composer_copypaste.functional.overlap import Overlaps, ToPlace, mapped_boxes
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.settings import CopyPasteSettings


class Pairing(NamedTuple):
    """An image that receives objects, and the image that they come from."""

    target: int
    source: int
    """Index within the batch, or batch size plus index within the bank's images."""
    target_info: ImageInfo
    source_info: ImageInfo


class Places(NamedTuple):
    """Where objects are put; a row for each."""

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
        return Places(*(np.concatenate(column) for column in zip(*drawn, strict=True)))
    shifts = _shifts_as_in_source(objects, pair, pairings, settings, generator)
    if not overlaps.matter:
        return Places(shifts, np.full(len(shifts), True), np.zeros(len(shifts)))
    overlap = np.concatenate(
        [
            overlaps.fractions(pairing.target, pairing.target_info, objects.rows(pair == k), shifts[pair == k])
            for k, pairing in enumerate(pairings)
        ]
    )
    return Places(shifts, overlap <= settings.max_overlap, overlap)


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
    used, first, place = np.unique(pair, return_index=True, return_inverse=True)
    whole = np.concatenate([np.zeros_like(sides), sides], axis=1)[used]
    return _shift_inside(mapped_boxes(objects.linear[first], whole), sides[used], u[used])[place]


def draw_free_places(
    objects: ToPlace, target: int, info: ImageInfo, generator: torch.Generator, overlaps: Overlaps
) -> Places:
    """Draw a place in the target for each object, anew where it would hide too much, at most ``placement_tries`` times.

    Of all tries the one of least overlap is taken if ``least_overlap_first`` says so. Objects whose ``placement`` is
    "source" but that have no place of their own are put inside.
    """
    settings, extents, canvas = overlaps.settings, objects.extents, np.array([info.width, info.height])
    shift = _shift_anywhere if settings.placement == "anywhere" else _shift_inside
    shifts, least = np.zeros((len(extents), 2)), np.full(len(extents), np.inf)
    for u in uniforms((settings.placement_tries if overlaps.matter else 1, len(extents), 2), generator):
        tried = shift(extents, canvas, u)
        if not overlaps.matter:
            return Places(tried, np.full(len(tried), True), np.zeros(len(tried)))
        waiting = np.flatnonzero(least > 0 if settings.least_overlap_first else np.isinf(least))
        found = overlaps.fractions(target, info, objects.rows(waiting), tried[waiting])
        better = (found <= settings.max_overlap) & (found < least[waiting])
        new = waiting[better]
        shifts[new], least[new] = tried[new], found[better]
    return Places(shifts, np.isfinite(least), least)


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
