"""What is kept of each batch of images that is done, so that an interrupted prediction goes on after it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from composer_copypaste.data.annotation_json import Json
from composer_copypaste.data.image_inputs import InputImage
from composer_copypaste.files import name_path_in_errors

Stamp = tuple[int, int] | None
"""Size and time of a file; None where there is none."""


@dataclass(frozen=True)
class ImageRecord:
    """One image that is done."""

    size: tuple[int, int] | None
    """Height and width; None for an image that could not be read."""
    problem: str | None
    """Why it could not be read; None where it was."""
    results: tuple[Json, ...]
    """Its entries for the COCO results file."""


@dataclass(frozen=True)
class BatchRecord:
    """A batch of images that is done."""

    number: int
    stamps: tuple[Stamp, ...]
    """Of the files at that time: if they have changed, the batch is done again."""
    images: tuple[ImageRecord, ...]

    def to_line(self) -> str:
        """The record as a line of JSON."""
        images = [[image.size, image.problem, image.results] for image in self.images]
        return json.dumps([self.number, self.stamps, images], separators=(",", ":"))

    @classmethod
    def from_line(cls, line: bytes) -> "BatchRecord":
        """The record in a line; ``ValueError`` for one that is cut off."""
        number, stamps, images = json.loads(line)
        records = (ImageRecord(size and (size[0], size[1]), why, tuple(found)) for size, why, found in images)
        return cls(number, tuple(stamp and (stamp[0], stamp[1]) for stamp in stamps), tuple(records))


def file_stamp(image: InputImage) -> Stamp:
    """Size and time of an image's file."""
    try:
        stat = os.stat(image.path)
    except (OSError, ValueError):  # a name that no file can have
        return None
    return stat.st_size, stat.st_mtime_ns


@dataclass
class RecordFile:
    """A file with a line for each batch that is done. Records are read one by one: together they may be gigabytes."""

    path: Path

    def begins(self) -> dict[int, int]:
        """Where the last line of each batch begins, by the batch's number."""
        return {record.number: begin for begin, record in self._records()}

    def done(self, batches: Sequence[Sequence[InputImage]]) -> set[int]:
        """The numbers of the batches that are done, and whose files have not changed since."""
        stamps = {record.number: record.stamps for _, record in self._records()}
        return {number for number, found in stamps.items() if found == tuple(map(file_stamp, batches[number]))}

    @contextmanager
    def appending(self) -> Iterator[Callable[[BatchRecord], None]]:
        """Gives a function that appends a record."""
        with name_path_in_errors(self.path), self.path.open("ab", buffering=0) as file:

            def append(record: BatchRecord) -> None:
                file.write(f"\n{record.to_line()}\n".encode())  # after a line that a killed process may have cut off

            yield append

    def read(self, begins: Iterable[int]) -> Iterator[BatchRecord]:
        """The records of the lines that begin there."""
        with self.path.open("rb") as file:
            for begin in begins:
                file.seek(begin)
                yield BatchRecord.from_line(file.readline())

    def _records(self) -> Iterator[tuple[int, BatchRecord]]:
        """The complete records, and where the line of each begins."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            begin = 0
            for line in file:
                record = None
                with suppress(ValueError):  # of a line that is empty, or cut off, as its process was killed
                    record = BatchRecord.from_line(line)
                if record is not None:
                    yield begin, record
                begin += len(line)
