"""Scores detections as COCO does: through hotcoco, or through pycocotools where hotcoco cannot be imported.

Both have the interface of pycocotools and give the same numbers; hotcoco (Rust) is many times faster.
"""

import contextlib
import io
from collections.abc import Sequence
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
"""A COCO data set, or one of its parts, as its JSON has it."""

ALL_SIZES = 0
SIZES = {"s": 1, "m": 2, "l": 3}
"""Positions on the axis of area ranges in COCO's arrays: all, up to 32² pixels, up to 96², larger."""

IOU_50, IOU_75 = 0, 5
"""Positions on the axis of IoU thresholds, 0.50:0.05:0.95."""


@dataclass(frozen=True)
class Scores:
    """COCO's precision and recall arrays of one evaluation; -1 in them where there is no ground truth.

    ``precision`` is that at the last of ``max_dets``, which is the one all AP numbers use.
    """

    precision: Float[Array, "ious recalls categories sizes"]
    recall: Float[Array, "ious categories sizes max_dets"]
    max_dets: tuple[int, ...]

    def numbers(self, category: int | None = None) -> dict[str, float]:
        """COCO's numbers, in [0, 1], of all categories or of the one at this position; NaN without ground truth.

        AP, AP50, AP75, APs, APm, APl, AR<k> for each k of ``max_dets``, ARs, ARm, ARl. Those of the sizes, and
        AP, are at the last of ``max_dets``. (pycocotools' own summary gives AP -1 unless 100 is among its maxDets.)
        """
        chosen = slice(None) if category is None else slice(category, category + 1)
        precision, recall = self.precision[:, :, chosen], self.recall[:, chosen]
        return {
            "AP": _mean(precision[..., ALL_SIZES]),
            "AP50": _mean(precision[IOU_50, ..., ALL_SIZES]),
            "AP75": _mean(precision[IOU_75, ..., ALL_SIZES]),
            **{f"AP{size}": _mean(precision[..., index]) for size, index in SIZES.items()},
            **{f"AR{limit}": _mean(recall[..., ALL_SIZES, index]) for index, limit in enumerate(self.max_dets)},
            **{f"AR{size}": _mean(recall[..., index, -1]) for size, index in SIZES.items()},
        }


def number_names(max_dets: Sequence[int]) -> list[str]:
    """The names of COCO's numbers for these limits, in COCO's order."""
    nothing = np.empty((IOU_75 + 1, 0, 0, len(SIZES) + 1))
    recall = np.empty((IOU_75 + 1, 0, len(SIZES) + 1, len(max_dets)))
    return list(Scores(precision=nothing, recall=recall, max_dets=tuple(max_dets)).numbers())


def score(truth: CocoDict, detections: list[CocoDict], iou_type: IouType, max_dets: tuple[int, ...]) -> Scores:
    """The scores of detections on all images of ``truth``.

    Args:
        truth: A COCO data set. Annotation ids start from 1: COCO takes 0 for "not matched".
        detections: COCO's results: ``image_id``, ``category_id``, ``score``, and ``bbox`` or, without it,
            ``segmentation``. They are modified.
        iou_type: Whether overlaps are those of boxes or of masks.
        max_dets: Per image and category the best so many detections count; ascending.
    """
    coco, coco_eval = _engine()
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        indexed = _indexed(coco, truth)
        # loadRes, which adds the areas, does not take an empty list
        results = indexed.loadRes(detections) if detections else _indexed(coco, {**truth, "annotations": []})
        evaluation = coco_eval(indexed, results, iou_type)
        evaluation.params.maxDets = list(max_dets)
        evaluation.evaluate()
        evaluation.accumulate()
    arrays = evaluation.eval
    return Scores(precision=arrays["precision"][..., -1].copy(), recall=arrays["recall"], max_dets=max_dets)


def _engine() -> tuple[Any, Any]:
    """The classes COCO and COCOeval."""
    try:
        import hotcoco
    except ImportError:
        from pycocotools import coco, cocoeval

        return coco.COCO, cocoeval.COCOeval
    return hotcoco.COCO, hotcoco.COCOeval


def _indexed(coco: Any, dataset: CocoDict) -> Any:
    indexed = coco()
    indexed.dataset = dataset
    indexed.createIndex()
    return indexed


def _mean(values: Float[Array, "..."]) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")
