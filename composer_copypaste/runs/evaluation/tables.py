"""The tables of an evaluation's page."""

import numpy as np

from composer_copypaste.metrics.confusion import count_confusions
from composer_copypaste.metrics.error_analysis import ERROR_KINDS, OF_DETECTIONS, ErrorKind
from composer_copypaste.metrics.operating_point import Counts, count_by_category
from composer_copypaste.metrics.report import KINDS
from composer_copypaste.metrics.scores import IouType
from composer_copypaste.runs.evaluation.findings import Findings, KindFindings
from composer_copypaste.visualize.html import Cell, Value
from composer_copypaste.visualize.object_plots import LARGE_AREA, SMALL_AREA

Table = tuple[list[str], list[list[Value]], str]
"""Headers, rows and caption."""

ERROR_NAMES: dict[ErrorKind, str] = {
    "class": "wrong category",
    "location": "badly placed",
    "both": "wrong category and badly placed",
    "duplicate": "duplicate",
    "background": "background",
    "missed": "missed",
}
MEANINGS: dict[ErrorKind, str] = {
    "class": "on an object of another category (IoU 0.5 or more)",
    "location": "on an object of its category, but with an IoU of 0.1 to 0.5",
    "both": "on an object of another category, with an IoU of 0.1 to 0.5",
    "duplicate": "on an object that a detection with a higher score has found",
    "background": "on no object (IoU 0.1 or less)",
    "missed": "an object that nothing finds, and that no wrong category or place explains",
}
MOST_CONFUSIONS = 50
SIZES = {"small": ("s", 0, SMALL_AREA), "medium": ("m", SMALL_AREA, LARGE_AREA), "large": ("l", LARGE_AREA, np.inf)}
"""The letter and the limits of area, in pixels, of COCO's sizes."""


def percent_cell(value: float | None) -> Cell:
    """A number in [0, 1] in percent, without the sign; a dash for none."""
    return Cell("-") if value is None or np.isnan(value) else Cell(f"{100 * value:.1f}", value)


def numbers_table(findings: Findings) -> Table:
    """COCO's numbers of boxes and masks."""
    kinds = list(findings.kinds)
    names = [name for name in findings.report[kinds[0]] if name != "per_category"]
    rows: list[list[Value]] = [
        [KINDS[kind], *(percent_cell(findings.report[kind][name]) for name in names)] for kind in kinds
    ]
    return ["", *names], rows, "COCO's numbers, in %."


def errors_table(findings: Findings) -> Table:
    """What each kind of error costs, and how many there are."""
    kinds = list(findings.kinds)
    columns = ("cost", "number", f"from {findings.min_score:.2f}")
    headers = ["error", *(f"{KINDS[kind]}: {column}" for column in columns for kind in kinds)]
    rows: list[list[Value]] = [
        [
            ERROR_NAMES[error],
            *(percent_cell(findings.kinds[kind].costs.by_kind[error]) for kind in kinds),
            *(findings.kinds[kind].errors.number(error) for kind in kinds),
            *(findings.kinds[kind].kept_errors.number(error) for kind in kinds),
        ]
        for error in ERROR_KINDS
    ]
    caption = "Cost, in points of AP50; number of all errors; number of those with higher scores."
    return headers, rows, caption


def sizes_table(findings: Findings) -> Table:
    """Scores and numbers of objects by COCO's sizes."""
    kinds, areas = list(findings.kinds), findings.main.overlaps.truth_areas
    headers = ["objects", "pixels", "number", *(f"{KINDS[kind]}: {name}" for kind in kinds for name in ("AP", "AR"))]
    rows: list[list[Value]] = []
    for size, (letter, low, high) in SIZES.items():
        limits = f"up to {high:,.0f}" if low == 0 else f"from {low:,}" if np.isinf(high) else f"{low:,} to {high:,}"
        number = int(((areas >= low) & (areas < high)).sum())
        scores = [findings.report[kind][f"{name}{letter}"] for kind in kinds for name in ("AP", "AR")]
        rows.append([size, Cell(limits, low), number, *map(percent_cell, scores)])
    return headers, rows, ""


def categories_table(findings: Findings, kind: IouType) -> Table:
    """The scores of each category, and what its detections of some certainty are."""
    found = findings.kinds[kind]
    counts = count_by_category(found.kept, found.kept_errors)
    scores = ["AP", "AP50", "AP75", "APs", "APm", "APl"]
    headers = ["category", "objects", *scores, "precision", "recall", "found", "missed"]
    headers += [ERROR_NAMES[error] for error in OF_DETECTIONS]
    errors = _errors_by_category(found)
    rows: list[list[Value]] = []
    for index, (name, numbers) in enumerate(findings.report[kind]["per_category"].items()):
        shares = percent_cell(counts.precision[index]), percent_cell(counts.recall[index])
        right, missed = int(counts.right[index]), int(counts.missed[index])
        of_errors = errors[: len(OF_DETECTIONS), index].tolist()
        scored = [percent_cell(numbers[score]) for score in scores]
        rows.append([name, numbers["instances"], *scored, *shares, right, missed, *of_errors])
    return headers, rows, f"{KINDS[kind].capitalize()}, by category; scores in %."


def _errors_by_category(found: KindFindings) -> np.ndarray:
    """The number of detections that count, by kind and by the category they were given."""
    counts, width = found.kept_errors.counts, len(found.kept.category_ids)
    cells = found.kept_errors.kinds[counts].astype(np.int64) * width + found.kept.categories[counts]
    rows = len(OF_DETECTIONS) + 1
    return np.bincount(cells, minlength=rows * width).reshape(rows, width)


def confusion_table(findings: Findings) -> Table:
    """The most frequent confusions of one category with another."""
    counts, names = count_confusions(findings.main.kept)[:-1, :-1], findings.category_names
    objects = np.bincount(findings.main.kept.truth_categories, minlength=len(names))
    pairs = [(int(counts[row, column]), row, column) for row, column in np.argwhere(counts).tolist() if row != column]
    rows: list[list[Value]] = [
        [names[row], names[column], number, percent_cell(number / objects[row])]
        for number, row, column in sorted(pairs, key=lambda pair: (-pair[0], *pair[1:]))[:MOST_CONFUSIONS]
    ]
    return ["object is", "detected as", "number", "% of the objects"], rows, "Categories taken for others."


def confusion_matrix(findings: Findings, most: int) -> tuple[np.ndarray, list[str], list[str]]:
    """The matrix of the categories that occur, with the names of its rows and columns.

    Of more than ``most`` categories, only those that are confused most; objects and detections of others are left out.
    """
    counts, names = count_confusions(findings.main.kept), findings.category_names
    wrong = counts[:-1, :-1] - np.diag(np.diag(counts[:-1, :-1]))
    rank = np.lexsort((-counts[:-1].sum(axis=1), -(wrong.sum(axis=0) + wrong.sum(axis=1))))
    occurs = counts[:-1].sum(axis=1) + counts[:, :-1].sum(axis=0) > 0
    chosen = sorted([category for category in rank.tolist() if occurs[category]][:most])
    shown = counts[np.ix_([*chosen, len(names)], [*chosen, len(names)])]
    own = [names[category] for category in chosen]
    return shown, [*own, "no object"], [*own, "nothing"]


def totals(counts: Counts) -> tuple[float, float, float]:
    """Precision, recall and F1 of all categories together."""
    total = counts.total()
    return float(total.precision[0]), float(total.recall[0]), float(total.f1[0])
