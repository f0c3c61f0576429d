"""The tables of an ablation's report, in the form of which console, Markdown and page show them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from tabulate import tabulate
from tqdm import tqdm

from composer_copypaste.metrics.bootstrap import Difference
from composer_copypaste.metrics.report import KINDS
from composer_copypaste.metrics.scores import IouType
from composer_copypaste.metrics.weighted_precision import NUMBERS
from composer_copypaste.runs.ablation.results import SINGULAR, Costs, ap_name, format_fraction
from composer_copypaste.runs.ablation.sentences import format_factor, format_points, verdict_of
from composer_copypaste.runs.ablation.summary import AblationSummary, Comparison, RunSummary, SeedScore
from composer_copypaste.visualize.html import Cell

DASH = Cell("-")


@dataclass(frozen=True)
class Table:
    """A table with a caption; the first cell of a row says what it is about."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]


def format_table(table: Table, style: str) -> str:
    """The table as text, in one of tabulate's styles, with numbers to the right."""
    right = [any(row[column].value is not None for row in table.rows) for column in range(len(table.headers))]
    rows = [[cell.text.replace("|", r"\|") if style == "pipe" else cell.text for cell in row] for row in table.rows]
    alignment = ["right" if is_number else "left" for is_number in right]
    return tabulate(rows, table.headers, tablefmt=style, colalign=alignment if rows else None, disable_numparse=True)


def main_table(summary: AblationSummary) -> Table:
    """AP of masks and boxes, where they are scored, of each run and fraction, and the difference to the baseline."""
    headers, kinds = ["run", "images", "seeds"], scored_kinds(summary)
    for kind in kinds:
        verdict = ["verdict"] if kind == summary.iou_type else []
        headers += [ap_name(kind), "difference", "95 % interval", *verdict]
    rows = []
    for run in ordered_runs(summary):
        cells = [Cell(run.name), *_size_cells(run)]
        for kind in kinds:
            cells += _score_cells(summary, run, kind, "AP")
            if kind == summary.iou_type:
                cells.append(Cell("baseline" if run.name == summary.baseline else _verdict(summary, run)))
        rows.append(cells)
    return Table(f"AP in %, differences to {summary.baseline} in points", headers, rows)


def numbers_table(summary: AblationSummary, kind: IouType) -> Table:
    """All numbers of one IoU type, each with its difference to the baseline and the interval."""
    headers = ["run", "images", "seeds", *(header for name in NUMBERS for header in (name, f"{name} difference"))]
    rows = []
    for run in ordered_runs(summary):
        cells = [cell for name in NUMBERS for cell in _joined_cells(_score_cells(summary, run, kind, name))]
        rows.append([Cell(run.name), *_size_cells(run), *cells])
    return Table(f"All numbers of {KINDS[kind]}: the mean of the seeds in %, differences in points", headers, rows)


def category_table(summary: AblationSummary, kind: IouType) -> Table:
    """AP of each category, with its difference to the baseline and the interval."""
    objects = summary.evaluation.objects
    rows = []
    for run in ordered_runs(summary):
        comparison = comparison_of(summary, run)
        for name, score in run.per_category[kind].items():
            difference = None if comparison is None else comparison.per_category[kind][name]
            cells = [score_cell(score.mean), difference_cell(difference), interval_cell(difference)]
            count = Cell(f"{objects[name]:,}", objects[name]) if name in objects else DASH
            rows.append([Cell(run.name), fraction_cell(run.fraction), Cell(name), count, *cells])
    headers = ["run", "images", "category", "objects", "AP", "difference", "95 % interval"]
    return Table(f"AP of {KINDS[kind]} by category", headers, rows)


def seed_table(summary: AblationSummary) -> Table:
    """Every seed's scores, and what its training cost."""
    kinds = scored_kinds(summary)
    headers = ["run", "images", "seed", *(f"{SINGULAR[kind]} {name}" for kind in kinds for name in NUMBERS)]
    rows = [
        [
            Cell(run.name),
            fraction_cell(run.fraction),
            Cell(str(seed), seed),
            *(score_cell(run.scores[kind][name].by_seed[seed]) for kind in kinds for name in NUMBERS),
            *_cost_cells([run.costs[seed]]),
        ]
        for run in ordered_runs(summary)
        for seed in run.seeds
    ]
    return Table("Every seed, in %", [*headers, "batches", "time", "GB"], rows)


