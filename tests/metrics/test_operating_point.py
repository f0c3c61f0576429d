import numpy as np
import pytest
from metric_scenes import random_scene, scored

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.error_analysis import find_errors
from composer_copypaste.metrics.operating_point import best_score, count_by_category, count_by_image, image_qualities

PLACES = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]]


def analysed(*images):
    """Each image: the numbers of the places that have an object, and (place, score) of the detections."""
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), category_ids=[1])
    for number, (objects, found) in enumerate(images, start=1):
        prediction = {
            "boxes": [PLACES[place] for place, _ in found],
            "labels": [1] * len(found),
            "scores": [score for _, score in found],
        }
        truth = {"boxes": [PLACES[place] for place in objects], "labels": [1] * len(objects), "image_id": number}
        metric.update([prediction], [truth])
    overlaps = metric.overlaps("bbox")
    return overlaps, find_errors(overlaps)


def test_the_best_score_keeps_the_right_ones_above_the_false_ones():
    assert best_score(*analysed(([0, 1], [(0, 0.9), (1, 0.6), (2, 0.4), (3, 0.3)]))) == pytest.approx(0.6)


def test_the_best_score_is_the_lowest_one_where_all_are_right():
    assert best_score(*analysed(([0, 1], [(0, 0.9), (1, 0.6)]))) == pytest.approx(0.6)


def test_detections_of_one_score_are_kept_or_left_out_together():
    # 0.5 has one right and two false: with it F1 is 4 / 6, without it 2 / 3
    assert best_score(*analysed(([0, 1], [(0, 0.9), (1, 0.5), (2, 0.5), (3, 0.5)]))) == pytest.approx(0.9)


def test_without_anything_right_the_best_score_is_0():
    assert best_score(*analysed(([0], [(1, 0.9)]))) == 0
    assert best_score(*analysed(([], []))) == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_no_other_score_has_a_higher_f1(seed):
    scene = random_scene(seed)
    overlaps = scored(scene, scene.dataset).overlaps("segm")
    f1 = {}
    for score in np.unique(overlaps.scores):
        kept = overlaps.above(score)
        f1[score] = count_by_category(kept, find_errors(kept)).total().f1[0]
    assert f1[best_score(overlaps, find_errors(overlaps))] == max(f1.values())


def test_an_images_quality_is_1_if_everything_is_found_exactly_and_nan_if_there_is_nothing():
    images = ([0], [(0, 0.9)]), ([0, 1], [(0, 0.9)]), ([0], [(1, 0.9)]), ([], [])
    assert image_qualities(*analysed(*images)) == pytest.approx([1, 1 / 1.5, 0, np.nan], nan_ok=True)


def test_counts_are_by_image():
    counts = count_by_image(*analysed(([0, 1], [(0, 0.9), (2, 0.8)]), ([3], []), ([], [])))
    assert (counts.right.tolist(), counts.false.tolist(), counts.missed.tolist()) == ([1, 0, 0], [1, 0, 0], [1, 1, 0])
    assert counts.precision.tolist() == pytest.approx([0.5, np.nan, np.nan], nan_ok=True)
    assert counts.recall.tolist() == pytest.approx([0.5, 0, np.nan], nan_ok=True)
    assert counts.f1.tolist() == pytest.approx([0.5, 0, np.nan], nan_ok=True)
