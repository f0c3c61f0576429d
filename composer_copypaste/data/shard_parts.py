"""The parts of a data set that become one shard each, and the processes that write them."""

import hashlib
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_copypaste.data.coco import CocoAnnotations
from composer_copypaste.data.pictures import read_picture
from composer_copypaste.data.records import CocoAnnotation, CocoImage
from composer_copypaste.data.shards import COLUMNS, HASH, encode, shard_name
from composer_copypaste.errors import DataError, OutputError
from composer_copypaste.files import written_whole
from composer_copypaste.settings import ImageSettings

WORKING = ".unfinished"
"""The folder, inside the output, of what is there only while shards are being written."""

_WATCH_SECONDS = 0.5
_ANNOTATION_BYTES = 100
_NUMBER_BYTES = 8


@dataclass(frozen=True)
class Part:
    """What goes into one shard."""

    number: int
    output: Path
    images: Path
    content: tuple[tuple[CocoImage, tuple[CocoAnnotation, ...]], ...]
    fingerprint: str
    """Of the pictures' files: where they have changed, the shard is written again."""
    image_settings: ImageSettings

    @property
    def shard(self) -> Path:
        """The finished shard."""
        return self.output / shard_name(self.number)

    @property
    def record(self) -> Path:
        """The shard's entry of the index, written when the shard is whole."""
        return self.output / WORKING / f"{self.number:05}.json"

    @property
    def is_written(self) -> bool:
        """Whether the shard is there, of these pictures."""
        if not (self.record.exists() and self.shard.exists()):
            return False
        return bool(json.loads(self.record.read_text())["fingerprint"] == self.fingerprint)

    def entry(self) -> dict[str, Any]:
        """What the index says of the shard that was written."""
        entry: dict[str, Any] = json.loads(self.record.read_text())["entry"]
        return entry


def parts_of(
    data: CocoAnnotations, images: Path, output: Path, shard_size: int, image_settings: ImageSettings
) -> Iterator[Part]:
    """The data in its order, cut into parts of about ``shard_size`` bytes; a larger picture is a part of its own."""
    number, begin, size = 0, 0, 0
    sizes = [_size(images, image, data.annotations[image.id]) for image in data.images]
    for place, picture_size in enumerate([*sizes, shard_size]):
        if place > begin and (size + picture_size > shard_size or place == len(sizes)):
            yield _part(number, data, (images, output), slice(begin, place), image_settings)
            number, begin, size = number + 1, place, 0
        size += picture_size


def _size(images: Path, image: CocoImage, annotations: Sequence[CocoAnnotation]) -> int:
    """The bytes that a sample takes, about."""
    outlines = sum(_outline_bytes(annotation["segmentation"]) + _ANNOTATION_BYTES for annotation in annotations)
    return (images / image.file_name).stat().st_size + outlines


def _outline_bytes(segmentation: Any) -> int:
    if isinstance(segmentation, list):
        return sum(len(part) for part in segmentation) * _NUMBER_BYTES
    return len(segmentation["counts"])


def _part(
    number: int, data: CocoAnnotations, folders: tuple[Path, Path], place: slice, settings: ImageSettings
) -> Part:
    images, output = folders
    content = tuple((image, data.annotations[image.id]) for image in data.images[place])
    stats = [(images / image.file_name).stat() for image, _ in content]
    files = [(image.file_name, stat.st_size, stat.st_mtime_ns) for (image, _), stat in zip(content, stats, strict=True)]
    return Part(number, output, images, content, hashlib.sha256(json.dumps(files).encode()).hexdigest(), settings)


def write_parts(parts: Sequence[Part], processes: int) -> Iterator[tuple[Part, list[str]]]:
    """Write shards, in any order; gives each part when it is done, with the problems that kept it from being written.

    Raises:
        OutputError: where a process was ended from outside.
    """
    if processes == 1:
        yield from ((part, _write(part)) for part in parts)
        return
    with ProcessPoolExecutor(processes, initializer=_leave_signals_to, initargs=(os.getpid(),)) as pool:
        futures = {pool.submit(_write, part): part for part in parts}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool as error:
            raise OutputError(
                "a process that wrote shards was ended from outside, perhaps for want of memory; the same command goes "
                "on, with fewer --processes if need be"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _leave_signals_to(parent: int) -> None:
    """Ctrl-C is the parent's to handle; when that was killed, this process ends as well."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_WATCH_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(part: Part) -> list[str]:
    """Write the part's shard, and then its record; or give back what is wrong with its pictures."""
    from streaming import MDSWriter

    folder = part.record.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    problems = []
    with MDSWriter(out=str(folder), columns=COLUMNS, hashes=[HASH], size_limit=None) as writer:
        for image, annotations in part.content:
            try:
                writer.write(encode(image, _checked(part, image), annotations))
            except DataError as error:
                problems.append(str(error))
    if not problems:
        _put_in_place(part, folder)
    shutil.rmtree(folder)
    return problems


def _checked(part: Part, image: CocoImage) -> bytes:
    """The file's bytes, when the picture in them can be decoded."""
    path = part.images / image.file_name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    read_picture(path, (image.height, image.width), content, part.image_settings)
    return content


def _put_in_place(part: Part, folder: Path) -> None:
    [entry] = json.loads((folder / "index.json").read_text())["shards"]
    written = folder / entry["raw_data"]["basename"]
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.replace(part.shard)
    entry["raw_data"]["basename"] = part.shard.name
    with written_whole(part.record) as unfinished:
        unfinished.write_text(json.dumps({"fingerprint": part.fingerprint, "entry": entry}))
