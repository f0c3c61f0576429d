"""What a folder of predictions is made from, and the file in it that says so once it is complete."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from composer_copypaste.data.image_inputs import ImageInputs
from composer_copypaste.errors import OutputError
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.models.predictor import Predictor
from composer_copypaste.output_folder import Source
from composer_copypaste.runs.predict.records import file_stamp
from composer_copypaste.runs.predictor import find_checkpoint
from composer_copypaste.settings import ImageSettings, PredictSettings
from composer_copypaste.validation import type_adapter

MANIFEST = "copypaste.json"


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
    listed = [(image.id, image.file_name) for image in inputs.images]
    return {
        "weights": digest,
        "recipe": list(model_options),
        "categories": [[label, c.id, c.name] for label, c in sorted(predictor.categories.items())],
        "images": _digest([listed, inputs.content]),
        "image files": _digest([file_stamp(image) for image in inputs.images]),
        "reading of images": type_adapter(ImageSettings).dump_python(reading, mode="json"),
        **type_adapter(PredictSettings).dump_python(settings, mode="json"),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_manifest(source: Source, files: PredictedFiles) -> None:
    """Write the file that says that the predictions are complete."""
    counts = {"images": files.images, "objects": files.objects, "unreadable": list(files.unreadable)}
    with atomic_write(files.output / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps({"source": source} | counts, indent=1), encoding="utf-8")


def completed_source(output: Path) -> Source | None:
    """The source of the predictions that were completed in a folder; None where none were."""
    if not (output / MANIFEST).exists():
        return None
    source: Source = _read_manifest(output)["source"]
    return source


def completed_files(output: Path) -> PredictedFiles:
    """What a folder of complete predictions holds."""
    found = _read_manifest(output)
    return PredictedFiles(output, found["images"], found["objects"], found["images"], tuple(found["unreadable"]))


def _read_manifest(output: Path) -> dict[str, Any]:
    path = output / MANIFEST
    manifest = read_json(path, "record of predictions")
    if isinstance(manifest, dict) and manifest.keys() >= {"source", "images", "objects", "unreadable"}:
        return manifest
    raise OutputError(f"{path}: expected the record of predictions; remove {output}, or give another folder")
