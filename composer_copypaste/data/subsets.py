"""Parts of COCO files, written as COCO files: all keys of all tools stay as they were."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from composer_copypaste.data.annotation_json import Json, ReadingOptions, as_whole_number
from composer_copypaste.data.coco_json import CocoAnnotations, garbage_collection_paused
from composer_copypaste.errors import DataError, OutputError, count_noun, first_few
from composer_copypaste.files import atomic_write, check_regular_file, read_json

KEEPS_CROWDS = ReadingOptions(crowds="ignore")
"""Crowds stay as they are marked, so it does not matter what they mean."""


@dataclass(frozen=True)
class AnnotationFile:
    """A COCO file that has been checked, with all of its content.

    Attributes:
        content: The JSON as it is in the file, with keys that only other tools know.
        annotations: The same as this package reads it.
    """

    content: Json
    annotations: CocoAnnotations

    @classmethod
    def read(cls, path: Path | str, reading: ReadingOptions = KEEPS_CROWDS) -> "AnnotationFile":
        """Read and check a file, which may have no annotations at all.

        Where ``reading`` leaves out bad objects, the content has them no more.

        Raises:
            DataError: listing everything that is wrong with the file.
        """
        path = Path(path)
        with garbage_collection_paused():
            content = read_json(path, "annotation file")
            checked = content
            if isinstance(content, dict) and isinstance(content.get("annotations"), list):
                checked = content | {"annotations": list(content["annotations"])}  # the check empties this list
                reading = replace(reading, reads_images=bool(content["annotations"]))
            annotations = CocoAnnotations.of_content(checked, path, reading)
        if reading.bad_objects == "leave_out":
            content = content | {"annotations": _good_entries(content["annotations"], annotations)}
        return cls(content, annotations)

    @property
    def path(self) -> Path:
        """The file."""
        return self.annotations.path


def _good_entries(entries: Sequence[Json], annotations: CocoAnnotations) -> list[Json]:
    """The annotations that were not left out when the file was checked."""
    good = {annotation["id"] for group in annotations.annotations.values() for annotation in group}
    are_numbered = any(entry.get("id") is not None for entry in entries)
    return [
        entry
        for number, entry in enumerate(entries, start=1)
        if (as_whole_number(entry["id"]) if are_numbered else number) in good
    ]


def write_subset(annotations: Path | str | AnnotationFile, image_ids: Collection[int], output: Path | str) -> None:
    """Write the file's images of these ids with their annotations; all else stays as it is in the file.

    Ids, categories, all keys, and the order of images and annotations are kept. The same input gives the same bytes,
    and a file that holds these already is left alone.

    Args:
        annotations: a COCO file; one that is read already is not checked again.
        image_ids: the ids of its images to be kept, in any order.
        output: the file to write.

    Raises:
        DataError: where the file is broken, or has no image of an id.
        OutputError: where ``output`` is there, and holds something else.
    """
    file = annotations if isinstance(annotations, AnnotationFile) else AnnotationFile.read(annotations)
    write_content(subset_content(file, image_ids), Path(output))


def subset_content(file: AnnotationFile, image_ids: Collection[int]) -> Json:
    """The file's content with these images only, and their annotations.

    Raises:
        DataError: where the file has no image of an id.
    """
    kept = set(image_ids)
    unknown = sorted(kept - {image.id for image in file.annotations.images})
    if unknown:
        raise DataError(f"{file.path}: has no {count_noun(len(unknown), 'image')} with the ids {first_few(unknown)}")
    return file.content | {
        "images": [image for image in file.content["images"] if as_whole_number(image["id"]) in kept],
        "annotations": [
            annotation for annotation in file.content["annotations"] if as_whole_number(annotation["image_id"]) in kept
        ],
    }


def write_content(content: Json, output: Path) -> None:
    """Write an annotation file, with an image, an annotation or a category in each line.

    Raises:
        OutputError: where ``output`` is there, and holds something else.
    """
    if output.exists():
        check_regular_file(output)
        if not _holds(output, _lines(content)):
            raise OutputError(f"{output}: is there already, with another content; remove it, or name a new file")
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(output) as unfinished, unfinished.open("wb") as file:
        file.writelines(_lines(content))


def _lines(content: Json) -> Iterator[bytes]:
    yield b"{\n"
    for number, (key, value) in enumerate(content.items(), start=1):
        end = ",\n" if number < len(content) else "\n"
        if isinstance(value, list) and value:
            yield f"{json.dumps(key)}: [\n".encode()
            yield from (f"{json.dumps(entry)},\n".encode() for entry in value[:-1])
            yield f"{json.dumps(value[-1])}\n]{end}".encode()
        else:
            yield f"{json.dumps(key)}: {json.dumps(value)}{end}".encode()
    yield b"}\n"


def _holds(path: Path, lines: Iterable[bytes]) -> bool:
    """Whether a file's content is that of these lines, no more and no less."""
    with path.open("rb") as file:
        return all(file.read(len(line)) == line for line in lines) and not file.read(1)
