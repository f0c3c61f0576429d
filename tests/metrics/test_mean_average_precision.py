import copy
import gc
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from metric_scenes import (
    CATEGORY_IDS,
    NAMES,
    Scene,
    as_prediction,
    corners,
    ellipse,
    encode,
    planes,
    pycocotools_evaluation,
    pycocotools_numbers,
    random_scene,
)
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError
from composer_copypaste.metrics import coco_map as coco
from composer_copypaste.metrics import engine
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

SMOKE = Path(__file__).parents[3] / "shared/data/coco_smoke/annotations/instances_val.json"
KINDS = ("bbox", "segm")


def scored(scene, annotations=None, batch=4, **options):
    """The metric after all images of a scene, in batches."""
    metric = CocoMeanAveragePrecision(annotations, **{"category_ids": CATEGORY_IDS, **options})
    for start in range(0, len(scene.targets), batch):
        metric.update(scene.predictions[start : start + batch], scene.targets[start : start + batch])
    return metric


def numbers(metric, kind="segm"):
    return {name.split("/")[1]: float(value) for name, value in metric.compute().items() if name.startswith(kind)}


def without(fields, name):
    return {key: value for key, value in fields.items() if key != name}


def one_object(image_id=1, size=(40, 50), label=1, **changes):
    """A prediction and its target: one object, found exactly."""
    mask = ellipse(*size, (20, 20), (9, 12))
    prediction = as_prediction([(mask, label, 0.9)])
    target = {
        "boxes": prediction["boxes"],
        "labels": torch.tensor([label]),
        "masks": torch.from_numpy(mask.astype(np.uint8))[None],
        "image_id": torch.tensor(image_id),
    }
    return {**prediction, **changes}, target


def one_object_dataset(image_id=1, size=(40, 50), annotation_id=1, **changes):
    rle = encode(ellipse(*size, (20, 20), (9, 12)))
    annotation = {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 1,
        "bbox": coco_mask.toBbox(rle).tolist(),
        "area": int(coco_mask.area(rle)),
        "iscrowd": 0,
        "segmentation": {**rle, "counts": rle["counts"].decode()},
    }
    return {
        "images": [{"id": image_id, "height": size[0], "width": size[1]}],
        "annotations": [{**annotation, **changes}],
        "categories": [{"id": 1, "name": "thing"}],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_twelve_numbers_equal_those_of_pycocotools_with_the_truth_of_the_targets(kind, seed):
    scene = random_scene(seed)

    assert numbers(scored(scene), kind) == pytest.approx(pycocotools_numbers(scene, kind), abs=1e-12, nan_ok=True)


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


def crowded_scene():
    """One image with 300 detections of one category, of which the objects are not the best."""
    height, width = 120, 160
    shapes = [((6 + 12 * row, 6 + 12 * column), (5.0, 5.0)) for row in range(9) for column in range(13)]
    objects = [ellipse(height, width, *shape) for shape in shapes]
    wrong = [(ellipse(height, width, (60, 80), (40 + n / 10, 30)), 1, 0.95 - n / 1000) for n in range(183)]
    found = [(mask, 1, 0.9 - n / 200) for n, mask in enumerate(objects)]
    prediction, rles = as_prediction([*found, *wrong]), [encode(mask) for mask in objects]
    prediction["scores"] = torch.linspace(0.1, 0.9, 300, dtype=torch.float64)
    target = {
        "image_id": 1,
        "boxes": torch.tensor([corners(rle) for rle in rles]),
        "labels": torch.ones(len(rles), dtype=torch.int64),
        "masks": torch.from_numpy(np.stack(objects)),
    }
    annotations = [
        {"id": n + 1, "image_id": 1, "category_id": 3, "bbox": coco_mask.toBbox(rle).tolist(), "iscrowd": 0,
         "area": int(coco_mask.area(rle)), "segmentation": {**rle, "counts": rle["counts"].decode()}}
        for n, rle in enumerate(rles)
    ]  # fmt: skip
    image = {"id": 1, "height": height, "width": width}
    categories = [{"id": id_, "name": str(id_)} for id_ in CATEGORY_IDS]
    return Scene([prediction], [target], {"images": [image], "annotations": annotations, "categories": categories})


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


@pytest.mark.parametrize("kind", KINDS)
def test_without_hotcoco_pycocotools_scores_the_same_and_prints_nothing(monkeypatch, capsys, kind):
    scene = random_scene()
    expected = numbers(scored(scene, scene.dataset), kind)
    monkeypatch.setitem(sys.modules, "hotcoco", None)

    ours = numbers(scored(scene, scene.dataset), kind)

    assert engine._engine()[0].__module__ == "pycocotools.coco"
    assert ours == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert capsys.readouterr().out == ""


@pytest.mark.skipif(not SMOKE.exists(), reason="the data set coco_smoke is not beside the repository")
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


@pytest.mark.parametrize("missing", ["hotcoco", "no engine"])
def test_no_detections_at_all_give_zero(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
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


def test_probabilities_of_torchvision_count_from_one_half():
    prediction, target = one_object()
    mask = target["masks"].double()
    probabilities = torch.where(mask.bool(), 0.51, 0.49)[:, None]
    metric = CocoMeanAveragePrecision()

    metric.update([{**without(prediction, "rles"), "masks": probabilities}], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_planes_of_zeros_and_ones_score_as_run_lengths_do(dtype):
    scene = random_scene()
    predictions = [
        {**without(p, "rles"), "masks": planes(p["rles"]).to(dtype)} if p["rles"] else p for p in scene.predictions
    ]

    metric = scored(Scene(predictions, scene.targets, scene.dataset))

    assert numbers(metric) == numbers(scored(scene))


def test_the_area_of_a_target_decides_its_size_not_that_of_its_mask():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [{**target, "area": torch.tensor([5000.0])}])

    assert np.isnan(numbers(metric)["ARs"])
    assert numbers(metric)["ARm"] == 1


def test_without_masks_boxes_can_be_scored_alone():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))

    metric.update([without(prediction, "rles")], [without(target, "masks")])

    assert set(metric.compute()) == {f"bbox/{name}" for name in NAMES}
    assert numbers(metric, "bbox")["AP"] == pytest.approx(1)


