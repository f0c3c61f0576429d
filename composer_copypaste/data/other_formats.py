"""Annotation formats other than COCO's instances that are given by mistake, told apart by their parsed JSON."""

from collections.abc import Callable, Mapping
from typing import Any

_EXPORT = "export COCO instance annotations"


def kind_of_content(data: object) -> str | None:
    """The format of parsed JSON, and what to do about it; None: COCO instances, or a format that is not known."""
    if isinstance(data, list):
        first = data[0] if data and isinstance(data[0], dict) else {}
        return next((kind for kind, is_it in _LISTS.items() if is_it(first)), None)
    if not isinstance(data, dict):
        return None
    known = next((kind for kind, is_it in _OBJECTS.items() if is_it(data)), None)
    annotations = data.get("annotations")
    if known is None and isinstance(annotations, list) and annotations and isinstance(annotations[0], dict):
        others = {} if "segmentation" in annotations[0] else _ANNOTATIONS
        return next((kind for kind, is_it in others.items() if is_it(annotations[0])), None)
    return known


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda entry: entry.keys() >= set(keys)


_LISTS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "a list of COCO results, which a model found; name the annotations that it is scored by": _has(
        "image_id", "category_id", "score"
    ),
    "a list of annotations alone; expected an object with the lists images, annotations, categories": _has(
        "image_id", "category_id"
    ),
    f"Label Studio's export as JSON; {_EXPORT} there, format COCO": lambda entry: (
        _has("data", "annotations")(entry) or _has("annotation_id", "annotator")(entry) or _has("lead_time")(entry)
    ),
    f"CreateML's JSON; {_EXPORT}": lambda entry: (
        _has("image", "annotations")(entry) or _has("imagefilename", "annotation")(entry)
    ),
}
_OBJECTS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "labelme's file of one image; convert the whole folder, with labelme2coco for one": _has("shapes", "imagePath"),
    f"a task of Label Studio's export as JSON; {_EXPORT} there, format COCO": _has("data", "annotations"),
    f"a project of the VGG Image Annotator (VIA); {_EXPORT} there": lambda data: (
        "_via_img_metadata" in data
        or (bool(data) and all(isinstance(value, dict) and _has("regions")(value) for value in data.values()))
    ),
    f"GeoJSON, whose places are on the globe; {_EXPORT}, in pixels": lambda data: (
        data.get("type") == "FeatureCollection"
    ),
    "a COCO file of images without the list 'annotations', as those of test sets are": lambda data: (
        isinstance(data.get("images"), list) and "categories" in data and "annotations" not in data
    ),
}
_ANNOTATIONS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "COCO panoptic annotations; expected COCO instance annotations, which have an outline for each object": _has(
        "segments_info"
    ),
    "COCO captions; expected COCO instance annotations": _has("caption"),
}
