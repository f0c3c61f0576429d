"""How sure a difference in average precision is: a paired bootstrap over evaluation images and seeds.

Two ways of training, each run with the same seeds, are scored on the same images. Their difference is the mean over the
seeds of AP(other) - AP(baseline). It would have been another one with other images and other seeds; how much another,
a bootstrap tells. Each resample draws as many images as there are, with replacement, and as many seeds, with
replacement: the same images for all trainings, and the same seeds for both ways, so that what makes an image or a seed
hard or easy for both does not count. AP is computed anew from the stored matches for the drawn images, each as often as
it was drawn, and the differences of the drawn seeds are averaged. The interval reaches from the 2.5th to the 97.5th
percentile of 2,000 such differences.

What the interval cannot say:

- Few seeds make it too narrow, since a handful of seeds says little about how seeds differ: with n seeds, their part of
  the variance is too small by the factor (n - 1) / n, and the percentiles of few values lie too near to each other.
  ``CHANCE_BY_SEEDS`` says how far that can go. With one seed the interval says nothing about seeds at all.
- It holds for images like those of the evaluation set. Images that are cut from a larger one, or follow each other in a
  film, are not independent: draw groups of them, as the ``group`` key of the images in a COCO file says.
- Each of many intervals misses the truth with a probability of 5 %: of twenty comparisons, one does by chance.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int32, Int64

from composer_copypaste.errors import DataError
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.scores import Array, IouType
from composer_copypaste.metrics.weighted_precision import NUMBERS, AveragePrecisions, weighted_average_precisions

RESAMPLES = 2000
CONFIDENCE = 0.95

CHANCE_BY_SEEDS = {2: 0.50, 3: 0.25, 4: 0.21, 5: 0.16, 6: 0.15, 8: 0.12, 10: 0.11, 15: 0.09, 20: 0.08, 50: 0.06}
"""How often an interval of this number of seeds excludes 0 though there is no difference, if scores differ by seed
alone, normally distributed. If they differ by image alone, it is 5 %; the truth lies between. From simulations."""


def chance_to_exclude_zero(seeds: int) -> float:
    """How often, at most, an interval of this number of seeds (from 2) excludes 0 though there is no difference."""
    return CHANCE_BY_SEEDS[max(count for count in CHANCE_BY_SEEDS if count <= seeds)]


@dataclass(frozen=True)
class Difference:
    """A difference in average precision, with a bootstrap interval around it; all in [-1, 1].

    NaN where no object counts.
    """

    value: float
    """The mean over seeds of AP(other) - AP(baseline) on all evaluation images."""
    low: float
    high: float
    resamples: int
    """From how many resamples the interval is: those whose images have an object that counts."""


def bootstrap_difference(
    baseline: Sequence[EvaluationMatches],
    other: Sequence[EvaluationMatches],
    *,
    iou_type: IouType = "segm",
    groups: Mapping[int, int | str] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """The paired difference of "AP", "AP50", "AP75", "APs", "APm" and "APl", each with a 95 % interval.

    The docstring of this module says how it is computed, and what it cannot say.

    Args:
        baseline: The matches of the baseline's evaluations, one for each seed.
        other: Those of the other way of training, with the same seeds in the same order.
        iou_type: Whether overlaps are those of boxes or of masks.
        groups: The group of each image id; None: each image is its own. Groups are drawn as wholes.
        resamples: How often images and seeds are drawn.
        seed: Of the random numbers.

    Raises:
        DataError: where evaluations are of other images or other objects, or are not of this IoU type.
        ValueError: where the numbers of evaluations differ, or there are none.

    Example:
        >>> baseline = [EvaluationMatches.load(f"runs/plain-{seed}/matches.npz") for seed in (1, 2, 3)]
        >>> other = [EvaluationMatches.load(f"runs/pasted-{seed}/matches.npz") for seed in (1, 2, 3)]
        >>> print(bootstrap_difference(baseline, other)["AP"])
    """
    if not baseline or len(baseline) != len(other):
        raise ValueError(
            f"expected an evaluation of both for each seed, got {len(baseline)} of the baseline and {len(other)} of "
            "the other"
        )
    check_same_truth([*baseline, *other], iou_type)
    weights = with_all_images(draw_images(baseline[0].image_ids, resamples, image_generator(seed), groups))
    seeds = draw_seeds(len(baseline), resamples, seed_generator(seed))
    before, after = (
        [weighted_average_precisions(matches, iou_type, weights) for matches in runs] for runs in (baseline, other)
    )
    return {name: difference_of(stacked(before, name), stacked(after, name), seeds) for name in NUMBERS}


def image_generator(seed: int) -> np.random.Generator:
    """Draws images."""
    return np.random.default_rng((seed, 0))


def seed_generator(seed: int) -> np.random.Generator:
    """Draws seeds: the same ones for all comparisons of as many seeds, whatever images are drawn."""
    return np.random.default_rng((seed, 1))


def draw_images(
    image_ids: Sequence[int] | Int64[Array, " images"],
    resamples: int,
    generator: np.random.Generator,
    groups: Mapping[int, int | str] | None = None,
) -> Int32[Array, "images resamples"]:
    """How often each image is drawn in each resample.

    As many groups are drawn as there are, with replacement, so resamples of groups of unequal size differ in size.

    Args:
        image_ids: The ids of all images.
        resamples: How often images are drawn.
        generator: Of the random numbers.
        groups: The group of each image id; None: each image is its own.

    Raises:
        DataError: where an image has no group.
    """
    ids = [int(image_id) for image_id in image_ids]
    if groups is not None and (missing := [image_id for image_id in ids if image_id not in groups]):
        raise DataError(f"image {missing[0]}: expected its group, as other images have one; found none")
    names = ids if groups is None else [groups[image_id] for image_id in ids]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(names))}
    count = len(number_of)
    drawn = generator.integers(count, size=(resamples, count)) if count else np.zeros((resamples, 0), np.int64)
    counts = np.array([np.bincount(row, minlength=count) for row in drawn], dtype=np.int32).reshape(resamples, count)
    return np.ascontiguousarray(counts[:, [number_of[name] for name in names]].T)


def with_all_images(weights: Int32[Array, "images resamples"]) -> Int32[Array, "images resamples_and_1"]:
    """The weights, with a first column in which each image stands once."""
    return np.concatenate([np.ones_like(weights[:, :1]), weights], axis=1)


def draw_seeds(seeds: int, resamples: int, generator: np.random.Generator) -> Int64[Array, "resamples seeds"]:
    """Which seeds, by index, are drawn in each resample."""
    return generator.integers(seeds, size=(resamples, seeds))


def stacked(runs: Sequence[AveragePrecisions], name: str, category: int | None = None) -> Float64[Array, "seeds draws"]:
    """One number of all seeds, for all categories or for the one at this index."""
    return np.stack([run.number(name, category) for run in runs])


def difference_of(
    baseline: Float64[Array, "seeds draws"],
    other: Float64[Array, "seeds draws"],
    seeds: Int64[Array, "resamples seeds"],
) -> Difference:
    """The mean difference with its interval; the first draw is that of all images, the others are resamples."""
    differences = other - baseline
    return with_interval(float(differences[:, 0].mean()), mean_of_seeds(differences[:, 1:], seeds))


def mean_of_seeds(
    values: Float64[Array, "seeds resamples"], seeds: Int64[Array, "resamples seeds"]
) -> Float64[Array, " resamples"]:
    """In each resample, the mean of the seeds that are drawn in it."""
    return np.take_along_axis(values.T, seeds, axis=1).mean(axis=1)


def with_interval(value: float, resampled: Float64[Array, " resamples"]) -> Difference:
    """A difference with the percentiles of its resamples; those without an object that counts, NaN, are left out."""
    known = resampled[~np.isnan(resampled)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if known.size else (np.nan, np.nan)
    return Difference(value, float(low), float(high), len(known))


def check_same_truth(evaluations: Sequence[EvaluationMatches], iou_type: IouType) -> None:
    """Raise ``DataError`` where evaluations are not of this IoU type, the same images, objects and rules."""
    for number, each in enumerate(evaluations):
        if iou_type not in each.tables:
            there = repr(next(iter(each.tables)))
            given = f"expected iou_type {iou_type!r}, found {there}"
            raise DataError(f"evaluation {number}: {given}; give iou_type={there}")
    first, *others = (matches.only([iou_type]) for matches in evaluations)
    for number, each in enumerate(others, start=1):
        if difference := first_disagreement(first, each):
            raise DataError(
                f"evaluation {number} has other {difference} than evaluation 0: only evaluations on the same images, "
                "annotations and limits can be compared; score them again with 'copypaste eval'"
            )


def first_disagreement(first: EvaluationMatches, other: EvaluationMatches) -> str | None:
    """What of two evaluations has to be the same, and is not, such as "images"; None: they can be compared."""
    if not np.array_equal(first.image_ids, other.image_ids):
        return "images"
    if (first.category_ids, first.category_names) != (other.category_ids, other.category_names):
        return "categories"
    if first.max_dets != other.max_dets:
        return "max_dets"
    if set(first.tables) != set(other.tables):
        return "IoU types"
    columns = ("truth_starts", "truth_images", "truth_counts")
    same = all(
        np.array_equal(getattr(table, name), getattr(other.tables[kind], name))
        for kind, table in first.tables.items()
        for name in columns
    )
    return None if same else "objects"
