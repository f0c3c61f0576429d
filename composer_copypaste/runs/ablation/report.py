"""The report of an ablation: ``results`` as ``.json``, ``.csv``, ``.md`` and ``.png``, and ``report.html``."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any

from tabulate import tabulate

from composer_copypaste.files import atomic_write
from composer_copypaste.metrics.scores import IouType
from composer_copypaste.metrics.weighted_precision import NUMBERS
from composer_copypaste.runs.ablation.page import ablation_page, describe_main_figure, main_figure
from composer_copypaste.runs.ablation.results import AblationResults, FailedRun, ap_name
from composer_copypaste.runs.ablation.sentences import (
    describe_comparison,
    describe_needed_images,
    describe_reading,
    describe_title,
    own_limits,
    shared_limits,
    verdict_of,
)
from composer_copypaste.runs.ablation.summary import AblationSummary, Comparison, summarise
from composer_copypaste.runs.ablation.tables import (
    Table,
    category_table,
    cost_table,
    format_table,
    main_table,
    needed_table,
    numbers_table,
    scored_kinds,
    seed_table,
)
from composer_copypaste.visualize.curves import save_figure
from composer_copypaste.visualize.html import write_page

IMAGE = "results.png"
CONSOLE_WIDTH = 100
NAME_WIDTH = 28
"""Longer names of runs are cut off on the console."""


def write_report(results: AblationResults, folder: Path) -> AblationSummary:
    """Write the files of the report into a folder, and return its numbers; an image only where runs are compared.

    Raises:
        DataError: where a file of a run is missing, or holds something else; nothing is written then.
    """
    summary = summarise(results)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "results.json") as unfinished:
        unfinished.write_text(json.dumps(summary_as_json(summary), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    with atomic_write(folder / "results.csv") as unfinished:
        _write_csv(summary, unfinished)
    with atomic_write(folder / "results.md") as unfinished:
        unfinished.write_text(markdown_report(summary), encoding="utf-8")
    if summary.comparisons:
        save_figure(main_figure(summary), folder / IMAGE)
    else:
        (folder / IMAGE).unlink(missing_ok=True)  # of an earlier report
    write_page(folder / "report.html", ablation_page(summary))
    return summary


def console_table(summary: AblationSummary) -> str:
    """The main table, a sentence for each comparison, and the trainings that failed; 100 columns wide."""
    parts = [describe_title(summary)]
    if summary.runs:
        parts.append(_console_table(main_table(summary), scored_kinds(summary)))
    parts += shared_limits(summary)
    parts += [" ".join(sentences_of(summary, comparison)) for comparison in summary.comparisons]
    parts += [f"{sentence}." for sentence in summary.not_compared]
    if summary.missing:
        parts.append(f"not finished: {', '.join(summary.missing)}")
    wrapped = [part if "\n" in part else fill(part, CONSOLE_WIDTH) for part in parts]
    return "\n\n".join((*wrapped, *map(describe_failure, summary.failed)))


def _console_table(table: Table, kinds: Sequence[IouType]) -> str:
    """The main table without its columns of seeds and of the second IoU type's differences."""
    compared, *others = (ap_name(kind).replace(" ", "\n") for kind in kinds)
    headers = ["run", "images", compared, "diff.", "95 %\ninterval", "verdict", *others]
    rows = [[cell.text for cell in row] for row in table.rows]
    shown = [[name[:NAME_WIDTH], images, *scores[: 4 + len(others)]] for name, images, _, *scores in rows]
    alignment = ("left", "left", "right", "right", "right", "left", *("right" for _ in others))
    return tabulate(shown, headers, tablefmt="simple", colalign=alignment, disable_numparse=True)


def sentences_of(summary: AblationSummary, comparison: Comparison) -> list[str]:
    """What is said of a comparison, without what limits all of them."""
    needed = describe_needed_images(comparison, summary)
    found = [describe_comparison(comparison, summary), *([] if needed is None else [needed])]
    return [*found, *own_limits(comparison, summary)]


