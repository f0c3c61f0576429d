"""COCO results: the JSON in which detectors of all kinds write what they found, read and checked.

A result has ``image_id``, ``category_id``, ``score``, and ``bbox`` (x, y, width, height) or ``segmentation`` (run
lengths, or polygons) or both, as pycocotools' ``loadRes`` takes them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import (
    CocoImage,
    Json,
    SegmentationError,
    Size,
    as_typed_json,
    as_whole_number,
    parse_segmentation,
)
from composer_copypaste.data.coco_json import LARGEST_ID, LONGEST_SIDE, CocoAnnotations, garbage_collection_paused
from composer_copypaste.data.rle import count_encoded_pixels, rle_of_segmentation
from composer_copypaste.errors import DataError, as_json, count_noun, first_few, format_problems, warn_of_data
from composer_copypaste.files import read_json
from composer_copypaste.metrics.inputs import EncodedMasks, ScoredDetections

WRONG_BOX_SHARE = 0.1
"""If more than this fraction of the boxes reaches far beyond its image, the boxes are probably corners."""
FAR_BEYOND = 1.1
"""How many times the image's size that is."""


@dataclass(frozen=True, eq=False)
class CocoResults:
    """The detections of each image that has any, by image id; masks and boxes as the file has them."""

    path: Path
    images: Mapping[int, ScoredDetections] = field(repr=False)
    masks: bool
    """Whether each detection has a mask; if not, all have boxes alone."""

    @classmethod
    def load(cls, path: Path | str, annotations: CocoAnnotations) -> "CocoResults":
        """Read a file of results on images that are annotated.

        Left out with a warning are results on images and of categories that the annotations do not have.

        Raises:
            DataError: listing everything that is wrong with the file.
        """
        with garbage_collection_paused():
            return cls.of_content(read_json(Path(path), "file of results"), Path(path), annotations)

    @classmethod
    def of_content(cls, content: object, path: Path, annotations: CocoAnnotations) -> "CocoResults":
        """Check parsed JSON, a list that is emptied on the way; else as ``load``."""
        found = read_results(content, path, annotations)
        if found.problems:
            raise DataError(format_problems(str(path), found.problems))
        for text in found.warnings:
            warn_of_data(f"{path}: {text}")
        return found.results


@dataclass(frozen=True, eq=False)
class ReadResults:
    """The results that can be used, and what is wrong with the others and with the file."""

    results: CocoResults
    problems: Sequence[str]
    warnings: Sequence[str]


def read_results(content: object, path: Path, annotations: CocoAnnotations | None = None) -> ReadResults:
    """The results in parsed JSON, a list that is emptied on the way; problems are collected, not raised.

    Args:
        content: of the file.
        path: names it.
        annotations: of the images; None: they are not known, and each mask says its image's size.

    Raises:
        DataError: where the content is no list of results at all.
    """
    entries = _find_entries(content, path)
    total = len(entries)
    problems: list[str] = []
    groups = _group_by_image(entries, problems)
    warnings = _leave_out_unknown(groups, annotations) if annotations is not None else []
    sizes = {image.id: image for image in annotations.images} if annotations is not None else {}
    kept = sum(map(len, groups.values()))
    with_masks = sum("segmentation" in entry for group in groups.values() for _, entry in group)
    masks = with_masks == kept > 0
    if total and not kept and not problems:
        problems.append(
            "no result is on an image and of a category of the annotations: were they made for other annotations?"
        )
    if 0 < with_masks < kept:
        problems.append(
            f"{kept - with_masks} of {kept} results have no 'segmentation'; expected a mask in all of them, or in none"
        )
    images = {}
    while groups:
        number, group = groups.popitem()
        images[number] = _read_image(number, group, sizes.get(number), problems, masks=masks)
    if annotations is not None:
        warnings += _doubts(images, annotations)
    return ReadResults(CocoResults(path, dict(sorted(images.items())), masks), problems, warnings)


def _find_entries(content: object, path: Path) -> list[Any]:
    if isinstance(content, list):
        return content
    known = isinstance(content, dict) and "images" in content and "annotations" in content
    found = "COCO annotations, which are what results are scored by" if known else as_json(content)
    raise DataError(f"{path}: expected a list of COCO results (image_id, category_id, score, bbox), got {found}")


Entry = tuple[int, Json]
"""A result and its number in the file, counted from 1."""


def _group_by_image(entries: list[Any], problems: list[str]) -> dict[int, list[Entry]]:
    """The results of each image with usable ids, score and box, in the file's order."""
    groups: dict[int, list[Entry]] = {}
    number = 0
    entries.reverse()
    while entries:
        entry, number = entries.pop(), number + 1
        problem = _entry_problem(entry)
        if problem is not None:
            problems.append(f"result number {number}: {problem}")
            continue
        groups.setdefault(int(entry["image_id"]), []).append((number, entry))
    return groups


def _entry_problem(entry: Any) -> str | None:
    """What is wrong with a result; None: nothing, as far as one can see without its image."""
    if not isinstance(entry, dict):
        return f"expected an object, got {as_json(entry)}"
    for key in ("image_id", "category_id"):
        number = as_whole_number(entry.get(key))
        if number is None:
            return (
                f"{key} is {as_typed_json(entry[key])}, expected a whole number" if key in entry else f"lacks {key!r}"
            )
        if abs(number) > LARGEST_ID:
            return f"{key} is {as_json(number)}, expected at most {LARGEST_ID}"
    score, box = entry.get("score"), entry.get("bbox")
    if not _is_finite(score):
        return f"score is {as_typed_json(score)}, expected a number" if "score" in entry else "lacks 'score'"
    if box is None:
        return None if "segmentation" in entry else "has neither 'bbox' nor 'segmentation'"
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_finite, box))):
        return f"bbox is {as_json(box)}, expected 4 numbers, [x, y, width, height]"
    if box[2] < 0 or box[3] < 0:
        return f"bbox {as_json(box)} has a negative width or height"
    return None


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    except OverflowError:  # of integers beyond all floats
        return False


