"""The overlaps of an evaluation's detections with its objects, in a few flat arrays: what an analysis of errors needs.

COCO compares detections with objects of their own category only. To say that a detection has the wrong category, those
of other categories count too.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import Size
from composer_copypaste.data.rle import rle_of_segmentation
from composer_copypaste.metrics.inputs import InputReader, ScoredImage
from composer_copypaste.metrics.scores import Array, CocoDict, IouType

MATCHING_IOU = 0.5
"""A detection with at least this intersection over union has found the object."""
BACKGROUND_IOU = 0.1
"""A detection whose overlaps are all smaller, or just this, shows background. Smaller overlaps are not kept."""


@dataclass(frozen=True, eq=False)
class Overlaps:
    """All detections and objects of an evaluation, and the pairs of them that overlap by `BACKGROUND_IOU` or more.

    Detections are in the order of their images, and in each image best first. Categories are indices of
    ``category_ids`` and images of ``image_ids``. Crowds are no objects here.
    """

    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]

    scores: Float64[Array, " detections"]
    categories: Int64[Array, " detections"]
    images: Int64[Array, " detections"]
    places: Int64[Array, " detections"]
    """Which detection of its image it is, counted from 0, in the order in which they were given."""
    in_crowd: Bool[Array, " detections"]
    """Whether the detection lies inside a crowd of its category: unless it finds an object, it does not count."""

    truth_categories: Int64[Array, " truths"]
    truth_images: Int64[Array, " truths"]
    truth_areas: Float64[Array, " truths"]
    truth_places: Int64[Array, " truths"]
    """Which annotation of its image an object is, counted from 0, crowds included."""

    pair_detections: Int64[Array, " pairs"]
    """Index of the pair's detection; ascending, and for one detection the largest overlap first."""
    pair_truths: Int64[Array, " pairs"]
    pair_ious: Float64[Array, " pairs"]

    @property
    def same_category(self) -> Bool[Array, " pairs"]:
        """Whether the detection and the object of a pair have the same category."""
        return self.categories[self.pair_detections] == self.truth_categories[self.pair_truths]

    def above(self, score: float) -> "Overlaps":
        """The same without the detections of a lower score."""
        kept = self.scores >= score
        number = np.cumsum(kept) - 1
        pairs = kept[self.pair_detections]
        return Overlaps(
            self.image_ids,
            self.category_ids,
            self.scores[kept],
            self.categories[kept],
            self.images[kept],
            self.places[kept],
            self.in_crowd[kept],
            self.truth_categories,
            self.truth_images,
            self.truth_areas,
            self.truth_places,
            number[self.pair_detections[pairs]],
            self.pair_truths[pairs],
            self.pair_ious[pairs],
        )


