"""Errors and what they cost, beside a plain Python form of TIDE's definitions.

``benchmarks/error_analysis.py --tidecv`` compares with the authors' package, where that is installed.
"""

import numpy as np
import pytest
import torch
from metric_scenes import CATEGORY_IDS, Scene, as_prediction, encode, random_scene, scored
from pycocotools import mask as coco_mask

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.error_analysis import ERROR_KINDS, OF_DETECTIONS, RIGHT, cost_errors, find_errors


def boxes(*rows):
    """Rows of (x, y, width, height, label[, score]) as a target, or as a prediction."""
    table = torch.tensor([row[:4] for row in rows], dtype=torch.float64).reshape(-1, 4)
    found = {
        "boxes": torch.cat([table[:, :2], table[:, :2] + table[:, 2:]], dim=1),
        "labels": torch.tensor([row[4] for row in rows], dtype=torch.int64),
    }
    return found | {"scores": torch.tensor([row[-1] for row in rows], dtype=torch.float64)}


def analysed(truths, detections, **target):
    """One image, of boxes alone."""
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), category_ids=[1, 2, 3])
    metric.update([boxes(*detections)], [boxes(*truths) | {"image_id": 1} | target])
    overlaps = metric.overlaps("bbox")
    return overlaps, find_errors(overlaps)


def kinds_of(truths, detections, **target):
    """The kind of each detection, best first."""
    _, errors = analysed(truths, detections, **target)
    return ["right" if kind == RIGHT else OF_DETECTIONS[kind] for kind in errors.kinds]


OBJECT = (10, 10, 20, 20, 1)


@pytest.mark.parametrize(
    ("detection", "kind"),
    [
        ((10, 10, 20, 20, 1, 0.9), "right"),
        ((10, 10, 20, 10, 1, 0.9), "right"),  # just half of it
        ((10, 10, 20, 20, 2, 0.9), "class"),
        ((10, 10, 20, 10, 2, 0.9), "class"),
        ((22, 10, 20, 20, 1, 0.9), "location"),
        ((22, 10, 20, 20, 2, 0.9), "both"),
        ((10, 10, 2, 20, 1, 0.9), "location"),  # a tenth of it
        ((10, 10, 2, 20, 2, 0.9), "background"),
        ((29, 29, 20, 20, 1, 0.9), "background"),
        ((60, 60, 20, 20, 1, 0.9), "background"),
    ],
)
def test_one_detection_of_one_object_has_this_kind(detection, kind):
    assert kinds_of([OBJECT], [detection]) == [kind]


def test_a_second_detection_of_an_object_is_a_duplicate_and_the_more_certain_one_is_right():
    assert kinds_of([OBJECT], [(10, 11, 20, 20, 1, 0.6), (12, 10, 20, 20, 1, 0.8)]) == ["right", "duplicate"]


def test_a_second_detection_of_just_half_of_an_object_is_badly_placed_and_no_duplicate():
    assert kinds_of([OBJECT], [(10, 10, 20, 20, 1, 0.8), (10, 10, 20, 10, 1, 0.6)]) == ["right", "location"]


def test_of_two_objects_a_detection_finds_the_nearer_one_alone():
    _, errors = analysed([(0, 2, 10, 10, 1), (0, 0, 10, 10, 1)], [(0, 0, 10, 10, 1, 0.9)])
    assert errors.found.tolist() == [False, True]


def test_an_object_is_missed_only_if_no_error_explains_it():
    missed = {kind: analysed([OBJECT], [detection])[1].missed.tolist() for kind, detection in {
        "class": (10, 10, 20, 20, 2, 0.9),
        "location": (22, 10, 20, 20, 1, 0.9),
        "both": (22, 10, 20, 20, 2, 0.9),
        "background": (60, 60, 20, 20, 1, 0.9),
    }.items()}  # fmt: skip
    assert missed == {"class": [False], "location": [False], "both": [True], "background": [True]}


def test_an_image_without_detections_misses_its_objects():
    assert analysed([OBJECT], [])[1].missed.tolist() == [True]


def test_a_detection_inside_a_crowd_of_its_category_counts_neither_way():
    crowd = {"iscrowd": torch.tensor([0, 1])}
    truths = [OBJECT, (50, 50, 40, 40, 2)]
    _, errors = analysed(truths, [(55, 55, 9, 9, 2, 0.9), (55, 55, 9, 9, 1, 0.8), (10, 10, 20, 20, 1, 0.7)], **crowd)
    assert errors.counts.tolist() == [False, True, True]
    assert errors.found.tolist() == [True]


def test_a_detection_of_which_just_half_is_inside_a_crowd_counts():
    crowd = {"iscrowd": torch.tensor([1, 0])}
    found = [(45, 50, 10, 10, 2, 0.9), (46, 50, 10, 10, 2, 0.8)]
    overlaps, errors = analysed([(50, 50, 40, 40, 2), OBJECT], found, **crowd)
    assert errors.counts.tolist() == [True, False]
    assert (overlaps.truth_places.tolist(), overlaps.truth_areas.tolist()) == ([1], [400])


