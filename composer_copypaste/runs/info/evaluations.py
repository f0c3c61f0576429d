"""What an evaluation has left: scores, matches, and the folder of both."""

from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from composer_copypaste.errors import DataError
from composer_copypaste.metrics.matches import EvaluationMatches
from composer_copypaste.metrics.report import KINDS, Report
from composer_copypaste.metrics.weighted_precision import NUMBERS, weighted_average_precisions
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.info.description import Description, InfoTable, Value
from composer_copypaste.visualize.object_plots import draw_scores


def describe_matches(path: Path) -> Description:
    """What a file of matches holds, with the average precision that it gives.

    Raises:
        DataError: where it is another file.
    """
    matches = EvaluationMatches.load(path)
    facts: dict[str, Value] = {
        "images": len(matches.image_ids),
        "categories": len(matches.category_ids),
        "detections of a category that count in an image": matches.max_dets[-1],
    }
    weights = np.ones((len(matches.image_ids), 1), dtype=np.int32)
    scores: list[list[Value]] = []
    columns: list[list[Value]] = [[name, id_] for name, id_ in zip(_names(matches), matches.category_ids, strict=True)]
    headers = ["category", "id"]
    for kind, table in matches.tables.items():
        found = weighted_average_precisions(matches, kind, weights)
        facts[f"detections of {KINDS[kind]}"] = len(table.scores)
        scores.append([KINDS[kind], *(_percent(found.number(name)[0]) for name in NUMBERS)])
        for number, row in enumerate(columns):
            if kind == next(iter(matches.tables)):
                row.append(int(table.truth_counts[table.truths(number), 0].sum()))
            row.append(_percent(found.number("AP", number)[0]))
        headers += ["objects"] * (len(scores) == 1) + [f"{KINDS[kind]} AP, %"]
    tables = [InfoTable("scores, in %", ["", *NUMBERS], scores), InfoTable("categories", headers, columns)]
    return Description(path, "the matches of an evaluation", facts, tables, draw=partial(_draw, matches))


def is_report(content: object) -> bool:
    """Whether JSON is the scores of an evaluation."""
    return (
        isinstance(content, dict) and {"images", "max_dets"} <= content.keys() and not KINDS.keys().isdisjoint(content)
    )


def describe_report(report: Report, path: Path) -> Description:
    """What the scores of an evaluation are.

    Raises:
        DataError: where they lack something.
    """
    kinds = [kind for kind in KINDS if kind in report]
    try:
        names = [name for name in report[kinds[0]] if name != "per_category"]
        scores: list[list[Value]] = [[KINDS[kind], *(_percent(report[kind][name]) for name in names)] for kind in kinds]
        categories: list[list[Value]] = [
            [name, numbers["instances"], *(_percent(report[kind]["per_category"][name]["AP"]) for kind in kinds)]
            for name, numbers in report[kinds[0]]["per_category"].items()
        ]
        facts: dict[str, Value] = {
            "images": report["images"],
            "categories": len(categories),
            "detections of a category that count in an image": report["max_dets"][-1],
        }
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: expected the scores of an evaluation; it lacks {error}") from None
    headers = ["category", "objects", *(f"{KINDS[kind]} AP, %" for kind in kinds)]
    tables = [InfoTable("scores, in %", ["", *names], scores), InfoTable("categories", headers, categories)]
    return Description(path, "the scores of an evaluation", facts, tables)


def is_evaluation(path: Path) -> bool:
    """Whether a folder is one that ``copypaste eval`` has written."""
    return RunFolder(path).report_page.is_file() and RunFolder(path).matches.is_file()


def _names(matches: EvaluationMatches) -> list[str]:
    return [name or f"id {id_}" for name, id_ in zip(matches.category_names, matches.category_ids, strict=True)]


def _percent(value: float | None) -> float | None:
    return None if value is None or np.isnan(value) else round(100 * float(value), 1)


def _draw(matches: EvaluationMatches) -> Figure:
    figure = Figure(figsize=(7 * len(matches.tables), 4.5), layout="constrained")
    for number, (kind, table) in enumerate(matches.tables.items(), start=1):
        axes = figure.add_subplot(1, len(matches.tables), number)
        draw_scores(axes, table.scores)
        axes.set_title(KINDS[kind])
    return figure
