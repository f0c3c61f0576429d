"""Images and objects that a COCO file has twice, under different ids, by which scores are wrong."""

import posixpath
from collections.abc import Hashable, Iterable, Mapping, Sequence

from composer_copypaste.data.outlines import Segmentation
from composer_copypaste.data.records import CocoAnnotation, CocoImage

Groups = Mapping[int, Sequence[CocoAnnotation]]
"""The annotations of each image id."""


def images_of_one_file(images: Iterable[CocoImage]) -> list[list[int]]:
    """The ids of images that name the same file, also by another spelling of its path; empty names are none."""
    ids: dict[str, list[int]] = {}
    for image in images:
        if image.file_name:
            ids.setdefault(posixpath.normpath(image.file_name.replace("\\", "/")), []).append(image.id)
    return [same for same in ids.values() if len(same) > 1]


def have_same_objects(ids: Sequence[int], groups: Groups) -> bool:
    """Whether images show the same objects, in any order: an image that is repeated, not one that is torn apart."""
    first, *others = ({_looks(annotation) for annotation in groups[image]} for image in ids)
    return all(other == first for other in others)


def repeated_objects(groups: Groups) -> dict[int, int]:
    """The id of each annotation that repeats another of its image, with that one's: same category, box and outline."""
    repeated = {}
    for annotations in groups.values():
        first: dict[Hashable, list[CocoAnnotation]] = {}
        for annotation in annotations:
            alike = first.setdefault((annotation["category_id"], *annotation["bbox"]), [])
            original = next((other for other in alike if _looks(other) == _looks(annotation)), None)
            if original is None:
                alike.append(annotation)
            else:
                repeated[annotation["id"]] = original["id"]
    return repeated


def _looks(annotation: CocoAnnotation) -> Hashable:
    """What is equal for two annotations of the same object."""
    return (annotation["category_id"], *annotation["bbox"], _outline(annotation["segmentation"]))


def _outline(segmentation: Segmentation) -> Hashable:
    if isinstance(segmentation, list):
        return tuple(part.tobytes() for part in segmentation)
    return segmentation["counts"]