def test_an_annotation_with_the_id_zero_can_be_found(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # pycocotools takes 0 for "not matched"
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision(one_object_dataset(annotation_id=0))

    metric.update([prediction], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("segmentation", [{}, {"segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}])
def test_annotations_without_area_have_that_of_their_mask(segmentation):
    dataset = one_object_dataset(**segmentation)
    del dataset["annotations"][0]["area"]
    metric = CocoMeanAveragePrecision(dataset)

    metric.update(*([part] for part in one_object()))

    assert not np.isnan(numbers(metric)["ARs"])


def test_nulls_and_a_mask_size_of_floats_score_as_what_they_stand_for():
    dataset = one_object_dataset()
    (entry,) = dataset["annotations"]
    height, width = entry["segmentation"]["size"]
    entry |= {"area": None, "iscrowd": None}
    entry["segmentation"] = {**entry["segmentation"], "size": [float(height), float(width)]}
    metric = CocoMeanAveragePrecision(dataset)

    metric.update(*([part] for part in one_object()))

    assert numbers(metric)["AP"] == pytest.approx(1)


def test_keys_that_scoring_does_not_use_never_reach_the_engine():
    extra = {"score": "0.97", "keypoints": [None, None, 0], "num_keypoints": "3", "obb": "x", "is_group_of": None}
    metric = CocoMeanAveragePrecision(one_object_dataset(**extra))

    metric.update(*([part] for part in one_object()))

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": "10 20"}, 'box "10 20" is not'),
        ({"segmentation": [[1, 2, 30, 40]]}, "polygon has 4 numbers"),
        ({"segmentation": {"size": [40, 50], "counts": [1, 2]}}, "mask's counts sum to 3 pixels, the image has 2000"),
        ({"category_id": "1"}, 'category_id is "1" \\(text\\), the categories\' ids are whole numbers'),
    ],
)
def test_annotations_that_no_data_set_takes_are_not_scored_against(change, message):
    with pytest.raises(DataError, match=message):
        CocoMeanAveragePrecision(one_object_dataset(**change))


def test_a_category_without_a_name_is_said():
    with pytest.raises(DataError, match="category 1: has no 'name'"):
        CocoMeanAveragePrecision({**one_object_dataset(), "categories": [{"id": 1}]})


def test_a_missing_box_is_that_of_the_mask():
    metric = CocoMeanAveragePrecision(one_object_dataset(bbox=None))

    metric.update(*([part] for part in one_object()))

    assert numbers(metric, "bbox")["AP"] == pytest.approx(1)


def test_for_boxes_alone_annotations_need_no_outline():
    dataset = one_object_dataset()
    del dataset["annotations"][0]["segmentation"], dataset["annotations"][0]["area"]
    metric = CocoMeanAveragePrecision(dataset, iou_types=("bbox",))

    metric.update(*([part] for part in one_object()))

    assert numbers(metric, "bbox")["AP"] == pytest.approx(1)


def test_truth_of_crowds_alone_is_refused_and_loaded_annotations_say_what_they_are(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(named_files(one_object_dataset(iscrowd=1))))
    with pytest.raises(DataError, match='crowds="objects" takes them for single objects'):
        CocoMeanAveragePrecision(tmp_path / "truth.json")
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(tmp_path / "truth.json", crowds="objects"))

    metric.update(*([part] for part in one_object()))

    assert numbers(metric)["AP"] == pytest.approx(1)


def named_files(dataset):
    return {**dataset, "images": [{**image, "file_name": "1.png"} for image in dataset["images"]]}


def test_garbage_is_collected_again_after_scoring():
    metric = CocoMeanAveragePrecision()
    metric.update(*([part] for part in one_object()))

    metric.compute()

    assert gc.isenabled()


def test_the_given_annotations_stay_as_they_are(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)  # pycocotools changes what it is given
    scene = random_scene()
    before = copy.deepcopy(scene.dataset)

    scored(scene, scene.dataset).compute()

    assert scene.dataset == before


@pytest.mark.parametrize("missing", ["hotcoco", "no engine"])
def test_detections_of_categories_that_the_data_set_lacks_are_not_scored(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    (found, target), (other, _) = one_object(), one_object(label=2)
    merged = {name: torch.cat([found[name], other[name]]) for name in ("boxes", "scores", "labels")}
    metric = CocoMeanAveragePrecision(one_object_dataset())

    metric.update([{**merged, "rles": found["rles"] + other["rles"]}], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


def test_more_masks_than_pycocotools_measures_at_once_can_be_scored():
    scene = crowded_scene()
    fields = without(scene.targets[0], "image_id")
    many = {name: values.repeat(3, *[1] * (values.ndim - 1)) for name, values in fields.items()}
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)

    metric.update(scene.predictions, [{**many, "image_id": 1}])

    assert metric.evaluation().instances[3] == 351


def with_code(prediction, counts):
    """The prediction with one mask of 40 x 50 pixels of these run lengths."""
    return {**prediction, "rles": [{"size": [40, 50], "counts": counts}]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, t: (p, without(t, "image_id")), "a target has no 'image_id'"),
        (lambda p, t: (p, without(t, "labels")), "target of image 1: expected 'labels', got only 'boxes'"),
        (lambda p, t: (without(p, "scores"), t), "prediction for image 1: expected 'scores'"),
        (lambda p, t: ({**p, "labels": torch.tensor([0])}, t), "expected labels in 1..3, .* got 0"),
        (lambda p, t: ({**p, "labels": torch.tensor([4])}, t), "expected labels in 1..3, .* got 4"),
        (lambda p, t: (p, {**t, "labels": torch.tensor([1, 2])}), r"expected labels for 1 box, got shape \(2,\)"),
        (lambda p, t: ({**p, "rles": p["rles"] * 2}, t), "expected a mask for each of 1 box, got 2"),
        (lambda p, t: (without(p, "rles"), t), r"'segm' needs 'masks' or 'rles', .* iou_types=\('bbox',\)"),
        (lambda p, t: ({**p, "scores": torch.tensor([float("nan")])}, t), "expected finite scores, got .*diverged"),
        (lambda p, t: ({**p, "boxes": torch.full((1, 4), torch.inf)}, t), "expected finite boxes, got .*diverged"),
        (lambda p, t: ({**p, "boxes": torch.tensor([[20.0, 30, 9, 12]])}, t), r"Are they x, y, width, height\?"),
        (lambda p, t: ({**p, "boxes": torch.ones(1, 5)}, t), r"expected boxes of shape \(n, 4\), got \(1, 5\)"),
        (lambda p, t: ({**p, "boxes": [["a", "b", "c", "d"]]}, t), "prediction for image 1: expected numbers in boxes"),
        (lambda p, t: ({**p, "labels": torch.tensor([1.5])}, t), r"expected whole numbers in labels, got \[1.5\]"),
        (lambda p, t: ({**p, "rles": [{"counts": b"1"}]}, t), "expected rles with 'size' and 'counts', got {'counts'"),
        (lambda p, t: (with_code(p, b"o" * 40), t), "run lengths of masks of 40 x 50 = 2000 .* cannot be decoded"),
        (lambda p, t: (with_code(p, b"52"), t), "expected run lengths .*, got some that sum to 7 pixels: b'52'"),
        (
            lambda p, t: (with_code(p, [1000, 1000]), t),
            "expected compressed run lengths, .*frPyObjects compresses numbers",
        ),
        (lambda p, t: (with_code(p, 7), t), "expected compressed run lengths, text or bytes, got 7"),
        (
            lambda p, t: ({**p, "rles": [{"size": [20], "counts": b"1"}]}, t),
            r"expected masks of one size .* got \[\(20,\)\]",
        ),
        (lambda p, t: (p, {**t, "image_id": "a7"}), "image_id of a target: expected a whole number, got 'a7'"),
        (lambda p, t: (p, {**t, "image_id": torch.tensor(7.6)}), r"expected a whole number, got tensor\(7.6"),
        (lambda p, t: (p, {**t, "image_id": True}), "expected a whole number, got True"),
        (lambda p, t: (p, {**t, "masks": torch.ones(1, 20, 50)}), r"expected masks of the original size \(20, 50\)"),
        (lambda p, t: (p, {**t, "masks": torch.ones(40, 50)}), r"expected masks \(n, h, w\) or"),
    ],
)
def test_what_cannot_be_scored_is_said(change, message):
    prediction, target = change(*one_object())

    with pytest.raises(ValueError, match=message):
        CocoMeanAveragePrecision(category_ids=CATEGORY_IDS).update([prediction], [target])


def test_each_target_needs_a_prediction():
    with pytest.raises(ValueError, match="expected a prediction for each of 1 target, got 0"):
        CocoMeanAveragePrecision().update([], [one_object()[1]])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_dets": (10, 1)}, "max_dets: expected ascending numbers"),
        ({"max_dets": ()}, "max_dets: expected ascending numbers"),
        ({"iou_types": ("bbox", "bbox")}, "iou_types: expected 'bbox', 'segm' or both"),
        ({"annotations": one_object_dataset(), "category_ids": (1, 2)}, r"category_ids: .* got \[2\]"),
    ],
)
def test_an_argument_out_of_range_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        CocoMeanAveragePrecision(**options)


