"""How many times as many training images a baseline needs to be as good as another way of training.

The baseline is trained on several numbers of images. Between them its average precision is taken to grow linearly with
the logarithm of the number; where it first reaches the other's average precision is the number of images it needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from composer_copypaste.metrics.bootstrap import CONFIDENCE, mean_of_seeds
from composer_copypaste.metrics.scores import Array


@dataclass(frozen=True)
class ImageFactor:
    """How many times the other's images the baseline needs, with a bootstrap interval.

    Infinite: more than ``largest``, the largest number of images that the baseline was trained on; 0: fewer than
    ``smallest``. NaN where no object counts.
    """

    value: float
    low: float
    high: float
    smallest: float
    largest: float


def image_factor(
    baseline: Float64[Array, "sizes seeds draws"],
    other: Float64[Array, "seeds draws"],
    images: Sequence[float],
    own_images: float,
    seeds: Int64[Array, "resamples seeds"],
) -> ImageFactor:
    """How many times the images of the other way of training the baseline needs.

    Args:
        baseline: Average precision for each number of images, ascending. The first draw is that of all evaluation
            images, the others are resamples.
        other: That of the other way of training.
        images: The baseline's numbers of training images.
        own_images: The number of images that the other was trained on.
        seeds: The seeds drawn in each resample.
    """
    whole = needed_images(baseline[..., :1].mean(axis=1), other[:, :1].mean(axis=0), images)
    curves = np.stack([mean_of_seeds(values[:, 1:], seeds) for values in baseline])
    factors = needed_images(curves, mean_of_seeds(other[:, 1:], seeds), images) / own_images
    known = factors[~np.isnan(factors)]
    tail = (1 - CONFIDENCE) / 2
    # a value of the resamples, not one between two of them, which may be infinite
    low, high = np.quantile(known, [tail, 1 - tail], method="inverted_cdf") if known.size else (np.nan, np.nan)
    return ImageFactor(
        float(whole[0]) / own_images, float(low), float(high), min(images) / own_images, max(images) / own_images
    )


def needed_images(
    curve: Float64[Array, "sizes draws"], reached: Float64[Array, " draws"], images: Sequence[float]
) -> Float64[Array, " draws"]:
    """The number of images at which each curve first reaches a value; 0: before its first point, infinite: never."""
    positions = np.log(np.array(images, dtype=np.float64))
    needed = np.full(len(reached), np.inf)
    for number in reversed(range(len(images))):
        there = curve[number] >= reached
        if number == 0:
            needed[there] = np.where(curve[0] == reached, images[0], 0.0)[there]
            continue
        rise = curve[number] - curve[number - 1]
        share = (reached - curve[number - 1])[there] / np.where(rise == 0, 1.0, rise)[there]
        share = share.clip(0, 1)  # outside these where the curve reaches the value earlier too, which overwrites this
        needed[there] = np.exp(positions[number - 1] + share * (positions[number] - positions[number - 1]))
    needed[np.isnan(curve).any(axis=0) | np.isnan(reached)] = np.nan
    return needed
