"""The numbers of the metric, next to those of pycocotools, and the metric's state."""

import copy
import gc
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_scenes import (
    CATEGORY_IDS,
    NAMES,
    Scene,
    as_prediction,
    crowded_scene,
    numbers,
    one_object,
    one_object_dataset,
    pycocotools_evaluation,
    pycocotools_numbers,
    random_scene,
    scored,
)
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.metrics import coco_map as coco
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

SMOKE = Path(__file__).parents[3] / "shared/data/coco_smoke/annotations/instances_val.json"
KINDS = ("bbox", "segm")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_twelve_numbers_equal_those_of_pycocotools_with_the_truth_of_the_targets(kind, seed):
    scene = random_scene(seed)

    assert numbers(scored(scene), kind) == pytest.approx(pycocotools_numbers(scene, kind), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(10, 15))
def test_precision_and_recall_at_every_threshold_equal_those_of_pycocotools(kind, seed):
    scene = random_scene(seed)

    ours = scored(scene, scene.dataset).evaluation().scores[kind]

    expected = pycocotools_evaluation(scene, kind).eval
    assert np.array_equal(ours.precision, expected["precision"][..., -1])
    assert np.array_equal(ours.recall, expected["recall"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_random_scenes_have_crowds_and_objects_of_every_size(kind):
    expected = pycocotools_numbers(random_scene(), kind)

    assert all(0 < value < 1 for value in expected.values())
    assert sum(annotation["iscrowd"] for annotation in random_scene().dataset["annotations"]) > 3


@pytest.mark.parametrize("kind", KINDS)
def test_with_official_annotations_their_areas_and_crowds_count_not_those_of_the_targets(kind):
    scene = random_scene()
    for number, annotation in enumerate(scene.dataset["annotations"]):
        annotation["area"] *= 1.5
        annotation["iscrowd"] = int(number % 4 == 0)

    ours = numbers(scored(scene, scene.dataset), kind)

    assert ours == pytest.approx(pycocotools_numbers(scene, kind), abs=1e-12, nan_ok=True)
    assert ours["AP"] != pytest.approx(numbers(scored(scene), kind)["AP"], abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("category", range(3))
def test_the_numbers_of_a_category_equal_those_of_pycocotools_for_it_alone(kind, category):
    scene = random_scene()

    ours = scored(scene).evaluation().per_category()[kind][CATEGORY_IDS[category]]

    expected = pycocotools_numbers(scene, kind, categories=[CATEGORY_IDS[category]])
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_with_more_detections_allowed_the_numbers_equal_those_of_pycocotools(kind):
    scene = crowded_scene()

    ours = numbers(scored(scene, max_dets=(1, 10, 500)), kind)

    evaluation = pycocotools_evaluation(scene, kind, max_dets=(1, 10, 500))
    precision = evaluation.eval["precision"][:, :, :, 0, 2]
    expected = dict(zip(("AP", *NAMES[1:8], "AR500", *NAMES[9:]), evaluation.stats, strict=True))
    expected |= {"AP": precision[precision > -1].mean(), "APl": np.nan, "ARl": np.nan, "APm": np.nan, "ARm": np.nan}
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert ours["AR500"] > numbers(scored(scene), kind)["AR100"]


def test_any_number_of_limits_gives_a_recall_for_each():
    metric = scored(random_scene(), max_dets=(2, 5, 20, 50))

    assert {"AR2", "AR5", "AR20", "AR50"} < set(numbers(metric))
    assert len(numbers(metric)) == 13


@pytest.mark.skipif(not SMOKE.exists(), reason="the data set coco_smoke is not next to the repository")
@pytest.mark.parametrize("kind", KINDS)
def test_on_real_annotations_with_polygons_the_numbers_equal_those_of_pycocotools(kind):
    dataset = json.loads(SMOKE.read_text())
    ids = sorted(category["id"] for category in dataset["categories"])
    generator = np.random.default_rng(0)
    predictions, targets = [], []
    for image in dataset["images"]:
        found = []
        for annotation in (a for a in dataset["annotations"] if a["image_id"] == image["id"]):
            polygons = coco_mask.frPyObjects(annotation["segmentation"], image["height"], image["width"])
            moved = np.roll(coco_mask.decode(coco_mask.merge(polygons)), generator.integers(-4, 5, 2), axis=(0, 1))
            found.append((moved, ids.index(annotation["category_id"]) + 1, generator.random()))
        predictions.append(as_prediction(found))
        targets.append({"image_id": torch.tensor(image["id"])})
    metric = CocoMeanAveragePrecision(SMOKE, category_ids=ids)

    metric.update(predictions, targets)

    scene = Scene(predictions, targets, dataset, tuple(ids))
    assert numbers(metric, kind) == pytest.approx(pycocotools_numbers(scene, kind), abs=1e-12, nan_ok=True)


def test_an_image_given_twice_counts_once():
    scene = random_scene()
    metric = scored(scene)

    metric.update(scene.predictions[:3], scene.targets[:3])

    assert numbers(metric) == numbers(scored(scene))
    assert metric.evaluation().images == len(scene.targets)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_images_given_are_evaluated_also_those_without_detections(kind):
    scene = random_scene().first(8)
    assert not scene.predictions[6]["rles"]

    metric = scored(scene, scene.dataset)

    images = [int(target["image_id"]) for target in scene.targets]
    expected = pycocotools_numbers(scene, kind, images=images)
    assert numbers(metric, kind) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_of_two_results_for_the_same_image_the_first_counts():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [target])
    metric.update([as_prediction([])], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


def test_what_is_found_exactly_has_no_more_than_all_precision_and_recall():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [target])

    assert all(1 - 1e-12 < value <= 1 for value in numbers(metric).values() if not np.isnan(value))


def test_no_detections_at_all_give_zero():
    _, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([as_prediction([])], [target])

    assert numbers(metric)["AP"] == 0


def test_a_number_without_ground_truth_is_nan():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [target])

    found = {name for name, value in numbers(metric).items() if not np.isnan(value)}
    assert found == {"AP", "AP50", "AP75", "APs", "AR1", "AR10", "AR100", "ARs"}


def test_before_any_image_all_numbers_are_nan():
    with pytest.warns(UserWarning, match="before the ``update``"):
        values = CocoMeanAveragePrecision().compute().values()

    assert len(values) == 24
    assert all(value.isnan() for value in values)


def test_an_annotation_with_the_id_zero_can_be_found():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision(one_object_dataset(annotation_id=0))

    metric.update([prediction], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


def test_garbage_is_collected_again_after_scoring():
    metric = CocoMeanAveragePrecision()
    metric.update(*([part] for part in one_object()))

    metric.compute()

    assert gc.isenabled()


def test_the_given_annotations_stay_as_they_are():
    scene = random_scene()
    before = copy.deepcopy(scene.dataset)

    scored(scene, scene.dataset).compute()

    assert scene.dataset == before


def test_detections_of_categories_that_the_data_set_lacks_are_not_scored():
    (found, target), (other, _) = one_object(), one_object(label=2)
    merged = {name: torch.cat([found[name], other[name]]) for name in ("boxes", "scores", "labels")}
    metric = CocoMeanAveragePrecision(one_object_dataset())

    metric.update([{**merged, "rles": found["rles"] + other["rles"]}], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dets": (10, 1)}, "max_dets: expected ascending numbers"),
        ({"max_dets": ()}, "max_dets: expected ascending numbers"),
        ({"max_dets": (0, 10)}, "max_dets: expected ascending numbers"),
        ({"max_dets": (1, 10, 10)}, "max_dets: expected ascending numbers"),
        ({"iou_types": ()}, "iou_types: expected 'bbox', 'segm' or both"),
        ({"iou_types": ("bbox", "bbox")}, "iou_types: expected 'bbox', 'segm' or both"),
        ({"annotations": one_object_dataset(), "category_ids": (1, 2)}, r"category_ids: .* got \[2\]"),
    ],
)
def test_an_argument_out_of_range_is_reported(options, message):
    with pytest.raises(ValueError, match=message):
        CocoMeanAveragePrecision(**options)


def test_after_a_reset_nothing_is_left():
    scene = random_scene()
    metric = scored(scene)
    metric.compute()

    metric.reset()
    metric.update(scene.predictions[:5], scene.targets[:5])

    assert numbers(metric) == pytest.approx(numbers(scored(scene.first(5))), nan_ok=True)


def test_it_is_scored_again_only_after_other_images_or_a_reset():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()
    metric.update([prediction], [target])
    first = metric.evaluation()

    metric.update([prediction], [target])
    assert metric.evaluation() is first
    metric.update([prediction], [target | {"image_id": 2}])
    assert metric.evaluation().images == 2
    metric.reset()
    assert metric.evaluation().images == 0
    assert not metric.update_called


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_a_copy_continues_from_the_metric_and_independently_of_it(copied):
    scene = random_scene()
    metric = scored(scene.first(5), scene.dataset)
    metric.compute()

    other = copied(metric)
    other.update(scene.predictions[5:], scene.targets[5:])

    assert numbers(other) == numbers(scored(scene, scene.dataset))
    assert metric.evaluation().images == 5


def test_copies_share_the_official_annotations():
    metric = CocoMeanAveragePrecision(random_scene().dataset)

    assert copy.deepcopy(metric)._reader.official is metric._reader.official


def test_a_call_updates_the_metric():
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)

    for prediction, target in zip(scene.predictions, scene.targets, strict=True):
        metric([prediction], [target])

    assert numbers(metric) == numbers(scored(scene))


