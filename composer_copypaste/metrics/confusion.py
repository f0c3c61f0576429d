"""Which categories are taken for which others."""

import numpy as np
from jaxtyping import Int64

from composer_copypaste.metrics.overlaps import MATCHING_IOU, Overlaps, choose_pairs
from composer_copypaste.metrics.scores import Array


def count_confusions(overlaps: Overlaps) -> Int64[Array, "true_category detected_category"]:
    """The number of objects of each category (rows) that are detected as each category (columns).

    The last row counts detections that belong to no object, the last column objects that no detection belongs to. Pairs
    with an intersection over union of 0.5 or more belong together: those of one category first, and of these the
    nearest, each detection and each object once. Detections inside crowds are left out. Low scores are left out with
    ``overlaps.above(score)``: with them, nearly everything is background.
    """
    count = len(overlaps.category_ids)
    near = np.flatnonzero(overlaps.pair_ious >= MATCHING_IOU)
    order = near[np.lexsort((-overlaps.pair_ious[near], ~overlaps.same_category[near]))]
    chosen = choose_pairs(overlaps, order)
    detections, truths = overlaps.pair_detections[chosen], overlaps.pair_truths[chosen]
    alone = ~overlaps.in_crowd
    alone[detections] = False
    missed = np.ones(len(overlaps.truth_categories), dtype=bool)
    missed[truths] = False
    rows = [overlaps.truth_categories[truths], np.full(alone.sum(), count), overlaps.truth_categories[missed]]
    columns = [overlaps.categories[detections], overlaps.categories[alone], np.full(missed.sum(), count)]
    cells = np.concatenate(rows) * (count + 1) + np.concatenate(columns)
    return np.bincount(cells, minlength=(count + 1) ** 2).reshape(count + 1, count + 1)
