"""Writes COCO instance data as shards: after checks, in several processes, and resumable after an interruption.

The content of a shard depends only on the data and the size of shards, so the bytes are the same for any number of
processes. A shard gets its name when it is complete; ``index.json`` is written when all shards are.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage, ReadingOptions
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.image_files import check_images, with_file_names_in_folder
from composer_copypaste.data.images import read_image
from composer_copypaste.data.streaming.format import (
    ANNOTATIONS,
    BAD_OBJECTS,
    COLUMNS,
    CROWDS,
    HASH,
    INDEX,
    MANIFEST,
    Manifest,
    Shard,
    check_streaming_installed,
    encode_sample,
    is_file_of_shards,
    shard_name,
)
from composer_copypaste.errors import DataError, OutputError, format_problems
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.output_folder import WORKING_FOLDER, OutputFolder
from composer_copypaste.processes import process_executor, run_tasks
from composer_copypaste.progress import Progress
from composer_copypaste.settings import ImageSettings

_ANNOTATION_BYTES, _NUMBER_BYTES = 100, 8
"""Approximate size in a sample of an annotation without its outline, and of a number of a polygon."""


@dataclass(frozen=True)
class ShardContent:
    """What one shard is written from."""

    number: int
    output: Path
    images: Path
    content: tuple[tuple[CocoImage, tuple[CocoAnnotation, ...]], ...]
    fingerprint: str
    """Depends on the image files: if they change, the shard is written again."""
    image_settings: ImageSettings

    @property
    def shard_path(self) -> Path:
        """The path of the finished shard."""
        return self.output / shard_name(self.number)

    @property
    def record_path(self) -> Path:
        """The file with the shard's entry for the index, written when the shard is complete."""
        return self.output / WORKING_FOLDER / f"{self.number:05}.json"

    @property
    def is_written(self) -> bool:
        """Whether the shard exists and was written from these image files."""
        if not (self.record_path.exists() and self.shard_path.exists()):
            return False
        return bool(json.loads(self.record_path.read_text())["fingerprint"] == self.fingerprint)

    def entry(self) -> dict[str, Any]:
        """The entry for the index of a shard that is written."""
        entry: dict[str, Any] = json.loads(self.record_path.read_text())["entry"]
        return entry


def divide_into_shards(
    data: CocoAnnotations, images: Path, output: Path, shard_size: int, image_settings: ImageSettings
) -> Iterator[ShardContent]:
    """Divide the data, in its order, into shards of about ``shard_size`` bytes; a larger image gets its own shard."""
    number, begin, size = 0, 0, 0
    sizes = [_sample_size(images, image, data.annotations[image.id]) for image in data.images]
    for place, image_size in enumerate([*sizes, shard_size]):
        if place > begin and (size + image_size > shard_size or place == len(sizes)):
            content = tuple((image, data.annotations[image.id]) for image in data.images[begin:place])
            yield ShardContent(number, output, images, content, _fingerprint(images, content), image_settings)
            number, begin, size = number + 1, place, 0
        size += image_size


def _sample_size(images: Path, image: CocoImage, annotations: Sequence[CocoAnnotation]) -> int:
    """The approximate size of a sample in bytes."""
    size = (images / image.file_name).stat().st_size + _ANNOTATION_BYTES * len(annotations)
    for annotation in annotations:
        outline = annotation["segmentation"]
        size += _NUMBER_BYTES * sum(map(len, outline)) if isinstance(outline, list) else len(outline["counts"])
    return size