def describe_failure(failed: FailedRun) -> str:
    """A training that failed, and the last lines that it printed."""
    return "\n".join((f"{failed} failed; its last lines:", *(f"  {line}" for line in failed.last_lines)))


def markdown_report(summary: AblationSummary) -> str:
    """The report as Markdown."""
    parts = [f"# {summary.title}", describe_title(summary), *summary.equal_work]
    parts += [f"Not finished: {name}." for name in summary.missing]
    parts += [f"{failed} failed:\n\n```\n{chr(10).join(failed.last_lines)}\n```" for failed in summary.failed]
    if summary.runs:
        parts += ["## Results", _markdown_table(main_table(summary))]
        parts += [f"![{describe_main_figure(summary)}]({IMAGE})"] if summary.comparisons else []
        parts += shared_limits(summary)
        parts += [f"- {' '.join(sentences_of(summary, comparison))}" for comparison in summary.comparisons]
        parts += [f"- {sentence}." for sentence in summary.not_compared]
        parts += describe_reading(summary)
        if any(comparison.needed for comparison in summary.comparisons):
            parts.append(_markdown_table(needed_table(summary)))
        kinds = scored_kinds(summary)
        parts += ["## All numbers", *(_markdown_table(numbers_table(summary, kind)) for kind in kinds)]
        parts += ["## Categories", *(_markdown_table(category_table(summary, kind)) for kind in kinds)]
        parts += ["## Seeds and costs", _markdown_table(seed_table(summary)), _markdown_table(cost_table(summary))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    return f"{table.caption}:\n\n{format_table(table, 'pipe')}"


def summary_as_json(summary: AblationSummary) -> dict[str, Any]:
    """All numbers for JSON, with the verdict and the sentences of each comparison; null where there is no number.

    An infinite ``needed``, where the baseline does not reach a run's AP, is null too; ``largest`` says what was tried.
    """
    content: dict[str, Any] = _with_nulls(asdict(summary))
    for comparison, fields in zip(summary.comparisons, content["comparisons"], strict=True):
        fields["verdict"] = verdict_of(comparison.main)
        fields["sentences"] = sentences_of(summary, comparison)
    return content | {"reading": [*describe_reading(summary), *shared_limits(summary)]}


def _with_nulls(value: Any) -> Any:
    """Nested values with None for numbers that are not finite, and text for keys."""
    if isinstance(value, dict):
        return {str(key): _with_nulls(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write_csv(summary: AblationSummary, path: Path) -> None:
    """A row for each run, fraction and seed, with scores in [0, 1]."""
    kinds = scored_kinds(summary)
    categories = list(dict.fromkeys(name for run in summary.runs for kind in kinds for name in run.per_category[kind]))
    headers = ["run", "fraction", "seed", "images", "batches", "seconds", "gigabytes"]
    headers += [f"{kind}_{name}" for kind in kinds for name in NUMBERS]
    headers += [f"{kind}_AP_{category}" for kind in kinds for category in categories]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headers)
        writer.writerows(_csv_rows(summary, kinds, categories))


def _csv_rows(summary: AblationSummary, kinds: Sequence[Any], categories: Sequence[str]) -> list[list[object]]:
    rows: list[list[object]] = []
    for run in summary.runs:
        for seed in run.seeds:
            costs = run.costs[seed]
            scores = [run.scores[kind][name].by_seed[seed] for kind in kinds for name in NUMBERS]
            by_name = [run.per_category[kind].get(category) for kind in kinds for category in categories]
            scores += [math.nan if score is None else score.by_seed[seed] for score in by_name]
            known = ["" if math.isnan(score) else score for score in scores]
            rows.append(
                [run.name, run.fraction, seed, run.images_of[seed], costs.steps, costs.seconds, costs.gigabytes, *known]
            )
    return rows
