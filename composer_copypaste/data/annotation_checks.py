"""Checks of the annotations of a file against each other: boxes against masks, repeated objects and images, crowds."""

import posixpath
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import CocoAnnotation, CocoImage, ReadingOptions, SettingSpelling
from composer_copypaste.data.rle import cropped_mask, mask_boxes, rle_of_segmentation
from composer_copypaste.errors import DataError, first_few, warn_of_data

Groups = Mapping[int, Sequence[CocoAnnotation]]
"""The annotations of each image id."""
Boxes = Float[ndarray, "n 4"]

MIN_WRONG_OBJECTS = 3
"""Fewer objects than this count as single mistakes, whatever their share of a file is."""


def check_objects(
    place: str, images: Mapping[int, CocoImage], groups: Groups, options: ReadingOptions
) -> dict[int, str]:
    """The ids of annotations that cannot be used, each with the reason.

    Warns of a few objects that are probably wrong.

    Args:
        place: the annotation file, for messages.
        images: the images by id.
        groups: the annotations of each image id; each one is valid by itself.
        options: if bad objects are left out, those that repeat another one are too.

    Raises:
        DataError: where many boxes disagree with their masks, where many objects are repeated, or where the objects of
            one image file are divided between several image ids.
    """
    check_images_of_one_file(place, images, groups)
    compared = compare_boxes(images, groups)
    if compared.of_the_file is not None:
        raise DataError(f"{place}: {compared.of_the_file}")
    if compared.doubtful:
        warn_of_data(
            f"{place}: boxes that overlap little with their masks, which are taken as they are, of the annotations "
            f"{first_few(compared.doubtful)}"
        )
    repeated = find_repeated_objects(images, groups)
    if options.bad_objects == "leave_out":
        reasons = {number: f"repeats annotation {first}" for number, first in repeated.items()}
        return reasons | dict(compared.of_objects)
    check_repeated(place, repeated, sum(map(len, groups.values())), options.spelling("bad_objects", "leave_out"))
    return dict(compared.of_objects)


def check_crowds(place: str, counts: Counter[tuple[bool, bool]], spelling: SettingSpelling) -> None:
    """Warn, or raise ``DataError`` if all are marked, where single objects may be marked as crowds, as some tools do.

    Args:
        place: the annotation file, for messages.
        counts: the number of annotations by (outline is run lengths, marked as crowd).
        spelling: how the user gives the setting ``crowds``.
    """
    of_run_lengths, of_polygons = counts[True, True], counts[False, True]
    marked, total = of_run_lengths + of_polygons, counts.total()
    if not marked:
        return
    as_objects, as_crowds = (spelling("crowds", value) for value in ("objects", "ignore"))
    if marked == total:
        raise DataError(
            f"{place}: all {total} annotations are marked as crowds (iscrowd 1), which are neither learned nor scored. "
            f"Tools such as datumaro and CVAT mark every mask so: {as_objects} takes them for single objects, "
            f"{as_crowds} for crowds"
        )
    if of_polygons or not counts[True, False] or marked > total / 2:
        warn_of_data(
            f"{place}: {marked} of {total} annotations are marked as crowds (iscrowd 1), which are neither learned nor "
            f"scored. If they are single objects, which supervision, darwin and geococo mark so, give {as_objects}; "
            f"{as_crowds} takes them for crowds without this line"
        )


# ---- boxes against masks

MIN_IOU = 0.5
"""A box disagrees with the extent of its mask if their intersection over union is lower. Of 5,586 objects in seven good
files none was below 0.77; of 28 objects in a bad file all were below 0.5."""
BOX_TOLERANCE = 2.0
"""A box whose sides all lie within this many pixels of its mask's never disagrees: tools round boxes to whole pixels,
or are one pixel off."""
REFUSED_SHARE = 0.1
"""If this fraction of a file's boxes disagrees, the file follows other rules and is refused; fewer are mistakes."""
_EXPLAINED, _EXPLAINED_IOU = 0.8, 0.7
"""A cause explains a file if under it this fraction of the boxes has this intersection over union with the masks."""
_UNKNOWN_CAUSE = "perhaps they were written in another form, for images of another size, or mixed up"


@dataclass(frozen=True)
class BoxProblems:
    """The result of a comparison of boxes with masks."""

    of_the_file: str | None
    """What is wrong with the file as a whole; None: at most single objects are wrong."""
    of_objects: Mapping[int, str]
    """Why an object cannot be used, by annotation id: its mask is outside the image, or its box away from the mask."""
    doubtful: Sequence[int]
    """Ids of annotations whose box and mask overlap, but little."""


