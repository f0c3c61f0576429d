"""Detectron2's rules in torchvision's Mask R-CNN, each on an example whose answer can be seen."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.image_list import ImageList

from composer_copypaste.data.annotation_json import Category
from composer_copypaste.models.detectron2_style import (
    Detectron2Anchors,
    Detectron2RoIPool,
    Detectron2Transform,
    boxes_in_image,
    resized_size,
    sample_mask,
)
from composer_copypaste.models.mask_rcnn import build_mask_rcnn
from composer_copypaste.models.postprocess import detect
from composer_copypaste.models.predictor import COCO_NAMES, coco_labels, match_categories
from composer_copypaste.settings import MaskRCNNSettings

RATIOS = ((0.5, 1.0, 2.0),) * 5


@pytest.mark.parametrize(
    ("size", "resized"),
    [((480, 640), (800, 1067)), ((427, 640), (800, 1199)), ((300, 900), (444, 1333)), ((640, 480), (1067, 800))],
)
def test_sides_are_rounded_where_torchvision_cuts_them_off(size, resized):
    assert resized_size(size, 800, 1333) == resized


def test_images_are_resized_as_by_pillow_and_normalised_as_bgr_of_255():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    transform = Detectron2Transform(20, 100, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0)).eval()
    batch, _ = transform([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])

    expected = np.asarray(Image.fromarray(pixels).resize((30, 20), Image.Resampling.BILINEAR)).astype(np.float32)
    found = batch.tensors[0, :, :20, :30].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(found, expected[:, :, ::-1] - [1, 2, 3])


def test_targets_are_resized_with_their_images():
    transform = Detectron2Transform(20, 100, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)).train()
    masks = torch.zeros(1, 40, 60, dtype=torch.bool)
    masks[:, 10:20, 30:40] = True
    target = {"boxes": torch.tensor([[30.0, 10, 40, 20]]), "labels": torch.ones(1), "masks": masks}
    _, [resized] = transform([torch.zeros(3, 40, 60)], [target])

    assert resized["boxes"].tolist() == [[15, 5, 20, 10]]
    assert resized["masks"].shape == (1, 20, 30)
    assert resized["masks"].nonzero().amin(0).tolist() == [0, 5, 15]
    assert target["boxes"].tolist() == [[30, 10, 40, 20]]


def test_anchors_are_not_rounded_and_lie_at_the_strides_of_the_pyramid():
    anchors = Detectron2Anchors(((32,), (64,), (128,), (256,), (512,)), RATIOS)
    levels = [torch.zeros(1, 1, -(-96 // stride), -(-96 // stride)) for stride in (4, 8, 16, 32, 64)]
    [boxes] = anchors(ImageList(torch.zeros(1, 3, 96, 96), [(96, 96)]), levels)

    assert boxes[0].tolist() == pytest.approx([-22.627417, -11.313708, 22.627417, 11.313708])
    centres = (boxes[-12:, :2] + boxes[-12:, 2:]).reshape(2, 2, 3, 2) / 2
    assert centres[1, 1, 0].tolist() == [64, 64]  # torchvision: 48, as 96 // 2


def test_features_are_pooled_at_the_middles_of_pixels():
    ramp = torch.arange(32.0).expand(1, 1, 32, 32)
    pool = Detectron2RoIPool(2)
    pooled = pool({"0": ramp, "1": ramp, "2": ramp, "3": ramp}, [torch.tensor([[16.0, 16, 48, 48]])], [(128, 128)])

    # at stride 4 the box is from 4 to 12, where pixel 4 has its middle at 4.5: the halves' means are 6 and 10, less 0.5
    assert pooled[0, 0, 0].tolist() == [5.5, 9.5]


def test_boxes_get_the_features_of_their_level_in_their_order():
    levels = {str(number): torch.full((1, 1, 64, 64), float(number)) for number in range(4)}
    sides = torch.tensor([500.0, 10, 224, 112, 448, 111])
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    pooled = Detectron2RoIPool(1)(levels, [boxes], [(512, 512)])

    assert pooled.flatten().tolist() == [3, 0, 2, 1, 3, 0]


def test_a_mask_is_interpolated_between_pixels_and_half_is_enough():
    probabilities = torch.tensor([[[0.0, 0.0], [1.0, 1.0]]])
    visible, corner = sample_mask(probabilities, torch.tensor([2.5, 2.0, 4.5, 6.0]), (8, 8))

    # rows 2 to 5 are at -0.25, 0.25, 0.75 and 1.25 of the two rows; below the last they fade to 0
    # the middles of columns 2 and 4 are at the box's edges, where half of a probability is left
    assert corner == (1, 1)
    rows, columns = visible.nonzero().amin(0).tolist(), visible.nonzero().amax(0).tolist()
    assert [rows[0] + 1, rows[1] + 1, columns[0] + 1, columns[1] + 1] == [4, 3, 5, 3]
    visible, _ = sample_mask(torch.ones(1, 2, 2), torch.tensor([2.5, 2.0, 4.5, 6.0]), (8, 8))
    assert visible[2].tolist() == [False, True, True, True, False]  # row 3: 0.5 at columns 2 and 4


def test_boxes_are_clipped_at_the_images_own_size_and_left_out_without_an_area():
    boxes = torch.tensor([[-4.0, 0, 10, 30], [20, 0, 30, 10], [18, 2, 20, 4]])
    found, kept = boxes_in_image(boxes, (20, 20), (40, 40))

    assert kept.tolist() == [0, 2]
    assert found.tolist() == [[0, 0, 20, 40], [36, 4, 40, 8]]


def test_the_first_convolution_of_a_stage_reduces_its_features():
    body = build_mask_rcnn(2, MaskRCNNSettings(backbone="resnet50", style="detectron2")).backbone.body
    assert (body.layer2[0].conv1.stride, body.layer2[0].conv2.stride) == ((2, 2), (1, 1))
    assert (body.layer2[1].conv1.stride, body.layer2[1].conv2.stride) == ((1, 1), (1, 1))


def test_a_detection_that_is_smaller_than_a_pixel_is_found_and_one_of_a_logit_beyond_a_probability_of_1_is_first():
    module = build_mask_rcnn(2, MaskRCNNSettings(backbone="resnet18", style="detectron2")).eval()
    boxes = torch.tensor([[[0.0, 0, 50, 50], [2, 2, 52, 52], [80, 80, 80.001, 80.0005]]])
    [proposals], [logits] = module.rpn.filter_proposals(boxes, torch.tensor([[20.0, 21.0, 0.0]]), [(99, 99)], [3])

    assert torch.sigmoid(torch.tensor(20.0)) == torch.sigmoid(torch.tensor(21.0))
    assert logits.tolist() == [21, 0]  # torchvision would keep the first, and leave the small one out
    torch.testing.assert_close(proposals, boxes[0, 1:])


def test_the_names_of_the_zoos_labels_are_cocos_without_gaps():
    names = coco_labels(81, is_detectron2_style=True)
    assert (names[1], names[12], names[80]) == ("person", "stop sign", "toothbrush")
    assert coco_labels(91, is_detectron2_style=False)[13] == "stop sign"
    assert coco_labels(81, is_detectron2_style=False) is None

    few = [Category(4, "toothbrush"), Category(9, "person")]
    assert match_categories(few, 81, is_detectron2_style=True) == {80: few[0], 1: few[1]}
    assert match_categories(few, 81) == {4: few[0], 9: few[1]}
    assert len(COCO_NAMES) == 91


def test_detections_of_an_empty_image_are_none():
    settings = MaskRCNNSettings(backbone="resnet18", style="detectron2", min_size=32, box_score_thresh=1.0)
    [found] = detect(build_mask_rcnn(2, settings).eval(), [torch.zeros(3, 40, 50, dtype=torch.uint8)])
    assert (len(found["scores"]), found["rles"]) == (0, [])
