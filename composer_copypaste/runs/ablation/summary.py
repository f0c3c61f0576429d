"""The numbers of an ablation: the scores of its runs, and how far and how surely each differs from the baseline."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from jaxtyping import Int64

from composer_copypaste.metrics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    Difference,
    difference_of,
    draw_seeds,
    seed_generator,
)
from composer_copypaste.metrics.image_savings import ImageFactor, image_factor
from composer_copypaste.metrics.scores import Array, IouType
from composer_copypaste.metrics.weighted_precision import NUMBERS
from composer_copypaste.runs.ablation.results import (
    AblationResults,
    Costs,
    EvaluationSet,
    FailedRun,
    RunScores,
    ap_name,
    compared_kind,
    format_fraction,
    read_evaluation_set,
    read_scores,
)

NOTHING_FOUND = 0.005
"""A run whose AP is below this has not learned to find objects: differences of such runs say nothing."""


@dataclass(frozen=True)
class SeedScore:
    """The mean of the seeds, and the value of each; NaN where no object counts."""

    mean: float
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class CurvePoint:
    """The AP that is compared, after a number of batches: the mean of the seeds and the value of each."""

    batch: int
    mean: float
    by_seed: Mapping[int, float]


@dataclass(frozen=True)
class RunSummary:
    """A run on a fraction of the images: the scores of its seeds, in [0, 1], and what it cost."""

    name: str
    fraction: float
    images: float
    """Number of training images, the mean of the seeds."""
    images_of: Mapping[int, int]
    """Number of training images, by seed."""
    seeds: tuple[int, ...]
    scores: Mapping[IouType, Mapping[str, SeedScore]]
    per_category: Mapping[IouType, Mapping[str, SeedScore]]
    """AP of each category."""
    costs: Mapping[int, Costs]
    """Steps, time and memory, by seed."""
    curve: Sequence[CurvePoint]


@dataclass(frozen=True)
class Comparison:
    """A run against the baseline on the same fraction of the images, by the seeds that both have."""

    name: str
    fraction: float
    images: float
    seeds: tuple[int, ...]
    left_out: tuple[int, ...]
    """Seeds that only one of the two has."""
    differences: Mapping[IouType, Mapping[str, Difference]]
    per_category: Mapping[IouType, Mapping[str, Difference]]
    """The differences of AP of each category."""
    needed: ImageFactor | None
    """How many times its images the baseline needs to reach its AP; None with one fraction only."""

    @property
    def main(self) -> Difference:
        """The difference in the AP that is compared."""
        return self.differences[compared_kind(self.differences)]["AP"]


@dataclass(frozen=True)
class AblationSummary:
    """All numbers of an ablation's report."""

    title: str
    baseline: str
    iou_type: IouType
    """Whether box AP or mask AP is compared, in verdicts, sentences and curves."""
    evaluation: EvaluationSet
    resamples: int
    confidence: float
    runs: Sequence[RunSummary]
    comparisons: Sequence[Comparison]
    not_compared: Sequence[str]
    """Why some runs are not compared, a sentence each."""
    equal_work: Sequence[str]
    failed: Sequence[FailedRun]
    missing: Sequence[str]

    @property
    def ap_name(self) -> str:
        """The AP that is compared, as texts name it: "mask AP" or "box AP"."""
        return ap_name(self.iou_type)


def summarise(results: AblationResults, *, resamples: int = RESAMPLES, seed: int = 0) -> AblationSummary:
    """All numbers of the report.

    Differences and intervals are those of `bootstrap_difference` with these resamples and this seed. The same images
    are drawn for all runs.

    Raises:
        DataError: where a file of a run is missing, or holds something else.
    """
    by_run: dict[tuple[str, float], dict[int, RunScores]] = {}
    for scores in read_scores(results, resamples, seed):
        by_run.setdefault((scores.run.name, scores.run.fraction), {})[scores.run.seed] = scores
    comparisons, not_compared = [], []
    for (name, fraction), own in by_run.items():
        if name == results.baseline:
            continue
        problem = _why_not_compared(own, by_run.get((results.baseline, fraction), {}), results)
        if problem is None:
            comparisons.append(_compare(own, by_run, results.baseline, resamples, seed))
        else:
            not_compared.append(f"{name} at {format_fraction(fraction)}: {problem}")
    if by_run and all(_has_found_nothing(of_seeds, results) for of_seeds in by_run.values()):
        not_compared = [_describe_nothing_found(results)]
    return AblationSummary(
        title=results.title,
        baseline=results.baseline,
        iou_type=compared_kind(results.iou_types),
        evaluation=read_evaluation_set(results),
        resamples=resamples,
        confidence=CONFIDENCE,
        runs=[_summarise_run(of_seeds) for of_seeds in by_run.values()],
        comparisons=comparisons,
        not_compared=not_compared,
        equal_work=results.equal_work,
        failed=results.failed,
        missing=results.missing,
    )


def _why_not_compared(
    own: Mapping[int, RunScores], other: Mapping[int, RunScores], results: AblationResults
) -> str | None:
    """Why a run cannot be compared with the baseline; None where it can."""
    baseline = results.baseline
    if not own.keys() & other.keys():
        return f"not compared, since {baseline} is finished with none of its seeds on this fraction"
    found = [scores.disagreement for run in (other, own) for scores in run.values() if scores.disagreement is not None]
    if found:
        return f"not compared, since it is evaluated with other {found[0]} than {baseline}"
    if _has_found_nothing(own, results) and _has_found_nothing(other, results):
        return f"not compared, since neither it nor {baseline} has found anything ({_too_low(results)}); train longer"
    return None