def _fingerprint(images: Path, content: Sequence[tuple[CocoImage, object]]) -> str:
    """A checksum of the names, sizes and times of image files."""
    stats = [(image.file_name, (images / image.file_name).stat()) for image, _ in content]
    files = [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()


def _write_shard(part: ShardContent) -> list[str]:
    """Write the shard, and then its record; or return what is wrong with its images."""
    from streaming import MDSWriter

    folder = part.record_path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    problems = []
    with MDSWriter(out=str(folder), columns=COLUMNS, hashes=[HASH], size_limit=None) as writer:
        for image, annotations in part.content:
            try:
                writer.write(encode_sample(image, _read_checked_image(part, image), annotations))
            except DataError as error:
                problems.append(str(error))
    if not problems:
        _move_shard_into_place(part, folder)
    shutil.rmtree(folder)
    return problems


def _read_checked_image(part: ShardContent, image: CocoImage) -> bytes:
    """The bytes of an image's file, after a check that they can be decoded."""
    path = part.images / image.file_name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    read_image(path, (image.height, image.width), content, part.image_settings)
    return content


def _move_shard_into_place(part: ShardContent, folder: Path) -> None:
    [entry] = json.loads((folder / "index.json").read_text())["shards"]
    written = folder / entry["raw_data"]["basename"]
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(part.shard_path)
    entry["raw_data"]["basename"] = part.shard_path.name
    with atomic_write(part.record_path) as unfinished:
        unfinished.write_text(json.dumps({"fingerprint": part.fingerprint, "entry": entry}))


DEFAULT_SHARD_SIZE = 64_000_000
SMALLEST_SHARD, LARGEST_SHARD = 1000, 2_000_000_000
"""In bytes; offsets in a shard are 32-bit numbers."""

Source = dict[str, str | int]


@dataclass(frozen=True)
class WrittenShards:
    """What the folder of shards holds now."""

    shards: int
    images: int
    objects: int
    """Crowds included."""
    crowds: int
    nbytes: int
    kept: int
    """The number of shards that existed before."""


def write_shards(  # noqa: PLR0913 - by name, and each of its own kind
    output: Path,
    images: Path,
    annotations: Path,
    *,
    processes: int = 1,
    shard_size: int = DEFAULT_SHARD_SIZE,
    image_settings: ImageSettings | None = None,
    reading: ReadingOptions | None = None,
) -> WrittenShards:
    """Write a data set as shards; continue if that was interrupted, and change nothing if it is done.

    Args:
        output: a new or an empty folder, or one that the same call began or completed.
        images: the folder that the file names are relative to.
        annotations: a COCO instance JSON.
        processes: the number of processes that read and write.
        shard_size: the approximate size of a shard in bytes.
        image_settings: how the images' files are read, now and from the shards; None: the default settings.
        reading: how crowds and bad objects are read; None: the default options.

    Raises:
        DataError: listing what is wrong with annotations or images, each of which is decoded once.
        OutputError: where the folder holds anything else, or cannot be written to.
        ValueError: where a shard would be smaller than 1 KB or larger than 2 GB.
    """
    if not SMALLEST_SHARD <= shard_size <= LARGEST_SHARD:
        raise ValueError(f"shard_size: expected {SMALLEST_SHARD} to {LARGEST_SHARD} bytes, got {shard_size}")
    check_streaming_installed()
    reading = reading or ReadingOptions()
    data = CocoAnnotations.load(
        annotations, crowds=reading.crowds, bad_objects=reading.bad_objects, spelling=reading.spelling
    )
    data = with_file_names_in_folder(data, images)
    image_settings = image_settings or ImageSettings()
    check_images(data, images, image_settings)
    source = _describe_source(data, images, shard_size, image_settings, reading)
    folder = OutputFolder(
        output, "shards", source, partial(_completed_source, output), is_file_of_shards, may_change="image files"
    )
    try:
        with folder.locked():
            if (output / INDEX).exists():
                return _summarize_shards(output, data, kept=None)
            parts = list(divide_into_shards(data, images, output, shard_size, image_settings))
            missing = [part for part in parts if not part.is_written]
            _write_missing_shards(missing, processes, len(data.images))
            _write_other_files(output, data, parts, source, image_settings)
            return _summarize_shards(output, data, kept=len(parts) - len(missing))
    except OSError as error:
        if (output / INDEX).exists():  # by another process, which also removed the lock that this one waited for
            folder.check()
            return _summarize_shards(output, data, kept=None)
        raise OutputError(
            f"{error.filename or output}: cannot be written: {error.strerror}; the same command continues"
        ) from error


def _describe_source(
    data: CocoAnnotations, images: Path, shard_size: int, image_settings: ImageSettings, reading: ReadingOptions
) -> Source:
    """All that the bytes of the shards depend on; options only if they are not the defaults."""
    sizes = [(image.file_name, (images / image.file_name).stat().st_size) for image in data.images]
    source: Source = {
        "annotations": hashlib.sha256(data.path.read_bytes()).hexdigest(),
        "image files": hashlib.sha256(json.dumps(sizes).encode()).hexdigest(),
        "shard size": shard_size,
    }
    if image_settings.value_range is not None:
        source["value range"] = "{:g} to {:g}".format(*image_settings.value_range)
    if reading.crowds is not None:
        source[CROWDS] = reading.crowds
    if reading.bad_objects != "refuse":
        source[BAD_OBJECTS] = reading.bad_objects
    return source


def _completed_source(output: Path) -> Source | None:
    """The source of the shards in a folder; None where they are not complete."""
    if not ((output / INDEX).exists() and (output / MANIFEST).exists()):
        return None
    return Manifest.from_json(read_json(output / MANIFEST, "manifest"), str(output / MANIFEST)).source


def _write_missing_shards(parts: Sequence[ShardContent], processes: int, images: int) -> None:
    problems = []
    done = images - sum(len(part.content) for part in parts)
    with (
        process_executor(processes) if processes > 1 else nullcontext() as executor,
        Progress("writing shards", "images", images, done=done) as bar,
    ):
        for part, found in run_tasks(executor, _write_shard, parts):
            problems += found
            bar.advance(len(part.content))
    if problems:
        between = "\n" if len(problems) > 1 else ". "
        advice = "The other shards are kept: repair the images, and the same command continues"
        raise DataError(f"{format_problems('images', problems)}{between}{advice}")


def _write_other_files(
    output: Path, data: CocoAnnotations, parts: Sequence[ShardContent], source: Source, image_settings: ImageSettings
) -> None:
    """Write the other files of a data set of shards, the index last."""
    for shard in set(output.glob("shard.*.mds")) - {part.shard_path for part in parts}:
        shard.unlink()  # of images that were larger before they were repaired
    counts = len(data.images), data.num_objects, data.num_crowds
    manifest = Manifest(*counts, data.categories, source, image_settings)
    index = {"version": 2, "shards": [part.entry() for part in parts]}
    for name, content in (
        (ANNOTATIONS, data.path.read_bytes()),
        (MANIFEST, json.dumps(manifest.to_json(), indent=1).encode()),
        (INDEX, json.dumps(index, sort_keys=True).encode()),
    ):
        with atomic_write(output / name) as unfinished:
            unfinished.write_bytes(content)


def _summarize_shards(output: Path, data: CocoAnnotations, *, kept: int | None) -> WrittenShards:
    shards = [Shard.from_json(entry, str(output)) for entry in read_json(output / INDEX, "index")["shards"]]
    nbytes = sum(shard.nbytes for shard in shards)
    counts = len(data.images), data.num_objects, data.num_crowds
    return WrittenShards(len(shards), *counts, nbytes, len(shards) if kept is None else kept)
