"""Targets without masks: hand-written plans on 8 x 8 pixels, whose answer is visible."""

import pytest
import torch
from copypaste_cases import IDENTITY, block, carry_out, make_images, plan_of, target

from composer_copypaste.functional.copypaste import copypaste_batch


def boxes_alone(*rectangles, **fields):
    """A target of boxes (x1, y1, x2, y2) without masks."""
    return {key: values for key, values in target(*rectangles, **fields).items() if key != "masks"}


def receiving(own, given, to_source=IDENTITY, **settings):
    return carry_out(plan_of((0, 1, 0, to_source)), make_images(), [own, given], **settings)


def test_a_box_is_pasted_whole():
    result = receiving(boxes_alone(), boxes_alone((2, 3, 6, 5), labels=[9]))
    assert torch.equal(result.images[0], torch.where(block(2, 3, 6, 5).bool(), make_images()[1], make_images()[0]))
    assert result.targets[0]["boxes"].tolist() == [[2, 3, 6, 5]]
    assert result.targets[0]["labels"].tolist() == [9]
    assert "masks" not in result.targets[0]


def test_a_box_is_cut_where_a_whole_side_of_it_is_hidden():
    after = receiving(boxes_alone((0, 0, 4, 4)), boxes_alone((2, 0, 8, 8))).targets[0]
    assert after["boxes"].tolist() == [[0, 0, 2, 4], [2, 0, 8, 8]]


def test_a_box_of_which_a_corner_is_hidden_stays_as_it_is():
    after = receiving(boxes_alone((0, 0, 4, 4)), boxes_alone((2, 2, 8, 8))).targets[0]
    assert after["boxes"].tolist() == [[0, 0, 4, 4], [2, 2, 8, 8]]


def test_a_box_goes_when_it_is_hidden_or_too_little_is_left():
    assert len(receiving(boxes_alone((3, 3, 5, 5)), boxes_alone((2, 2, 8, 8))).targets[0]["labels"]) == 1
    half = boxes_alone((0, 0, 4, 4)), boxes_alone((2, 0, 8, 8))
    assert len(receiving(*half, min_visibility=0.6).targets[0]["labels"]) == 1


def test_masks_in_some_targets_only_are_an_error():
    with pytest.raises(ValueError, match=r"^targets\[1\]: has no 'masks', which other targets of the batch have"):
        copypaste_batch(make_images(), [target((0, 0, 4, 4)), boxes_alone((0, 0, 4, 4))])


def test_neither_boxes_nor_masks_are_an_error():
    with pytest.raises(ValueError, match=r"^targets\[0\]: expected 'boxes'"):
        copypaste_batch(make_images(), [{"labels": torch.ones(1).long()}] * 2)
