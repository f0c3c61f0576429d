"""A COCO file with all of its content, so that parts of it can be written with the keys of all tools."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from composer_copypaste.data.annotation_json import Category, Json, ReadingOptions, as_whole_number
from composer_copypaste.data.coco_json import CocoAnnotations, garbage_collection_paused
from composer_copypaste.errors import DataError, as_json, count_noun, either, first_few
from composer_copypaste.files import read_json

KEEPS_CROWDS = ReadingOptions(crowds="ignore")
"""Crowds stay marked as they are, so what they mean does not matter."""


@dataclass(frozen=True)
class AnnotationFile:
    """A COCO file that has been checked.

    Attributes:
        content: The JSON as it is in the file, with keys that only other tools know.
        annotations: The same as this package reads it.
    """

    content: Json = field(repr=False)
    annotations: CocoAnnotations

    @classmethod
    def read(cls, path: Path | str, reading: ReadingOptions = KEEPS_CROWDS) -> "AnnotationFile":
        """Read and check a file, which may have no annotations at all.

        Objects that ``reading`` leaves out are not in the content either.

        Raises:
            DataError: listing everything that is wrong with the file.
        """
        with garbage_collection_paused():
            return cls.of_content(read_json(Path(path), "annotation file"), Path(path), reading)

    @classmethod
    def of_content(cls, content: Any, path: Path, reading: ReadingOptions = KEEPS_CROWDS) -> "AnnotationFile":
        """Check parsed JSON, which stays as it is; ``path`` names it in messages. Else as ``read``."""
        checked = content
        if isinstance(content, dict) and isinstance(content.get("annotations"), list):
            checked = content | {"annotations": list(content["annotations"])}  # the check empties this list
            reading = replace(reading, reads_images=bool(content["annotations"]))
        annotations = CocoAnnotations.of_content(checked, path, reading)
        if reading.bad_objects == "leave_out":
            content = content | {"annotations": _good_entries(content["annotations"], annotations)}
        return cls(content, annotations)

    @classmethod
    def read_unchecked(cls, path: Path | str) -> "AnnotationFile":
        """Read a file, and check its images and categories; ``annotations`` has no objects.

        The content has the annotations as they are. Each belongs to one of the images; else nothing is known of them.

        Raises:
            DataError: listing what is wrong with images or categories, or all that is wrong where annotations are of no
                image.
        """
        with garbage_collection_paused():
            content = read_json(Path(path), "annotation file")
            if isinstance(content, dict) and "images" in content and "annotations" not in content:
                content = content | {"annotations": []}  # as files of test sets are
            objects = content.get("annotations") if isinstance(content, dict) else None
            if not isinstance(objects, list):
                return cls.of_content(content, Path(path))
            images = cls.of_content(content | {"annotations": []}, Path(path)).annotations
            if all(isinstance(a, dict) and as_whole_number(a.get("image_id")) in images.annotations for a in objects):
                return cls(content, images)
            return cls.of_content(content, Path(path))

    @property
    def path(self) -> Path:
        """The file."""
        return self.annotations.path

    def with_images(self, ids: Collection[int]) -> "AnnotationFile":
        """The file with these images only, and their annotations; all else stays as it is.

        Raises:
            DataError: where the file has no image of an id.
        """
        kept = set(ids)
        unknown = sorted(kept - self.annotations.annotations.keys())
        if unknown:
            raise DataError(
                f"{self.path}: has no {count_noun(len(unknown), 'image')} with the ids {first_few(unknown)}"
            )
        content = self.content | {
            "images": [image for image in self.content["images"] if as_whole_number(image["id"]) in kept],
            "annotations": [a for a in self.content["annotations"] if as_whole_number(a["image_id"]) in kept],
        }
        annotations = replace(
            self.annotations,
            images=tuple(image for image in self.annotations.images if image.id in kept),
            annotations={image: group for image, group in self.annotations.annotations.items() if image in kept},
        )
        return AnnotationFile(content, annotations)

    def with_categories(self, names: Collection[str]) -> "AnnotationFile":
        """The file with these categories only, and their annotations; all images stay.

        Raises:
            DataError: where the file has no category of a name.
        """
        check_category_names(self.path, self.annotations.categories, names)
        kept = {category.id for category in self.annotations.categories if category.name in names}
        content = self.content | {
            "categories": [c for c in self.content["categories"] if as_whole_number(c["id"]) in kept],
            "annotations": [a for a in self.content["annotations"] if as_whole_number(a["category_id"]) in kept],
        }
        groups = {
            image: tuple(annotation for annotation in group if annotation["category_id"] in kept)
            for image, group in self.annotations.annotations.items()
        }
        categories = tuple(category for category in self.annotations.categories if category.id in kept)
        return AnnotationFile(content, replace(self.annotations, categories=categories, annotations=groups))


def check_category_names(place: Path | str, categories: Sequence[Category], names: Collection[str]) -> None:
    """Raise ``DataError`` for names that none of the categories has."""
    known = [category.name for category in categories]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise DataError(
            f"{place}: has no category {either([*map(as_json, unknown)])}; its categories are "
            f"{first_few(list(map(as_json, known)), 20)}"
        )


def _good_entries(entries: Sequence[Json], annotations: CocoAnnotations) -> list[Json]:
    """The annotations that were not left out when the file was checked."""
    good = {annotation["id"] for group in annotations.annotations.values() for annotation in group}
    are_numbered = any(entry.get("id") is not None for entry in entries)
    return [
        entry
        for number, entry in enumerate(entries, start=1)
        if (as_whole_number(entry["id"]) if are_numbered else number) in good
    ]
