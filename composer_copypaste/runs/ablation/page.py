"""The page of an ablation's report."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from matplotlib.figure import Figure

from composer_copypaste.errors import either
from composer_copypaste.runs.ablation.results import format_fraction
from composer_copypaste.runs.ablation.sentences import (
    describe_comparison,
    describe_needed_images,
    describe_reading,
    describe_title,
    own_limits,
    shared_limits,
)
from composer_copypaste.runs.ablation.summary import NOTHING_FOUND, AblationSummary, Comparison, RunSummary
from composer_copypaste.runs.ablation.tables import (
    Table,
    category_table,
    cost_table,
    main_table,
    needed_table,
    numbers_table,
    ordered_runs,
    scored_kinds,
    seed_table,
)
from composer_copypaste.visualize.ablation_curves import (
    Interval,
    Point,
    plot_differences,
    plot_over_images,
    plot_over_steps,
)
from composer_copypaste.visualize.html import (
    Markup,
    Section,
    bullets,
    code,
    figure,
    page,
    paragraph,
    side_by_side,
    table,
    warning,
)


def ablation_page(summary: AblationSummary) -> str:
    """The report as one page, which needs nothing from outside."""
    lead = [_paragraph(describe_title(summary)), _bullets(summary.equal_work)]
    if summary.missing:
        lead.append(warning(_with_joined_units(f"not finished: {', '.join(summary.missing)}.")))
    sections = [*_failures(summary)]
    if summary.runs:
        kinds = scored_kinds(summary)
        sections += [
            Section("Results", [*_results(summary)]),
            *_images(summary),
            Section("AP over steps", [*_curves(summary)]),
            Section("All numbers", [_show(numbers_table(summary, kind)) for kind in kinds]),
            Section("Categories", [_show(category_table(summary, kind)) for kind in kinds]),
            Section("Seeds and costs", [_show(cost_table(summary)), _show(seed_table(summary))]),
        ]
    return page(summary.title, sections, lead)


def _failures(summary: AblationSummary) -> Iterator[Section]:
    if summary.failed:
        above = warning("these trainings failed, and are in no table.")
        shown = ((paragraph(str(failed)), code("\n".join(failed.last_lines))) for failed in summary.failed)
        yield Section("Failed trainings", [above, *chain.from_iterable(shown)])


def _results(summary: AblationSummary) -> Iterator[Markup]:
    yield _show(main_table(summary))
    yield from map(warning, shared_limits(summary))
    sentences = [_sentence(summary, comparison) for comparison in summary.comparisons]
    yield _bullets([*sentences, *(f"{sentence}." for sentence in summary.not_compared)])
    if summary.comparisons:
        yield figure(_plot_differences(summary), _describe_differences(summary))
    yield from map(_paragraph, describe_reading(summary))


def _sentence(summary: AblationSummary, comparison: Comparison) -> str:
    return " ".join((describe_comparison(comparison, summary), *own_limits(comparison, summary)))


def _intervals(summary: AblationSummary) -> list[Interval]:
    """The differences in points; labels name the fraction where there are several."""
    one_fraction = len({comparison.fraction for comparison in summary.comparisons}) == 1
    return [
        Interval(
            each.name if one_fraction else f"{each.name}, {format_fraction(each.fraction)}",
            100 * each.main.value,
            100 * each.main.low,
            100 * each.main.high,
        )
        for each in summary.comparisons
    ]


def main_figure(summary: AblationSummary) -> Figure:
    """AP over the number of images where runs have several, else the difference of each run to the baseline."""
    if _has_several_fractions(summary):
        return plot_over_images(
            _points_by_images(summary), summary.baseline, _ticks(summary), [*_arrows(summary)], summary.ap_name
        )
    return _plot_differences(summary)


def describe_main_figure(summary: AblationSummary) -> str:
    """How the main figure is read."""
    if _has_several_fractions(summary):
        return (
            f"{_capitalised(summary.ap_name)} in % over the number of training images: the mean of the seeds, and each "
            f"seed as a dot. A dotted arrow leads from a run to where {summary.baseline} reaches the same AP."
        )
    return _describe_differences(summary)


def _plot_differences(summary: AblationSummary) -> Figure:
    return plot_differences(_intervals(summary), f"difference in {summary.ap_name}, points")


def _describe_differences(summary: AblationSummary) -> str:
    return f"Difference of each run to {summary.baseline} with its 95 % interval; grey where the interval includes 0."


def _has_several_fractions(summary: AblationSummary) -> bool:
    return len({run.fraction for run in summary.runs}) > 1


def _images(summary: AblationSummary) -> Iterator[Section]:
    """AP over the number of images, where there are several and something was found."""
    if not _has_several_fractions(summary) or _have_found_nothing(summary.runs, summary):
        return
    needed = [text for each in summary.comparisons if (text := describe_needed_images(each, summary))]
    parts = [figure(main_figure(summary), describe_main_figure(summary))]
    if needed:
        parts += [_show(needed_table(summary)), _bullets(needed)]
        parts.append(
            paragraph(
                f"Between the numbers of images that {summary.baseline} was trained on, its AP is taken to grow "
                "linearly with their logarithm. The intervals are from the same resamples as those of the differences."
            )
        )
    yield Section("AP over the number of images", parts)


def _points_by_images(summary: AblationSummary) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = {}
    for run in ordered_runs(summary):
        score = run.scores[summary.iou_type]["AP"]
        found.setdefault(run.name, []).append(
            Point(run.images, 100 * score.mean, [100 * value for value in score.by_seed.values()])
        )
    return found


def _ticks(summary: AblationSummary) -> dict[float, str]:
    """The baseline's numbers of images with their fractions; without a baseline, those of all runs."""
    runs = ordered_runs(summary)
    of_baseline = [run for run in runs if run.name == summary.baseline]
    return {run.images: f"{run.images:.0f}\n{format_fraction(run.fraction)}" for run in of_baseline or runs}


