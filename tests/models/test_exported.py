import pytest
import torch

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.models.exported import (
    Differences,
    ExportedOutputs,
    ExportMetadata,
    describe_outputs,
    largest_differences,
)
from composer_copypaste.settings import ExportSettings, ImageSettings

SIZE = (40, 50)


def expected(boxes, labels=None, masks=None):
    """Detections of a model, all with the score 0.5."""
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = torch.tensor(labels or [1] * len(boxes))
    masks = torch.ones(len(boxes), 28, 28) if masks is None else masks
    return {"boxes": boxes, "scores": torch.full((len(boxes),), 0.5), "labels": labels, "masks": masks}


def outputs(detection, **changes):
    return ExportedOutputs(**(detection | changes))


def differences(detection, found, *, pasted=False):
    return largest_differences([(detection, found, SIZE)], pasted=pasted)


BOX, OTHER = (4, 4, 24, 24), (10, 10, 30, 30)


def test_equal_objects_do_not_differ_in_whatever_order():
    detection = expected([BOX, OTHER], labels=[1, 2])
    turned = {name: values.flip(0) for name, values in detection.items()}
    assert differences(detection, outputs(turned)) == Differences(1, 2, 0, 0.0, 0.0, 0.0)


def test_the_largest_differences_are_those_of_any_coordinate_score_and_probability():
    detection = expected([BOX, OTHER])
    boxes, scores, masks = detection["boxes"].clone(), detection["scores"].clone(), detection["masks"].clone()
    boxes[1, 3] += 0.25
    scores[0] -= 0.125
    masks[1, 27, 0] -= 0.0625
    found = differences(detection, outputs(detection, boxes=boxes, scores=scores, masks=masks))
    assert (found.box, found.score, found.mask, found.unmatched) == (0.25, 0.125, 0.0625, 0)


def test_an_object_of_another_label_or_elsewhere_is_found_by_one_of_the_two_only():
    detection = expected([BOX, OTHER])
    assert differences(detection, outputs(detection, labels=torch.tensor([1, 2]))).unmatched == 2
    assert differences(detection, outputs(expected([BOX]))).unmatched == 1
    assert differences(detection, outputs(expected([BOX, OTHER, OTHER]))).unmatched == 1


def test_boxes_without_an_extent_are_the_same_object_where_they_are_at_one_place():
    detection = expected([(4, 4, 4, 9), (4, 6, 4, 9)])
    moved = differences(detection, outputs(detection, boxes=detection["boxes"] + 0.0625))
    assert (moved.unmatched, moved.box) == (0, 0.0625)
    assert differences(detection, outputs(detection, boxes=detection["boxes"] + 0.25)).unmatched == 4


def test_boxes_alone_differ_by_boxes_and_scores():
    detection = expected([BOX, OTHER])
    del detection["masks"]
    found = differences(detection, ExportedOutputs(**detection | {"scores": detection["scores"] + 0.25}))
    assert found == Differences(1, 2, 0, 0.0, 0.25, None)
    assert str(found).endswith("boxes 0 pixels, scores 0.25")
    assert found.beyond(ExportSettings()) == ["max_score_difference is 0.001, got 0.25"]


def test_images_without_objects_do_not_differ():
    nothing = expected([])
    assert differences(nothing, outputs(nothing)) == Differences(1, 0, 0, 0.0, 0.0, 0.0)


def pasted(*boxes):
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    return masks


def test_pasted_masks_differ_by_how_far_the_probability_is_from_one_half():
    crop = torch.full((1, 28, 28), 0.75)
    detection = expected([(0, 0, 28, 28)], masks=crop)
    right = pasted((0, 0, 28, 28))
    right[0, 10, 10] = 0
    # the model's crop has a border of zeros, so its mask may end a pixel earlier at the edges of the box
    inside = differences(detection, outputs(detection, masks=right), pasted=True)
    assert inside.mask == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box": 0.2}, "max_box_difference is 0.1, got 0.2"),
        ({"score": 0.01}, "max_score_difference is 0.001, got 0.01"),
        ({"mask": 0.5}, "max_mask_difference is 0.01, got 0.5"),
        ({"unmatched": 3}, "max_unmatched is 0.01, got 0.03"),
        ({"box": float("nan")}, "max_box_difference is 0.1, got nan"),
    ],
)
def test_a_difference_over_its_limit_is_named_with_both_numbers(changes, message):
    within = {"images": 2, "objects": 100, "unmatched": 1, "box": 0.1, "score": 0.001, "mask": 0.01}
    assert Differences(**within).beyond(ExportSettings()) == []
    assert Differences(**(within | changes)).beyond(ExportSettings()) == [message]


def test_metadata_are_read_as_they_were_written():
    metadata = ExportMetadata(
        {1: Category(7, "Äpfel"), 3: Category(2, "fig")}, "pasted", ImageSettings(value_range=(0, 4095))
    )
    assert ExportMetadata.from_texts(metadata.as_texts()) == metadata
    of_boxes = ExportMetadata({1: Category(1, "nut")}, None, detector="retinanet")
    assert ExportMetadata.from_texts(of_boxes.as_texts()) == of_boxes
    before = {name: text for name, text in metadata.as_texts().items() if name != "detector"}
    assert ExportMetadata.from_texts(before) == metadata  # all that was exported was Mask R-CNN
    with pytest.raises(KeyError):
        ExportMetadata.from_texts(metadata.as_texts() | {"detector": "yolo"})
    assert ExportMetadata.from_texts({"names": "{0: 'person'}"}) is None


def test_the_description_says_what_each_label_stands_for():
    text = describe_outputs(ExportMetadata({1: Category(7, "nut"), 2: Category(2, "fig")}, "crops"))
    assert "1 nut (id 7), 2 fig (id 2)" in text
    assert "(n, 28, 28)" in text
