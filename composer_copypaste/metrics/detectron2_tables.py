"""The numbers of an evaluation in the tables that Detectron2's users know; no Detectron2 is needed."""

from itertools import chain

from tabulate import tabulate

from composer_copypaste.metrics.report import KINDS, Report

NUMBERS = ("AP", "AP50", "AP75", "APs", "APm", "APl")
MOST_COLUMNS = 6
"""Of the table of categories."""


def detectron2_tables(report: Report) -> str:
    """Six numbers of boxes and masks, and the AP of each category, in percent, as Detectron2's evaluator prints them.

    Below are the same numbers in lines of commas, as its training script prints them for spreadsheets. Numbers without
    ground truth are nan.
    """
    kinds = [kind for kind in KINDS if kind in report]
    return "\n\n".join([*(_tables(report, kind) for kind in kinds), "\n".join(_lines(report, kinds))]) + "\n"


def _tables(report: Report, kind: str) -> str:
    numbers, categories = report[kind], report[kind]["per_category"]
    values = [[_percent(numbers[name]) for name in NUMBERS]]
    overall = tabulate(values, NUMBERS, tablefmt="pipe", floatfmt=".3f", stralign="center", numalign="center")
    text = f"Evaluation results for {kind}:\n{overall}"
    if len(categories) < 2:
        return text
    cells = [*chain.from_iterable((name, _percent(scores["AP"])) for name, scores in categories.items())]
    columns = min(MOST_COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    headers = ["category", "AP"] * (columns // 2)
    table = tabulate(
        [[*row, *[None] * (columns - len(row))] for row in rows],
        headers,
        tablefmt="pipe",
        floatfmt=".3f",
        numalign="left",
    )
    return f"{text}\n\nPer-category {kind} AP:\n{table}"


def _lines(report: Report, kinds: list[str]) -> list[str]:
    lines = []
    for kind in kinds:
        values = ",".join(f"{_percent(report[kind][name]):.4f}" for name in NUMBERS)
        lines += [f"copypaste: Task: {kind}", f"copypaste: {','.join(NUMBERS)}", f"copypaste: {values}"]
    return lines


def _percent(value: float | None) -> float:
    return float("nan") if value is None else 100 * value