def _arrows(summary: AblationSummary) -> Iterator[tuple[str, float, float, float]]:
    """Where the baseline reaches the AP of a run, of those that it reaches."""
    for comparison in summary.comparisons:
        factor = comparison.needed
        if factor is not None and 0 < factor.value < float("inf"):
            run = next(r for r in summary.runs if (r.name, r.fraction) == (comparison.name, comparison.fraction))
            yield run.name, run.images, 100 * run.scores[summary.iou_type]["AP"].mean, factor.value * run.images


def _curves(summary: AblationSummary) -> Iterator[Markup]:
    """AP over steps, a figure for each fraction on which a run has found something."""
    by_fraction: dict[float, list[RunSummary]] = {}
    for run in ordered_runs(summary):
        if run.curve:
            by_fraction.setdefault(run.fraction, []).append(run)
    name = _capitalised(summary.ap_name)
    flat = [fraction for fraction, runs in by_fraction.items() if _have_found_nothing(runs, summary)]
    if flat:
        where = either([format_fraction(fraction) for fraction in flat])
        yield _paragraph(f"{name} stayed below {100 * NOTHING_FOUND:g} % in every run on {where} of the images.")
    drawn = {fraction: runs for fraction, runs in by_fraction.items() if fraction not in flat}
    if not drawn:
        return
    yield paragraph(f"{name} in % after each evaluation: the mean of the seeds, and each seed as a thin line.")
    yield side_by_side(
        [
            figure(
                plot_over_steps(
                    _points_by_steps(runs),
                    summary.baseline,
                    f"{format_fraction(fraction)} of the images",
                    summary.ap_name,
                ),
                "",
            )
            for fraction, runs in drawn.items()
        ]
    )


def _have_found_nothing(runs: Sequence[RunSummary], summary: AblationSummary) -> bool:
    """Whether the AP of all runs stayed next to 0; no AP, where no object counts, is not."""
    seeds = [run.scores[summary.iou_type]["AP"].by_seed for run in runs]
    seeds += [point.by_seed for run in runs for point in run.curve]
    return all(value < NOTHING_FOUND for by_seed in seeds for value in by_seed.values())


def _points_by_steps(runs: Sequence[RunSummary]) -> Mapping[str, list[Point]]:
    return {
        run.name: [
            Point(point.batch, 100 * point.mean, [100 * value for value in point.by_seed.values()])
            for point in run.curve
        ]
        for run in runs
    }


def _capitalised(name: str) -> str:
    return name[0].upper() + name[1:]


def _paragraph(text: str) -> Markup:
    return paragraph(_with_joined_units(text))


def _bullets(texts: Sequence[str]) -> Markup:
    return bullets([*map(_with_joined_units, texts)])


def _with_joined_units(text: str) -> str:
    """The text with "95 %" on one line."""
    return text.replace(" %", "\u00a0%")


def _show(shown: Table) -> Markup:
    return table(shown.headers, shown.rows, shown.caption)