def cost_table(summary: AblationSummary) -> Table:
    """Steps, time and memory of each run, the mean of its seeds."""
    rows = [
        [Cell(run.name), *_size_cells(run), *_cost_cells(list(run.costs.values()))] for run in ordered_runs(summary)
    ]
    headers = ["run", "images", "seeds", "batches", "time", "GB"]
    return Table(
        "Batches, time with evaluations and highest memory of a training, the mean of the seeds", headers, rows
    )


def needed_table(summary: AblationSummary) -> Table:
    """How many times each run's images the baseline needs to reach its AP."""
    rows = []
    for comparison in summary.comparisons:
        factor = comparison.needed
        if factor is not None:
            texts = (format_factor(number, factor) for number in (factor.value, factor.low, factor.high))
            rows.append([Cell(comparison.name), fraction_cell(comparison.fraction), *map(Cell, texts)])
    headers = ["run", "images", f"images that {summary.baseline} needs", "from", "to (95 % interval)"]
    caption = f"How many times its images {summary.baseline} needs to be as good, in {summary.ap_name}"
    return Table(caption, headers, rows)


# ---- rows and cells


def ordered_runs(summary: AblationSummary) -> list[RunSummary]:
    """The runs by fraction, the baseline first."""
    return sorted(summary.runs, key=lambda run: (run.fraction, run.name != summary.baseline))


def comparison_of(summary: AblationSummary, run: RunSummary) -> Comparison | None:
    """The comparison of a run; None for the baseline, and for a run that is not compared."""
    found = (each for each in summary.comparisons if (each.name, each.fraction) == (run.name, run.fraction))
    return next(found, None)


def scored_kinds(summary: AblationSummary) -> list[IouType]:
    """The IoU types of the runs, masks first."""
    return [kind for kind in SINGULAR if any(kind in run.scores for run in summary.runs)]


def _verdict(summary: AblationSummary, run: RunSummary) -> str:
    comparison = comparison_of(summary, run)
    return "not compared" if comparison is None else verdict_of(comparison.main)


def _size_cells(run: RunSummary) -> Iterator[Cell]:
    yield Cell(f"{format_fraction(run.fraction)} ({run.images:.0f})", run.fraction)
    yield Cell(str(len(run.seeds)), len(run.seeds))


def _score_cells(summary: AblationSummary, run: RunSummary, kind: IouType, name: str) -> list[Cell]:
    """The score, its difference to the baseline, and the interval."""
    comparison = comparison_of(summary, run)
    score: SeedScore = run.scores[kind][name]
    difference = None if comparison is None else comparison.differences[kind][name]
    return [score_cell(score.mean), difference_cell(difference), interval_cell(difference)]


def _joined_cells(cells: Sequence[Cell]) -> list[Cell]:
    """The score, and its difference with the interval in one cell."""
    score, difference, interval = cells
    text = f"{difference.text} ({interval.text})" if interval.text != DASH.text else difference.text
    return [score, Cell(text, difference.value)]


def _cost_cells(costs: Sequence[Costs]) -> list[Cell]:
    """The means of what is known."""
    steps = fmean(cost.steps for cost in costs)
    seconds = [cost.seconds for cost in costs if cost.seconds is not None]
    gigabytes = [cost.gigabytes for cost in costs if cost.gigabytes is not None]
    return [
        Cell(f"{steps:,.0f}", steps),
        Cell(tqdm.format_interval(fmean(seconds)), fmean(seconds)) if seconds else DASH,
        Cell(f"{fmean(gigabytes):.1f}", fmean(gigabytes)) if gigabytes else DASH,
    ]


def fraction_cell(fraction: float) -> Cell:
    """A fraction of the training images."""
    return Cell(format_fraction(fraction), fraction)


def score_cell(value: float) -> Cell:
    """A score in %."""
    return DASH if math.isnan(value) else Cell(f"{100 * value:.1f}", value)


def difference_cell(difference: Difference | None) -> Cell:
    """A difference in points."""
    if difference is None or math.isnan(difference.value):
        return DASH
    return Cell(format_points(difference.value, sign=True), difference.value)


def interval_cell(difference: Difference | None) -> Cell:
    """An interval in points, sorted by its lower end."""
    if difference is None or math.isnan(difference.low):
        return DASH
    ends = (format_points(end, sign=True) for end in (difference.low, difference.high))
    return Cell(" to ".join(ends), difference.low)
