"""The trainings of an ablation, and what their folders say: scores under resampled images, curves and costs."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int32

from composer_copypaste.errors import DataError
from composer_copypaste.metrics.bootstrap import draw_images, first_disagreement, image_generator, with_all_images
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.scores import Array, IouType
from composer_copypaste.metrics.weighted_precision import NUMBERS, weighted_average_precisions
from composer_copypaste.progress import with_progress
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.visualize.curves import Series, read_series

PEAK_MEMORY = ("memory/peak_reserved_mem", "memory/process_peak")
"""The names of the highest memory so far, in gigabytes: of the GPU, of the process on a CPU. The first one counts."""

SINGULAR: Mapping[IouType, str] = {"segm": "mask", "bbox": "box"}
"""What overlaps are of, by IoU type; in the order of tables."""


def compared_kind(scored: Collection[IouType]) -> IouType:
    """The IoU type whose AP verdicts, sentences and curves are about: that of masks, where masks are scored."""
    return "segm" if "segm" in scored else "bbox"


def ap_name(kind: IouType) -> str:
    """AP as texts name it: "mask AP" or "box AP"."""
    return f"{SINGULAR[kind]} AP"


@dataclass(frozen=True)
class FinishedRun:
    """A training of an ablation that is complete."""

    name: str
    fraction: float
    seed: int
    folder: RunFolder
    images: int
    """Number of training images."""
    seconds: float | None = None
    """How long it took, with its evaluations; None: not known."""


@dataclass(frozen=True)
class FailedRun:
    """A training of an ablation that ended with an error."""

    name: str
    fraction: float
    seed: int
    last_lines: Sequence[str]
    """The last lines of what it printed."""

    def __str__(self) -> str:
        return f"{self.name} at {format_fraction(self.fraction)}, seed {self.seed}"


@dataclass(frozen=True)
class AblationResults:
    """The trainings of an ablation."""

    title: str
    baseline: str
    """The name of the run that the others are compared with."""
    runs: Sequence[FinishedRun]
    failed: Sequence[FailedRun] = ()
    missing: Sequence[str] = ()
    """Each training that is not finished, in words."""
    equal_work: Sequence[str] = ()
    """What is equal in all runs, and what is not, a sentence each."""
    group_of: Mapping[int, int | str] | None = None
    """The group of each evaluation image; None: each image is its own."""
    iou_types: tuple[IouType, ...] = ("bbox", "segm")
    """What all runs are scored by; other scores of their evaluations are left out."""


def format_fraction(fraction: float) -> str:
    """A fraction of the training images, such as "10 %"."""
    return f"{100 * fraction:g} %"


@dataclass(frozen=True)
class Costs:
    """What a training needed."""

    steps: int
    seconds: float | None
    gigabytes: float | None
    """The most memory it held at a time, on the GPU if there was one."""


@dataclass(frozen=True, eq=False)
class RunScores:
    """The scores of a training, in [0, 1]. The first draw is that of all evaluation images, the others are resamples.

    Rows of ``overall`` are as in NUMBERS; ``categories`` has the AP of each.
    """

    run: FinishedRun
    overall: Mapping[IouType, Float64[Array, "numbers draws"]]
    categories: Mapping[IouType, Float64[Array, "categories draws"]]
    category_names: tuple[str, ...]
    disagreement: str | None
    """What of its evaluation is not that of the baseline, such as "images"; None: all is. Then there are resamples."""
    curve: Mapping[int, float]
    """The AP that is compared, after each evaluation, by the number of batches."""
    costs: Costs


@dataclass(frozen=True)
class EvaluationSet:
    """What the runs are evaluated on."""

    images: int
    groups: int | None
    """The number of groups that are drawn as wholes; None: images are drawn one by one."""
    max_dets: tuple[int, ...]
    objects: Mapping[str, int]
    """The number of objects of each category, without crowds."""


def read_evaluation_set(results: AblationResults) -> EvaluationSet:
    """What the baseline is evaluated on; nothing where no run is finished."""
    if not results.runs:
        return EvaluationSet(images=0, groups=None, max_dets=(), objects={})
    matches = _reference_matches(results)
    ids, groups = [int(number) for number in matches.image_ids], results.group_of
    table = next(iter(matches.tables.values()))
    return EvaluationSet(
        images=len(ids),
        groups=None if groups is None else len({groups.get(number) for number in ids}),
        max_dets=matches.max_dets,
        objects={
            name: int(table.truth_counts[table.truths(number), 0].sum())
            for number, name in enumerate(matches.category_names)
        },
    )


def read_scores(results: AblationResults, resamples: int, seed: int) -> Iterator[RunScores]:
    """The scores of each finished run, with a bar where they take long.

    Raises:
        DataError: where a file of a run is missing, or holds something else.
    """
    if not results.runs:
        return
    reference = _reference_matches(results)
    drawn = draw_images(reference.image_ids, resamples, image_generator(seed), results.group_of)
    weights = with_all_images(drawn)
    with ThreadPoolExecutor(torch.get_num_threads()) as threads:  # resampling is compiled code, which threads share
        found = threads.map(lambda run: _read_run(run, results.iou_types, reference, weights), results.runs)
        yield from with_progress(found, "resampling", "runs", len(results.runs))


def _reference_matches(results: AblationResults) -> EvaluationMatches:
    """The matches of a run of the baseline, else of any, with whose evaluation all others are compared."""
    of_baseline = [run for run in results.runs if run.name == results.baseline]
    return _read_matches((of_baseline or results.runs)[0], results.iou_types)


def _read_matches(run: FinishedRun, kinds: Sequence[IouType]) -> EvaluationMatches:
    """The matches of a run, of these IoU types alone."""
    return EvaluationMatches.load(run.folder.matches).only(kinds)


def _read_run(
    run: FinishedRun, kinds: Sequence[IouType], reference: EvaluationMatches, weights: Int32[Array, "images draws"]
) -> RunScores:
    matches = _read_matches(run, kinds)
    disagreement = first_disagreement(reference, matches)
    if disagreement is not None:
        weights = np.ones((len(matches.image_ids), 1), dtype=np.int32)
    precisions = {kind: weighted_average_precisions(matches, kind, weights) for kind in matches.tables}
    series = _read_metrics(run)
    return RunScores(
        run=run,
        overall={kind: found.overall for kind, found in precisions.items()},
        categories={kind: found.per_category[:, NUMBERS.index("AP")].copy() for kind, found in precisions.items()},
        category_names=matches.category_names,
        disagreement=disagreement,
        curve=_curve(series, compared_kind(kinds)),
        costs=_costs(run, series),
    )


def _read_metrics(run: FinishedRun) -> dict[str, Series]:
    path = run.folder.metrics
    if not path.exists():
        raise DataError(f"{path}: there is no such file, which a training writes; train this run again")
    return read_series(path)


def _curve(series: Mapping[str, Series], kind: IouType) -> dict[int, float]:
    nothing = (np.empty(0), np.empty(0))
    batches, values = series.get(f"metrics/eval/{kind}/AP", nothing)
    return {int(batch): float(value) for batch, value in zip(batches, values, strict=True)}


def _costs(run: FinishedRun, series: Mapping[str, Series]) -> Costs:
    steps = max((int(batches.max()) for batches, _ in series.values()), default=0)
    peaks = [series[name][1].max() for name in PEAK_MEMORY if name in series]
    seconds = run.seconds if run.seconds is not None and math.isfinite(run.seconds) else None
    return Costs(steps, seconds, float(peaks[0]) if peaks else None)
