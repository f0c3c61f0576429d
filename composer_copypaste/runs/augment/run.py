"""Writes an offline data set: new images, on which objects of other images are pasted, and their annotations.

The same seed gives the same bytes for any number of processes. Each image that is done is recorded, so that the same
call goes on after an interruption; an image that is missing from a complete data set is made again.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_json import (
    BadObjects,
    Crowds,
    Json,
    ReadingOptions,
    SettingSpelling,
    python_spelling,
)
from composer_copypaste.data.coco_write import EncodedJson, write_coco
from composer_copypaste.errors import DataError, OutputError, format_problems
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.integrations.dask import check_dask_installed, open_executor
from composer_copypaste.output_folder import OutputFolder, Source
from composer_copypaste.processes import run_tasks
from composer_copypaste.progress import Progress, with_progress
from composer_copypaste.recipes.schema import PoolSettings
from composer_copypaste.runs.augment.draws import DrawnImage
from composer_copypaste.runs.augment.entries import PROVENANCE
from composer_copypaste.runs.augment.images import MadeImage, NewImage, make_new_image
from composer_copypaste.runs.augment.records import ImageRecord, appending_to, is_whole, read_records, record_of
from composer_copypaste.runs.augment.work import AugmentWork, PlannedImage, open_work, settings_to_json
from composer_copypaste.settings import AugmentSettings, CopyPasteSettings, ImageSettings

IMAGES, ANNOTATIONS, MANIFEST = "images", "annotations.json", "copypaste.json"
_RECORDS = "images.jsonl"

_IMAGES_OF_A_TASK, _DRAWN_AT_ONCE = 8, 512
_ATTEMPTS = 20
"""How often a new image is drawn anew where nothing that was drawn would be visible on it."""


@dataclass(frozen=True)
class AugmentedData:
    """An offline data set that is complete."""

    images: Path
    """The folder of its images."""
    annotations: Path
    """Their COCO instance annotations."""
    originals: int
    """The number of images of the former data set in it."""
    new: int
    """The number of new images."""
    pasted: int
    """The number of objects pasted on them."""
    unchanged: int
    """The number of new images that received no object."""
    made: int
    """The number of new images that this call made; the others were there before."""


def augment_data_set(  # noqa: PLR0913 - by name, and each of its own kind
    output: Path | str,
    images: Path | str,
    annotations: Path | str,
    settings: AugmentSettings | None = None,
    *,
    pool: PoolSettings | None = None,
    crowds: Crowds = None,
    bad_objects: BadObjects = "refuse",
    spelling: SettingSpelling = python_spelling,
    image_settings: ImageSettings | None = None,
    processes: int = 1,
    dask: str | None = None,
) -> AugmentedData:
    """Write an offline data set; continue if that was interrupted, and change nothing if it is complete.

    Args:
        output: a new or an empty folder, or one that the same call began or completed.
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON.
        settings: which new images are made, and how they are written; None: the default settings.
        pool: cut-outs, which are pasted too.
        crowds: see ``CocoAnnotations.load``.
        bad_objects: see ``CocoAnnotations.load``.
        spelling: how the user gives the two settings before, for messages.
        image_settings: how image files are read; None: the default settings.
        processes: the number of processes that make images.
        dask: the address of a Dask scheduler whose workers make them instead.

    Raises:
        DataError: listing what is wrong with annotations or images.
        RecipeError: where copy-paste names unknown categories, or excludes all cut-outs of the pool.
        OutputError: where the folder holds anything else, or cannot be written to.
    """
    if dask is not None:
        check_dask_installed()  # before anything is written
    output, settings = Path(output), settings or AugmentSettings()
    reading = ReadingOptions(crowds, bad_objects, spelling)
    work = open_work(Path(images), Path(annotations), settings, pool, reading, image_settings or ImageSettings())
    own = {Path(IMAGES, name) for name in [*work.originals, *(planned.file_name for planned in work.planned)]}
    own |= {Path(ANNOTATIONS), Path(MANIFEST)}
    completed = partial(_completed_source, output)
    folder = OutputFolder(output, "new images", work.source, completed, own.__contains__, may_change="image files")
    try:
        with folder.locked():
            if _completed_source(output) is not None and (output / ANNOTATIONS).exists():
                return _restore(work, output, processes, dask)
            return _write_data_set(work, output, folder.working / _RECORDS, processes, dask)
    except OSError as error:
        raise OutputError(
            f"{error.filename or output}: cannot be written: {error.strerror}; the same command continues"
        ) from error


def _completed_source(output: Path) -> Source | None:
    """The source of the data set that was completed in a folder; None where none was."""
    if not (output / MANIFEST).exists():
        return None
    source: Source = _read_manifest(output)["source"]
    return source


def _read_manifest(output: Path) -> dict[str, Any]:
    path = output / MANIFEST
    manifest = read_json(path, "record of an offline data set")
    if (
        isinstance(manifest, dict)
        and isinstance(manifest.get("source"), dict)
        and isinstance(manifest.get("counts"), dict)
        and isinstance(manifest.get("checksums"), list)
    ):
        return manifest
    raise OutputError(f"{path}: expected the record of an offline data set; remove {output}, or give another folder")


def _write_data_set(work: AugmentWork, output: Path, records: Path, processes: int, dask: str | None) -> AugmentedData:
    done = {record.number: record for record in read_records(records, work, output / IMAGES)}
    missing = [planned for planned in work.planned if planned.number not in done]
    with appending_to(records) as append:
        for record in _make_images(work, missing, output / IMAGES, processes, dask):
            append(record)
            done[record.number] = record
    ordered = [done[planned.number] for planned in work.planned]
    _force_to_disk(output / IMAGES, work)
    write_coco(output / ANNOTATIONS, _annotation_file(work, ordered))
    counts = {
        "pasted": sum(record.pasted for record in ordered),
        "unchanged": sum(not record.pasted for record in ordered),
    }
    with atomic_write(output / MANIFEST) as unfinished:
        checksums = [record.checksum for record in ordered]
        unfinished.write_text(json.dumps({"source": work.source, "counts": counts, "checksums": checksums}, indent=1))
    return _summary(work, output, len(missing))


def _restore(work: AugmentWork, output: Path, processes: int, dask: str | None) -> AugmentedData:
    """Make the images again that are missing from a complete data set, or are no longer what was written."""
    folder, checksums = output / IMAGES, _read_manifest(output)["checksums"]
    missing = [
        planned
        for planned, checksum in zip(work.planned, checksums, strict=True)
        if not is_whole(folder / planned.file_name, checksum)
    ]
    for _ in _make_images(work, missing, folder, processes, dask):
        pass
    return _summary(work, output, len(missing))


def _summary(work: AugmentWork, output: Path, made: int) -> AugmentedData:
    counts = _read_manifest(output)["counts"]
    originals, new = len(work.originals), len(work.planned)
    return AugmentedData(output / IMAGES, output / ANNOTATIONS, originals, new, made=made, **counts)


def _annotation_file(work: AugmentWork, records: Sequence[ImageRecord]) -> Json:
    """The content of the new annotation file: all keys of the former one, and how new images were made."""
    first = work.entries.first_annotation_id
    entries = (entry for record in records for entry in record.annotations)
    images: list[Json | EncodedJson] = [record.image for record in records]
    annotations: list[Json | EncodedJson] = [
        EncodedJson(f'{{"id":{id_},{entry.removeprefix("{")}') for id_, entry in enumerate(entries, start=first)
    ]
    if work.originals:
        images = [*work.entries.original_images(), *images]
        annotations = [*work.entries.original_annotations(), *annotations]
    how = {"settings": settings_to_json(work.settings)}
    return {**work.entries.file.content, "images": images, "annotations": annotations, PROVENANCE: how}


def _force_to_disk(folder: Path, work: AugmentWork) -> None:
    """Wait until the new images are on the disk: what the annotation file names must be there after a power cut."""
    for planned in work.planned:
        with (folder / planned.file_name).open("rb") as file:
            os.fsync(file.fileno())


# ---- images


def _make_images(
    work: AugmentWork, missing: Sequence[PlannedImage], folder: Path, processes: int, dask: str | None
) -> Iterator[ImageRecord]:
    """Place the former images, make new ones, and give the record of each when it is written.

    Raises:
        DataError: listing files that cannot be decoded, after all other images have been made.
    """
    for sub in {(folder / name).parent for name in [*work.originals, *(image.file_name for image in work.planned)]}:
        sub.mkdir(parents=True, exist_ok=True)
    for name in with_progress(work.originals, "placing the former images", "images", len(work.originals)):
        work.place_original(name, folder)
    done = len(work.planned) - len(missing)
    with (
        open_executor(processes, dask) if missing else nullcontext() as executor,
        Progress("making new images", "images", len(work.planned), done=done) as bar,
    ):
        maker = _Maker(work, folder, executor)
        for start in range(0, len(missing), _DRAWN_AT_ONCE):
            for record in maker.make(missing[start : start + _DRAWN_AT_ONCE]):
                bar.advance()
                yield record
    if maker.problems:
        between = "\n" if len(maker.problems) > 1 else ". "
        advice = "The other images are kept: repair these, and the same command continues"
        raise DataError(f"{format_problems('images', list(maker.problems))}{between}{advice}")


@dataclass(frozen=True, eq=False)
class _Task:
    """Some new images that one process makes, by their numbers."""

    images: Mapping[int, NewImage]
    settings: AugmentSettings
    copy_paste: CopyPasteSettings
    reading: ImageSettings


def _make_task(task: _Task) -> dict[int, MadeImage | str | None]:
    """Each new image, None where nothing would be visible on it, or what is wrong with a file that it needs."""
    made: dict[int, MadeImage | str | None] = {}
    for number, image in task.images.items():
        try:
            made[number] = make_new_image(image, task.settings, task.copy_paste, task.reading)
        except DataError as error:
            made[number] = str(error)
    return made


@dataclass(frozen=True, eq=False)
class _Maker:
    """Makes new images in a folder, in the processes of an executor; None: in this one."""

    work: AugmentWork
    folder: Path
    executor: Executor | None
    problems: dict[str, None] = field(default_factory=dict)
    """What is wrong with files that could not be decoded, each once."""

    def make(self, images: Sequence[PlannedImage]) -> Iterator[ImageRecord]:
        """The record of each image that could be made, as soon as its file is written."""
        planned, attempts = {image.number: image for image in images}, {image.number: 0 for image in images}
        while attempts:
            drawn = {number: self._draw(planned[number], attempt) for number, attempt in attempts.items()}
            for _, results in run_tasks(
                self.executor, _make_task, self._tasks({n: d.new for n, (_, d) in drawn.items()})
            ):
                for number, made in results.items():
                    attempt, image = drawn[number]
                    del attempts[number]
                    if made is None:
                        attempts[number] = attempt + 1
                    elif isinstance(made, str):
                        self.problems[made] = None
                    else:
                        yield record_of(self.work, planned[number], image, made)

    def _draw(self, planned: PlannedImage, first: int) -> tuple[int, DrawnImage]:
        """The first attempt, from a number on, that pastes something on an image, and what it is made of then."""
        for attempt in range(first, _ATTEMPTS):
            drawn = self.work.draw(planned, attempt, self.folder)
            if drawn is not None:
                return attempt, drawn
        return _ATTEMPTS, self.work.draws.unchanged(planned.base, self.folder / planned.file_name)

    def _tasks(self, images: Mapping[int, NewImage]) -> Iterator[_Task]:
        size = 1 if self.executor is None else _IMAGES_OF_A_TASK
        items = list(images.items())
        for start in range(0, len(items), size):
            part = dict(items[start : start + size])
            yield _Task(part, self.work.settings, self.work.copy_paste, self.work.reading)