def test_the_cost_of_a_wrong_category_is_what_the_right_one_gains():
    overlaps, errors = analysed([OBJECT, (60, 60, 20, 20, 2)], [(10, 10, 20, 20, 1, 0.9), (60, 60, 20, 20, 1, 0.8)])
    costs = cost_errors(overlaps, errors)
    assert costs.ap50 == pytest.approx(0.5)  # category 1 has its object first: 1; category 2 nothing: 0
    assert costs.by_kind["class"] == pytest.approx(0.5)
    assert sum(costs.by_kind.values()) == pytest.approx(0.5)


def test_of_two_wrong_categories_on_one_object_only_the_more_certain_is_corrected():
    _, errors = analysed([OBJECT], [(10, 10, 20, 20, 2, 0.5), (10, 10, 20, 20, 3, 0.6)])
    assert errors.corrected.tolist() == [True, False]


def test_the_oracle_of_duplicates_removes_them():
    truths = [OBJECT, (60, 60, 20, 20, 1)]
    found = [(10, 10, 20, 20, 1, 0.9), (10, 10, 20, 20, 1, 0.8), (60, 60, 20, 20, 1, 0.7)]
    overlaps, errors = analysed(truths, found)
    costs = cost_errors(overlaps, errors)
    precisions = [1.0] * 51 + [2 / 3] * 50
    assert costs.ap50 == pytest.approx(sum(precisions) / 101)
    assert costs.by_kind["duplicate"] == pytest.approx(1 - costs.ap50)
    assert costs.false_positives == pytest.approx(1 - costs.ap50)
    assert costs.false_negatives == 0


def test_nothing_at_all_costs_nothing():
    overlaps, errors = analysed([], [])
    assert cost_errors(overlaps, errors).ap50 == 0
    assert set(cost_errors(overlaps, errors).by_kind.values()) == {0}


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", range(4))
def test_kinds_and_costs_are_those_of_tides_definitions(kind, seed):
    scene = random_scene(seed)
    generator = torch.Generator().manual_seed(seed)
    for prediction in scene.predictions if seed % 2 else []:  # others have many equal scores
        prediction["scores"] = torch.rand(len(prediction["scores"]), generator=generator, dtype=torch.float64)
    assert_as_tide(scene, kind)


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_few_pixels_with_two_scores_have_the_kinds_and_costs_of_tides_definitions(seed):
    """Overlaps of just a half and a tenth, equal scores, and a category without objects occur in them."""
    generator = np.random.default_rng(seed)
    images = range(1, 4)
    found = [as_prediction([drawn_box(generator) for _ in range(8)]) for _ in images]
    objects = [drawn_box(generator, most_label=2) for _ in range(8)]
    annotations = [
        {"id": number, "image_id": 1 + number % len(images), "category_id": CATEGORY_IDS[label - 1], "iscrowd": 0,
         "area": int(mask.sum()), "bbox": coco_mask.toBbox(encode(mask)).tolist(), "segmentation": readable(mask)}
        for number, (mask, label, _) in enumerate(objects, 1)
    ]  # fmt: skip
    dataset = {
        "images": [{"id": number, "height": 8, "width": 8} for number in images],
        "annotations": annotations,
        "categories": [{"id": id_, "name": str(id_)} for id_ in CATEGORY_IDS],
    }
    assert_as_tide(Scene(found, [{"image_id": number} for number in images], dataset), "bbox")


def drawn_box(generator, most_label=3):
    """The mask of a box in 8 x 8 pixels, its label and its score."""
    (y, x), (height, width) = generator.integers(0, 5, 2), generator.integers(1, 5, 2)
    mask = np.zeros((8, 8), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask, int(generator.integers(1, most_label + 1)), generator.choice([0.4, 0.6])


def readable(mask):
    code = encode(mask)
    return {**code, "counts": code["counts"].decode()}


def assert_as_tide(scene, kind):
    overlaps = scored(scene, scene.dataset).overlaps(kind)
    errors = find_errors(overlaps)
    costs = cost_errors(overlaps, errors)
    ap50, by_kind, numbers = tide(scene, kind)
    assert {name: errors.number(name) for name in ERROR_KINDS} == numbers
    assert costs.ap50 == pytest.approx(ap50, abs=1e-9)
    assert dict(costs.by_kind) == pytest.approx(by_kind, abs=1e-9)


def test_only_the_best_detections_of_an_image_count_whatever_their_category():
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), category_ids=[1, 2, 3], max_dets=[1, 2])
    found = boxes((0, 0, 9, 9, 1, 0.5), (0, 0, 9, 9, 2, 0.7), (0, 0, 9, 9, 3, 0.6))
    metric.update([found], [boxes(OBJECT) | {"image_id": 1}])
    overlaps = metric.overlaps("bbox")
    assert overlaps.scores.tolist() == pytest.approx([0.7, 0.6])
    assert overlaps.places.tolist() == [1, 2]


