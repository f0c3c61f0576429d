"""COCO instance data as MosaicML Streaming shards: what a folder of them holds.

A sample of a shard (MDS, the format of mosaicml-streaming) is an image: the file's own bytes and its annotations.
Beside the shards lie streaming's ``index.json``, the annotation file, and a manifest of what a data set needs as a
whole.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from composer_copypaste.data.records import Category, CocoAnnotation, CocoImage
from composer_copypaste.errors import DataError, UserError
from composer_copypaste.settings import ImageSettings

INDEX = "index.json"
"""Lists the shards; streaming reads it too. It is written last: where it is, everything is."""
MANIFEST = "copypaste.json"
ANNOTATIONS = "annotations.json"
CROWDS, BAD_OBJECTS = "crowds", "bad objects"
"""Under these names a manifest's source says how the annotations were read."""
EDITION = 1
"""Raise it when folders are written that former versions cannot read."""

COLUMNS = {
    "annotations": "json",
    "file_name": "str",
    "height": "int",
    "image": "bytes",
    "image_id": "int",
    "width": "int",
}
"""The fields of a sample, by the names of streaming's encodings."""

HASH = "xxh3_64"
"""Of each shard, in the index: one that comes damaged from an object store is not used."""

_SHARD_NAME = re.compile(r"shard\.\d{5,}\.mds")

Sample = dict[str, Any]


@dataclass(frozen=True)
class Manifest:
    """What a data set of shards is, without a look at its samples."""

    images: int
    objects: int
    crowds: int | None
    """The number of objects that are crowds; None: written by a former version, which did not count them."""
    categories: tuple[Category, ...]
    source: dict[str, str | int]
    """What it was written from, and how: the same source gives the same bytes."""
    image_settings: ImageSettings
    """How the images are read, which were checked with it."""

    @classmethod
    def from_json(cls, values: Any, place: str) -> "Manifest":
        """The manifest that ``values``, read at a place, are."""
        edition = values.get("edition") if isinstance(values, dict) else None
        if edition != EDITION:
            raise DataError(f"{place}: expected a manifest of edition {EDITION}, got {edition}; write the shards anew")
        try:
            categories = tuple(Category(category["id"], category["name"]) for category in values["categories"])
            images = _image_settings(**values.get("image settings", {}))  # former versions wrote none
            counts = int(values["pictures"]), int(values["objects"]), values.get("crowds")
            return cls(*counts, categories, dict(values["source"]), images)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: was not written by copypaste shard") from error

    def to_json(self) -> dict[str, object]:
        """The values that ``from_json`` reads."""
        categories = [{"id": category.id, "name": category.name} for category in self.categories]
        counts = {"pictures": self.images, "objects": self.objects, "crowds": self.crowds}
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
    """The index's entry, from which streaming makes a reader."""

    @classmethod
    def from_json(cls, entry: Any, place: str) -> "Shard":
        """The shard of an index's entry."""
        try:
            data = entry["raw_data"]
            shard = cls(data["basename"], entry["samples"], data["bytes"], data["hashes"][HASH], entry)
            columns = dict(zip(entry["column_names"], entry["column_encodings"], strict=True))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{place}: was not written by copypaste shard") from error
        if columns != COLUMNS or not _SHARD_NAME.fullmatch(shard.name):
            raise DataError(f"{place}: shard {shard.name!r} was not written by copypaste shard")
        return shard


def _image_settings(
    value_range: Sequence[float] | None = None, max_megapixels: float = ImageSettings.max_megapixels
) -> ImageSettings:
    """The settings as JSON has them, which knows no tuples."""
    limits = None if value_range is None else (value_range[0], value_range[1])
    return ImageSettings(value_range=limits, max_megapixels=max_megapixels)


def shard_name(number: int) -> str:
    """The name of a shard's file."""
    return f"shard.{number:05}.mds"


def encode(image: CocoImage, content: bytes, annotations: Sequence[CocoAnnotation]) -> Sample:
    """An image's sample."""
    return {
        "annotations": encode_annotations(annotations),
        "file_name": image.file_name,
        "height": image.height,
        "image": content,
        "image_id": image.id,
        "width": image.width,
    }


def decode(sample: Sample) -> tuple[CocoImage, bytes, list[CocoAnnotation]]:
    """What ``encode`` took."""
    image = CocoImage(sample["image_id"], sample["file_name"], sample["height"], sample["width"])
    return image, sample["image"], [_decoded(entry) for entry in sample["annotations"]]


def encode_annotations(annotations: Sequence[CocoAnnotation]) -> list[dict[str, object]]:
    """The annotations as COCO's JSON has them."""
    return [dict(annotation) | {"segmentation": _plain(annotation["segmentation"])} for annotation in annotations]


def _plain(segmentation: Any) -> object:
    if isinstance(segmentation, list):
        return [part.tolist() for part in segmentation]
    return {"size": list(segmentation["size"]), "counts": segmentation["counts"].decode()}


def _decoded(entry: dict[str, Any]) -> CocoAnnotation:
    """What ``encode_annotations`` made an entry of."""
    outline = entry["segmentation"]
    if isinstance(outline, list):
        return {**entry, "segmentation": [np.array(part, dtype=np.float64) for part in outline]}  # type: ignore[typeddict-item]
    return {**entry, "segmentation": {"size": outline["size"], "counts": outline["counts"].encode()}}  # type: ignore[typeddict-item]


def check_installed() -> None:
    """Raise ``UserError`` where mosaicml-streaming is missing."""
    if find_spec("streaming") is None:
        raise UserError("shards need mosaicml-streaming: pip install 'composer-copypaste[streaming]'")
