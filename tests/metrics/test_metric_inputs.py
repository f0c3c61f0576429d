"""Predictions, targets and official annotations: which forms can be scored, and the errors for others."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch
from metric_scenes import (
    CATEGORY_IDS,
    NAMES,
    Scene,
    crowded_scene,
    numbers,
    one_object,
    one_object_dataset,
    planes,
    random_scene,
    scored,
    without,
)

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.inputs import InputReader, file_ground_truth

KINDS = ("bbox", "segm")


def test_probabilities_of_torchvision_count_above_one_half():
    prediction, target = one_object()
    mask = target["masks"].double()
    probabilities = torch.where(mask.bool(), 0.51, 0.5)[:, None]
    metric = CocoMeanAveragePrecision()

    metric.update([{**without(prediction, "rles"), "masks": probabilities}], [target])

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("form", [torch.Tensor.bool, torch.Tensor.byte, torch.Tensor.numpy])
def test_planes_of_zeros_and_ones_score_as_run_lengths_do(form):
    scene = random_scene()
    predictions = [
        {**without(p, "rles"), "masks": form(planes(p["rles"]))} if p["rles"] else p for p in scene.predictions
    ]

    metric = scored(Scene(predictions, scene.targets, scene.dataset))

    assert numbers(metric) == numbers(scored(scene))


def test_the_area_of_a_target_decides_its_size_not_that_of_its_mask():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [{**target, "area": torch.tensor([5000.0])}])

    assert np.isnan(numbers(metric)["ARs"])
    assert numbers(metric)["ARm"] == 1


@pytest.mark.parametrize("with_area", [False, True])
def test_for_boxes_alone_an_object_has_the_area_of_its_mask_unless_the_target_says_it(with_area):
    mask = torch.eye(48, dtype=torch.uint8)[None]
    box = {"boxes": torch.tensor([[0.0, 0, 48, 48]]), "labels": torch.tensor([1])}
    target = box | {"masks": mask, "image_id": 1} | ({"area": torch.tensor([2000.0])} if with_area else {})
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))

    metric.update([box | {"scores": torch.tensor([0.5])}], [target])

    sizes = {name for name in ("ARs", "ARm") if not np.isnan(numbers(metric, "bbox")[name])}
    assert sizes == ({"ARm"} if with_area else {"ARs"})


def test_what_is_found_where_there_are_no_objects_is_wrong_also_if_the_target_has_no_masks():
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "image_id": 2}
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction, {**prediction, "scores": torch.tensor([0.95])}], [target, nothing])

    assert numbers(metric)["AP"] == pytest.approx(0.5)


def test_crowds_may_be_said_by_booleans():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision()

    metric.update([prediction], [{**target, "iscrowd": torch.tensor([True])}])

    assert metric.evaluation().instances == {1: 0}


def test_masks_of_one_row_are_masks():
    row = torch.tensor([[[0, 1, 1, 1, 0, 0, 0, 0]]], dtype=torch.uint8)
    box = {"boxes": torch.tensor([[1.0, 0, 4, 1]]), "labels": torch.tensor([1]), "masks": row}
    metric = CocoMeanAveragePrecision()

    metric.update([box | {"scores": torch.tensor([0.5])}], [box | {"image_id": 1}])

    assert numbers(metric)["AP"] == pytest.approx(1)


@pytest.mark.parametrize("kind", KINDS)
def test_objects_of_targets_overlap_as_official_ones_do(kind):
    scene = random_scene()
    found, expected = (scored(scene, source).overlaps(kind) for source in (None, scene.dataset))
    for field in fields(found):
        assert np.array_equal(getattr(found, field.name), getattr(expected, field.name)), field.name


def test_without_masks_boxes_can_be_scored_alone():
    prediction, target = one_object()
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))

    metric.update([without(prediction, "rles")], [without(target, "masks")])

    assert set(metric.compute()) == {f"bbox/{name}" for name in NAMES}
    assert numbers(metric, "bbox")["AP"] == pytest.approx(1)


def test_a_box_of_less_than_a_pixel_is_a_small_one():
    box = {"boxes": torch.tensor([[1.0, 1, 1.5, 2]]), "labels": torch.tensor([1]), "image_id": torch.tensor(1)}
    metric = CocoMeanAveragePrecision(iou_types=("bbox",))
    metric.update([box | {"scores": torch.tensor([0.5])}], [box])
    assert (numbers(metric, "bbox")["AP"], numbers(metric, "bbox")["APs"]) == pytest.approx((1, 1))


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


def test_a_category_without_a_name_is_reported():
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


def test_crowds_alone_cannot_be_scored_unless_loaded_as_objects_or_as_crowds(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(named_files(one_object_dataset(iscrowd=1))))
    with pytest.raises(DataError, match='crowds="objects" takes them for single objects'):
        CocoMeanAveragePrecision(tmp_path / "truth.json")
    metric = CocoMeanAveragePrecision(CocoAnnotations.load(tmp_path / "truth.json", crowds="objects"))

    metric.update(*([part] for part in one_object()))

    assert numbers(metric)["AP"] == pytest.approx(1)


def named_files(dataset):
    return {**dataset, "images": [{**image, "file_name": "1.png"} for image in dataset["images"]]}


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
        (
            lambda p, t: ({**p, "boxes": torch.tensor([[1.0, 2, 3, torch.inf]])}, t),
            r"expected finite boxes, got \[1.0, 2.0, 3.0, inf\].*diverged",
        ),
        (lambda p, t: ({**p, "boxes": torch.tensor([[20.0, 30, 29, 12]])}, t), r"Are they x, y, width, height\?"),
        (lambda p, t: ({**p, "boxes": torch.ones(1, 5)}, t), r"expected boxes of shape \(n, 4\), got \(1, 5\)"),
        (lambda p, t: ({**p, "boxes": [["a", "b", "c", "d"]]}, t), "prediction for image 1: expected numbers in boxes"),
        (lambda p, t: ({**p, "labels": torch.tensor([1.5])}, t), r"expected whole numbers in labels, got \[1.5\]"),
        (lambda p, t: ({**p, "rles": [{"counts": b"1"}]}, t), "expected rles with 'size' and 'counts', got {'counts'"),
        (lambda p, t: ({**p, "rles": [b"52"]}, t), "expected rles with 'size' and 'counts', got b'52'"),
        (lambda p, t: (with_code(p, b"o" * 40), t), "run lengths of masks of 40 x 50 = 2000 .* cannot be decoded"),
        (
            lambda p, t: ({**p, "rles": [*p["rles"], *with_code(p, b"52")["rles"]]}, t),
            "expected run lengths .*, got some that sum to 7 pixels: b'52'",
        ),
        (lambda p, t: (with_code(p, b"0"), t), "expected run lengths .*, got some that sum to 0 pixels: b'0'"),
        (
            lambda p, t: (with_code(p, [1000, 1000]), t),
            "expected compressed run lengths, .*frPyObjects compresses numbers",
        ),
        (lambda p, t: (with_code(p, 7), t), "expected compressed run lengths, text or bytes, got 7"),
        (
            lambda p, t: ({**p, "rles": [{"size": [20], "counts": b"1"}]}, t),
            r"expected masks of one size .* got \[\(20,\)\]",
        ),
        (
            lambda p, t: ({**p, "rles": [*p["rles"], {"size": [50, 40], "counts": b"1"}]}, t),
            r"expected masks of one size .* got \[\(40, 50\), \(50, 40\)\]",
        ),
        (
            lambda p, t: ({**p, "rles": [{"size": [40.5, 50], "counts": b"1"}]}, t),
            r"expected masks of one size .* got \[\(40.5, 50\)\]",
        ),
        (
            lambda p, t: ({**p, "rles": [{"size": [40, "50"], "counts": b"1"}]}, t),
            r"expected masks of one size .* got \[\(40, '50'\)\]",
        ),
        (lambda p, t: (p, {**t, "image_id": "a7"}), "image_id of a target: expected a whole number, got 'a7'"),
        (lambda p, t: (p, {**t, "image_id": torch.tensor(7.6)}), r"expected a whole number, got tensor\(7.6"),
        (lambda p, t: (p, {**t, "image_id": True}), "expected a whole number, got True"),
        (lambda p, t: (p, {**t, "image_id": 2**63}), "expected at most 9223372036854775807, got 9223372036854775808"),
        (lambda p, t: (p, {**t, "image_id": torch.tensor([7, 8])}), r"expected a whole number, got tensor\(\[7, 8\]\)"),
        (lambda p, t: (p, {**t, "masks": torch.ones(1, 20, 50)}), r"expected masks of the original size \(20, 50\)"),
        (lambda p, t: (p, {**t, "masks": "all"}), 'target of image 1: expected numbers in masks, got "all"'),
        (lambda p, t: (p, {**t, "masks": torch.ones(40, 50)}), r"expected masks \(n, h, w\) or"),
        (
            lambda p, t: (p, {**t, "masks": torch.ones(1, 2, 40, 50)}),
            r"expected masks \(n, h, w\) or .*\(1, 2, 40, 50\)",
        ),
    ],
)
def test_what_cannot_be_scored_is_reported(change, message):
    prediction, target = change(*one_object())

    with pytest.raises(ValueError, match=message):
        CocoMeanAveragePrecision(category_ids=CATEGORY_IDS).update([prediction], [target])


def test_a_label_0_is_the_background_also_where_labels_are_category_ids():
    prediction, target = one_object(label=0)

    with pytest.raises(ValueError, match=r"expected labels from 1 \(0 is the background\), got 0"):
        CocoMeanAveragePrecision().update([prediction], [target])


def test_content_without_annotations_is_refused():
    with pytest.raises(DataError, match="annotations"):
        CocoMeanAveragePrecision(without(one_object_dataset(), "annotations"))


def test_an_image_that_was_read_with_annotations_is_not_scored_without_them():
    official = file_ground_truth(one_object_dataset(), masks=True)
    image = InputReader(True, None, official).read(*one_object())

    with pytest.raises(ValueError, match="image 1 has no ground truth: it was read with official annotations"):
        InputReader(True, None, official=None).ground_truth(1, image)


def test_an_image_id_may_have_64_bits():
    metric = CocoMeanAveragePrecision()

    metric.update(*([part] for part in one_object(image_id=2**63 - 1)))

    assert metric.matches().image_ids.tolist() == [2**63 - 1]


def test_each_target_needs_a_prediction():
    with pytest.raises(ValueError, match="expected a prediction for each of 1 target, got 0"):
        CocoMeanAveragePrecision().update([], [one_object()[1]])


def test_an_image_that_the_annotations_do_not_have_is_reported():
    with pytest.raises(ValueError, match="image 2 is not in the annotations"):
        CocoMeanAveragePrecision(one_object_dataset()).update(*([part] for part in one_object(image_id=2)))


def test_masks_of_another_size_than_the_annotated_image_are_reported():
    with pytest.raises(ValueError, match=r"original size \(80, 50\) \(height, width\), got \(40, 50\)"):
        CocoMeanAveragePrecision(one_object_dataset(size=(80, 50))).update(*([part] for part in one_object()))


def test_labels_that_mean_other_categories_than_the_annotations_are_reported():
    scene = random_scene()

    with pytest.raises(
        ValueError, match=r"categories \[1.*\], which the annotations do not have there. Give category_ids"
    ):
        CocoMeanAveragePrecision(scene.dataset).update(scene.predictions, scene.targets)


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(DataError, match=r"absent\.json: there is no such annotation file"):
        CocoMeanAveragePrecision(tmp_path / "absent.json")


def test_a_file_that_is_no_json_is_reported(tmp_path):
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