def _leave_out_unknown(groups: dict[int, list[Entry]], annotations: CocoAnnotations) -> list[str]:
    """Take results on unknown images and of unknown categories out of the groups, and say how many they are."""
    warnings = []
    images = sorted(groups.keys() - annotations.annotations.keys())
    if images:
        count = sum(len(groups.pop(image)) for image in images)
        warnings.append(
            f"left out {count_noun(count, 'result')} on {count_noun(len(images), 'image')} that "
            f"{annotations.path} does not have: {first_few(images)}"
        )
    known, unknown = set(annotations.category_ids), set()
    count = 0
    for image, group in list(groups.items()):
        kept = [item for item in group if item[1]["category_id"] in known]
        if len(kept) < len(group):
            count += len(group) - len(kept)
            unknown |= {int(item[1]["category_id"]) for item in group} - known
            groups[image] = kept
    if unknown:
        warnings.append(
            f"left out {count_noun(count, 'result')} of categories that {annotations.path} does not have, as COCO's "
            f"rules do: {first_few(sorted(unknown))}"
        )
    return warnings


def _read_image(
    number: int, group: list[Entry], image: CocoImage | None, problems: list[str], *, masks: bool
) -> ScoredDetections:
    size, encoded = None if image is None else (image.height, image.width), None
    if masks:
        group, encoded = _read_masks(number, group, size, problems)
    lacking = [place for place, (_, entry) in enumerate(group) if entry.get("bbox") is None]
    boxes = np.array([entry.get("bbox") or (0, 0, 0, 0) for _, entry in group], dtype=np.float64).reshape(-1, 4)
    if lacking and encoded is not None:
        rles = encoded.rles()
        boxes[lacking] = coco_mask.toBbox([rles[place] for place in lacking])
    return ScoredDetections(
        boxes=boxes,
        categories=np.array([entry["category_id"] for _, entry in group], dtype=np.int64),
        scores=np.array([entry["score"] for _, entry in group], dtype=np.float64),
        masks=encoded,
    )


def _read_masks(
    number: int, group: Sequence[Entry], size: Size | None, problems: list[str]
) -> tuple[list[Entry], EncodedMasks]:
    """The results of an image whose masks can be used, and these masks; the others are added to the problems."""
    kept: list[Entry] = []
    codes: list[bytes] = []
    for place, entry in group:
        own = size or _stated_size(entry["segmentation"])
        try:
            if own is None:
                raise SegmentationError(
                    "without annotations, a mask has to say the size of its image, [height, width], as polygons cannot"
                )
            codes.append(_encoded(entry["segmentation"], own))
            kept.append((place, entry))
            size = own
        except SegmentationError as error:
            problems.append(f"result number {place} (image {number}): {error}")
    if size is None:
        return [], EncodedMasks(None, ())
    pixels, expected = count_encoded_pixels(codes), size[0] * size[1]
    for row in np.flatnonzero(pixels != expected).tolist():
        what = "cannot be decoded" if pixels[row] < 0 else f"has {pixels[row]} pixels, its image has {expected}"
        problems.append(f"result number {kept[row][0]} (image {number}): the mask {what}")
    rows = np.flatnonzero(pixels == expected).tolist()
    return [kept[row] for row in rows], EncodedMasks(size, tuple(codes[row] for row in rows))


def _stated_size(segmentation: object) -> Size | None:
    size = segmentation.get("size") if isinstance(segmentation, dict) else None
    if not isinstance(size, list) or len(size) != 2:
        return None
    sides = [side for side in map(as_whole_number, size) if side is not None and 0 < side <= LONGEST_SIDE]
    return (sides[0], sides[1]) if len(sides) == 2 else None


def _encoded(segmentation: object, size: Size) -> bytes:
    """The compressed run lengths of a mask; those that are compressed already are not decoded here."""
    rle = segmentation if isinstance(segmentation, dict) else {}
    counts = rle.get("counts")
    if isinstance(counts, str) and counts.isascii() and "order" not in rle:
        if _stated_size(segmentation) != size:
            raise SegmentationError(f"mask has size {as_json(rle.get('size'))}, its image has {as_json(list(size))}")
        return counts.encode()
    return rle_of_segmentation(parse_segmentation(segmentation, size), size)["counts"]


def _doubts(images: Mapping[int, ScoredDetections], annotations: CocoAnnotations) -> list[str]:
    """What is probably a mistake in results that can be read."""
    far = total = 0
    for image in annotations.images:
        if image.id in images:
            ends = images[image.id].boxes[:, :2] + images[image.id].boxes[:, 2:]
            far += int((ends > np.multiply(FAR_BEYOND, [image.width, image.height])).any(axis=1).sum())
            total += len(ends)
    if far <= WRONG_BOX_SHARE * total:
        return []
    return [
        f"{far} of {total} boxes reach far beyond their image: expected bbox as x, y, width, height in pixels; are "
        "they x1, y1, x2, y2?"
    ]
