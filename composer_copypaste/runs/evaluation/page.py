"""The page of an evaluation: scores, what went wrong and what it costs, curves, confusions, images, the training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from composer_copypaste.data.dataset import InstanceData
from composer_copypaste.errors import count_noun
from composer_copypaste.metrics.error_analysis import ERROR_KINDS, RIGHT
from composer_copypaste.metrics.operating_point import count_by_category
from composer_copypaste.metrics.report import KINDS
from composer_copypaste.metrics.scores import ALL_SIZES, IOU_50, IOU_75, IouType
from composer_copypaste.runs.evaluation.findings import Findings, KindFindings
from composer_copypaste.runs.evaluation.images import ShownImage, draw_images
from composer_copypaste.runs.evaluation.tables import (
    ERROR_NAMES,
    MEANINGS,
    SIZES,
    Table,
    categories_table,
    confusion_matrix,
    confusion_table,
    errors_table,
    numbers_table,
    sizes_table,
    totals,
)
from composer_copypaste.visualize import html
from composer_copypaste.visualize.curves import training_figures
from composer_copypaste.visualize.evaluation_plots import (
    plot_bars,
    plot_confusion,
    plot_over_scores,
    plot_precision_over_recall,
)
from composer_copypaste.visualize.html import Markup, Section

MOST_CURVES = 6
"""Categories with a curve of their own."""
MOST_CONFUSED = 30
"""Categories in the matrix of confusions."""


@dataclass(frozen=True)
class Subject:
    """What an evaluation is of, in the words of its page."""

    title: str
    described: Sequence[str]
    """Sentences: what was evaluated, and on what."""
    metrics: Path | None = None
    """The ``metrics.jsonl`` of the training, if there is one."""


def evaluation_page(findings: Findings, subject: Subject, data: InstanceData | None) -> str:
    """The page, which needs nothing from outside.

    Args:
        findings: of the evaluation.
        subject: what it is of.
        data: has the images; None: the page shows none.

    Raises:
        DataError: where an image cannot be read.
    """
    images = [*_images(findings, data)]  # first: one of them may be damaged
    sections = [
        Section("Scores", [*_scores(findings)]),
        Section("What went wrong", [*_errors(findings)]),
        Section("Precision and recall", [*_curves(findings)]),
        Section("Size", [*_sizes(findings)]),
        Section("Categories", [*_categories(findings)]),
        *_confusions(findings),
        *images,
        *_training(subject.metrics),
    ]
    lead = [html.bullets([*subject.described, *_sentences(findings)]), *map(html.warning, _warnings(findings))]
    return html.page(subject.title, sections, lead)


# ---- sentences


def _sentences(findings: Findings) -> Iterator[str]:
    """What the page says, in a few lines."""
    report, main = findings.report, findings.main
    objects = len(main.overlaps.truth_categories)
    yield (
        f"{count_noun(report['images'], 'image')}, {count_noun(objects, 'object')} of "
        f"{count_noun(len(findings.category_names), 'category', 'categories')}, "
        f"{count_noun(len(main.overlaps.scores), 'detection')}."
    )
    for kind in findings.kinds:
        numbers = report[kind]
        shown = [f"{name} {100 * numbers[name]:.1f}" for name in ("AP", "AP50", "AP75") if numbers[name] is not None]
        if shown:
            yield f"{KINDS[kind].capitalize()}: {', '.join(shown)} %."
    worst = max(ERROR_KINDS, key=lambda kind: main.costs.by_kind[kind])
    if main.costs.by_kind[worst] > 0:
        cost = 100 * main.costs.by_kind[worst]
        yield f"What costs most: {ERROR_NAMES[worst]}, {cost:.1f} points of AP50."
    precision, recall, f1 = totals(count_by_category(main.kept, main.kept_errors))
    how = "where F1 is highest" if findings.is_best_score else "as asked for"
    if not np.isnan(f1):
        yield (
            f"With scores from {findings.min_score:.2f} ({how}): precision {_percent(precision)}, "
            f"recall {_percent(recall)}, F1 {_percent(f1)}, at an IoU of 0.5."
        )


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}\u00a0%"


def _warnings(findings: Findings) -> Iterator[str]:
    overlaps, limit = findings.main.overlaps, findings.report["max_dets"][-1]
    per_image = np.bincount(overlaps.truth_images, minlength=len(overlaps.image_ids))
    beyond = int((per_image > limit).sum())
    if beyond:
        yield (
            f"{count_noun(beyond, 'image has', 'images have')} more objects than the {limit} detections that count; "
            "the others are missed in any case."
        )
    if not len(overlaps.scores):
        yield "nothing was detected in any image."


# ---- sections


def _show(shown: Table) -> Markup:
    return html.table(*shown)


def _scores(findings: Findings) -> Iterator[Markup]:
    yield _show(numbers_table(findings))
    limit = findings.report["max_dets"][-1]
    yield html.paragraph(
        "By COCO's rules: AP is the mean over IoU thresholds from 0.5 to 0.95, AP50 and AP75 are at one threshold, s, "
        f"m and l are small, medium and large objects; at most {limit} detections of a category count in an image."
    )


def _errors(findings: Findings) -> Iterator[Markup]:
    groups = {
        KINDS[kind]: {ERROR_NAMES[error]: 100 * found.costs.by_kind[error] for error in ERROR_KINDS}
        for kind, found in findings.kinds.items()
    }
    yield html.figure(plot_bars(groups, "costs AP50, points"), "How much AP50 would rise without these errors.")
    yield _show(errors_table(findings))
    yield html.bullets([f"{ERROR_NAMES[error].capitalize()}: {MEANINGS[error]}." for error in ERROR_KINDS])
    for text in _explanations(findings):
        yield html.paragraph(text)


def _explanations(findings: Findings) -> Iterator[str]:
    limit = findings.report["max_dets"][-1]
    yield (
        "As TIDE defines it (Bolya et al., ECCV 2020): each error is corrected as far as its kind goes, all others "
        "stay, and AP50 is computed anew. The costs do not add up to 100 % minus AP50: one correction uncovers others. "
        f"The {limit} best detections of an image count, of all categories together."
    )
    for kind, found in findings.kinds.items():
        ap50, false, lost = (
            100 * share for share in (found.costs.ap50, found.costs.false_positives, found.costs.false_negatives)
        )
        yield (
            f"{KINDS[kind].capitalize()}: AP50 is {ap50:.1f} here. All false detections cost {false:.1f} points, all "
            f"objects that are not found {lost:.1f}."
        )
    if lonely := _categories_without_objects(findings.main):
        yield (
            f"TIDE counts {count_noun(lonely, 'category', 'categories')} of which something is detected, but nothing "
            "is there, as AP 0; COCO leaves them out."
        )


def _categories_without_objects(found: KindFindings) -> int:
    width = len(found.overlaps.category_ids)
    objects = np.bincount(found.overlaps.truth_categories, minlength=width)
    detections = np.bincount(found.overlaps.categories[found.errors.counts], minlength=width)
    return int(((objects == 0) & (detections > 0)).sum())


def _curves(findings: Findings) -> Iterator[Markup]:
    figures = []
    for kind in findings.kinds:
        curves = _mean_curves(findings, kind)
        caption = f"{KINDS[kind].capitalize()}: mean of the categories at IoU 0.5 and 0.75, and of all thresholds."
        figures.append(html.figure(plot_precision_over_recall(curves), caption))
    if len(findings.category_names) > 1 and (by_category := _category_curves(findings)):
        caption = f"{KINDS[findings.main_kind].capitalize()} at IoU 0.5: the categories with the most objects."
        figures.append(html.figure(plot_precision_over_recall(by_category), caption))
    scores, shares = _shares_over_scores(findings.main)
    if len(scores):
        caption = (
            f"{KINDS[findings.main_kind].capitalize()} at IoU 0.5, all categories together, without detections of a "
            "lower score; dashed: the score that the counts on this page start from."
        )
        figures.append(html.figure(plot_over_scores(scores, shares, findings.min_score), caption))
    for first in range(0, len(figures), 2):
        yield html.side_by_side(figures[first : first + 2])


def _mean_curves(findings: Findings, kind: IouType) -> dict[str, np.ndarray]:
    precision = findings.evaluation.scores[kind].precision[..., ALL_SIZES]
    known = (precision > -1).any(axis=(0, 1))
    if not known.any():
        return {"no objects": np.zeros(precision.shape[1])}
    means = precision[:, :, known].mean(axis=2)
    return {"IoU 0.5": means[IOU_50], "IoU 0.75": means[IOU_75], "mean of 0.5 to 0.95": means.mean(axis=0)}


def _category_curves(findings: Findings) -> dict[str, np.ndarray]:
    precision = findings.evaluation.scores[findings.main_kind].precision[IOU_50, :, :, ALL_SIZES]
    objects = np.bincount(findings.main.overlaps.truth_categories, minlength=len(findings.category_names))
    most = [category for category in np.argsort(-objects, kind="stable").tolist() if objects[category]][:MOST_CURVES]
    return {findings.category_names[category]: precision[:, category] for category in most}


def _shares_over_scores(found: KindFindings) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Precision, recall and F1 at up to 200 scores."""
    rows = np.flatnonzero(found.errors.counts)
    rows = rows[np.argsort(-found.overlaps.scores[rows], kind="stable")]
    right, kept = np.cumsum(found.errors.kinds[rows] == RIGHT), np.arange(1, len(rows) + 1)
    objects = len(found.overlaps.truth_categories)
    chosen = np.unique(np.linspace(0, len(rows) - 1, 200).astype(int)) if len(rows) else np.zeros(0, dtype=int)
    right, kept = right[chosen], kept[chosen]
    shares = {"F1": 2 * right / (kept + objects), "precision": right / kept, "recall": right / max(1, objects)}
    return found.overlaps.scores[rows[chosen]], shares


