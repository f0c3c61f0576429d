import json
import math

import pytest
import torch

from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision
from composer_copypaste.metrics.report import evaluation_report, score_tables, write_json

NAMES = {1: "bolt", 2: "nut", 3: "washer"}


def square(side, label, corner=0):
    """The box and the mask of a square object."""
    mask = torch.zeros(120, 120, dtype=torch.uint8)
    mask[corner : corner + side, corner : corner + side] = 1
    return [corner, corner, corner + side, corner + side], label, mask


def fields(*objects):
    boxes, labels, masks = zip(*objects, strict=True)
    return {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels), "masks": torch.stack(masks)}


def metric(**options):
    """Two images: both nuts found, the bolt not; no washer; a crowd of nuts."""
    metric = CocoMeanAveragePrecision(category_ids=[1, 2, 3], **options)
    nut, bolt, crowd = square(20, 2), square(40, 1, corner=30), square(30, 2, corner=80)
    truth = {**fields(nut, bolt, crowd), "iscrowd": torch.tensor([0, 0, 1]), "image_id": torch.tensor(1)}
    found = {**fields(nut), "scores": torch.tensor([0.9])}
    metric.update([found, found], [truth, {**fields(nut), "image_id": torch.tensor(2)}])
    return metric


def test_the_report_has_the_numbers_of_boxes_and_masks_in_fractions():
    report = evaluation_report(metric(), NAMES)

    assert list(report) == ["images", "max_dets", "bbox", "segm"]
    assert " ".join(report["segm"]) == "AP AP50 AP75 APs APm APl AR1 AR10 AR100 ARs ARm ARl per_category"
    assert report["segm"]["AP"] == pytest.approx(0.5)
    assert report["images"] == 2


def test_the_report_has_each_category_by_name_and_counts_its_instances_without_crowds():
    categories = evaluation_report(metric(), NAMES)["segm"]["per_category"]

    assert {name: numbers["instances"] for name, numbers in categories.items()} == {"bolt": 1, "nut": 2, "washer": 0}
    assert categories["bolt"]["AP"] == 0
    assert categories["nut"]["AP"] == pytest.approx(1)


def test_a_number_without_ground_truth_is_null():
    report = evaluation_report(metric(), NAMES)

    assert report["segm"]["APl"] is None
    assert report["segm"]["per_category"]["washer"]["AP"] is None


def test_without_names_a_category_has_those_of_the_annotations_or_its_id():
    images = [{"id": 1, "height": 120, "width": 120}]
    official = {"images": images, "annotations": [], "categories": [{"id": 7, "name": "cog"}]}
    named = CocoMeanAveragePrecision(official)
    named.update([{**fields(square(9, 7)), "scores": torch.ones(1)}], [{"image_id": 1}])

    assert list(evaluation_report(named)["bbox"]["per_category"]) == ["cog"]
    assert list(evaluation_report(metric())["bbox"]["per_category"]) == ["category 1", "category 2", "category 3"]


def test_categories_of_the_same_name_stay_apart():
    report = evaluation_report(metric(), {1: "part", 2: "part", 3: "washer"})

    assert list(report["bbox"]["per_category"]) == ["part (1)", "part (2)", "washer"]


def test_the_written_report_is_strict_json_and_nothing_else_is_left(tmp_path):
    report = evaluation_report(metric(), NAMES)

    write_json(report, tmp_path / "evaluation.json")

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=refuse) == report
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]


def test_a_report_that_is_no_json_leaves_the_former_one(tmp_path):
    path = tmp_path / "evaluation.json"
    write_json({"images": 1}, path)

    with pytest.raises(ValueError, match="JSON"):
        write_json({"images": math.nan}, path)

    assert json.loads(path.read_text()) == {"images": 1}


def test_the_table_shows_percent_with_boxes_and_masks_below_each_other():
    lines = score_tables(evaluation_report(metric(), NAMES)).splitlines()

    assert lines[0] == "COCO evaluation of 2 images, in %, at most 100 detections per image"
    assert lines[2].split()[:3] == ["AP", "AP50", "AP75"]
    assert lines[4].split()[:3] == ["boxes", "50.0", "50.0"]
    assert lines[5].split()[:3] == ["masks", "50.0", "50.0"]
    assert lines[5].split()[6] == "-"


def test_the_table_of_categories_is_sorted_by_ap_with_those_without_objects_last():
    rows = [line.split() for line in score_tables(evaluation_report(metric(), NAMES)).splitlines()[-3:]]

    assert [row[:3] for row in rows] == [["nut", "2", "100.0"], ["bolt", "1", "0.0"], ["washer", "0", "-"]]


def test_the_tables_fit_100_columns_whatever_the_names():
    report = evaluation_report(metric(), {1: "a" * 200, 2: "b" * 28, 3: "c"})

    lines = score_tables(report).splitlines()

    assert max(map(len, lines)) <= 100
    assert any("b" * 28 in line for line in lines)
    assert any(line.split()[:1] == ["a" * 25 + "..."] for line in lines)


def test_categories_are_ranked_by_masks_those_without_objects_last_and_numbers_end_below_each_other():
    def numbers(value, instances):
        return {"instances": instances, "AP": value, "AP50": value, "AP75": value}

    masks = {"arm": numbers(None, 0), "cog": numbers(0.0, 11), "zip": numbers(1.0, 3)}
    boxes = {"arm": numbers(None, 0), "cog": numbers(0.5, 11), "zip": numbers(0.4, 3)}
    report = {"images": 1, "max_dets": [1], "bbox": {"per_category": boxes}, "segm": {"per_category": masks}}

    assert score_tables(report).split("\n\n")[-1] == (
        "category      instances    boxes    boxes    boxes    masks    masks    masks\n"
        "                              AP     AP50     AP75       AP     AP50     AP75\n"
        "----------  -----------  -------  -------  -------  -------  -------  -------\n"
        "zip                   3     40.0     40.0     40.0    100.0    100.0    100.0\n"
        "cog                  11     50.0     50.0     50.0      0.0      0.0      0.0\n"
        "arm                   0        -        -        -        -        -        -\n"
    )


def test_without_a_category_there_are_the_headings_alone():
    report = {"images": 1, "max_dets": [1], "bbox": {"AP": None, "per_category": {}}}
    assert score_tables(report).split("\n\n")[-1] == (
        "category    instances    boxes    boxes    boxes\n"
        "                         AP       AP50     AP75\n"
        "----------  -----------  -------  -------  -------\n"
    )


def test_boxes_alone_have_tables_too():
    report = evaluation_report(metric(iou_types=("bbox",), max_dets=(1, 5)), NAMES)

    text = score_tables(report)

    assert "masks" not in text
    assert "at most 5 detections" in text
