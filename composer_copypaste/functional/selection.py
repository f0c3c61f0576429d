"""Which objects are copied: what each one's chance is, and the draw."""

import numpy as np
import torch
from jaxtyping import Float, Int64, Integer
from numpy import ndarray

from composer_copypaste.functional.draw import integer, uniforms
from composer_copypaste.settings import CopyPasteSettings


def weights_of(
    labels: Integer[ndarray, " n"],
    boxes: Float[ndarray, "n 4"],
    picture: int | Integer[ndarray, " n"],
    settings: CopyPasteSettings,
) -> Float[ndarray, " n"]:
    """The relative chance of each object, from a picture of so many pixels, to be copied; 0: never."""
    weights = np.full(len(labels), 1.0 if settings.categories is None else 0.0)
    weights[np.isin(labels, settings.categories or ())] = 1.0
    for label, weight in (settings.category_weights or {}).items():
        weights[labels == label] *= weight
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for bounds, unit in ((settings.area_range, 1), (settings.relative_area_range, picture)):
        if bounds is not None:
            weights[(area < bounds[0] * unit) | (area > bounds[1] * unit)] = 0.0
    return weights


def choose(
    weights: Float[ndarray, " n"], settings: CopyPasteSettings, generator: torch.Generator
) -> Int64[ndarray, " m"]:
    """Draw which of the source's objects are copied; they keep their order."""
    candidates = np.flatnonzero(weights)
    weights = weights[candidates]
    if settings.p_instance is None:
        order = _order(weights, generator)
        chosen = candidates[order[: integer(len(candidates) + 1, generator)]]
    else:
        order = torch.randperm(len(candidates), generator=generator).numpy()
        chosen = candidates[order][uniforms((len(candidates),), generator) < settings.p_instance * weights[order]]
    return np.sort(chosen[: settings.max_copied_instances])


def _order(weights: Float[ndarray, " k"], generator: torch.Generator) -> Integer[ndarray, " k"]:
    """Draw an order of all candidates: each next one with a chance proportional to its weight among those left."""
    if np.all(weights == 1):
        return torch.randperm(len(weights), generator=generator).numpy()
    # the first of several exponential clocks is the i-th with a chance proportional to its rate (Efraimidis, Spirakis)
    return np.argsort(-np.log1p(-uniforms((len(weights),), generator)) / weights)
