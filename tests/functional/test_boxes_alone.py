"""Targets without masks: hand-written plans on 8 x 8 pixels, whose answer is visible."""

from contextlib import nullcontext

import pytest
import torch
from copypaste_cases import (
    IDENTITY,
    block,
    carry_out,
    make_images,
    plan_of,
    target,
    tritons_kernels,
    window_after_window,
)

from composer_copypaste.compact_masks import CompactMasks
from composer_copypaste.functional.batch_objects import box_masks
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


def test_a_pixel_belongs_to_a_box_that_its_centre_lies_in():
    boxes = torch.tensor([[0.5, 1.5, 2.5, 4.5], [0.6, 1.6, 2.6, 4.6]])  # from a centre to another; a little beyond
    assert torch.equal(box_masks(boxes, make_images()[0]), torch.stack([block(0, 1, 2, 4), block(1, 2, 3, 5)]))


def test_objects_without_masks_are_chosen_by_the_areas_of_their_boxes():
    given = boxes_alone((1, 2, 3, 5), (4, 1, 8, 5), (0, 6, 8, 8))  # of 6, 16 and 16 pixels
    given["boxes"][2, 3] = 7.5  # of 12
    settings = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "area_range": (6.5, 15.0)}
    _, after = copypaste_batch(make_images(), [boxes_alone(), given], **settings)
    assert after[0]["labels"].tolist() == [3]


@pytest.mark.parametrize("wrong", [0, 1, 2, 3])
def test_the_target_with_a_wrong_box_is_named(wrong):
    boxes = [(0, 0, 4, 4)] * 4
    boxes[wrong] = (4, 0, 0, 4)
    targets = [boxes_alone(*own) for own in (boxes[:1], [], boxes[1:3], boxes[3:])]
    with pytest.raises(ValueError, match=rf"^targets\[{[0, 2, 2, 3][wrong]}\]: expected boxes .*, got \[4.0, 0.0, 0"):
        copypaste_batch(make_images(4), targets)


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


def overlapping_batch(form):
    """A square on each of two images; the second covers the right half of the first where it is pasted."""
    targets = [target((0, 0, 4, 4), scores=torch.tensor([0.5])), target((2, 0, 8, 8), scores=torch.tensor([0.25]))]
    if form == "cut_outs":
        return [own | {"masks": CompactMasks.from_dense(own["masks"])} for own in targets]
    return targets


@pytest.mark.parametrize("form", ["planes", "cut_outs"])
@pytest.mark.parametrize("engine", [nullcontext, window_after_window, tritons_kernels])
def test_masks_say_what_is_pasted_and_are_left_out_where_only_boxes_are_trained(form, engine):
    diagonal = torch.eye(8, dtype=torch.uint8)[None]
    own, given = overlapping_batch("planes")
    given |= {"boxes": torch.tensor([[0.0, 0.0, 8.0, 8.0]]), "masks": diagonal}
    if form == "cut_outs":
        own, given = (each | {"masks": CompactMasks.from_dense(each["masks"])} for each in (own, given))
    with engine():
        result = receiving(own, given, keep_masks=False)
    before, source = make_images()
    assert torch.equal(result.images[0], torch.where(diagonal.bool(), source, before))  # the mask's pixels, no box's
    assert result.targets[0].keys() == {"boxes", "labels", "scores"}
    assert result.targets[0]["boxes"].tolist() == [[0, 0, 4, 4], [0, 0, 8, 8]]
    assert result.targets[0]["scores"].tolist() == [0.5, 0.25]
    assert result.targets[1].keys() == {"boxes", "labels", "scores"}


@pytest.mark.parametrize("form", ["planes", "cut_outs"])
def test_boxes_are_the_same_whether_masks_come_back_or_not(form):
    own, given = overlapping_batch(form)
    kept, left_out = (receiving(own, given, keep_masks=keeps).targets[0] for keeps in (True, False))
    assert left_out["boxes"].tolist() == [[0, 0, 2, 4], [2, 0, 8, 8]]
    assert all(torch.equal(left_out[key], kept[key]) for key in left_out)
    assert kept.keys() - left_out.keys() == {"masks"}


@pytest.mark.parametrize("settings", [{"p": 0.0}, {"p": 1.0, "labels": (77,)}])
@pytest.mark.filterwarnings("ignore::composer_copypaste.NothingPastedWarning")
def test_masks_are_left_out_where_nothing_is_pasted_too(settings):
    given = overlapping_batch("planes")
    _, after = copypaste_batch(make_images(), given, keep_masks=False, **settings)
    assert all("masks" not in target for target in after)
    assert all("masks" in target for target in given)
