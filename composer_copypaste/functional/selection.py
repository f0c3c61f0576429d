"""Which objects are copied: what each one's chance is, and the draw."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from numpy import ndarray

from composer_copypaste.functional.draw import uniforms
from composer_copypaste.settings import CopyPasteSettings

TOLERANCE = 1e-3
"""Areas are compared to a thousandth of a pixel: without it 7 of 100 pixels would be fewer than 0.07 of them."""


def weights_of(
    labels: Integer[ndarray, " n"],
    area: Float[ndarray, " n"] | None,
    picture: int | Integer[ndarray, " n"],
    settings: CopyPasteSettings,
) -> Float[ndarray, " n"]:
    """The relative chance of each object, from a picture of so many pixels, to be copied; 0: never.

    ``area`` is that of its mask, in pixels; nobody looks at it where the settings do not ask for areas.
    """
    weights = np.ones(len(labels)) if settings.labels is None else np.isin(labels, settings.labels) * 1.0
    for label, weight in (settings.label_weights or {}).items():
        weights[labels == label] *= weight
    for bounds, unit in ((settings.area_range, 1), (settings.relative_area_range, picture)):
        if bounds is not None and area is not None:
            low, high = bounds[0] * unit - TOLERANCE, bounds[1] * unit + TOLERANCE
            weights[(area < low) | (area > high)] = 0.0
    return weights


def asks_for_areas(settings: CopyPasteSettings) -> bool:
    """Whether it depends on an object's area if it may be copied."""
    return settings.area_range is not None or settings.relative_area_range is not None


def choose(
    sources: Sequence[Float[ndarray, " _n"]], settings: CopyPasteSettings, generator: torch.Generator
) -> tuple[Int64[ndarray, " m"], Int64[ndarray, " m"]]:
    """Draw which of the sources' objects, whose weights are given, are copied.

    Returns:
        For each, which source it is of, and its number in the row of all sources' objects; ascending.
    """
    weights = np.concatenate(sources)
    source = np.repeat(np.arange(len(sources)), [len(each) for each in sources])
    chosen = np.flatnonzero(weights)
    if settings.p_instance is not None:
        chosen = chosen[uniforms((len(chosen),), generator) < settings.p_instance * weights[chosen]]
        weights = np.ones_like(weights)
    counts = np.bincount(source[chosen], minlength=len(sources))
    most = counts
    if settings.p_instance is None:
        most = (uniforms((len(sources),), generator) * (counts + 1)).astype(np.int64)  # none to all
    if settings.max_copied_instances is not None:
        most = np.minimum(most, settings.max_copied_instances)
    # the first of several exponential clocks is the i-th with a chance proportional to its rate (Efraimidis, Spirakis)
    clocks = -np.log1p(-uniforms((len(chosen),), generator)) / weights[chosen]
    order = chosen[np.lexsort((clocks, source[chosen]))]
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = np.sort(order[place < most[source[order]]])
    return source[kept], kept
