"""The entries of an offline data set's annotation file: every key of an image and of an object follows it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from composer_copypaste.data.annotation_file import AnnotationFile
from composer_copypaste.data.annotation_json import CocoAnnotation, Json, as_whole_number
from composer_copypaste.data.coco_write import EncodedJson
from composer_copypaste.data.rle import Segmentation
from composer_copypaste.errors import warn_of_data
from composer_copypaste.functional.object_keys import POSITION_KEYS
from composer_copypaste.runs.augment.draws import BaseImage, DrawnImage
from composer_copypaste.runs.augment.images import MadeImage

PROVENANCE = "copy_paste"
"""The key of new images and their annotations that says where they come from."""

_STALE = POSITION_KEYS - {"bbox", "segmentation"}
"""Positions that only another tool knows; they are wrong once an object is moved or covered."""


@dataclass
class OfflineEntries:
    """Entries of the new annotation file, made from those of the former one.

    Attributes:
        file: the annotation file, with names of image files that lie in their folder.
    """

    file: AnnotationFile
    _stale: set[str] = field(default_factory=set)

    @cached_property
    def _images(self) -> dict[int, Json]:
        return {_id(entry): entry for entry in self.file.content["images"]}

    @cached_property
    def _annotations(self) -> dict[int, Json]:
        """The annotations by id, with the keys that a tool left out; outlines are encoded once for all their images."""
        entries = self.file.content["annotations"]
        are_numbered = any(entry.get("id") is not None for entry in entries)
        by_id = {_id(entry) if are_numbered else number: entry for number, entry in enumerate(entries, start=1)}
        checked = (annotation for group in self.file.annotations.annotations.values() for annotation in group)
        return {annotation["id"]: _completed(by_id[annotation["id"]], annotation) for annotation in checked}

    @cached_property
    def _ids(self) -> list[list[int]]:
        """The ids of each image's annotations, in the order of images."""
        data = self.file.annotations
        return [[annotation["id"] for annotation in data.annotations[image.id]] for image in data.images]

    @property
    def first_image_id(self) -> int:
        """The lowest id of a new image."""
        return max(self._images) + 1

    @property
    def first_annotation_id(self) -> int:
        """The lowest id of a new annotation."""
        return max(self._annotations, default=0) + 1

    def keypoints(self) -> dict[int, Float[ndarray, "k 3"]]:
        """The keypoints (x, y, visibility) of the annotations that have some, by id."""
        found = {id_: entry.get("keypoints") for id_, entry in self._annotations.items()}
        return {
            id_: np.array(values, dtype=np.float64).reshape(-1, 3)
            for id_, values in found.items()
            if isinstance(values, list) and values and len(values) % 3 == 0
        }

    def keypoint_names(self) -> list[list[str]]:
        """The names of the keypoints of each category that has some."""
        named = (entry.get("keypoints") for entry in self.file.content["categories"])
        return [
            names for names in named if isinstance(names, list) and names and all(isinstance(n, str) for n in names)
        ]

    def original_images(self) -> list[Json]:
        """The images' entries, with the names that their files have in the folder."""
        return [
            {**self._images[image.id], "file_name": image.file_name, "id": image.id}
            for image in self.file.annotations.images
        ]

    def original_annotations(self) -> list[Json]:
        """The annotations' entries, completed; those that could not be used are left out."""
        return list(self._annotations.values())

    def new_image(self, id_: int, file_name: str, base: BaseImage, copy: int, drawn: DrawnImage) -> Json:
        """The entry of a new image; with the former data set, enough to make it again."""
        height, width = base.file.size
        images, former = self.file.annotations.images, {}
        origin: Json = {"background": base.file_name}
        if base.index is not None:
            former = self._images[images[base.index].id]
            origin = {"base_image_id": images[base.index].id}
        source = None if drawn.source is None else images[drawn.source].id
        origin |= {"copy": copy, "source_image_id": source, "plan": drawn.plan.rows()}
        return {**former, "id": id_, "file_name": file_name, "width": width, "height": height, PROVENANCE: origin}

    def new_annotations(self, id_: int, base: BaseImage, drawn: DrawnImage, made: MadeImage) -> list[Json]:
        """The entries of a new image's objects, those of the base image first; they have no id yet."""
        ids = [] if base.index is None else self._ids[base.index]
        entries = []
        for place, former in enumerate(ids):
            changes = made.covered.get(place, {})
            if changes is not None:
                entries.append(self._entry(self._annotations[former], changes, id_, self._origin(former)))
        for row, changes in made.pasted:
            entries.append(self._pasted_entry(row, changes, id_, drawn))
        return entries

    def _origin(self, annotation: int) -> Json:
        return {"image_id": self._annotations[annotation]["image_id"], "annotation_id": annotation}

    def _pasted_entry(self, row: int, changes: Json, id_: int, drawn: DrawnImage) -> Json:
        plan = drawn.plan
        to_source = {"to_source": plan.to_source[row].tolist()}
        if drawn.source is not None and int(plan.source[row]) == 1:
            former = self._ids[drawn.source][int(plan.instance[row])]
            return self._entry(self._annotations[former], changes, id_, self._origin(former) | to_source)
        cut_out = drawn.cut_out_of_row(row)
        category = self.file.annotations.categories[cut_out.label - 1]
        raw = {"image_id": id_, "category_id": category.id, "iscrowd": 0}
        return self._entry(raw, changes, id_, {"cut_out": cut_out.name} | to_source)

    def _entry(self, former: Json, changes: Json, image: int, origin: Json) -> Json:
        changes = _with_keypoints_of(former, changes)
        stale = _STALE & former.keys() if changes else set()
        for key in stale - self._stale:
            self._stale.add(key)
            warn_of_data(
                f"{self.file.path}: {key!r} may hold positions, which are not known to move with an object; it is left "
                "out of objects that were pasted or covered"
            )
        kept = {key: value for key, value in former.items() if key not in stale and key != "id"}
        return {**kept, "image_id": image, **changes, PROVENANCE: origin}