def test_a_call_of_a_scalar_updates_the_metric():
    metric = CocoMeanAveragePrecision()
    prediction, target = one_object()

    metric.scalars()["segm/AP"]([prediction], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


def test_the_categories_of_labels_are_known_from_annotations_and_the_ids_of_labels_together():
    dataset = random_scene().dataset

    metric = CocoMeanAveragePrecision(dataset, category_ids=(90, 3))

    assert metric.categories == (Category(90, "thing 90"), Category(3, "thing 3"))
    assert CocoMeanAveragePrecision(dataset).categories is None
    assert CocoMeanAveragePrecision(category_ids=(90, 3)).categories is None


def test_crowds_are_no_instances_of_their_category():
    scene = random_scene()

    instances = scored(scene, scene.dataset).evaluation().instances

    single = [each["category_id"] for each in scene.dataset["annotations"] if not each["iscrowd"]]
    assert instances == {category: single.count(category) for category in CATEGORY_IDS}


def test_moved_to_another_device_it_keeps_its_images():
    metric = scored(random_scene()).to("meta")

    assert metric.evaluation().images == 14


def test_the_scalars_are_the_numbers_of_the_metric():
    metric = scored(random_scene())

    scalars = metric.scalars()

    assert list(scalars) == list(metric.compute())
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert {name: float(scalar.compute()) for name, scalar in scalars.items()} == pytest.approx(
            {name: float(value) for name, value in metric.compute().items()}, nan_ok=True
        )


def test_scalars_copied_as_one_dict_share_their_images_and_are_scored_once(monkeypatch):
    scene, calls, evaluate = random_scene(), [], coco.score_images
    scalars = copy.deepcopy(CocoMeanAveragePrecision(category_ids=CATEGORY_IDS).scalars())
    monkeypatch.setattr(coco, "score_images", lambda *given: calls.append(1) or evaluate(*given))

    for scalar in scalars.values():
        scalar.update(scene.predictions, scene.targets)
    values = {name: scalar.compute() for name, scalar in scalars.items()}

    assert calls == [1]
    assert values["segm/AP"] == numbers(scored(scene))["AP"]


def test_a_scalar_follows_updates_and_resets_made_through_another():
    scene = random_scene()
    first, second = [*CocoMeanAveragePrecision(category_ids=CATEGORY_IDS).scalars().values()][12:14]
    first.update(scene.predictions[:5], scene.targets[:5])
    second.update(scene.predictions[:5], scene.targets[:5])
    second.compute()

    first.reset()
    assert not first.update_called
    assert second.whole.evaluation().images == 0
    first.update(scene.predictions, scene.targets)

    assert second.compute() == numbers(scored(scene))["AP50"]
