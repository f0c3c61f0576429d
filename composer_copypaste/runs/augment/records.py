"""What is kept of each new image that is done, so that an interrupted data set goes on after it."""

import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from composer_copypaste.data.coco_write import EncodedJson, encode_entry
from composer_copypaste.files import name_path_in_errors
from composer_copypaste.runs.augment.draws import DrawnImage
from composer_copypaste.runs.augment.images import MadeImage
from composer_copypaste.runs.augment.work import AugmentWork, PlannedImage


@dataclass(frozen=True)
class ImageRecord:
    """One new image that is done: what the annotation file needs of it, and what its file was made from."""

    number: int
    checksum: int
    """CRC-32 of the file's bytes."""
    made_from: list[list[int]]
    """Size and time of the files that it is made from."""
    source: int | None
    """The source image's id."""
    pasted: int
    """The number of objects that were pasted on it."""
    image: EncodedJson
    """Its entry in the annotation file."""
    annotations: list[EncodedJson]
    """The entries of its objects, without ids."""

    def to_line(self) -> str:
        """The record as a line of JSON."""
        values = vars(self) | {"annotations": EncodedJson(f"[{','.join(self.annotations)}]")}
        return encode_entry(values)

    @classmethod
    def from_line(cls, line: bytes) -> "ImageRecord":
        """The record in a line; ``ValueError`` for one that is cut off."""
        values = json.loads(line)
        annotations = [encode_entry(entry) for entry in values["annotations"]]
        return cls(**(values | {"image": encode_entry(values["image"]), "annotations": annotations}))


def record_of(work: AugmentWork, planned: PlannedImage, drawn: DrawnImage, made: MadeImage) -> ImageRecord:
    """The record of a new image whose file has just been written."""
    id_ = work.entries.first_image_id + planned.number
    return ImageRecord(
        number=planned.number,
        checksum=made.checksum,
        made_from=_file_stamps(work, planned, drawn.source),
        source=None if drawn.source is None else work.annotations.images[drawn.source].id,
        pasted=len(made.pasted),
        image=encode_entry(work.entries.new_image(id_, planned.file_name, planned.base, planned.copy, drawn)),
        annotations=[encode_entry(entry) for entry in work.entries.new_annotations(id_, planned.base, drawn, made)],
    )


def _file_stamps(work: AugmentWork, planned: PlannedImage, source: int | None) -> list[list[int]]:
    """Size and time of the files that a new image is made from; the source image by its index."""
    paths = [planned.base.file.path]
    if source is not None:
        paths.append(work.draws.folder / work.annotations.images[source].file_name)
    return [[stat.st_size, stat.st_mtime_ns] for stat in map(os.stat, paths)]


def read_records(path: Path, work: AugmentWork, folder: Path) -> Iterator[ImageRecord]:
    """The records of images that need not be made again: neither they nor their sources have changed."""
    places = {image.id: place for place, image in enumerate(work.annotations.images)}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            record = ImageRecord.from_line(line)
        except ValueError:  # cut off, as its process was killed
            continue
        planned = work.planned[record.number]
        source = None if record.source is None else places[record.source]
        is_same = record.made_from == _file_stamps(work, planned, source)
        if is_same and is_whole(folder / planned.file_name, record.checksum):
            yield record


def is_whole(file: Path, checksum: int) -> bool:
    """Whether a file is there, with all that was written to it."""
    return file.exists() and zlib.crc32(file.read_bytes()) == checksum


@contextmanager
def appending_to(path: Path) -> Iterator[Callable[[ImageRecord], None]]:
    """Gives a function that appends a record to a file."""
    with path.open("ab", buffering=0) as file:

        def append(record: ImageRecord) -> None:
            with name_path_in_errors(path):
                file.write(f"\n{record.to_line()}".encode())  # after a line that a killed process may have cut off

        yield append
