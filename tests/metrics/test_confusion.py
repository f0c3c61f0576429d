import numpy as np
import pytest
import torch
from metric_scenes import CATEGORY_IDS, random_scene, scored

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.confusion import count_confusions


def confusions(truths, detections, **target):
    """Of one image; rows are (box, label) and (box, label, score)."""
    metric = CocoMeanAveragePrecision(iou_types=("bbox",), category_ids=[1, 2])
    found = {"boxes": [r[0] for r in detections], "labels": [r[1] for r in detections]}
    found["scores"] = [r[2] for r in detections]
    true = {"boxes": [r[0] for r in truths], "labels": [r[1] for r in truths], "image_id": 1}
    metric.update([found], [true | target])
    return count_confusions(metric.overlaps("bbox")).tolist()


ONE, OTHER, AWAY = [0, 0, 10, 10], [0, 1, 10, 11], [50, 50, 60, 60]


def test_right_wrong_missed_and_background_each_have_a_place():
    truths = [(ONE, 1), (AWAY, 2), ([80, 80, 90, 90], 2)]
    found = [(ONE, 1, 0.9), (AWAY, 1, 0.8), ([20, 20, 30, 30], 2, 0.7)]
    assert confusions(truths, found) == [[1, 0, 0], [1, 0, 1], [0, 1, 0]]


def test_the_right_category_is_preferred_to_a_nearer_wrong_one():
    assert confusions([(ONE, 1)], [(ONE, 2, 0.9), (OTHER, 1, 0.3)]) == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]


def test_one_detection_of_two_objects_belongs_to_one_alone():
    assert confusions([(OTHER, 2), (ONE, 1)], [(ONE, 1, 0.9)]) == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]


def test_an_overlap_of_one_half_is_enough():
    assert confusions([(ONE, 1)], [([0, 0, 10, 5], 1, 0.9)]) == [[1, 0, 0], [0, 0, 0], [0, 0, 0]]


def test_the_nearest_belong_together_though_others_would_be_more_pairs():
    truths, found = [([0, 2, 10, 12], 1), ([0, 4, 10, 14], 1)], [([0, 2, 10, 12], 1, 0.3), ([0, 0, 10, 10], 1, 0.9)]
    assert confusions(truths, found) == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_a_detection_inside_a_crowd_is_no_background():
    assert confusions([(AWAY, 1)], [(AWAY, 1, 0.9)], iscrowd=[1]) == [[0, 0, 0], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("seed", [0, 3])
def test_the_counts_are_those_of_supervision(seed):
    """It has no crowds, so the scene's are taken out."""
    from supervision.metrics.detection import ConfusionMatrix

    scene = random_scene(seed)
    scene.dataset["annotations"] = [a for a in scene.dataset["annotations"] if not a["iscrowd"]]
    for target in scene.targets:
        kept = target["iscrowd"] == 0
        for name in ("boxes", "labels", "masks", "area", "iscrowd"):
            target[name] = target[name][kept]
    found = count_confusions(scored(scene, scene.dataset).overlaps("bbox").above(0.3))
    expected = np.zeros((len(CATEGORY_IDS) + 1,) * 2, dtype=int)
    for prediction, target in zip(scene.predictions, scene.targets, strict=True):
        columns = [prediction["boxes"], prediction["labels"][:, None] - 1, prediction["scores"][:, None]]
        truth = torch.cat([target["boxes"], target["labels"][:, None] - 1], dim=1).numpy()
        expected += ConfusionMatrix.evaluate_detection_batch(torch.cat(columns, dim=1).numpy(), truth, 3, 0.3, 0.5)
    assert found.tolist() == expected.tolist()
    assert found[:3, :3].sum() > 0
