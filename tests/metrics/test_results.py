"""COCO results as a file has them."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from metric_scenes import random_scene
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.results import CocoResults, read_results

IMAGE = {"id": 3, "file_name": "a.jpg", "height": 20, "width": 30}
SQUARE = [2, 2, 12, 2, 12, 12, 2, 12]
RLE = coco_mask.frPyObjects([SQUARE], 20, 30)[0]
MASK = {"size": [20, 30], "counts": RLE["counts"].decode()}
GOOD = {"image_id": 3, "category_id": 7, "score": 0.5, "bbox": [2, 2, 10, 10]}


@pytest.fixture
def annotations(tmp_path):
    """One image with one object."""
    path = tmp_path / "val.json"
    one = {"id": 1, "image_id": 3, "category_id": 7, "bbox": [2, 2, 10, 10], "segmentation": [SQUARE], "iscrowd": 0}
    path.write_text(json.dumps({"images": [IMAGE], "annotations": [one], "categories": [{"id": 7, "name": "nut"}]}))
    return CocoAnnotations.load(path)


def load(results, annotations):
    path = annotations.path.with_name("results.json")
    path.write_text(json.dumps(results))
    return CocoResults.load(path, annotations)


@pytest.mark.parametrize(
    "mask",
    [MASK, {**MASK, "order": "F"}, {"size": [20, 30], "counts": [42, 10, *[10, 10] * 9, 368]}, [SQUARE]],
    ids=["text", "text by column", "numbers", "polygon"],
)
def test_masks_are_read_in_each_form_and_a_missing_box_is_that_of_its_mask(mask, annotations):
    found = load([{**GOOD, "segmentation": mask, "bbox": None}], annotations)
    assert found.masks
    (image,) = found.images.values()
    assert image.masks.rles() == [RLE]
    assert image.boxes.tolist() == [[2, 2, 10, 10]]


def test_boxes_alone_are_read_exactly(annotations):
    found = load([{**GOOD, "bbox": [0.1, 0.7, 0.2, 0.1]}], annotations)
    assert not found.masks
    assert found.images[3].boxes.tolist() == [[0.1, 0.7, 0.2, 0.1]]


def test_a_file_without_results_is_one_in_which_nothing_was_found(annotations, recwarn):
    found = load([], annotations)
    assert (found.images, found.masks) == ({}, False)
    assert not recwarn.list


def test_without_annotations_masks_have_the_size_that_they_say():
    of_image_1 = [{**GOOD, "image_id": 1, "segmentation": MASK} for _ in range(2)]
    found = read_results([*of_image_1, {**GOOD, "segmentation": MASK}], Path("results.json"))
    assert not found.problems
    assert list(found.results.images) == [1, 3]
    assert found.results.images[1].masks.rles() == [RLE, RLE]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": None}, "result number 2: score is null, expected a number"),
        ({"score": "0.5"}, 'result number 2: score is "0.5" (text), expected a number'),
        ({"score": True}, "result number 2: score is true, expected a number"),
        ({"bbox": [1, 2, 3]}, r"result number 2: bbox is [1, 2, 3], expected 4 numbers, [x, y, width, height]"),
        (
            {"bbox": [1, 2, None, 4]},
            "result number 2: bbox is [1, 2, null, 4], expected 4 numbers, [x, y, width, height]",
        ),
        ({"bbox": 5}, "result number 2: bbox is 5, expected 4 numbers, [x, y, width, height]"),
        ({"bbox": [9, 9, -0.5, 3]}, "result number 2: bbox [9, 9, -0.5, 3] has a negative width or height"),
        ({"bbox": [9, 9, 3, -0.5]}, "result number 2: bbox [9, 9, 3, -0.5] has a negative width or height"),
        ({"image_id": "3"}, 'result number 2: image_id is "3" (text), expected a whole number'),
        ({"bbox": None}, "result number 2: has neither 'bbox' nor 'segmentation'"),
        ({"segmentation": MASK}, "1 of 2 results have no 'segmentation'; expected a mask in all of them, or in none"),
        (
            {"segmentation": MASK, "bbox": None},
            "1 of 2 results have no 'segmentation'; expected a mask in all of them, or in none",
        ),
    ],
)
def test_what_cannot_be_used_is_named(wrong, message, annotations):
    with pytest.raises(DataError) as raised:
        load([GOOD, {**GOOD, **wrong}], annotations)
    assert str(raised.value).endswith(f"results.json: {message}")


def test_a_result_that_is_no_object_is_named_and_that_no_other_is_left_is_not_said(annotations):
    with pytest.raises(DataError, match=r"results\.json: result number 1: expected an object, got 5$"):
        load([5], annotations)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score": float("inf")}, "score is Infinity, expected a number"),
        ({"score": 10**400}, f"score is {10**76}..., expected a number"),
        ({"bbox": [10**400, 2, 3, 4]}, f"bbox is [{10**75}..., expected 4 numbers, [x, y, width, height]"),
        ({"image_id": 2**63}, "image_id is 9223372036854775808, expected at most 9223372036854775807"),
        ({"category_id": -(2**63)}, "category_id is -9223372036854775808, expected at most 9223372036854775807"),
    ],
)
def test_numbers_that_are_too_large_are_named(wrong, message):
    assert read_results([{**GOOD, **wrong}], Path("results.json")).problems == [f"result number 1: {message}"]


def test_without_annotations_a_mask_may_be_a_row_as_long_as_that_of_the_largest_image():
    mask = {"size": [1, 2**31 - 1], "counts": [2**31 - 1]}
    assert not read_results([{**GOOD, "segmentation": mask}], Path("results.json")).problems


def test_a_run_that_pycocotools_cannot_hold_is_named():
    mask = {"size": [2**16, 2**16], "counts": [2**32]}
    [problem] = read_results([{**GOOD, "segmentation": mask}], Path("results.json")).problems
    assert problem.endswith("mask cannot be decoded: its counts are not numbers of pixels: [4294967296]")


def test_ids_may_have_64_bits():
    largest = {"image_id": 2**63 - 1, "category_id": 2**63 - 1}
    found = read_results([{**GOOD, **largest}], Path("results.json")).results
    assert found.images[2**63 - 1].categories.tolist() == [2**63 - 1]


def test_a_box_without_width_and_height_is_a_box(annotations):
    assert load([{**GOOD, "bbox": [2, 2, 0, 0]}], annotations).images[3].boxes.tolist() == [[2, 2, 0, 0]]


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ({"size": [30, 20], "counts": MASK["counts"]}, "mask has size [30, 20], its image has [20, 30]"),
        ({"size": [20], "counts": MASK["counts"]}, "mask has size [20], its image has [20, 30]"),
        ({"size": [20, 30], "counts": "52"}, "the mask has 7 pixels, its image has 600"),
        ({"size": [20, 30], "counts": "0"}, "the mask has 0 pixels, its image has 600"),
        ({"size": [20, 30], "counts": "o" * 40}, "the mask cannot be decoded"),
        ({"size": [20, 30], "counts": "\u00e9"}, "mask cannot be decoded"),
        ({"size": [20, 30], "counts": "\ud800"}, "mask cannot be decoded"),  # no text in UTF-8
        ({**MASK, "order": "C"}, 'run lengths have the order "C"; expected them column by column'),
        ([[1, 2, 3]], "polygon has 3 numbers, needs at least 6"),
    ],
)
def test_a_mask_that_cannot_be_used_is_named(mask, message, annotations):
    with pytest.raises(DataError, match=r"result number 1 \(image 3\): ") as raised:
        load([{**GOOD, "segmentation": mask, "bbox": None}], annotations)
    assert message in str(raised.value)


def test_of_results_with_bad_masks_the_others_are_read_and_each_bad_one_is_named_by_its_number():
    masks = [MASK, [[1, 2, 3]], {**MASK, "counts": "52"}, MASK]
    results = [{**GOOD, "score": score, "segmentation": mask} for score, mask in zip((4, 3, 2, 1), masks, strict=True)]

    found = read_results(results, Path("results.json"))

    assert [text.split(" (")[0] for text in found.problems] == ["result number 2", "result number 3"]
    image = found.results.images[3]
    assert (image.scores.tolist(), image.masks.rles()) == ([4, 1], [RLE, RLE])
    assert len(image.boxes) == len(image.categories) == 2


@pytest.mark.parametrize(
    "mask",
    [[SQUARE], *({**MASK, "size": size} for size in (["20", 30], [20, None, 30], [-20, -30], [600, 0], [1, 2**31]))],
)
def test_masks_whose_image_has_no_known_size_are_named(mask):
    problems = read_results([{**GOOD, "segmentation": mask}], Path("results.json")).problems
    said = "without annotations, a mask has to say the size of its image, [height, width], as polygons cannot"
    assert problems == [f"result number 1 (image 3): {said}"]


def test_results_are_scored_by_official_annotations_only():
    with pytest.raises(ValueError, match="results of a file are scored by official annotations: give annotations"):
        CocoMeanAveragePrecision().update_results({})


def test_results_that_come_after_a_computation_are_scored(annotations, recwarn):
    metric = CocoMeanAveragePrecision(annotations)
    assert metric.evaluation().images == 0
    metric.update_results(load([{**GOOD, "segmentation": MASK}], annotations).images)
    assert metric.compute()["segm/AP"] == pytest.approx(1)
    assert not recwarn.list  # torchmetrics warns of what is computed before an update


def test_of_two_results_for_the_same_image_the_first_counts(annotations):
    metric = CocoMeanAveragePrecision(annotations)
    metric.update_results(load([{**GOOD, "segmentation": MASK}], annotations).images)
    metric.update_results({})
    assert metric.compute()["segm/AP"] == pytest.approx(1)


def test_an_image_without_results_is_one_in_which_nothing_was_found(annotations):
    metric = CocoMeanAveragePrecision(annotations)
    metric.update_results({})
    assert metric.compute()["segm/AP"] == 0
    assert metric.detections()[3].masks.rles() == []


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": [], "annotations": []}, "COCO annotations, which are what results are scored by"),
        ({"images": [1]}, '{"images": [1]}'),
        ({"annotations": [1]}, '{"annotations": [1]}'),
        (5, "5"),
    ],
)
def test_a_file_of_something_else_is_refused(content, found, annotations):
    with pytest.raises(DataError) as raised:
        load(content, annotations)
    assert str(raised.value).endswith(
        f"results.json: expected a list of COCO results (image_id, category_id, score, bbox), got {found}"
    )


def test_results_on_unknown_images_and_of_unknown_categories_are_left_out_with_a_warning(annotations):
    with pytest.warns(DataWarning) as warned:
        found = load([GOOD, {**GOOD, "image_id": 9}, {**GOOD, "category_id": 8}], annotations)
    assert [len(image.scores) for image in found.images.values()] == [1]
    texts = [str(each.message).partition(": ")[2] for each in warned]
    assert texts[0].startswith("left out 1 result on 1 image that ")
    assert texts[1].startswith("left out 1 result of categories that ")


def test_results_of_another_data_set_are_refused(annotations):
    with pytest.raises(DataError, match="were they made for other annotations"):
        load([{**GOOD, "image_id": 9}], annotations)


@pytest.mark.parametrize("box", [[20, 15, 30, 20], [20, 1, 30, 9], [1, 15, 9, 20]])
def test_corners_in_place_of_sizes_are_doubted(box, annotations):
    with pytest.warns(DataWarning, match="1 of 1 boxes reach far beyond their image.*are they x1, y1, x2, y2"):
        load([{**GOOD, "bbox": box}], annotations)


def test_a_tenth_beyond_the_image_and_one_box_in_ten_are_not_doubted(annotations, recwarn):
    load([{**GOOD, "bbox": [0, 0, 10, 22]}], annotations)  # the image has 20 rows
    load([*[GOOD] * 9, {**GOOD, "bbox": [0, 0, 10, 99]}], annotations)
    assert not recwarn.list


def test_scores_are_pycocotools_to_the_last_digit(tmp_path, capsys):
    scene = random_scene(3)
    results = [{**r, "segmentation": {**r["segmentation"], "counts": r["segmentation"]["counts"].decode()}}
               for r in scene.results]  # fmt: skip
    for number, result in enumerate(results):
        result["bbox"] = [value + 0.1 * (number % 7) for value in result["bbox"]]
    (tmp_path / "val.json").write_text(json.dumps(scene.dataset))
    (tmp_path / "results.json").write_text(json.dumps(results))
    truth = CocoAnnotations.load(tmp_path / "val.json", crowds="ignore")
    metric = CocoMeanAveragePrecision(truth)
    metric.update_results(CocoResults.load(tmp_path / "results.json", truth).images)
    for kind in ("bbox", "segm"):
        coco = COCO(str(tmp_path / "val.json"))
        given = copy.deepcopy(results)
        for result in given if kind == "segm" else []:
            del result["bbox"]
        evaluation = COCOeval(coco, coco.loadRes(given), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        names = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
        found = np.array([metric.compute()[f"{kind}/{name}"] for name in names])
        assert np.nan_to_num(found, nan=-1) == pytest.approx(evaluation.stats, abs=1e-12)