@dataclass(frozen=True)
class _ComparedObjects:
    """The ``n`` objects of a file whose boxes are compared: all with an outline, without crowds."""

    annotations: Sequence[CocoAnnotation]
    boxes: Boxes
    """As the file has them: (x, y, width, height), unless they are wrong."""
    masks: Boxes
    """Boxes around the masks, (x1, y1, x2, y2)."""
    sizes: Boxes
    """(width, height, width, height) of the image."""

    def __getitem__(self, which: Bool[ndarray, " n"]) -> "_ComparedObjects":
        chosen = [annotation for annotation, take in zip(self.annotations, which, strict=True) if take]
        return _ComparedObjects(chosen, self.boxes[which], self.masks[which], self.sizes[which])


def compare_boxes(images: Mapping[int, CocoImage], groups: Groups) -> BoxProblems:
    """Compare each box with the extent of its mask.

    ``groups`` has the annotations of each image id. Boxes and outlines are valid by themselves: numbers, and boxes with
    an area inside the image. Crowds are left out.
    """
    chosen = [a for group in groups.values() for a in group if not a["iscrowd"] and a["segmentation"]]
    if not chosen:
        return BoxProblems(None, {}, [])
    boxes = np.array([annotation["bbox"] for annotation in chosen], dtype=float)
    sizes = np.array([(images[a["image_id"]].width, images[a["image_id"]].height) * 2 for a in chosen], dtype=float)
    objects = _ComparedObjects(chosen, boxes, mask_boxes([a["segmentation"] for a in chosen]), sizes)

    overlap = _box_iou(_box_corners(boxes), objects.masks)
    apart = np.abs(_box_corners(boxes) - objects.masks).max(axis=1) > BOX_TOLERANCE
    outside = _masks_are_outside(objects)
    disagree = outside | _boxes_are_fractions(objects) | ((overlap < MIN_IOU) & apart)
    count, total = int(disagree.sum()), len(disagree)
    if count and count >= REFUSED_SHARE * total:
        cause = _likely_cause(objects[disagree])
        if cause is not None or count >= MIN_WRONG_OBJECTS:
            return BoxProblems(
                _describe_wrong_boxes(objects[disagree], cause or _UNKNOWN_CAUSE, int(outside.sum()), total), {}, []
            )
    unusable = outside | ((overlap == 0) & apart)
    problems = {
        chosen[number]["id"]: _describe_wrong_box(objects, number, bool(outside[number]))
        for number in np.flatnonzero(unusable).tolist()
    }
    doubtful = np.flatnonzero(apart & (overlap < MIN_IOU) & ~unusable)
    return BoxProblems(None, problems, [chosen[number]["id"] for number in doubtful.tolist()])


def _masks_are_outside(objects: _ComparedObjects) -> Bool[ndarray, " n"]:
    """Whether a mask has no pixel inside its image.

    Masks too small to have a pixel do not count if their box is as small, unless both lie in the first pixel, as
    fractions of the image's size do.
    """
    x1, y1, x2, y2 = objects.masks.T
    outside = (
        (x2 <= 0) | (y2 <= 0) | (x1 >= objects.sizes[:, 0]) | (y1 >= objects.sizes[:, 1]) | (x1 == x2) | (y1 == y2)
    )
    thin = (np.minimum(x2 - x1, y2 - y1) < 1.5) & (objects.boxes[:, 2:].min(axis=1) > BOX_TOLERANCE)
    for number in np.flatnonzero(~outside & (thin | _boxes_are_fractions(objects))):  # few, so they can be drawn
        width, height = objects.sizes[number, :2].astype(int).tolist()
        outside[number] = cropped_mask(objects.annotations[number]["segmentation"], (height, width)) is None
    return outside


def _boxes_are_fractions(objects: _ComparedObjects) -> Bool[ndarray, " n"]:
    """Whether box and mask both lie in the image's first pixel, as they do if written as fractions of its size."""
    return (
        (objects.masks.max(axis=1) <= 1)
        & (_box_corners(objects.boxes).max(axis=1) <= 1)
        & (objects.sizes.min(axis=1) > 1)
    )


def _describe_wrong_box(objects: _ComparedObjects, number: int, outside: bool) -> str:
    mask = [round(float(value), 2) for value in objects.masks[number]]
    reach = f"reaches from x, y = {mask[:2]} to {mask[2:]}"
    if outside:
        return "the mask has no pixel in the image" + (f": it {reach}" if mask[:2] != mask[2:] else "")
    return f"box {objects.annotations[number]['bbox']} does not meet the mask, which {reach}"


def _describe_wrong_boxes(wrong: _ComparedObjects, cause: str, outside: int, total: int) -> str:
    first = wrong.annotations[0]
    mask = [round(float(value), 2) for value in wrong.masks[0]]
    without = f", {outside} of the masks have no pixel in their image" if outside else ""
    return (
        f"the boxes of {len(wrong.annotations)} of {total} objects do not match their masks{without}: {cause}. "
        f"Annotation {first['id']} has bbox {first['bbox']}, expected x, y, width, height in pixels, and a mask that "
        f"reaches from x, y = {mask[:2]} to {mask[2:]}"
    )


