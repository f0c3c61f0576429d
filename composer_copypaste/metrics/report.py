"""What an evaluation says: the content of ``evaluation.json``, and the same as tables for the console."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabulate import tabulate

from composer_copypaste.data.json_files import read_json
from composer_copypaste.errors import DataError, OutputError, counted, shown
from composer_copypaste.files import written_whole
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.evaluation import Evaluation
from composer_copypaste.runs.folder import RunFolder

Report = dict[str, Any]
"""The content of ``evaluation.json``."""

KINDS = {"bbox": "boxes", "segm": "masks"}
NAME_WIDTH = 28
"""Longer category names are cut off in tables, so that these fit 100 columns."""


def evaluation_report(metric: CocoMeanAveragePrecision, names: Mapping[int, str] | None = None) -> Report:
    """All numbers of an evaluation, in [0, 1], ready for JSON; null where there is no ground truth.

    ``{"images": 5000, "max_dets": [1, 10, 100], "bbox": {"AP": ..., ..., "ARl": ..., "per_category": {NAME:
    {"instances": 12, "AP": ..., ...}}}, "segm": {...}}``. Crowds do not count as instances. In a distributed run every
    process must ask for the report.

    Args:
        metric: After its last update.
        names: The category names by id; None: those of the annotations, else "category 7".
    """
    evaluation = metric.evaluation()
    titles = _titles(evaluation, evaluation.names if names is None else names)
    per_category = evaluation.per_category()
    kinds: Report = {
        kind: {
            **_or_null(scores.numbers()),
            "per_category": {
                titles[category]: {"instances": evaluation.instances[category], **_or_null(numbers)}
                for category, numbers in per_category[kind].items()
            },
        }
        for kind, scores in evaluation.scores.items()
    }
    return {"images": evaluation.images, "max_dets": list(metric.max_dets), **kinds}


def write_json(report: Report, path: Path) -> None:
    """Write the report so that at no time a part of it is there."""
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def tables_of(folder: RunFolder) -> str:
    """The tables of the report in the folder of a complete run.

    Raises:
        OutputError: where it is not there, or is something else.
    """
    again = f"'copypaste eval {folder.root}' scores the run anew"
    try:
        return tables(report := read_json(folder.evaluation, "file of scores"))
    except DataError as error:
        raise OutputError(f"{error}; {again}") from None
    except (LookupError, TypeError, ValueError):
        raise OutputError(
            f"{folder.evaluation}: expected the scores of an evaluation, found {shown(report)}; {again}"
        ) from None


def tables(report: Report) -> str:
    """The numbers of boxes and masks, then those of each category, best first; in percent, at most 100 columns wide."""
    images, limit = report["images"], report["max_dets"][-1]
    title = f"COCO evaluation of {counted(images, 'image')}, in %, at most {counted(limit, 'detection')} per image"
    return f"{title}\n\n{_overall(report)}\n\n{_by_category(report)}\n"


def _overall(report: Report) -> str:
    kinds = [kind for kind in KINDS if kind in report]
    names = [name for name in report[kinds[0]] if name != "per_category"]
    rows: list[list[str | int]] = [[KINDS[kind], *(_percent(report[kind][name]) for name in names)] for kind in kinds]
    return _table(["", *names], rows)


def _by_category(report: Report) -> str:
    kinds = [kind for kind in KINDS if kind in report]
    names = ["AP", "AP50", "AP75"]
    categories = {kind: report[kind]["per_category"] for kind in kinds}
    ranking = categories[kinds[-1]]
    ranked = sorted(ranking, key=lambda name: (-_or_less_than_all(ranking[name]["AP"]), name))
    rows = [
        [
            _cut(category),
            ranking[category]["instances"],
            *(_percent(categories[kind][category][name]) for kind in kinds for name in names),
        ]
        for category in ranked
    ]
    return _table(["category", "instances", *(f"{KINDS[kind]}\n{name}" for kind in kinds for name in names)], rows)


def _table(headers: list[str], rows: list[list[str | int]]) -> str:
    alignment = ["left"] + ["right"] * (len(headers) - 1)
    return tabulate(rows, headers, tablefmt="simple", colalign=alignment if rows else None, disable_numparse=True)


def _titles(evaluation: Evaluation, names: Mapping[int, str]) -> dict[int, str]:
    """A name for each category id, no two the same."""
    titles = {category: names.get(category, f"category {category}") for category in evaluation.categories}
    shared = {title for title in titles.values() if list(titles.values()).count(title) > 1}
    return {category: f"{title} ({category})" if title in shared else title for category, title in titles.items()}


def _or_null(numbers: Mapping[str, float]) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def _or_less_than_all(value: float | None) -> float:
    return -1.0 if value is None else value


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _cut(name: str) -> str:
    return name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..."
