"""What is kept of each image that is done, so that an interrupted prediction goes on after it."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from composer_copypaste.data.annotation_json import Json
from composer_copypaste.data.image_inputs import InputImage
from composer_copypaste.files import name_path_in_errors

Stamp = tuple[int, int] | None
"""Size and time of a file; None where there is none."""


@dataclass(frozen=True)
class ImageRecord:
    """One image that is done."""

    file_name: str
    stamp: Stamp
    """The file's stamp when it was read: if it has changed, the image is done again."""
    size: tuple[int, int] | None
    """Height and width; None for an image that could not be read."""
    problem: str | None
    """Why it could not be read; None where it was."""
    results: tuple[Json, ...]
    """Its entries for the COCO results file."""

    def with_id(self, image_id: int) -> "ImageRecord":
        """The record for an image that now has this id: ids count files, of which there may be more than before."""
        return replace(self, results=tuple(result | {"image_id": image_id} for result in self.results))

    def to_json(self) -> Json:
        """The record as JSON has it."""
        return vars(self)

    @classmethod
    def from_json(cls, values: Json) -> "ImageRecord":
        """The record of what ``to_json`` gave."""
        pairs = {name: values[name] and (values[name][0], values[name][1]) for name in ("stamp", "size")}
        return cls(**(values | pairs | {"results": tuple(values["results"])}))


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

    def done(self, batches: Sequence[Sequence[InputImage]]) -> set[int]:
        """The numbers of the batches whose images are done, if also in other batches, and have not changed since."""
        stamps = {record.file_name: record.stamp for _, _, record in self._records()}
        return {
            number
            for number, batch in enumerate(batches)
            if all(image.file_name in stamps and stamps[image.file_name] == file_stamp(image) for image in batch)
        }

    def last_records(self) -> dict[str, ImageRecord]:
        """The last record of each image, by the name of its file."""
        return {record.file_name: record for _, _, record in self._records()}

    @contextmanager
    def appending(self) -> Iterator[Callable[[Sequence[ImageRecord]], None]]:
        """Gives a function that appends the records of a batch: all, or none where the process is killed."""
        with name_path_in_errors(self.path), self.path.open("ab", buffering=0) as file:

            def append(records: Sequence[ImageRecord]) -> None:
                line = json.dumps([record.to_json() for record in records], separators=(",", ":"))
                file.write(f"\n{line}\n".encode())  # after a line that a killed process may have cut off

            yield append

    def read(self, images: Iterable[InputImage]) -> Iterator[ImageRecord]:
        """The last record of each image, with its id of now."""
        places = {record.file_name: (begin, index) for begin, index, record in self._records()}
        with self.path.open("rb") as file:
            line: list[Json] = []
            line_begin = -1
            for image in images:
                begin, index = places[image.file_name]
                if begin != line_begin:
                    file.seek(begin)
                    line, line_begin = json.loads(file.readline()), begin
                yield ImageRecord.from_json(line[index]).with_id(image.id)

    def _records(self) -> Iterator[tuple[int, int, ImageRecord]]:
        """The complete records, where the line of each begins, and its place in the line."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            begin = 0
            for line in file:
                records: list[ImageRecord] = []
                with suppress(ValueError):  # of a line that is empty, or cut off, as its process was killed
                    records = [ImageRecord.from_json(values) for values in json.loads(line)]
                for index, record in enumerate(records):
                    yield begin, index, record
                begin += len(line)
