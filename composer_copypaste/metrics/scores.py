"""The scores of an evaluation: COCO's arrays of precision and recall, and the numbers that come of them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

if TYPE_CHECKING:
    Array = np.ndarray[Any, np.dtype[Any]]
else:
    Array = np.ndarray  # jaxtyping takes plain classes only


IouType = Literal["bbox", "segm"]
CocoDict = dict[str, Any]
"""A COCO data set, or a part of one, in the form of its JSON."""

ALL_SIZES = 0
SIZES = {"s": 1, "m": 2, "l": 3}
"""Indices on the axis of area ranges in COCO's arrays: all sizes; up to 32² pixels, up to 96², larger."""

AREAS = 1 + len(SIZES)
"""Number of area ranges."""
IOUS = 10
"""Number of IoU thresholds, 0.50:0.05:0.95."""
IOU_50, IOU_75 = 0, 5
"""Indices on their axis."""


@dataclass(frozen=True)
class Scores:
    """COCO's precision and recall arrays of one evaluation; they hold -1 where there is no ground truth.

    ``precision`` is at the last of ``max_dets``, as all AP numbers are.
    """

    precision: Float[Array, "ious recalls categories sizes"]
    recall: Float[Array, "ious categories sizes max_dets"]
    max_dets: tuple[int, ...]

    def numbers(self, category: int | None = None) -> dict[str, float]:
        """COCO's numbers, in [0, 1], for all categories or for the one at this index; NaN without ground truth.

        AP, AP50, AP75, APs, APm, APl, AR<k> for each k of ``max_dets``, ARs, ARm, ARl. All but AR<k> are at the last of
        ``max_dets``. (pycocotools' own summary gives AP -1 unless 100 is among its maxDets.)
        """
        chosen = slice(None) if category is None else slice(category, category + 1)
        precision, recall = self.precision[:, :, chosen], self.recall[:, chosen]
        return {
            "AP": _mean_of_known(precision[..., ALL_SIZES]),
            "AP50": _mean_of_known(precision[IOU_50, ..., ALL_SIZES]),
            "AP75": _mean_of_known(precision[IOU_75, ..., ALL_SIZES]),
            **{f"AP{size}": _mean_of_known(precision[..., index]) for size, index in SIZES.items()},
            **{
                f"AR{limit}": _mean_of_known(recall[..., ALL_SIZES, index]) for index, limit in enumerate(self.max_dets)
            },
            **{f"AR{size}": _mean_of_known(recall[..., index, -1]) for size, index in SIZES.items()},
        }


@dataclass(frozen=True)
class Evaluation:
    """The scores of all images.

    Attributes:
        scores: The scores by IoU type.
        categories: The category ids in the order of the scores' category axis.
        names: The categories' names by id; empty without official annotations.
        instances: The number of objects of each category id, without crowds.
        images: The number of images.
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


def category_titles(categories: Iterable[int], names: Mapping[int, str]) -> dict[int, str]:
    """The name of each category id, no two alike: "category 7" without a name, "star (7)" where names repeat."""
    titles = {category: names.get(category, f"category {category}") for category in categories}
    counts = Counter(titles.values())
    return {category: f"{title} ({category})" if counts[title] > 1 else title for category, title in titles.items()}


def metric_names(max_dets: Sequence[int]) -> list[str]:
    """The names of COCO's numbers for these limits, in COCO's order."""
    nothing = np.empty((IOU_75 + 1, 0, 0, len(SIZES) + 1))
    recall = np.empty((IOU_75 + 1, 0, len(SIZES) + 1, len(max_dets)))
    return list(Scores(precision=nothing, recall=recall, max_dets=tuple(max_dets)).numbers())


def _mean_of_known(values: Float[Array, "..."]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