def _sizes(findings: Findings) -> Iterator[Markup]:
    groups = {
        KINDS[kind]: {size: _points(findings.report[kind][f"AP{letter}"]) for size, (letter, _, _) in SIZES.items()}
        for kind in findings.kinds
    }
    yield html.figure(plot_bars(groups, "AP, %"), "AP by the size of objects.")
    yield _show(sizes_table(findings))


def _points(value: float | None) -> float:
    return float("nan") if value is None else 100 * value


def _categories(findings: Findings) -> Iterator[Markup]:
    yield from (_show(categories_table(findings, kind)) for kind in findings.kinds)
    yield html.paragraph(
        f"Precision, recall and all columns to their right count detections with a score from {findings.min_score:.2f} "
        "at an IoU of 0.5. There, an object that is not found is missed, whatever the reason."
    )


def _confusions(findings: Findings) -> Iterator[Section]:
    if len(findings.category_names) < 2:
        return
    counts, rows, columns = confusion_matrix(findings, MOST_CONFUSED)
    most = "" if len(rows) <= MOST_CONFUSED else f" The {MOST_CONFUSED} categories that are confused most."
    caption = (
        f"Numbers of objects: what they are, and what they are detected as, with scores from {findings.min_score:.2f} "
        f"and an IoU of 0.5 or more. The stronger the color, the larger the share of the row.{most}"
    )
    parts = [html.figure(plot_confusion(counts, rows, columns), caption)]
    confused = confusion_table(findings)
    parts.append(_show(confused) if confused[1] else html.paragraph("No category is taken for another one."))
    yield Section("Confused categories", parts)


def _images(findings: Findings, data: InstanceData | None) -> Iterator[Section]:
    if data is None:
        yield Section("Images", [html.paragraph("Not shown: the evaluation did not have the images.")])
        return
    legend = (
        f"Each image twice: its objects, and what was detected with a score from {findings.min_score:.2f}. Missed "
        "objects and false detections have a red box; crowds are hatched. Images are ordered by their panoptic "
        "quality: F1 times the mean IoU of what was found."
    )
    parts: list[Markup] = [html.paragraph(legend)]
    for title, images in (("The worst images", findings.worst), ("The best images", findings.best)):
        if images:
            parts.append(html.paragraph(f"{title}:"))
            parts += [_pair(shown) for shown in draw_images(findings, images, data)]
    yield Section("Images", parts)


def _pair(shown: ShownImage) -> Markup:
    return html.side_by_side(
        [html.image(shown.truth, shown.truth_caption), html.image(shown.found, shown.found_caption)]
    )


def _training(metrics: Path | None) -> Iterator[Section]:
    figures = [] if metrics is None else training_figures(metrics)
    if figures:
        yield Section("Training", [html.side_by_side([html.figure(each, "") for each in figures])])
