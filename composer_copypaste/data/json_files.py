"""What a file is that was given in place of COCO annotations or of an image, and what to do about it."""

import gc
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from composer_copypaste.errors import DataError
from composer_copypaste.files import check_regular


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """No reference cycles are looked for inside; afterwards they are, if they were before."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


_WRAPPINGS = {
    b"version https://git-lfs.github.com": "a Git LFS pointer, not the file itself; fetch that with: git lfs pull",
    b"/annex/objects/": "a git-annex pointer, not the file itself; fetch that with: git annex get",
    b"\x1f\x8b": "compressed with gzip; unpack it (gunzip)",
    b"BZh": "compressed with bzip2; unpack it (bunzip2)",
    b"\xfd7zXZ": "compressed with xz; unpack it (unxz)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it (unzstd)",
    b"7z\xbc\xaf": "a 7z archive; unpack it, and name what is in it",
    b"Rar!": "a rar archive; unpack it, and name what is in it",
}
"""What any file may come as; its start."""

_STARTS = {
    b"PK\x03\x04": "a zip archive; unpack it, and name what is in it",
    b"PAR1": "a Parquet file; export COCO instance annotations (JSON)",
    b"\x89PNG": "an image (PNG)",
    b"\xff\xd8\xff": "an image (JPEG)",
    b"%PDF": "a PDF",
}
_WEB_PAGE = re.compile(rb"\s*<(!doctype html|html)", re.I)
_TEXTS = {
    re.compile(rb"\s*(<\?xml[^>]*>\s*)?<annotation>"): (
        "XML of one image, as Pascal VOC has it; convert the data set to COCO instance annotations (JSON)"
    ),
    re.compile(rb"\s*<"): "XML; export COCO instance annotations (JSON)",
    re.compile(rb"\s*\d+( +-?\d*\.?\d+){4,}\s*(\r?\n|$)"): (
        "text with a class and coordinates in each line, as YOLO has it; convert the data set to COCO instance "
        "annotations (JSON)"
    ),
}
_EXPORT = "export COCO instance annotations"


def kind_of_bytes(content: bytes) -> str | None:
    """What a file's first bytes tell that it is, other than JSON; None where they tell nothing."""
    known = kind_of_any_file(content) or _by_start(content, _STARTS)
    return known or next((kind for pattern, kind in _TEXTS.items() if pattern.match(content)), None)


def kind_of_any_file(content: bytes) -> str | None:
    """What first bytes tell that stands for a file of any kind: compressed, a pointer to it, an error's web page."""
    if not content.strip():
        return "an empty file"
    return "a web page; download the file itself" if _WEB_PAGE.match(content) else _by_start(content, _WRAPPINGS)


def _by_start(content: bytes, kinds: Mapping[bytes, str]) -> str | None:
    return next((kind for start, kind in kinds.items() if content.startswith(start)), None)


def is_json_lines(content: bytes) -> bool:
    """Whether the first line is an object by itself, and another one follows."""
    first, _, rest = content.strip().partition(b"\n")
    try:
        return isinstance(json.loads(first), dict) and rest.lstrip().startswith(b"{")
    except (ValueError, RecursionError):
        return False


def kind_of_content(data: object) -> str | None:
    """What parsed JSON is that is no COCO instance file; None where it may be one, or is nothing known."""
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


def read_json(path: Path, what: str) -> Any:
    """What the file holds; ``what`` it should be, for the error.

    Raises:
        DataError: where there is no such file, or no JSON in it.
    """
    try:
        check_regular(path)
        content = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such {what}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        with garbage_collection_paused():
            return json.loads(content)
    except (ValueError, RecursionError) as error:
        kind = "JSON Lines, an object in each line" if is_json_lines(content) else kind_of_bytes(content)
        if kind is not None:
            raise DataError(f"{path}: expected the {what}, got {kind}") from None
        raise DataError(f"{path}: {_reason(error)}") from None


def _reason(error: ValueError | RecursionError) -> str:
    """Why Python cannot read the JSON."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
    if isinstance(error, UnicodeDecodeError):
        return f"not valid JSON: byte {error.start} is not UTF-8"
    if isinstance(error, RecursionError):
        return "not valid JSON here: its lists are nested too deeply"
    return f"not valid JSON here: {error}"  # a number of more digits than Python reads