def _has_found_nothing(by_seed: Mapping[int, RunScores], results: AblationResults) -> bool:
    """Whether the AP that is compared is next to 0 with every seed; no AP, where no object counts, is not."""
    kind, row = compared_kind(results.iou_types), NUMBERS.index("AP")
    return all(scores.overall[kind][row, 0] < NOTHING_FOUND for scores in by_seed.values())


def _describe_nothing_found(results: AblationResults) -> str:
    return (
        f"No run has found anything ({_too_low(results)}), so nothing can be compared. Train longer "
        "(common.training.duration), and not with --smoke, which only shows that everything runs"
    )


def _too_low(results: AblationResults) -> str:
    return f"{ap_name(compared_kind(results.iou_types))} is below {100 * NOTHING_FOUND:g} %"


def _summarise_run(by_seed: Mapping[int, RunScores]) -> RunSummary:
    first = next(iter(by_seed.values()))
    return RunSummary(
        name=first.run.name,
        fraction=first.run.fraction,
        images=fmean(scores.run.images for scores in by_seed.values()),
        images_of={seed: scores.run.images for seed, scores in by_seed.items()},
        seeds=tuple(by_seed),
        scores={
            kind: {
                number: _seed_score({seed: scores.overall[kind][row, 0] for seed, scores in by_seed.items()})
                for row, number in enumerate(NUMBERS)
            }
            for kind in first.overall
        },
        per_category={
            kind: {
                name: _seed_score({seed: scores.categories[kind][row, 0] for seed, scores in by_seed.items()})
                for row, name in enumerate(first.category_names)
            }
            for kind in first.overall
        },
        costs={seed: scores.costs for seed, scores in by_seed.items()},
        curve=_mean_curve({seed: scores.curve for seed, scores in by_seed.items()}),
    )


def _seed_score(by_seed: Mapping[int, float]) -> SeedScore:
    values = {seed: float(value) for seed, value in by_seed.items()}
    return SeedScore(fmean(values.values()), values)


def _mean_curve(by_seed: Mapping[int, Mapping[int, float]]) -> list[CurvePoint]:
    """The points at batches after which all seeds were evaluated."""
    common = set.intersection(*(set(curve) for curve in by_seed.values()))
    points = {batch: {seed: curve[batch] for seed, curve in by_seed.items()} for batch in sorted(common)}
    return [CurvePoint(batch, fmean(values.values()), values) for batch, values in points.items()]


def _compare(
    own: Mapping[int, RunScores],
    by_run: Mapping[tuple[str, float], Mapping[int, RunScores]],
    baseline: str,
    resamples: int,
    seed: int,
) -> Comparison:
    """A run against the baseline on the same fraction."""
    run = next(iter(own.values())).run
    other = by_run[baseline, run.fraction]
    seeds = tuple(sorted(own.keys() & other.keys()))
    drawn = draw_seeds(len(seeds), resamples, seed_generator(seed))
    pairs = [(other[each], own[each]) for each in seeds]
    return Comparison(
        name=run.name,
        fraction=run.fraction,
        images=fmean(own[each].run.images for each in seeds),
        seeds=seeds,
        left_out=tuple(sorted(own.keys() ^ other.keys())),
        differences={
            kind: {number: _difference(pairs, "overall", kind, row, drawn) for row, number in enumerate(NUMBERS)}
            for kind in pairs[0][0].overall
        },
        per_category={
            kind: {
                name: _difference(pairs, "categories", kind, row, drawn)
                for row, name in enumerate(pairs[0][0].category_names)
            }
            for kind in pairs[0][0].overall
        },
        needed=_needed_images(own, by_run, baseline, resamples, seed),
    )


def _difference(
    pairs: Sequence[tuple[RunScores, RunScores]],
    field: str,
    kind: IouType,
    row: int,
    drawn: Int64[Array, "resamples seeds"],
) -> Difference:
    """The difference of pairs (baseline, other), one for each seed, in a row of one of their tables."""
    baseline, other = (np.stack([getattr(pair[side], field)[kind][row] for pair in pairs]) for side in (0, 1))
    return difference_of(baseline, other, drawn)


def _needed_images(
    own: Mapping[int, RunScores],
    by_run: Mapping[tuple[str, float], Mapping[int, RunScores]],
    baseline: str,
    resamples: int,
    seed: int,
) -> ImageFactor | None:
    """How many times the run's images the baseline needs, by the seeds that all have; None with one fraction only."""
    sizes = sorted(fraction for name, fraction in by_run if name == baseline)
    curves = [by_run[baseline, fraction] for fraction in sizes]
    seeds = sorted(set(own).intersection(*curves))
    if len(sizes) < 2 or not seeds or any(curve[each].disagreement for curve in curves for each in seeds):
        return None
    kind, row = compared_kind(next(iter(own.values())).overall), NUMBERS.index("AP")
    return image_factor(
        np.stack([[curve[each].overall[kind][row] for each in seeds] for curve in curves]),
        np.stack([own[each].overall[kind][row] for each in seeds]),
        images=[fmean(curve[each].run.images for each in seeds) for curve in curves],
        own_images=fmean(own[each].run.images for each in seeds),
        seeds=draw_seeds(len(seeds), resamples, seed_generator(seed)),
    )
