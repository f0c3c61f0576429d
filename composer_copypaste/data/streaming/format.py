"""The format of a folder of shards: COCO instance data in MosaicML Streaming's format, MDS.

A sample of a shard is an image: the bytes of its file, and its annotations. Next to the shards lie streaming's
``index.json``, the annotation file, and a manifest that describes the data set as a whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from composer_copypaste.data.annotation_json import Category, CocoAnnotation, CocoImage
from composer_copypaste.errors import DataError
from composer_copypaste.extras import check_installed
from composer_copypaste.settings import ImageSettings

INDEX = "index.json"
"""Lists the shards; streaming reads it too. It is written last: if it exists, everything does."""
MANIFEST = "copypaste.json"
ANNOTATIONS = "annotations.json"
CROWDS, BAD_OBJECTS = "crowds", "bad objects"
"""Keys of a manifest's ``source`` that say how the annotations were read."""
EDITION = 1
"""Raise it when older versions of this package cannot read the folders that are written."""

COLUMNS = {
    "annotations": "json",
    "file_name": "str",
    "height": "int",
    "image": "bytes",
    "image_id": "int",
    "width": "int",
}
"""The fields of a sample, with the names of streaming's encodings."""

HASH = "xxh3_64"
"""The algorithm of the shards' checksums in the index, by which a damaged shard is found."""

_SHARD_NAME = re.compile(r"shard\.\d{5,}\.mds")

Sample = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """The description of a data set of shards, which can be read without its samples."""

    images: int
    objects: int
    crowds: int
    categories: tuple[Category, ...]
    source: dict[str, str | int]
    """Checksums and options of what the shards were written from: the same source gives the same bytes."""
    image_settings: ImageSettings
    """How the images are read; they were checked with the same settings."""

    @classmethod
    def from_json(cls, values: Any, place: str) -> "Manifest":
        """The manifest from parsed JSON; ``place`` names it in messages."""
        edition = values.get("edition") if isinstance(values, dict) else None
        if edition != EDITION:
            raise DataError(f"{place}: expected a manifest of edition {EDITION}, got {edition}; write the shards again")
        try:
            categories = tuple(Category(category["id"], category["name"]) for category in values["categories"])
            images = ImageSettings(**values["image settings"])
            counts = int(values["images"]), int(values["objects"]), int(values["crowds"])
            return cls(*counts, categories, dict(values["source"]), images)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: was not written by copypaste shard") from error

    def to_json(self) -> dict[str, object]:
        """The JSON values that ``from_json`` reads."""
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        counts = {"images": self.images, "objects": self.objects, "crowds": self.crowds}
        written: dict[str, object] = {"edition": EDITION} | counts | {"categories": categories}
        return written | {"source": self.source, "image settings": vars(self.image_settings)}


@dataclass(frozen=True)
class Shard:
    """A file of samples, as the index describes it."""

    name: str
    samples: int
    nbytes: int
    hash: str
    entry: dict[str, Any]
    """The entry in the index, from which streaming makes a reader."""

    @classmethod
    def from_json(cls, entry: Any, place: str) -> "Shard":
        """The shard from its entry in the index; ``place`` names the index in messages."""
        try:
            data = entry["raw_data"]
            shard = cls(data["basename"], entry["samples"], data["bytes"], data["hashes"][HASH], entry)
            columns = dict(zip(entry["column_names"], entry["column_encodings"], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: was not written by copypaste shard") from error
        if columns != COLUMNS or not _SHARD_NAME.fullmatch(shard.name):
            raise DataError(f"{place}: shard {shard.name!r} was not written by copypaste shard")
        return shard


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard.{number:05}.mds"


def is_file_of_shards(path: Path) -> bool:
    """Whether a file, by its path in the folder, is one that ``copypaste shard`` writes."""
    return str(path) in (INDEX, MANIFEST, ANNOTATIONS) or _SHARD_NAME.fullmatch(str(path)) is not None


def encode_sample(image: CocoImage, content: bytes, annotations: Sequence[CocoAnnotation]) -> Sample:
    """The sample of an image, from its record, the bytes of its file and its annotations."""
    return {
        "annotations": [
            dict(entry) | {"segmentation": _segmentation_as_json(entry["segmentation"])} for entry in annotations
        ],
        "file_name": image.file_name,
        "height": image.height,
        "image": content,
        "image_id": image.id,
        "width": image.width,
    }


def decode_sample(sample: Sample) -> tuple[CocoImage, bytes, list[CocoAnnotation]]:
    """The record of a sample's image, the bytes of its file and its annotations."""
    image = CocoImage(sample["image_id"], sample["file_name"], sample["height"], sample["width"])
    return image, sample["image"], [_decode_annotation(entry) for entry in sample["annotations"]]


def _segmentation_as_json(segmentation: Any) -> object:
    """An outline as COCO's JSON has it."""
    if isinstance(segmentation, list):
        return [part.tolist() for part in segmentation]
    return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode()}


def _decode_annotation(entry: dict[str, Any]) -> CocoAnnotation:
    """The annotation from its JSON in a sample."""
    outline = entry["segmentation"]
    if isinstance(outline, list):
        return {**entry, "segmentation": [np.array(part, dtype=np.float64) for part in outline]}  # type: ignore[typeddict-item]
    return {**entry, "segmentation": {"size": outline["size"], "counts": outline["counts"].encode()}}  # type: ignore[typeddict-item]


def check_streaming_installed() -> None:
    """Raise ``MissingPackageError`` where mosaicml-streaming is missing."""
    check_installed("streaming", "shards need mosaicml-streaming", "streaming")
