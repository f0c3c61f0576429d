"""What the numbers of an ablation allow one to say, in words: a sentence for each comparison, and what limits it."""

import math
from typing import Literal

from composer_copypaste.errors import count_noun
from composer_copypaste.metrics.bootstrap import Difference, chance_to_exclude_zero
from composer_copypaste.metrics.image_savings import ImageFactor
from composer_copypaste.runs.ablation.results import format_fraction
from composer_copypaste.runs.ablation.summary import AblationSummary, Comparison

Verdict = Literal["gain", "loss", "unclear", "no interval"]

FEW_SEEDS = 5
"""With fewer seeds, sentences say that the interval is too narrow."""


def verdict_of(difference: Difference) -> Verdict:
    """Whether the interval lies above 0, below it, or includes it."""
    if math.isnan(difference.low):
        return "no interval"
    if difference.low > 0:
        return "gain"
    return "loss" if difference.high < 0 else "unclear"


def describe_comparison(comparison: Comparison, summary: AblationSummary) -> str:
    """How far a run is from the baseline, and what the interval allows one to say."""
    run = f"{comparison.name} at {format_fraction(comparison.fraction)} ({describe_images(comparison.images)})"
    difference, verdict = comparison.main, verdict_of(comparison.main)
    if verdict == "no interval":
        return f"{run}: no object counts in the evaluation images, so nothing is known."
    low, high, size = _points(difference)
    tried = f"{count_noun(len(comparison.seeds), 'seed')}, {_describe_evaluation(summary)}"
    found = (
        f"{run}: {summary.ap_name} is {_describe_size(difference.value, size)} {summary.baseline} "
        f"(95 % interval {low} to {high}; {tried})"
    )
    if verdict != "unclear":
        return f"{found}: a {verdict}{' of this seed' if len(comparison.seeds) == 1 else ''}."
    return (
        f"{found}: the interval includes 0, so no difference can be named; it excludes gains above {high} and losses "
        f"of more than {low.removeprefix('-')}."
    )


def describe_limits(comparison: Comparison, baseline: str) -> list[str]:
    """What makes the interval of a comparison say less than it seems to; nothing if nothing does."""
    count, found = len(comparison.seeds), []
    if count == 1:
        found.append("One seed: the interval is over evaluation images only, and says nothing about other seeds.")
    elif count < FEW_SEEDS:
        found.append(f"{count} seeds are few: {_describe_chance(count)}.")
    if comparison.left_out:
        seeds = ", ".join(map(str, comparison.left_out))
        found.append(f"Seeds that only one of {comparison.name} and {baseline} has finished are left out: {seeds}.")
    return found


def _describe_chance(seeds: int) -> str:
    chance = f"up to {round(100 * chance_to_exclude_zero(seeds))} % of such intervals exclude 0 by chance, not 5 %"
    return f"if scores differ more by seed than by image, {chance}"


def shared_limits(summary: AblationSummary) -> list[str]:
    """What limits all of several comparisons, which is said once."""
    limits = [describe_limits(comparison, summary.baseline) for comparison in summary.comparisons]
    return [limit for limit in limits[0] if all(limit in others for others in limits)] if len(limits) > 1 else []


def own_limits(comparison: Comparison, summary: AblationSummary) -> list[str]:
    """What limits a comparison, but not all of them."""
    shared = shared_limits(summary)
    return [limit for limit in describe_limits(comparison, summary.baseline) if limit not in shared]


def describe_needed_images(comparison: Comparison, summary: AblationSummary) -> str | None:
    """How many times the run's images the baseline needs to reach its AP.

    None where that was not computed, or says no more than the difference: the baseline had no more images, or no fewer.
    """
    factor, baseline = comparison.needed, summary.baseline
    if factor is None or math.isnan(factor.value):
        return None
    if (math.isinf(factor.value) and factor.largest <= 1) or (factor.value == 0 and factor.smallest >= 1):
        return None
    reached = f"the {summary.ap_name} of {comparison.name} at {format_fraction(comparison.fraction)}"
    low, high = (format_factor(end, factor) for end in (factor.low, factor.high))
    interval = f"95 % interval {low} to {high}" if low != high else f"95 % of the resamples: {low}"
    if math.isinf(factor.value):
        most = f"the most images it was trained on, {factor.largest:.2g}x as many"
        found = f"{baseline} does not reach {reached} with {most}"
    elif factor.value == 0:
        fewest = f"the fewest images it was trained on, {factor.smallest:.2g}x as many"
        found = f"{baseline} is above {reached} with {fewest}"
    else:
        found = f"{baseline} needs {factor.value:.2g}x the images to reach {reached}"
    if factor.low <= 1 <= factor.high:
        return f"{found} ({interval}); the interval includes 1x, so no saving can be named."
    return f"{found} ({interval})."