def _id(entry: Mapping[str, Any]) -> int:
    found = as_whole_number(entry["id"])
    if found is None:  # the file has been checked
        raise TypeError(f"expected a whole number, got {entry['id']!r}")
    return found


def _completed(raw: Json, annotation: CocoAnnotation) -> Json:
    """An annotation with all of COCO's keys, as pycocotools and other tools expect; what is right stays as it is."""
    entry = {**raw, **{key: annotation[key] for key in ("id", "image_id", "category_id", "iscrowd")}}
    for key in ("bbox", "area"):
        entry[key] = raw.get(key) or annotation[key]
    if not _is_plain(raw.get("segmentation"), annotation["segmentation"]):
        entry["segmentation"] = segmentation_to_json(annotation["segmentation"])
    return entry | {"segmentation": EncodedJson(json.dumps(entry["segmentation"], separators=(",", ":")))}


def _is_plain(raw: object, outline: Segmentation) -> bool:
    """Whether an outline is written as COCO does: polygons, none of which was dropped, or run lengths."""
    if isinstance(raw, dict):
        return "counts" in raw
    return isinstance(raw, list) and len(raw) == len(outline) and all(isinstance(part, list) for part in raw)


def segmentation_to_json(outline: Segmentation) -> list[list[float]] | Json:
    """An outline as COCO's files have it."""
    if isinstance(outline, list):
        return [part.tolist() for part in outline]
    return {"size": outline["size"], "counts": outline["counts"].decode()}


def _with_keypoints_of(former: Json, changes: Json) -> Json:
    """The changes, with as many keypoints as the former annotation has, of the same kind; none if they are the same."""
    points: Sequence[float] | None = changes.get("keypoints")
    others = {key: value for key, value in changes.items() if key != "keypoints"}
    own = former.get("keypoints")
    if points is None or not isinstance(own, list) or not own:
        return others
    whole = all(isinstance(value, int) for value in own)
    new = [int(value) if whole or place % 3 == 2 else value for place, value in enumerate(points[: len(own)])]
    if new == own:
        return others
    return others | {"keypoints": new, "num_keypoints": sum(value > 0 for value in new[2::3])}
