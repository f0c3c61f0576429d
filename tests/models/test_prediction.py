import json

import numpy as np
import pytest
import supervision
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from visible_objects import FIG, NUT, colors_predictor, image_of

from composer_copypaste.models.prediction import prediction_of

OBJECTS = [((2, 3, 12, 9), (80, 2, 7)), ((20, 10, 39, 18), (60, 1, 7))]


def predicted(categories=None, **options):
    (found,) = colors_predictor().detect([image_of(20, 40, *OBJECTS)])
    return prediction_of(found, (20, 40), categories or {1: FIG, 2: NUT}, **options)


def test_categories_are_those_of_the_data_set():
    assert predicted().category_ids == [5, 3]
    assert predicted().category_names == ["nut", "fig"]


def test_objects_of_low_score_and_of_labels_without_a_category_are_left_out():
    assert predicted(min_score=0.7).category_names == ["nut"]
    assert predicted({1: FIG}).category_names == ["fig"]
    assert predicted().at_least(0.6).scores.tolist() == pytest.approx([0.8, 0.6])


def test_masks_are_at_the_size_of_the_image():
    assert predicted().masks.shape == (2, 20, 40)
    assert predicted().masks.sum((1, 2)).tolist() == [10 * 6, 19 * 8]
    assert predicted(min_score=0.9).masks.shape == (0, 20, 40)


def test_objects_are_taken_by_index_and_by_booleans():
    assert predicted()[torch.tensor([1, 0])].category_names == ["fig", "nut"]
    assert predicted()[torch.tensor([False, True])].category_names == ["fig"]


def test_results_are_as_the_challenge_wants_them(tmp_path):
    results = predicted().coco_results(image_id=9)
    (tmp_path / "results.json").write_text(json.dumps(results))
    images = COCO()
    images.dataset = {
        "images": [{"id": 9, "height": 20, "width": 40}],
        "categories": [vars(FIG), vars(NUT)],
        "annotations": [],
    }
    images.createIndex()
    loaded = images.loadRes(str(tmp_path / "results.json"))
    first = loaded.loadAnns(1)[0]
    assert (first["image_id"], first["category_id"], first["bbox"], first["score"]) == (9, 5, [2, 3, 10, 6], 0.8)
    assert isinstance(results[0]["segmentation"]["counts"], str)
    assert np.array_equal(loaded.annToMask(first), predicted().masks[0].numpy())


def test_scores_keep_the_digits_that_order_them_and_no_others():
    found = predicted()
    found.scores[:] = torch.nextafter(torch.tensor(0.1), torch.tensor([1.0, 0.0]))  # two apart in float32
    written = [result["score"] for result in found.coco_results(1)]
    assert torch.equal(torch.tensor(written), found.scores)
    assert max(len(str(score)) for score in written) <= len("0.123456789")


def test_supervision_numbers_classes_as_its_own_reader_of_the_data_set(tmp_path):
    square = {"id": 1, "image_id": 1, "category_id": 5, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
    content = {
        "images": [{"id": 1, "file_name": "1.png", "height": 20, "width": 40}],
        "categories": [vars(NUT), vars(FIG)],
        "annotations": [square | {"segmentation": [[1, 1, 5, 1, 5, 5, 1, 5]]}],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    data = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "coco.json"))
    for categories in ({1: FIG, 2: NUT}, {1: NUT, 2: FIG}):  # whatever the order of the model's labels
        found = predicted(categories)
        assert [data.classes[number] for number in found.to_supervision().class_id] == found.category_names


def test_supervision_gets_boxes_masks_scores_and_names():
    detections = predicted().to_supervision()
    assert detections.xyxy.tolist() == [[2, 3, 12, 9], [20, 10, 39, 18]]
    assert np.array_equal(detections.mask, coco_mask.decode(list(predicted().rles)).transpose(2, 0, 1).astype(bool))
    assert detections.confidence.tolist() == pytest.approx([0.8, 0.6])
    assert detections.data["class_name"].tolist() == ["nut", "fig"]
    assert detections.data["category_id"].tolist() == [5, 3]
    best = detections[detections.confidence > 0.7]  # indexes data too
    assert best.data["category_id"].tolist() == [5]


def test_an_image_without_objects_is_no_detections_for_supervision():
    assert len(predicted(min_score=1.0).to_supervision()) == 0