def choose_pairs(overlaps: Overlaps, order: Int64[Array, " chosen_from"]) -> Int64[Array, " chosen"]:
    """Of these pairs, in this order, each one whose detection and object are both in no pair chosen before."""
    detections, truths = overlaps.pair_detections[order].tolist(), overlaps.pair_truths[order].tolist()
    matched: set[int] = set()
    taken: set[int] = set()
    chosen = []
    for pair, detection, truth in zip(order.tolist(), detections, truths, strict=True):
        if detection not in matched and truth not in taken:
            matched.add(detection)
            taken.add(truth)
            chosen.append(pair)
    return np.array(chosen, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class _ImageOverlaps:
    """The rows of one image; pairs are numbered within the image."""

    detections: Array
    """Columns: score, category, place, whether inside a crowd."""
    truths: Array
    """Columns: category, area, place."""
    pairs: Array
    """Columns: detection, truth, intersection over union."""


def measure_overlaps(
    images: Mapping[int, ScoredImage],
    reader: InputReader,
    kind: IouType,
    category_ids: Sequence[int],
    most_detections: int,
) -> Overlaps:
    """Compare each image's detections with its objects.

    Args:
        images: the images by id.
        reader: has the official annotations, if there are any.
        kind: whether overlaps are those of boxes or of masks.
        category_ids: all category ids, ascending; detections of others do not count.
        most_detections: this many detections of an image count, the best ones. COCO's limit is for each category of an
            image; this one, as that of TIDE, is for all together.
    """
    order = _file_order(images, reader)
    index = {category: number for number, category in enumerate(category_ids)}
    parts = [
        _image_overlaps(images[number], _annotations(number, images[number], reader), kind, index, most_detections)
        for number in order
    ]
    return _joined(tuple(order), tuple(category_ids), parts)


def _file_order(images: Mapping[int, ScoredImage], reader: InputReader) -> list[int]:
    """The ids in the order of the annotation file, in which TIDE takes images: it decides between equal scores."""
    if reader.official is None:
        return list(images)
    return [number for number in reader.official.images if number in images]


def _annotations(number: int, image: ScoredImage, reader: InputReader) -> list[CocoDict]:
    if image.truth is not None:
        return image.truth.annotations()
    return [] if reader.official is None else [dict(each) for each in reader.official.source.annotations[number]]


def _image_overlaps(
    image: ScoredImage,
    annotations: Sequence[CocoDict],
    kind: IouType,
    index: Mapping[int, int],
    most_detections: int,
) -> _ImageOverlaps:
    found = image.detections
    order = np.argsort(-found.scores, kind="stable")
    order = order[np.isin(found.categories[order], list(index))][:most_detections]
    categories = np.array([index[category] for category in found.categories[order].tolist()], dtype=np.int64)
    crowds = [annotation for annotation in annotations if annotation["iscrowd"]]
    places = [place for place, annotation in enumerate(annotations) if not annotation["iscrowd"]]
    objects = [annotations[place] for place in places]
    if kind == "segm" and found.masks is not None:
        rles = found.masks.rles()
        shapes: object = [rles[number] for number in order.tolist()]
    else:
        shapes = np.ascontiguousarray(found.boxes[order])
    truths, regions = (_shapes_of(group, kind, image.size) for group in (objects, crowds))
    ious = _iou(shapes, truths, len(order), crowd=False)
    inside = _iou(shapes, regions, len(order), crowd=True) > MATCHING_IOU
    same = categories[:, None] == np.array([index[region["category_id"]] for region in crowds], dtype=np.int64)
    columns = [index[each["category_id"]] for each in objects], [each["area"] for each in objects], places
    return _ImageOverlaps(
        detections=np.stack([found.scores[order], categories, order, (inside & same).any(axis=1)], axis=1),
        truths=np.array(columns, dtype=np.float64).T.reshape(-1, 3),
        pairs=_sorted_pairs(ious),
    )


def _shapes_of(annotations: Sequence[CocoDict], kind: IouType, size: Size | None) -> object:
    """The boxes or the run lengths of annotations, as pycocotools compares them."""
    if kind == "bbox":
        return np.array([annotation["bbox"] for annotation in annotations], dtype=np.float64).reshape(-1, 4)
    return [rle_of_segmentation(annotation["segmentation"], size or (0, 0)) for annotation in annotations]


def _iou(shapes: object, others: object, count: int, *, crowd: bool) -> Float64[Array, "detections others"]:
    """The intersection over union of each pair; with a crowd, the share of the detection that lies in it."""
    if not count or not len(others):  # type: ignore[arg-type]
        return np.zeros((count, len(others)))  # type: ignore[arg-type]
    return coco_mask.iou(shapes, others, [crowd] * len(others))  # type: ignore[arg-type]


def _sorted_pairs(ious: Float64[Array, "detections truths"]) -> Float64[Array, "pairs 3"]:
    """Detection, object and overlap of the pairs that are kept; of equal overlaps, the first object comes first."""
    detections, truths = np.nonzero(ious >= BACKGROUND_IOU)
    values = ious[detections, truths]
    order = np.lexsort((truths, -values, detections))
    return np.stack([detections[order], truths[order], values[order]], axis=1)


def _joined(images: tuple[int, ...], categories: tuple[int, ...], parts: Sequence[_ImageOverlaps]) -> Overlaps:
    detections, truths, pairs = (
        np.concatenate([np.zeros((0, columns)), *(getattr(part, name) for part in parts)])
        for name, columns in (("detections", 4), ("truths", 3), ("pairs", 3))
    )
    counts = [len(part.detections) for part in parts], [len(part.truths) for part in parts]
    pair_counts = [len(part.pairs) for part in parts]
    return Overlaps(
        images,
        categories,
        scores=detections[:, 0].copy(),
        categories=detections[:, 1].astype(np.int64),
        images=_image_numbers(counts[0]),
        places=detections[:, 2].astype(np.int64),
        in_crowd=detections[:, 3] > 0,
        truth_categories=truths[:, 0].astype(np.int64),
        truth_images=_image_numbers(counts[1]),
        truth_areas=truths[:, 1].copy(),
        truth_places=truths[:, 2].astype(np.int64),
        pair_detections=pairs[:, 0].astype(np.int64) + np.repeat(_starts(counts[0]), pair_counts),
        pair_truths=pairs[:, 1].astype(np.int64) + np.repeat(_starts(counts[1]), pair_counts),
        pair_ious=pairs[:, 2].copy(),
    )


def _image_numbers(counts: Iterable[int]) -> Int64[Array, " rows"]:
    rows = list(counts)
    return np.repeat(np.arange(len(rows)), rows)


def _starts(counts: Sequence[int]) -> Int64[Array, " images"]:
    """The number of rows of all images before each one."""
    return np.cumsum([0, *counts], dtype=np.int64)[:-1]
