"""Annotation formats other than COCO's instances that are given by mistake, told apart by their parsed JSON.

``files.py`` tells apart files that hold no JSON.
"""

from typing import Any

_EXPORT = "export COCO instance annotations"

_OF_LISTS = {
    "a list of COCO results, which a model found; name the annotations that it is scored by": [
        {"image_id", "category_id", "score"}
    ],
    "a list of annotations alone; expected an object with the lists images, annotations, categories": [
        {"image_id", "category_id"}
    ],
    f"Label Studio's export as JSON; {_EXPORT} there, format COCO": [
        {"data", "annotations"},
        {"annotation_id", "annotator"},
        {"lead_time"},
    ],
    f"CreateML's JSON; {_EXPORT}": [{"image", "annotations"}, {"imagefilename", "annotation"}],
}
"""Formats that are a list: each with sets of keys, one of which the first entry has."""
_OF_OBJECTS = {
    "labelme's file of one image; convert the whole folder, with labelme2coco for one": [{"shapes", "imagePath"}],
    f"a task of Label Studio's export as JSON; {_EXPORT} there, format COCO": [{"data", "annotations"}],
    f"a project of the VGG Image Annotator (VIA); {_EXPORT} there": [{"_via_img_metadata"}],
    f"V7 Darwin's JSON of one image; {_EXPORT} there, format COCO": [{"item", "annotations"}, {"dataset", "image"}],
    "SuperAnnotate's JSON of one image; convert the project with superannotate's export_annotation": [
        {"metadata", "instances"}
    ],
    f"Supervisely's JSON of one image; {_EXPORT} there": [{"size", "objects", "tags"}],
    "a release of Segments.ai; convert it with segments-ai's export_dataset, format coco-instance": [
        {"name", "dataset"}
    ],
}
"""Formats that are an object: each with sets of keys, one of which the object has."""
_OF_ANNOTATIONS = {
    "COCO panoptic annotations; expected COCO instance annotations, which have an outline for each object": [
        {"segments_info"}
    ],
    "COCO captions; expected COCO instance annotations": [{"caption"}],
}
"""Other tasks of COCO: each with sets of keys, one of which the first annotation has."""


def describe_other_format(data: object) -> str | None:
    """The format of parsed JSON, and what to do about it; None: COCO instances, or a format that is not known."""
    if isinstance(data, list):
        return _match_keys(data[:1], _OF_LISTS)
    if not isinstance(data, dict):
        return None
    if known := _match_keys([data], _OF_OBJECTS):
        return known
    if data and all(isinstance(value, dict) and "regions" in value for value in data.values()):
        return f"a project of the VGG Image Annotator (VIA); {_EXPORT} there"
    if data.get("type") == "FeatureCollection":
        return f"GeoJSON, whose places are on the globe; {_EXPORT}, in pixels"
    if isinstance(data.get("images"), list) and "categories" in data and "annotations" not in data:
        return "a COCO file of images without the list 'annotations', as those of test sets are"
    annotations = data.get("annotations")
    first = annotations[:1] if isinstance(annotations, list) else []
    return _match_keys(
        [entry for entry in first if isinstance(entry, dict) and "segmentation" not in entry], _OF_ANNOTATIONS
    )


def _match_keys(entries: list[Any], formats: dict[str, list[set[str]]]) -> str | None:
    """The first format whose keys an entry has."""
    objects = [entry for entry in entries if isinstance(entry, dict)]
    return next((kind for kind, keys in formats.items() for e in objects if any(e.keys() >= k for k in keys)), None)
