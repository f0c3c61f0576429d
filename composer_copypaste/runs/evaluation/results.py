"""Scoring a file of COCO results, whatever made it: no model is built."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from composer_copypaste.data.annotation_json import BadObjects, Crowds, ReadingOptions, SettingSpelling, python_spelling
from composer_copypaste.data.coco_json import (
    CocoAnnotations,
    garbage_collection_paused,
    images_without_annotations,
)
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataError, UserError, count_noun, warn_of_data
from composer_copypaste.files import read_json
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.report import Report, evaluation_report
from composer_copypaste.metrics.results import CocoResults
from composer_copypaste.recipes.schema import EvaluationSettings
from composer_copypaste.runs.evaluation.findings import collect_findings
from composer_copypaste.runs.evaluation.output import begin_output, check_output, write_output
from composer_copypaste.runs.evaluation.page import Subject
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.predict.files import IMAGES
from composer_copypaste.runs.predict.manifest import MANIFEST, predicted_images

_SHARE_REFUSED, _SHARE_NAMED = 0.5, 0.1
"""If more of the images with objects have no result, the file is refused, or that is said."""


def evaluate_predictions(  # noqa: PLR0913 - by name, and each of its own kind
    predictions: Path | str,
    annotations: Path | str,
    *,
    images: Path | str | None = None,
    output: Path | str | None = None,
    max_dets: Sequence[int] = EvaluationSettings.max_dets,
    min_score: float | None = None,
    allow_missing: bool = False,
    crowds: Crowds = None,
    bad_objects: BadObjects = "refuse",
    spelling: SettingSpelling = python_spelling,
) -> Report:
    """Score COCO results by COCO's rules; the numbers are those of ``evaluation.json``.

    Boxes are scored, and masks where the results have them. All images of the annotations are scored, also those
    without results: their objects count as missed. A file that has none for most images is refused, unless it lies in
    a folder of ``copypaste predict`` that says that they were looked at.

    Args:
        predictions: a JSON of COCO results.
        annotations: the COCO annotations of the images.
        images: their folder; None: the page shows no images.
        output: a folder without an evaluation, for ``report.html``, ``evaluation.json`` and ``matches.npz``; None:
            nothing is written.
        max_dets: limits to the number of detections that count per image and category; ascending. AP uses the last.
        min_score: of the detections that the page counts and shows; None: the score from which on F1 is highest.
        allow_missing: score the file also where most images with objects have no result.
        crowds: see ``CocoAnnotations.load``.
        bad_objects: see ``CocoAnnotations.load``.
        spelling: how the user gives the two settings before, for messages.

    Raises:
        UserError: where one of them cannot be used; nothing is written then.

    Example:
        >>> report = evaluate_predictions("results.json", "val.json", images="photos/val", output="scores")
        >>> report["bbox"]["AP"]
    """
    results = None if output is None else RunFolder(Path(output))
    if results is not None:
        check_output(results)
    if min_score is not None and not 0 <= min_score <= 1:
        raise UserError(f"min_score: expected a number from 0 to 1, got {min_score:g}")
    reading = ReadingOptions(crowds, bad_objects, spelling, reads_images=images is not None)
    truth, found = _read_truth_and_results(Path(annotations), Path(predictions), reading)
    _check_coverage(found, truth, allow_missing=allow_missing)
    data = None if images is None else CocoInstances(images, truth, masks=False)
    _warn_of_many_objects(truth, max_dets[-1])
    metric = CocoMeanAveragePrecision(
        truth, max_dets=max_dets, iou_types=("bbox", "segm") if found.masks else ("bbox",)
    )
    metric.update_results(found.images)
    if results is None:
        return evaluation_report(metric)
    findings = collect_findings(metric, min_score)
    described = f"Predictions: {predictions}, on {count_noun(len(found.images), 'image')}. Annotations: {annotations}."
    begin_output(results)
    subject = Subject(f"Evaluation of {Path(predictions).name}", [described])
    write_output(results, findings, metric.matches(), subject, data)
    return findings.report


def _read_truth_and_results(
    annotations: Path, predictions: Path, reading: ReadingOptions
) -> tuple[CocoAnnotations, CocoResults]:
    """Both files; outlines of the annotations are needed only where the results have masks."""
    with garbage_collection_paused():
        results = read_json(predictions, "file of results")
        first = results[0] if isinstance(results, list) and results else None
        has_masks = isinstance(first, dict) and "segmentation" in first
        truth = CocoAnnotations.of_content(
            read_json(annotations, "annotation file"), annotations, replace(reading, outlines=has_masks)
        )
        if _has_image_list(predictions):
            _check_same_images(predictions.with_name(IMAGES), truth)
        return truth, CocoResults.of_content(results, predictions, truth)


def _has_image_list(predictions: Path) -> bool:
    """Whether ``copypaste predict`` wrote a list of images next to the results."""
    return predictions.with_name(MANIFEST).exists() and predictions.with_name(IMAGES).exists()


def _check_coverage(found: CocoResults, truth: CocoAnnotations, *, allow_missing: bool) -> None:
    """Raise ``DataError`` where most images with objects have no result, though nothing says that they were looked at.

    Their objects count as missed: the score of a part of a data set would be taken for a score of the whole.
    """
    annotated = [image for image, objects in truth.annotations.items() if objects]
    looked_at = found.images.keys() | predicted_images(found.path.parent)
    missing = len(annotated) - len(looked_at.intersection(annotated))
    text = f"{found.path}: no result on {missing} of {count_noun(len(annotated), 'image')} with objects"
    if missing > _SHARE_REFUSED * len(annotated) and not allow_missing:
        raise DataError(
            f"{text}, which would count as missed. Were they made for other images, or for a part of these? Score them "
            f"by annotations of that part alone (copypaste subset), or all the same with --allow-missing (in Python, "
            "allow_missing=True)"
        )
    if missing > _SHARE_NAMED * len(annotated):
        warn_of_data(f"{text}: their objects count as missed")


def _check_same_images(listed: Path, truth: CocoAnnotations) -> None:
    """Raise ``DataError`` where ``copypaste predict`` has given an image's id to another one, in its list of images."""
    names = {image.id: PurePosixPath(image.file_name).name for image in truth.images}
    for image in images_without_annotations(read_json(listed, "list of images"), listed).images:
        name = PurePosixPath(image.file_name).name
        if names.get(image.id, name) != name:
            raise DataError(
                f"{listed}: image {image.id} is {name}, but {names[image.id]} in {truth.path}: the results have other "
                f"ids. copypaste predict {truth.path} --images FOLDER gives them the ids of that file"
            )


def _warn_of_many_objects(truth: CocoAnnotations, limit: int) -> None:
    """Warn where images have more objects of a category than detections that count."""
    numbers = Counter(
        (image, annotation["category_id"])
        for image, group in truth.annotations.items()
        for annotation in group
        if not annotation["iscrowd"]
    )
    images = {image for (image, _), number in numbers.items() if number > limit}
    if images:
        most = max(numbers.values())
        warn_of_data(
            f"{truth.path}: up to {most} objects of a category in an image (more than {limit} in "
            f"{count_noun(len(images), 'image')}), but at most {limit} detections of a category count there: the "
            f"others are missed in any case. --max-dets 1,10,{most} counts all (in Python, max_dets)"
        )