def _likely_cause(wrong: _ComparedObjects) -> str | None:
    """What the tool probably wrote: the first form in which boxes and masks agree; None if there is none."""
    corners = _box_corners(wrong.boxes)
    if _boxes_are_fractions(wrong).mean() >= _EXPLAINED:
        return "boxes and masks look like fractions (0..1) of the image's size instead of pixels"
    if (wrong.masks[:, :2] == wrong.masks[:, 2:]).all(axis=1).mean() >= _EXPLAINED:
        return "the masks are empty"
    for written, boxes in _other_box_forms(wrong.boxes, wrong.sizes):
        if _boxes_agree(boxes, wrong.masks):
            return f"the boxes look like {written}"
    written, masks = _other_mask_form(wrong)
    if _boxes_agree(corners, masks):
        return f"the masks look like {written}"
    if len(wrong.annotations) < MIN_WRONG_OBJECTS:  # some factors fit any two boxes
        return None
    factors = np.median(wrong.masks[:, 2:] / np.maximum(corners[:, 2:], 1e-9), axis=0)
    if _boxes_agree(corners * np.tile(factors, 2), wrong.masks):
        across, down = factors.tolist()
        fit = f"{across:.3g} times as wide and {down:.3g} times as high they fit"
        return f"the boxes look like those of images of another size: {fit}"
    return None


def _boxes_agree(boxes: Boxes, masks: Boxes) -> bool:
    return bool((_box_iou(boxes, masks) >= _EXPLAINED_IOU).mean() >= _EXPLAINED)


def _other_box_forms(boxes: Boxes, sizes: Boxes) -> list[tuple[str, Boxes]]:
    """Other forms that a box's four numbers may have, and the corners that they then stand for."""
    forms: dict[str, Callable[[Boxes], Boxes]] = {
        "x, y, width, height": _box_corners,
        "x1, y1, x2, y2": lambda values: values,
        "centre x, centre y, width, height": lambda values: _box_corners(
            values - values[:, [2, 3, 2, 3]] * [0.5, 0.5, 0, 0]
        ),
        "y, x, height, width, or the masks like points with y before x": lambda values: _box_corners(
            values[:, [1, 0, 3, 2]]
        ),
        "y1, x1, y2, x2": lambda values: values[:, [1, 0, 3, 2]],
    }
    pixels = [(name, form(boxes)) for name, form in forms.items()][1:]
    fractions = [
        (f"{name} as fractions (0..1) of the image's size", form(boxes) * sizes) for name, form in forms.items()
    ]
    return pixels + fractions


def _other_mask_form(objects: _ComparedObjects) -> tuple[str, Boxes]:
    """The other form that masks may have, and the extents that they then have."""
    codes = [a["segmentation"] for a in objects.annotations if not isinstance(a["segmentation"], list)]
    if len(codes) < len(objects.annotations):
        return "polygons in fractions (0..1) of the image's size instead of pixels", objects.masks * objects.sizes
    rows = coco_mask.toBbox([{"size": code["size"][::-1], "counts": code["counts"]} for code in codes])
    return "run lengths counted along rows, which COCO counts down columns", _box_corners(rows)[:, [1, 0, 3, 2]]


def _box_corners(boxes: Boxes) -> Boxes:
    """(x, y, width, height) as (x1, y1, x2, y2)."""
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _box_iou(a: Boxes, b: Boxes) -> Float[ndarray, " n"]:
    """Intersection over union of (x1, y1, x2, y2), pair by pair."""
    sides = (np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])).clip(0)
    shared = sides.prod(axis=1)
    union = sum((box[:, 2:] - box[:, :2]).clip(0).prod(axis=1) for box in (a, b)) - shared
    return shared / np.maximum(union, 1e-12)


# ---- repeated objects and images

REPEATED_SHARE = 0.1
"""A file that repeats this fraction of its objects was put together wrongly; COCO's own repeats a handful."""
_SAME_BOX_TOLERANCE = 2.0
"""Boxes of one object differ by at most this many pixels: position and size may both be rounded down."""
_SAME_MASK_IOU = 0.9
"""Intersection over union from which two masks count as one object's."""


def group_images_by_file(images: Iterable[CocoImage]) -> list[list[int]]:
    """Groups of ids of images that name the same file, also in another spelling; images without a name are left out."""
    ids: dict[str, list[int]] = {}
    for image in images:
        if image.file_name:
            ids.setdefault(posixpath.normpath(image.file_name.replace("\\", "/")), []).append(image.id)
    return [same for same in ids.values() if len(same) > 1]


