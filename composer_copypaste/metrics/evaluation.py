"""From the images the metric keeps to their scores."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from composer_copypaste.data.json_files import garbage_collection_paused
from composer_copypaste.metrics.engine import CocoDict, IouType, Scores, score
from composer_copypaste.metrics.inputs import Reader, ScoredImage


@dataclass(frozen=True)
class Evaluation:
    """The scores of all images seen, by all processes.

    Attributes:
        scores: Of each IoU type.
        categories: Category ids, in the order of the scores' category axis.
        names: The categories' names by id, as far as the annotations give them.
        instances: How many objects of each category id there are, crowds left out.
        images: How many images.
    """

    scores: Mapping[IouType, Scores]
    categories: tuple[int, ...]
    names: Mapping[int, str]
    instances: Mapping[int, int]
    images: int

    def per_category(self) -> dict[IouType, dict[int, dict[str, float]]]:
        """The numbers of each category id, in [0, 1]; NaN without ground truth."""
        return {
            iou_type: {category: scores.numbers(index) for index, category in enumerate(self.categories)}
            for iou_type, scores in self.scores.items()
        }


def evaluate(
    kept: Mapping[int, ScoredImage], reader: Reader, iou_types: Iterable[IouType], max_dets: tuple[int, ...]
) -> Evaluation:
    """The scores of the images, against the official annotations of them or against their own truth."""
    with garbage_collection_paused():
        dataset = _dataset(kept, reader)
        scores = {kind: score(dataset, _results(kept, kind), kind, max_dets) for kind in iou_types}
    categories = tuple(category["id"] for category in dataset["categories"])
    instances = Counter(item["category_id"] for item in dataset["annotations"] if not item["iscrowd"])
    return Evaluation(
        scores=scores,
        categories=categories,
        names={} if reader.official is None else reader.official.categories,
        instances={category: instances[category] for category in categories},
        images=len(kept),
    )


def _dataset(images: Mapping[int, ScoredImage], reader: Reader) -> CocoDict:
    """The truth of the images as a COCO data set."""
    sizes = {image_id: image.size or (0, 0) for image_id, image in images.items()}
    return {
        "images": [{"id": image_id, "height": height, "width": width} for image_id, (height, width) in sizes.items()],
        "annotations": list(_annotations(images, reader)),
        "categories": [{"id": category, "name": str(category)} for category in _categories(images, reader)],
    }


def _annotations(images: Mapping[int, ScoredImage], reader: Reader) -> Iterator[CocoDict]:
    """All annotations, numbered anew from 1: COCO's own matching takes the id 0 for "not matched"."""
    number = 0
    for image_id, image in images.items():
        official = () if reader.official is None else reader.official.annotations(image_id)
        for annotation in official if image.truth is None else image.truth.annotations():
            number += 1
            yield {**annotation, "id": number, "image_id": image_id}


def _results(images: Mapping[int, ScoredImage], iou_type: IouType) -> list[CocoDict]:
    return [result for image_id, image in images.items() for result in image.detections.results(image_id, iou_type)]


def _categories(images: Mapping[int, ScoredImage], reader: Reader) -> list[int]:
    """All ids, in order: those of the annotations, else those that labels can mean, else those that occur."""
    if reader.official is not None:
        return sorted(reader.official.categories)
    if reader.category_ids is not None:
        return sorted(reader.category_ids)
    parts = (part for image in images.values() for part in (image.detections, image.truth) if part is not None)
    return sorted({category for part in parts for category in part.categories.tolist()})