def format_factor(factor: float, limits: ImageFactor) -> str:
    """A factor, such as "1.8x", or the end of what was measured, such as "more than 4x"."""
    if math.isnan(factor):
        return "-"
    if math.isinf(factor):
        return f"more than {limits.largest:.2g}x"
    return f"less than {limits.smallest:.2g}x" if factor == 0 else f"{factor:.2g}x"


def describe_reading(summary: AblationSummary) -> list[str]:
    """How the intervals were made, and how many may be wrong by chance."""
    if not summary.comparisons:
        return []
    drawn = "images" if summary.evaluation.groups is None else "groups of images"
    count = len(summary.comparisons)
    seeds = min(len(comparison.seeds) for comparison in summary.comparisons)
    more = f" With {count_noun(seeds, 'seed')}, {_describe_chance(seeds)}." if seeds >= FEW_SEEDS else ""
    return [
        f"Each difference is the mean over seeds of the run's score minus the baseline's with the same seed. Its "
        f"interval is from {summary.resamples:,} resamples: each draws as many evaluation {drawn} as there are and as "
        f"many seeds, with replacement, the same ones for both runs, and computes COCO's AP anew. The interval reaches "
        f"from the 2.5th to the 97.5th percentile.",
        f"The first table makes {count_noun(count, 'comparison')} of {summary.ap_name}. "
        f"{_describe_chances(count, summary)}{more} The other columns and tables make more comparisons.",
    ]


def _describe_chances(comparisons: int, summary: AblationSummary) -> str:
    """How many of the intervals exclude 0 although no run differs."""
    chance = "Even of exact intervals, one in twenty misses the truth by chance"
    if comparisons == 1:
        return f"{chance}."
    expected = comparisons * (1 - summary.confidence)
    return f"{chance}: if no run differed from {summary.baseline}, {expected:.2g} of {comparisons} would exclude 0."


def describe_title(summary: AblationSummary) -> str:
    """What is compared, on what."""
    if not summary.runs:
        return "No run is finished."
    done = f"compared with {summary.baseline}," if summary.comparisons else "evaluated"
    return (
        f"All runs are {done} on {_describe_evaluation(summary)} with "
        f"{count_noun(sum(summary.evaluation.objects.values()), 'object')}; at most "
        f"{count_noun(summary.evaluation.max_dets[-1], 'detection')} of a category count in an image."
    )


def describe_images(images: float) -> str:
    """A number of training images; a mean over seeds may be no whole number."""
    rounded = round(images)
    return f"{'' if rounded == images else 'about '}{count_noun(rounded, 'image')}"


def _describe_evaluation(summary: AblationSummary) -> str:
    evaluation = summary.evaluation
    images = count_noun(evaluation.images, "evaluation image")
    return images if evaluation.groups is None else f"{images} in {count_noun(evaluation.groups, 'group')}"


def _describe_size(value: float, size: str) -> str:
    """A difference in words, such as "1.2 points above"."""
    if float(size) == 0:
        return "the same as that of"
    return f"{size} points {'above' if value > 0 else 'below'} that of"


def _points(difference: Difference) -> tuple[str, str, str]:
    """Both ends of the interval, and the size of the difference, in points of AP.

    They have two digits after the point where one would show an end as 0 that is not.
    """
    numbers = (difference.low, difference.high, abs(difference.value))
    coarse = any(number != 0 and abs(100 * number) < 0.05 for number in numbers[:2])
    low, high, size = (format_points(number, 2 if coarse else 1) for number in numbers)
    return low, high, size


def format_points(value: float, digits: int = 1, *, sign: bool = False) -> str:
    """A number in [-1, 1] in points, such as "1.2", without "-0.0"."""
    text = f"{100 * value:{'+' if sign else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text
