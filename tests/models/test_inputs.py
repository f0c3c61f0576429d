"""Targets that Mask R-CNN cannot be trained on are refused."""

import re

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from composer_copypaste.models.inputs import check_targets


def turned_into(targets, key, function):
    return [targets[0], {**targets[1], key: function(targets[1][key])}]


@pytest.mark.parametrize(
    ("key", "function", "message"),
    [
        ("masks", lambda masks: masks * 255, "expected 'masks' of 0 and 1, got 255; masks > 0 gives such"),
        ("masks", lambda masks: masks * 0.5, "expected 'masks' of 0 and 1, got 0.5; masks > 0"),
        ("masks", lambda masks: -masks.long(), "expected 'masks' of 0 and 1, got -1; masks > 0"),
        (
            "masks",
            lambda masks: masks[:, :32, :32],
            "expected 'masks' of shape (1, 64, 64) (1 label, image of 64 x 64), ",
        ),
        (
            "masks",
            lambda masks: masks[:0],
            "expected 'masks' of shape (1, 64, 64) (1 label, image of 64 x 64), got (0, ",
        ),
        (
            "boxes",
            lambda boxes: boxes * torch.nan,
            "got [nan, nan, nan, nan]; leave such objects out, or set their iscrowd",
        ),
        (
            "boxes",
            lambda boxes: boxes + torch.inf,
            "expected 'boxes' (x1, y1, x2, y2) of finite numbers with x1 < x2 and y1",
        ),
        ("boxes", lambda boxes: boxes.flip(1), "with x1 < x2 and y1 < y2, got [30.0, 40.0, 10.0, 8.0]"),
        ("boxes", lambda boxes: boxes[:, [0, 1, 0, 3]], "with x1 < x2 and y1 < y2, got [8.0, 10.0, 8.0, 30.0]"),
        (
            "boxes",
            lambda boxes: boxes.repeat(2, 1),
            "expected 'boxes' of shape (1, 4) (1 label, image of 64 x 64), got (2",
        ),
        (
            "boxes",
            lambda boxes: boxes.reshape(4),
            "expected 'boxes' of shape (1, 4) (1 label, image of 64 x 64), got (4,)",
        ),
        (
            "boxes",
            lambda boxes: tv_boxes(boxes, "XYWH"),
            "expected 'boxes' of format XYXY, got XYWH; torchvision.ops.box_conv",
        ),
        (
            "iscrowd",
            lambda crowds: crowds.repeat(2),
            "expected 'iscrowd' of shape (1,) (1 label, image of 64 x 64), got (2,)",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_an_error_that_names_the_image_and_the_field(batch, key, function, message):
    images, targets = batch
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        check_targets(images, turned_into(targets, key, function), num_classes=3)
    assert str(raised.value).startswith("targets[1]: ")
    assert "\n" not in str(raised.value)


def tv_boxes(boxes, kind):
    return tv_tensors.BoundingBoxes(boxes, format=kind, canvas_size=(64, 64))


@pytest.mark.parametrize("key", ["boxes", "labels", "masks", "iscrowd"])
def test_a_field_that_is_no_tensor_is_an_error_that_names_it(batch, key):
    images, targets = batch
    with pytest.raises(TypeError, match=rf"^targets\[1\]: expected '{key}' to be a tensor, got list$"):
        check_targets(images, turned_into(targets, key, lambda values: values.tolist()), num_classes=3)


@pytest.mark.parametrize(
    ("key", "dtype", "to_do"),
    [("labels", torch.float32, ".long"), ("labels", torch.bool, ".long"), ("boxes", torch.bool, ".float")],
)
def test_a_field_of_a_type_it_cannot_have_is_an_error_that_names_it(batch, key, dtype, to_do):
    images, targets = batch
    with pytest.raises(
        TypeError, match=rf"^targets\[1\]: expected '{key}' of .*, got {dtype}; {to_do}\(\) gives that$"
    ):
        check_targets(images, turned_into(targets, key, lambda values: values.to(dtype)), num_classes=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (None, "targets: expected a list of targets, got NoneType"),
        ({}, "targets: expected a list of targets, got dict"),
        ([None, None], "targets[0]: expected a dict with boxes, labels and masks, got NoneType"),
    ],
)
def test_what_is_no_targets_is_an_error(batch, wrong, message):
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        check_targets(batch[0], wrong, num_classes=3)


def test_a_batch_without_images_is_an_error():
    with pytest.raises(ValueError, match=r"^images: expected at least one, got none$"):
        check_targets([], [], num_classes=3)


def test_targets_without_masks_and_of_another_number_are_errors(batch):
    images, targets = batch
    boxes_alone = {key: values for key, values in targets[1].items() if key != "masks"}
    with pytest.raises(ValueError, match=r"^targets\[1\]: lacks 'masks', which Mask R-CNN is trained on; it has \["):
        check_targets(images, [targets[0], boxes_alone], num_classes=3)
    with pytest.raises(ValueError, match=r"^targets: expected one for each of 2 images, got 1$"):
        check_targets(images, targets[:1], num_classes=3)


def test_the_device_is_waited_for_once_to_check_targets(batch):
    images, targets = batch
    on_meta = [{key: values.to("meta") for key, values in target.items()} for target in targets]
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "tolist", lambda values: asked.append(values.device.type) or [False])
        check_targets(images, on_meta, num_classes=3)
    assert asked == ["meta"]
