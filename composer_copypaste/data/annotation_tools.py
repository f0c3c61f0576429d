"""Which annotation tool wrote a COCO file, where the file says so for certain.

Each sign is of a file that the tool wrote, or of its public source; docs/annotation_tools.md says which.
"""

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from composer_copypaste.data.annotation_json import Json

_INFO: Mapping[str, tuple[str, str]] = {
    "FiftyOne": ("url", "https://voxel51.com/fiftyone"),
    "Roboflow": ("description", "Exported from roboflow."),
    "V7 Darwin": ("description", "Exported from Darwin"),
    "Label Studio": ("contributor", "Label Studio"),
    "Supervisely": ("contributor", "Supervisely"),
    "SuperAnnotate": ("contributor", "Superannotate AI"),
    "X-AnyLabeling": ("url", "https://github.com/CVHub520/X-AnyLabeling"),
    "VGG Image Annotator (VIA)": ("description", "VIA project exported to COCO format using VGG Image Annotator"),
}
"""A key of ``info``, and how its text begins in files of a tool."""

_INFO_OF_DATUMARO = ["contributor", "date_created", "description", "url", "version", "year"]
_IMAGE_OF_DATUMARO = ["id", "width", "height", "file_name", "license", "flickr_url", "coco_url", "date_captured"]
_OBJECT_OF_SAHI = ["iscrowd", "image_id", "bbox", "segmentation", "category_id", "id", "area"]
_OBJECT_OF_MAKE_SENSE = ["id", "iscrowd", "image_id", "category_id", "segmentation", "bbox", "area"]
"""Keys in the order in which a tool writes them."""

_FIRST_ENTRIES = 100
"""How many annotations are looked at: not every one of a tool has all of its keys."""


def recognise_tool(content: object) -> str | None:
    """The tool that wrote a COCO file's parsed JSON; None where the file does not say so for certain."""
    if not isinstance(content, dict):
        return None
    named = _named_in_info(content.get("info"))
    return named or next((tool for tool, is_of in _FORMS.items() if is_of(content)), None)


def _named_in_info(info: object) -> str | None:
    if not isinstance(info, dict):
        return None
    return next((tool for tool, (key, start) in _INFO.items() if str(info.get(key, "")).startswith(start)), None)


def _is_of_datumaro(content: Json) -> bool:
    """The lists in Datumaro's order, its ``info``, and all keys of its images."""
    info = content.get("info")
    return (
        list(content) == ["licenses", "info", "categories", "images", "annotations"]
        and isinstance(info, dict)
        and list(info) == _INFO_OF_DATUMARO
        and _have_exactly(content, "images", _IMAGE_OF_DATUMARO)
    )


def _is_of_kwcoco(content: Json) -> bool:
    """Polygons with ``exterior``, or run lengths that say their order and that they are binary."""
    outlines = [entry.get("segmentation") for entry in _entries(content, "annotations")]
    parts = chain.from_iterable(outline if isinstance(outline, list) else [outline] for outline in outlines)
    return any(isinstance(part, dict) and ("exterior" in part or {"binary", "order"} <= part.keys()) for part in parts)


def _is_of_coco_annotator(content: Json) -> bool:
    return _all_have_keys(content, "images", ["dataset_id", "annotating", "annotated"])


def _is_of_segments(content: Json) -> bool:
    info = content.get("info")
    return (
        isinstance(info, dict)
        and list(info) == ["description", "version"]
        and _have_exactly(content, "categories", ["id", "name", "color", "attributes"])
    )


def _is_of_encord(content: Json) -> bool:
    return _all_have_keys(content, "images", ["coco_url", "image_title", "file_name"])


def _is_of_supervision(content: Json) -> bool:
    categories = _entries(content, "categories")
    return (
        list(content) == ["info", "licenses", "categories", "images", "annotations"]
        and bool(categories)
        and all(category.get("supercategory") == "common-objects" for category in categories)
        and _have_exactly(content, "images", ["id", "license", "file_name", "height", "width", "date_captured"])
    )


def _is_of_sahi(content: Json) -> bool:
    return (
        list(content) == ["images", "annotations", "categories"]
        and _have_exactly(content, "images", ["height", "width", "id", "file_name"])
        and _have_exactly(content, "annotations", _OBJECT_OF_SAHI)
    )


def _is_of_make_sense(content: Json) -> bool:
    info = content.get("info")
    return (
        list(content) == ["info", "images", "annotations", "categories"]
        and isinstance(info, dict)
        and list(info) == ["description"]
        and _have_exactly(content, "annotations", _OBJECT_OF_MAKE_SENSE)
    )


_FORMS: Mapping[str, Callable[[Json], bool]] = {
    "kwcoco": _is_of_kwcoco,
    "Datumaro, with which CVAT writes too": _is_of_datumaro,
    "COCO Annotator": _is_of_coco_annotator,
    "Segments.ai": _is_of_segments,
    "Encord": _is_of_encord,
    "supervision": _is_of_supervision,
    "sahi, with which labelme2coco writes too": _is_of_sahi,
    "makesense.ai": _is_of_make_sense,
}
"""Tools that do not name themselves, by what no other one writes."""


def _entries(content: Json, key: str) -> list[Json]:
    """The first entries of one of the file's lists."""
    values = content.get(key)
    first: list[Any] = values[:_FIRST_ENTRIES] if isinstance(values, list) else []
    return [entry for entry in first if isinstance(entry, dict)]


def _all_have_keys(content: Json, key: str, names: list[str]) -> bool:
    entries = _entries(content, key)
    return bool(entries) and all(entry.keys() >= set(names) for entry in entries)


def _have_exactly(content: Json, key: str, names: list[str]) -> bool:
    """Whether all entries have these keys, in this order, and no others."""
    entries = _entries(content, key)
    return bool(entries) and all(list(entry) == names for entry in entries)
