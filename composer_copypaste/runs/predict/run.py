"""``copypaste predict``: finds objects in image files and writes them, resumable after an interruption."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from composer_copypaste.data.image_inputs import ImageInputs, InputImage, find_images, with_headers
from composer_copypaste.errors import OutputError, RecipeError
from composer_copypaste.models.postprocess import DetectionDict
from composer_copypaste.models.prediction import prediction_of, prediction_of_results
from composer_copypaste.models.predictor import Predictor, with_ids_of
from composer_copypaste.output_folder import OutputFolder, began_source
from composer_copypaste.progress import Progress, with_progress
from composer_copypaste.runs.predict.files import (
    ANNOTATIONS,
    DRAWN,
    IMAGES,
    RESULTS,
    SURE_SCORE,
    Done,
    draw_prediction,
    overlay_names,
    remove_former_overlays,
    write_annotations,
    write_image_list,
    write_results,
)
from composer_copypaste.runs.predict.images import ReadImage, batches_read_ahead
from composer_copypaste.runs.predict.manifest import (
    MANIFEST,
    RECORDS,
    PredictedFiles,
    check_noted_files,
    completed_files,
    completed_source,
    describe_source,
    extends,
    note_written_files,
    write_manifest,
    write_records_of_complete,
)
from composer_copypaste.runs.predict.predict import images_at_once, with_options
from composer_copypaste.runs.predict.records import ImageRecord, RecordFile, Stamp, file_stamp
from composer_copypaste.runs.predictor import load_predictor
from composer_copypaste.settings import ImageSettings, PredictSettings


def predict_files(  # noqa: PLR0913 - by name, and each of its own kind
    weights: Path | str,
    images: Sequence[Path | str] | Path | str,
    output: Path | str,
    settings: PredictSettings | None = None,
    *,
    folder: Path | str | None = None,
    recipe: Path | str | None = None,
    overrides: Sequence[str] = (),
    categories: Path | str | None = None,
    value_range: tuple[float, float] | None = None,
    max_megapixels: float | None = None,
) -> PredictedFiles:
    """Find objects in image files and write a COCO results file; continue if that was interrupted.

    Images that cannot be read are left out and named in what is returned. Once they are repaired, the same call looks
    at them, and writes the files again. A call that gives more images, or asks for overlays or annotations too, adds
    them to what is there: only the batches in which images are new are looked at.

    Args:
        weights: the folder of a run, a checkpoint or an .onnx file, as for ``load_predictor``.
        images: files, folders, patterns such as ``photos/*.jpg``, or the list of images of a COCO file.
        output: a new or an empty folder, or one that the same call, or one that this adds to, began or completed.
        settings: how objects are found, and what is written; None: the default settings.
        folder: the folder that the names of the COCO file are relative to.
        recipe: as for ``load_predictor``.
        overrides: as for ``load_predictor``.
        categories: as for ``load_predictor``.
        value_range: as in ``ImageSettings``; None: as for the images that the model is trained on.
        max_megapixels: as in ``ImageSettings``; None: as for the images that the model is trained on.

    Raises:
        UserError: where model or images cannot be used, or the folder holds anything else.
    """
    output, settings = Path(output), settings or PredictSettings()
    given = [images] if isinstance(images, Path | str) else images
    inputs = find_images(given, folder=None if folder is None else Path(folder), without=output)
    predictor = load_predictor(weights, recipe=recipe, overrides=overrides, categories=categories)
    if inputs.categories:
        predictor = with_ids_of(predictor, inputs.categories, str(given[0]))
    reading = _image_settings(predictor, value_range, max_megapixels)
    settings = replace(settings, batch_size=settings.batch_size or predictor.batch_size)
    settings = _with_files_there(settings, output)
    options = [*([] if recipe is None else [str(recipe)]), *overrides]
    source = describe_source(Path(weights), options, predictor, inputs, settings, reading)
    overlays = overlay_names(inputs.images)
    own = {Path(name) for name in (RESULTS, IMAGES, ANNOTATIONS, MANIFEST)}
    place = OutputFolder(
        output,
        "predictions",
        source,
        partial(completed_source, output),
        lambda path: path in own or path.parts[0] == DRAWN,
        extends=lambda found, given: extends(found, given, complete=(output / MANIFEST).exists()),
    )
    try:
        with place.locked():
            if completed_source(output) == source:
                return completed_files(output)
            if completed_source(output) is not None:
                _reopen(place)
            inputs = with_headers(inputs, reading)
            return _predict_missing(_Work(predictor, inputs, settings, reading, output, overlays), place)
    except OSError as error:
        raise OutputError(
            f"{error.filename or output}: cannot be written: {error.strerror}; the same command continues"
        ) from error


def _image_settings(
    predictor: Predictor, value_range: tuple[float, float] | None, max_megapixels: float | None
) -> ImageSettings:
    """How images are read: as the model's are, but for what is given."""
    own = predictor.image_settings
    try:
        return ImageSettings(
            value_range=own.value_range if value_range is None else value_range,
            max_megapixels=own.max_megapixels if max_megapixels is None else max_megapixels,
        )
    except ValueError as error:
        raise RecipeError(f"images: {error}") from None


def _with_files_there(settings: PredictSettings, output: Path) -> PredictSettings:
    """The settings, with overlays and annotations where the folder's predictions have them: they are kept complete."""
    found = completed_source(output) or began_source(output) or {}
    draw, annotations = (bool(found.get(name)) for name in ("draw", "as_annotations"))
    return replace(settings, draw=settings.draw or draw, as_annotations=settings.as_annotations or annotations)


def _reopen(place: OutputFolder) -> None:
    """Let complete predictions be unfinished ones again, to which more is added. Killed anywhere, it loses nothing."""
    write_records_of_complete(place.path)
    place.write_source()
    (place.path / MANIFEST).unlink()


@dataclass(frozen=True)
class _Work:
    """What is done with the images of one call."""

    predictor: Predictor
    inputs: ImageInputs
    settings: PredictSettings
    reading: ImageSettings
    output: Path
    overlays: Mapping[int, str]
    """The name of each image's overlay, by the image's id."""

    @property
    def shown_score(self) -> float:
        """The lowest score of the objects in overlays and annotations."""
        return SURE_SCORE if self.settings.min_score is None else self.settings.min_score

    def batches(self) -> list[tuple[InputImage, ...]]:
        """The images in batches. They stay the same after an interruption: results depend on them a little."""
        images, step = self.inputs.images, images_at_once(self.predictor, self.settings)
        return [images[start : start + step] for start in range(0, len(images), step)]


def _predict_missing(work: _Work, place: OutputFolder) -> PredictedFiles:
    """Find objects in the batches that are not done, then write all files."""
    batches, records = work.batches(), RecordFile(place.working / RECORDS)
    done = records.done(batches)
    missing = [number for number in range(len(batches)) if number not in done]
    kept = [image for number in sorted(done) for image in batches[number]]
    if work.settings.draw:
        _draw_records(work, records, kept)
    predictor = with_options(work.predictor, work.settings)
    with (
        records.appending() as append,
        Progress("finding objects", "images", len(work.inputs.images), done=len(kept)) as bar,
    ):
        read = batches_read_ahead((batches[number] for number in missing), work.reading)
        for batch in read:
            stamps = [file_stamp(each.image) for each in batch]
            append(_predict_batch(work, predictor, batch, stamps))
            bar.advance(len(batch))
    files = _write_files(work, records, len(kept))
    if files.unreadable:  # then the same call looks at the repaired ones
        note_written_files(work.output)
    else:
        write_manifest(place.source, files, records.read(work.inputs.images))
    return files


def _draw_records(work: _Work, records: RecordFile, images: Sequence[InputImage]) -> None:
    """Draw the objects of images that are done on those that have no overlay yet."""
    folder = work.output / DRAWN
    missing = [image for image in images if not (folder / work.overlays[image.id]).exists()]
    if not missing:
        return
    read = batches_read_ahead([(image,) for image in missing], work.reading)
    pairs = zip(records.read(missing), read, strict=True)
    for record, (image,) in with_progress(pairs, "drawing", "images", len(missing)):
        if record.size is not None and image.pixels is not None:
            found = prediction_of_results(record.results, record.size, work.predictor.categories)
            draw_prediction(image.pixels, found.at_least(work.shown_score), folder / work.overlays[image.image.id])


def _predict_batch(
    work: _Work, predictor: Predictor, batch: Sequence[ReadImage], stamps: Sequence[Stamp]
) -> list[ImageRecord]:
    pixels = [read.pixels for read in batch if read.pixels is not None]
    try:
        detections = iter(predictor.detect(pixels) if pixels else [])
    except torch.OutOfMemoryError as error:
        raise RecipeError(
            f"{batch[0].image.path}: the GPU's memory is too small for this batch; give a smaller --batch-size, or "
            "--tiles for large images; the same command with it begins again"
        ) from error
    return [
        ImageRecord(read.image.file_name, stamp, None, read.problem, ())
        if read.pixels is None
        else _predict_image(work, read.image, stamp, read.pixels, next(detections))
        for read, stamp in zip(batch, stamps, strict=True)
    ]


def _predict_image(
    work: _Work, image: InputImage, stamp: Stamp, pixels: Tensor, detection: DetectionDict
) -> ImageRecord:
    size = pixels.shape[1], pixels.shape[2]
    found = prediction_of(detection, size, work.predictor.categories, min_score=work.settings.min_score or 0.0)
    if work.settings.draw:
        draw_prediction(pixels, found.at_least(work.shown_score), work.output / DRAWN / work.overlays[image.id])
    return ImageRecord(image.file_name, stamp, size, None, tuple(found.coco_results(image.id)))


def _write_files(work: _Work, records: RecordFile, kept: int) -> PredictedFiles:
    images = work.inputs.images

    def done() -> Iterator[Done]:
        yield from zip(images, records.read(images), strict=True)

    output, categories = work.output, work.predictor.categories
    check_noted_files(output)
    objects, shown = write_results(output / RESULTS, done(), work.shown_score)
    if not work.inputs.categories:  # pycocotools needs a list of them, with the images
        write_image_list(output / IMAGES, done(), work.inputs, categories)
    if work.settings.as_annotations:
        write_annotations(output / ANNOTATIONS, done, work.inputs, categories, work.shown_score)
    if work.settings.draw:
        remove_former_overlays(output / DRAWN, images, work.overlays)
    problems = [f"{image.path}: {record.problem}" for image, record in done() if record.problem is not None]
    return PredictedFiles(output, len(images) - len(problems), objects, kept, tuple(problems), shown)
