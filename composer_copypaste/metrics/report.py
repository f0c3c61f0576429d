"""The report of an evaluation: the content of ``evaluation.json``, and the same numbers as tables for the console."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from composer_copypaste.errors import DataError, OutputError, as_recipe_value, count_noun
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.metrics.scores import category_titles

if TYPE_CHECKING:  # torchmetrics takes seconds to import, and most who read reports need no metric
    from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

Report = dict[str, Any]
"""The content of ``evaluation.json``."""

KINDS = {"bbox": "boxes", "segm": "masks"}
NAME_WIDTH = 28
"""Longer category names are cut off, so that tables fit 100 columns."""


def evaluation_report(metric: "CocoMeanAveragePrecision", names: Mapping[int, str] | None = None) -> Report:
    """All numbers of an evaluation, in [0, 1], ready for JSON; null without ground truth.

    ``{"images": 5000, "max_dets": [1, 10, 100], "bbox": {"AP": ..., ..., "ARl": ..., "per_category": {NAME:
    {"instances": 12, "AP": ..., ...}}}, "segm": {...}}``. Crowds do not count as instances. In a distributed run
    all processes must call this together.

    Args:
        metric: The metric after its last update.
        names: The category names by id; None: the names in the annotations, else "category 7".
    """
    evaluation = metric.evaluation()
    titles = category_titles(evaluation.categories, evaluation.names if names is None else names)
    per_category = evaluation.per_category()
    kinds: Report = {
        kind: {
            **_nan_as_null(scores.numbers()),
            "per_category": {
                titles[category]: {"instances": evaluation.instances[category], **_nan_as_null(numbers)}
                for category, numbers in per_category[kind].items()
            },
        }
        for kind, scores in evaluation.scores.items()
    }
    return {"images": evaluation.images, "max_dets": list(metric.max_dets), **kinds}


def write_json(report: Report, path: Path) -> None:
    """Write the report; the file is complete whenever it is there."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_score_tables(path: Path) -> str:
    """The tables of the report that a complete run left in its folder.

    Raises:
        OutputError: where the file is missing, or holds something else.
    """
    again = f"'copypaste eval {path.parent}' scores the run again"
    try:
        return score_tables(report := read_json(path, "file of scores"))
    except DataError as error:
        raise OutputError(f"{error}; {again}") from None
    except (LookupError, OverflowError, TypeError, ValueError):
        raise OutputError(
            f"{path}: expected the scores of an evaluation, found {as_recipe_value(report)}; {again}"
        ) from None


def score_tables(report: Report) -> str:
    """The scores of boxes and masks, then of each category, best first; in percent, at most 100 columns wide."""
    images, limit = report["images"], report["max_dets"][-1]
    title = (
        f"COCO evaluation of {count_noun(images, 'image')}, in %, at most {count_noun(limit, 'detection')} per image"
    )
    return f"{title}\n\n{_overall_table(report)}\n\n{_category_table(report)}\n"


def _overall_table(report: Report) -> str:
    kinds = [kind for kind in KINDS if kind in report]
    names = [name for name in report[kinds[0]] if name != "per_category"]
    rows: list[list[str | int]] = [
        [KINDS[kind], *(format_percent(report[kind][name]) for name in names)] for kind in kinds
    ]
    return _format_table(["", *names], rows)


def _category_table(report: Report) -> str:
    kinds = [kind for kind in KINDS if kind in report]
    names = ["AP", "AP50", "AP75"]
    categories = {kind: report[kind]["per_category"] for kind in kinds}
    ranking = categories[kinds[-1]]
    # categories without ground truth come last
    ranked = sorted(ranking, key=lambda name: (-(-1.0 if ranking[name]["AP"] is None else ranking[name]["AP"]), name))
    rows = [
        [
            category if len(category) <= NAME_WIDTH else f"{category[: NAME_WIDTH - 3]}...",
            ranking[category]["instances"],
            *(format_percent(categories[kind][category][name]) for kind in kinds for name in names),
        ]
        for category in ranked
    ]
    return _format_table(
        ["category", "instances", *(f"{KINDS[kind]}\n{name}" for kind in kinds for name in names)], rows
    )


def _format_table(headers: list[str], rows: list[list[str | int]]) -> str:
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="simple", colalign=alignment if rows else None, disable_numparse=True)


def _nan_as_null(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def format_percent(value: float | None) -> str:
    """A number in [0, 1] in percent; a dash for none."""
    return "-" if value is None else f"{100 * value:.1f}"