def have_same_objects(ids: Sequence[int], groups: Groups) -> bool:
    """Whether these images have the same objects, in any order."""
    first, *others = ({_object_key(annotation) for annotation in groups[image]} for image in ids)
    return all(other == first for other in others)


def check_images_of_one_file(place: str, images: Mapping[int, CocoImage], groups: Groups) -> None:
    """Raise ``DataError`` where several images of one file have different objects; warn where they have the same."""
    same = group_images_by_file(images.values())
    divided = [ids for ids in same if not have_same_objects(ids, groups)]
    described = [f"{images[ids[0]].file_name} (images {', '.join(map(str, ids))})" for ids in divided or same]
    files = f"{first_few(described, 3)} {'is' if len(described) == 1 else 'are'}"
    if divided:
        raise DataError(
            f"{place}: {files} listed more than once, with other objects for each id: those annotated under one id "
            "are wrongly missing under the other, in training and in scores. Give all objects of a file one image_id, "
            "or file names with their folders if these are different files"
        )
    if same:
        warn_of_data(
            f"{place}: {files} listed more than once, with the same objects: each counts as an image of its own"
        )


def find_repeated_objects(images: Mapping[int, CocoImage], groups: Groups) -> dict[int, int]:
    """The id of each annotation that repeats an earlier one, with the id of the earlier one.

    Both have the same image and category, and nearly the same mask: one may be polygons and the other run lengths, or
    one may be rounded.
    """
    annotations = [annotation for group in groups.values() for annotation in group]
    repeated: dict[int, int] = {}
    for one, other in _pairs_of_similar_boxes(annotations):
        first, again = annotations[one], annotations[other]
        if again["id"] not in repeated and _are_same_object(first, again, images[first["image_id"]]):
            repeated[again["id"]] = repeated.get(first["id"], first["id"])
    return repeated


def _pairs_of_similar_boxes(annotations: Sequence[CocoAnnotation]) -> list[tuple[int, int]]:
    """Pairs of positions in the list whose image and category are the same and whose boxes differ by few pixels."""
    boxes = np.array([annotation["bbox"] for annotation in annotations], dtype=float).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    kinds = np.array([(a["image_id"], a["category_id"]) for a in annotations], dtype=np.int64).reshape(-1, 2)
    order = np.lexsort((boxes[:, 0], kinds[:, 1], kinds[:, 0]))
    boxes, kinds = boxes[order], kinds[order]
    pairs, start = [], np.arange(len(order))
    for distance in range(1, len(order)):  # compare each box with the next ones to the right of its left side
        start = start[start + distance < len(order)]
        ahead = start + distance
        together = (kinds[ahead] == kinds[start]).all(axis=1) & (
            boxes[ahead, 0] - boxes[start, 0] <= _SAME_BOX_TOLERANCE
        )
        start, ahead = start[together], ahead[together]
        if not len(start):
            break
        near = (np.abs(boxes[ahead] - boxes[start]) <= _SAME_BOX_TOLERANCE).all(axis=1)
        pairs += np.sort(order[np.stack([start[near], ahead[near]], axis=1)]).tolist()
    return sorted((one, other) for one, other in pairs)


def _are_same_object(one: CocoAnnotation, other: CocoAnnotation, image: CocoImage) -> bool:
    if _object_key(one) == _object_key(other):
        return True
    if not one["segmentation"] or not other["segmentation"]:
        return False
    size = image.height, image.width
    masks = [rle_of_segmentation(annotation["segmentation"], size) for annotation in (one, other)]
    return bool(coco_mask.iou(masks[:1], masks[1:], [0]) >= _SAME_MASK_IOU)


def _object_key(annotation: CocoAnnotation) -> Hashable:
    """Category, box and outline, which are equal for two annotations of one object in one form."""
    outline = annotation["segmentation"]
    code = tuple(part.tobytes() for part in outline) if isinstance(outline, list) else outline["counts"]
    return (annotation["category_id"], *annotation["bbox"], code)


def check_repeated(place: str, repeated: Mapping[int, int], total: int, how_to_leave_out: str) -> None:
    """Raise ``DataError`` where many of the ``total`` objects are repeated; warn where few are."""
    count = len(repeated)
    if not count:
        return
    pairs = first_few([f"{number} of {first}" for number, first in repeated.items()], 3)
    what = (
        f"{place}: {count} of {total} annotations repeat another of their image, with its category and mask, "
        f"under another id ({pairs}); a detector that finds each object once is scored as if it missed them. "
        f"{how_to_leave_out} leaves them out"
    )
    if count >= REPEATED_SHARE * total and count >= min(MIN_WRONG_OBJECTS, total):
        raise DataError(what)
    warn_of_data(what)