def test_an_image_that_the_annotations_do_not_have_is_said():
    with pytest.raises(ValueError, match="image 2 is not in the annotations"):
        CocoMeanAveragePrecision(one_object_dataset()).update(*([part] for part in one_object(image_id=2)))


def test_masks_of_another_size_than_the_annotated_image_are_said():
    with pytest.raises(ValueError, match=r"original size \(80, 50\) \(height, width\), got \(40, 50\)"):
        CocoMeanAveragePrecision(one_object_dataset(size=(80, 50))).update(*([part] for part in one_object()))


def test_labels_that_mean_other_categories_than_the_annotations_are_said():
    scene = random_scene()

    with pytest.raises(
        ValueError, match=r"categories \[1.*\], which the annotations do not have there. Give category_ids"
    ):
        CocoMeanAveragePrecision(scene.dataset).update(scene.predictions, scene.targets)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: there is no such annotation file"):
        CocoMeanAveragePrecision(tmp_path / "absent.json")


def test_a_file_that_is_no_json_is_said(tmp_path):
    (tmp_path / "broken.json").write_text("{")

    with pytest.raises(DataError, match=r"broken\.json: line 1, column 2: not valid JSON"):
        CocoMeanAveragePrecision(str(tmp_path / "broken.json"))


def test_all_problems_of_the_annotations_are_listed_together():
    dataset = one_object_dataset(image_id=5)
    dataset["annotations"] += [{**dataset["annotations"][0], "id": 8, "segmentation": []}]
    dataset["annotations"] += [{"id": 9, "image_id": 77, "category_id": 8}]

    with pytest.raises(DataError) as error:
        CocoMeanAveragePrecision(dataset)

    for part in (
        "annotation 8 (image 5): has no segmentation",
        "annotation 9 (image 77): the image is not among the file's images",
        "annotation 9 (image 77): category 8 is not among the file's categories",
    ):
        assert part in str(error.value)


def test_after_a_reset_nothing_is_left():
    scene = random_scene()
    metric = scored(scene)
    metric.compute()

    metric.reset()
    metric.update(scene.predictions[:5], scene.targets[:5])

    assert numbers(metric) == pytest.approx(numbers(scored(scene.first(5))), nan_ok=True)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_a_copy_goes_on_where_the_metric_was_and_apart_from_it(copied):
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


def test_called_as_a_function_it_updates():
    scene = random_scene()
    metric = CocoMeanAveragePrecision(category_ids=CATEGORY_IDS)

    for prediction, target in zip(scene.predictions, scene.targets, strict=True):
        metric([prediction], [target])

    assert numbers(metric) == numbers(scored(scene))


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
    scene, calls, evaluate = random_scene(), [], coco.evaluate
    scalars = copy.deepcopy(CocoMeanAveragePrecision(category_ids=CATEGORY_IDS).scalars())
    monkeypatch.setattr(coco, "evaluate", lambda *given: calls.append(1) or evaluate(*given))

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
    first.update(scene.predictions, scene.targets)

    assert second.compute() == numbers(scored(scene))["AP50"]
