"""What a folder of predictions is made from, and the file in it that says so once it is complete."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from composer_copypaste.data.annotation_json import Json
from composer_copypaste.data.image_inputs import ImageInputs
from composer_copypaste.errors import OutputError
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.models.predictor import Predictor
from composer_copypaste.output_folder import WORKING_FOLDER, Source
from composer_copypaste.runs.folder import find_checkpoint
from composer_copypaste.runs.predict.files import ANNOTATIONS, IMAGES, RESULTS
from composer_copypaste.runs.predict.records import ImageRecord, RecordFile, file_stamp
from composer_copypaste.settings import ImageSettings, PredictSettings
from composer_copypaste.validation import type_adapter

MANIFEST = "copypaste.json"
RECORDS = "records.jsonl"
"""In the working folder: the images that are done."""
_WRITTEN = "written.json"
"""In the working folder: checksums of the files of predictions in which images could not be read."""

_MAY_GROW = ("images", "ids", "draw", "as_annotations")


@dataclass(frozen=True)
class PredictedFiles:
    """What a folder of predictions holds."""

    output: Path
    images: int
    """Number of images that were read."""
    objects: int
    """Number of objects in the results."""
    kept: int
    """Number of images that were done before."""
    unreadable: tuple[str, ...]
    """The images that could not be read, each with the reason."""
    shown: int
    """Number of objects whose score is high enough for annotations and drawn images."""


# ---- the source


def describe_source(
    weights: Path,
    model_options: Sequence[str],
    predictor: Predictor,
    inputs: ImageInputs,
    settings: PredictSettings,
    reading: ImageSettings,
) -> Source:
    """All that the bytes of the output depend on, by names for messages."""
    file = weights if weights.suffix == ".onnx" else find_checkpoint(weights)[0]
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    of_coco_file = {key: value for key, value in inputs.content.items() if key != "images"}
    return {
        "weights": digest,
        "recipe": list(model_options),
        "categories": [[label, c.id, c.name] for label, c in sorted(predictor.categories.items())],
        "images": [[image.file_name, *(file_stamp(image) or ())] for image in inputs.images],
        "ids": [[image.file_name, image.id] for image in inputs.images] if inputs.content else None,
        "COCO file": hashlib.sha256(json.dumps(of_coco_file, sort_keys=True).encode()).hexdigest(),
        "reading of images": type_adapter(ImageSettings).dump_python(reading, mode="json"),
        **type_adapter(PredictSettings).dump_python(settings, mode="json"),
    }


def extends(found: Source, given: Source, *, complete: bool) -> bool:
    """Whether a source only adds images, and files to write, to one that was found.

    Where the predictions are complete, the images that they have must not have changed: files of the same names may
    be other images, whose results must not be lost.
    """
    same = all(found.get(key) == given[key] for key in given if key not in _MAY_GROW)
    there, now = (_by_name(source.get("images")) for source in (found, given))
    kept = all(name in now and (now[name] == stamp or not complete) for name, stamp in there.items())
    ids, ids_now = (_by_name(source.get("ids")) for source in (found, given))
    return same and kept and all(ids_now.get(name) == id_ for name, id_ in ids.items()) and bool(ids) == bool(ids_now)


def _by_name(entries: Any) -> Mapping[str, object]:
    return {name: values for name, *values in entries or ()}


# ---- the manifest


def write_manifest(source: Source, files: PredictedFiles, records: Iterable[ImageRecord]) -> None:
    """Write the file that says that the predictions are complete."""
    content = {
        "images": files.images,
        "objects": files.objects,
        "shown": files.shown,
        "unreadable": list(files.unreadable),
        "checksums": _checksums(files.output),
        "source": source,
        "sizes": [record.size for record in records],
    }
    with atomic_write(files.output / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps(content), encoding="utf-8")


def completed_source(output: Path) -> Source | None:
    """The source of the predictions that were completed in a folder; None where none were."""
    if not (output / MANIFEST).exists():
        return None
    source: Source = read_manifest(output)["source"]
    return source


def completed_files(output: Path) -> PredictedFiles:
    """What a folder of complete predictions holds."""
    found = read_manifest(output)
    images, objects, problems = found["images"], found["objects"], tuple(found["unreadable"])
    return PredictedFiles(output, images, objects, images, problems, found["shown"])


def read_manifest(output: Path) -> dict[str, Any]:
    """The content of the file that says that the predictions are complete.

    Raises:
        OutputError: where it is another file.
    """
    path = output / MANIFEST
    manifest = read_json(path, "record of predictions")
    needed = {"source", "images", "objects", "shown", "unreadable", "checksums", "sizes"}
    if isinstance(manifest, dict) and manifest.keys() >= needed:
        return manifest
    raise OutputError(f"{path}: expected the record of predictions; remove {output}, or give another folder")


def predicted_images(folder: Path) -> set[int]:
    """The ids of the images that complete predictions in a folder have looked at; none where there are no such ones."""
    if not (folder / MANIFEST).exists():
        return set()
    content = read_json(folder / MANIFEST, "record of predictions")
    source = content.get("source") if isinstance(content, dict) else None
    if not isinstance(source, dict) or not isinstance(source.get("images"), list):
        return set()  # a record of something else
    return set(_image_ids(source))


def _image_ids(source: Source) -> list[int]:
    """The id of each image: that of the COCO file, or its place among the files, counted from 1."""
    images, ids = cast(list[Any], source["images"]), cast(list[Any] | None, source.get("ids"))
    return list(range(1, len(images) + 1)) if ids is None else [id_ for _, id_ in ids]


# ---- complete predictions that more is added to


def write_records_of_complete(output: Path) -> None:
    """Write the records from which complete predictions can go on, as they were before their completion.

    Raises:
        OutputError: where a file is no longer what was written, as annotations that were corrected by hand.
    """
    manifest = read_manifest(output)
    check_files_are_unchanged(output, manifest["checksums"])
    records = RecordFile(output / WORKING_FOLDER / RECORDS)
    records.path.unlink(missing_ok=True)
    with records.appending() as append:
        for record in _records_of_complete(output, manifest):
            append([record])


def _records_of_complete(output: Path, manifest: Mapping[str, Any]) -> Iterator[ImageRecord]:
    source = manifest["source"]
    results = _results_by_image(output / RESULTS)
    found = next(results, None)
    for id_, (name, *stamp), size in zip(_image_ids(source), source["images"], manifest["sizes"], strict=True):
        entries: list[Json] = []
        if found is not None and found[0] == id_:
            entries, found = found[1], next(results, None)
        values = {"file_name": name, "stamp": stamp or None, "size": size, "problem": None, "results": entries}
        yield ImageRecord.from_json(values)


def _results_by_image(path: Path) -> Iterator[tuple[int, list[Json]]]:
    """The results of each image that has any, in the order of the file, which has a line for each."""
    entries: list[Json] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if not line.startswith("{"):
                continue
            entry = json.loads(line.rstrip(",\n"))
            if entries and entries[0]["image_id"] != entry["image_id"]:
                yield entries[0]["image_id"], entries
                entries = []
            entries.append(entry)
    if entries:
        yield entries[0]["image_id"], entries


# ---- files that may have been changed by hand


def note_written_files(output: Path) -> None:
    """Note the files of predictions that are not complete, as images could not be read."""
    with atomic_write(output / WORKING_FOLDER / _WRITTEN) as unfinished:
        unfinished.write_text(json.dumps(_checksums(output)))


def check_noted_files(output: Path) -> None:
    """Raise ``OutputError`` where a file that was noted has been changed since; then forget what was noted."""
    noted = output / WORKING_FOLDER / _WRITTEN
    if noted.exists():
        check_files_are_unchanged(output, read_json(noted, "record of written files"))
        noted.unlink()


def check_files_are_unchanged(output: Path, checksums: Mapping[str, str]) -> None:
    """Raise ``OutputError`` where a file is no longer what was written: what was done by hand must not be lost."""
    now = _checksums(output)
    changed = [name for name, checksum in checksums.items() if now.get(name) != checksum]
    if changed:
        raise OutputError(
            f"{output / changed[0]}: was changed or removed since it was written, and would be written again; give "
            "another folder"
        )


def _checksums(output: Path) -> dict[str, str]:
    """The SHA-256 of the files that are there."""
    found = {}
    for name in (RESULTS, IMAGES, ANNOTATIONS):
        if (output / name).exists():
            with (output / name).open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found