def test_official_objects_that_are_polygons_overlap_by_their_pixels():
    square, image = [2, 2, 6, 2, 6, 6, 2, 6], {"id": 1, "height": 8, "width": 8}
    one = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 4, 4], "segmentation": [square], "iscrowd": 0}
    categories = [{"id": 1, "name": "nut"}]
    metric = CocoMeanAveragePrecision({"images": [image], "annotations": [one], "categories": categories})
    half = np.zeros((8, 8), np.uint8)
    half[2:6, 2:4] = 1
    metric.update([as_prediction([(half, 1, 0.9)])], [{"image_id": 1}])
    assert metric.overlaps("segm").pair_ious.tolist() == [0.5]


# ---- TIDE in plain Python


def tide(scene, kind):
    """AP50, the cost of each kind of error, and their numbers; from the scene's COCO data set and results."""
    everything, points, errors, positives = [], [], [], dict.fromkeys(CATEGORY_IDS, 0)
    for image in scene.dataset["images"]:
        objects = [a for a in scene.dataset["annotations"] if a["image_id"] == image["id"]]
        found = sorted((r for r in scene.results if r["image_id"] == image["id"]), key=lambda r: -r["score"])
        own_points, own_errors = tide_image([o for o in objects if not o["iscrowd"]], found[:100],
                                            [o for o in objects if o["iscrowd"]], kind)  # fmt: skip
        points += own_points
        errors += own_errors
        everything += sorted([*own_points, *(e["point"] for e in own_errors if e["point"])], key=lambda p: p[3])
        for one in objects:
            positives[one["category_id"]] += not one["iscrowd"]
    ap50 = mean_ap(everything, positives)
    costs = {}  # where scores are equal, TIDE takes errors before what was right, but only here
    for name in ERROR_KINDS:
        fixed = [error["fixed"] if error["kind"] == name else error["point"] for error in errors]
        gone = [error["object"]["category_id"] for error in errors if error["kind"] == name == "missed"]
        left = {category: number - gone.count(category) for category, number in positives.items()}
        costs[name] = max(mean_ap([*filter(None, fixed), *points], left) - ap50, 0)
    return ap50, costs, {name: sum(error["kind"] == name for error in errors) for name in ERROR_KINDS}


def tide_image(objects, found, crowds, kind):
    """The right points (category, score, True, rank), and the errors: kind, point as it is and when corrected."""
    key = {"bbox": "bbox", "segm": "segmentation"}[kind]

    def iou(one, other, crowd=False):
        return float(coco_mask.iou([one[key]], [other[key]], [crowd])[0, 0])

    ious = [[iou(detection, one) for one in objects] for detection in found]
    taken, right = {}, {}
    for d, detection in enumerate(found):
        free = [(ious[d][o], -o) for o, one in enumerate(objects)
                if one["category_id"] == detection["category_id"] and o not in taken]  # fmt: skip
        if free and max(free)[0] >= 0.5:
            right[d] = -max(free)[1]
            taken[right[d]] = d
    points = [(found[d]["category_id"], found[d]["score"], True, d) for d in right]
    errors, best = [], {}
    for d, detection in enumerate(found):
        if d in right:
            continue
        category = detection["category_id"]
        inside = any(iou(detection, c, crowd=True) > 0.5 and c["category_id"] == category for c in crowds)
        own = max(((ious[d][o], -o) for o, one in enumerate(objects) if one["category_id"] == category), default=(0, 0))
        other = max(((ious[d][o], -o) for o, one in enumerate(objects) if one["category_id"] != category),
                    default=(0, 0))  # fmt: skip
        used = [ious[d][o] for o in taken if objects[o]["category_id"] == category]
        error = {"point": None if inside else (category, detection["score"], False, d), "fixed": None, "object": None}
        near = None
        if 0.1 <= own[0] <= 0.5:
            error["kind"], near = "location", -own[1]
        elif other[0] >= 0.5:
            error["kind"], near = "class", -other[1]
        elif max(used, default=0) >= 0.5:
            error["kind"] = "duplicate"
        else:
            error["kind"] = "background" if max(own[0], other[0]) <= 0.1 else "both"
        if near is not None and near not in taken and near not in best:
            best[near] = d
            error["fixed"] = (objects[near]["category_id"], detection["score"], True, d)
        errors.append(error)
    missed = [one for o, one in enumerate(objects) if o not in taken and o not in best]
    return points, errors + [{"kind": "missed", "point": None, "fixed": None, "object": one} for one in missed]


def mean_ap(points, positives):
    values = []
    for category, number in positives.items():
        own = [(score, right) for c, score, right, _ in points if c == category]
        if own or number:
            values.append(average_precision(sorted(own, key=lambda point: -point[0]), number))
    return sum(values) / len(values)


def average_precision(ranked, number):
    if not number:
        return 0.0
    hits = np.cumsum([right for _, right in ranked])
    curve = [(hit / number, hit / (rank + 1)) for rank, hit in enumerate(hits)]
    return sum(max((p for r, p in curve if r >= step / 100), default=0) for step in range(101)) / 101
