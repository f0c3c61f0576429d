"""What copy-paste does to targets: hand-written plans on 8 x 8 pixels, whose answer is visible."""

from contextlib import nullcontext
from dataclasses import fields, replace

import pytest
import torch
from copypaste_cases import IDENTITY, block, carry_out, make_images, plan_of, target, window_after_window

from composer_copypaste import CompactMasks, PastePlan, plan_batch
from composer_copypaste.functional.visibility import joined_rows

ONE_ROW = plan_of((0, 1, 0, IDENTITY))


def receiving(own, given, plan=ONE_ROW, **settings):
    """Target 0 after it received objects of target 1."""
    return carry_out(plan, make_images(), [own, given], **{"keypoint_pairs": (), **settings}).targets[0]


def masks_of(*rectangles):
    return torch.stack([block(*corners) for corners in rectangles])


def test_a_pasted_object_joins_the_target_after_its_own():
    after = receiving(target((0, 0, 2, 2), labels=[4]), target((4, 4, 7, 6), labels=[9]))
    assert after["labels"].tolist() == [4, 9]
    assert after["boxes"].tolist() == [[0, 0, 2, 2], [4, 4, 7, 6]]
    assert (after["masks"] == masks_of((0, 0, 2, 2), (4, 4, 7, 6))).all()


def test_pasted_objects_join_from_bottom_to_top():
    given = target((0, 0, 2, 2), (1, 1, 4, 4), labels=[7, 5])
    after = receiving(target(), given, plan_of((0, 1, 1, IDENTITY), (0, 1, 0, IDENTITY)))
    assert after["labels"].tolist() == [5, 7]


def test_a_plan_may_list_the_objects_of_a_target_apart():
    targets = [target(), target((0, 0, 2, 2), labels=[5]), target((4, 4, 6, 6), labels=[6])]
    plan = plan_of((0, 1, 0, IDENTITY), (1, 2, 0, IDENTITY), (0, 2, 0, IDENTITY))
    after = carry_out(plan, make_images(3), targets).targets
    assert [fields["labels"].tolist() for fields in after] == [[5, 6], [5, 6], [6]]


def test_each_object_says_where_it_comes_from():
    own = target((0, 0, 2, 2), (5, 5, 8, 8), (0, 6, 2, 8), labels=[1, 2, 3])
    given = target((0, 0, 3, 3), (1, 1, 2, 2), (4, 0, 7, 2), labels=[4, 5, 6])
    beyond = ((1, 0, 20), (0, 1, 0))
    rows = [(1, 0, 2, IDENTITY), (0, 1, 0, beyond), (0, 1, 2, IDENTITY), (0, 1, 1, IDENTITY), (0, 1, 0, IDENTITY)]
    result = carry_out(plan_of(*rows), make_images(3), [own, given, target((0, 0, 1, 1))])
    # object 0 disappears under row 4, and so does row 3; row 1 lies beyond the edge
    assert [[part.tolist() for part in result.origins(image)] for image in range(3)] == [
        [[1, 2], [2, 4]],
        [[0, 1, 2], [0]],
        [[0], []],
    ]


def test_where_nothing_is_pasted_all_objects_are_the_images_own():
    result = carry_out(plan_of(), make_images(1), [target((0, 0, 2, 2), (1, 1, 3, 3))])
    assert [part.tolist() for part in result.origins(0)] == [[0, 1], []]


def test_an_object_half_covered_keeps_the_visible_half():
    own = target((0, 0, 4, 4), area=torch.tensor([16.0]))
    after = receiving(own, target((2, 0, 8, 8), area=torch.tensor([48.0])))
    assert after["boxes"][0].tolist() == [0, 0, 2, 4]
    assert after["area"].tolist() == [8, 48]
    assert (after["masks"][0] == block(0, 0, 2, 4)).all()


def test_an_object_fully_covered_is_dropped_even_in_the_corner():
    after = receiving(target((0, 0, 1, 1), (6, 6, 8, 8), labels=[1, 2]), target((0, 0, 3, 3), labels=[3]))
    assert after["labels"].tolist() == [2, 3]


def test_every_own_object_may_disappear():
    after = receiving(target((0, 0, 2, 2), (1, 1, 3, 3), labels=[1, 2]), target((0, 0, 5, 5), labels=[3]))
    assert after["labels"].tolist() == [3]
    assert after["masks"].shape == (1, 8, 8)


def test_an_image_without_objects_receives_some():
    assert receiving(target(), target((0, 0, 2, 2), labels=[3]))["labels"].tolist() == [3]


def test_an_occluded_object_does_not_make_small_untouched_ones_disappear():
    own = target((0, 0, 4, 4), (7, 7, 8, 8), labels=[1, 2])
    after = receiving(own, target((2, 0, 6, 4), labels=[3]), min_area=5)
    assert after["labels"].tolist() == [1, 2, 3]


def test_survivors_get_a_new_box():
    after = receiving(target((0, 0, 6, 2)), target((3, 0, 8, 8)))
    assert after["boxes"][0].tolist() == [0, 0, 3, 2]


def test_boxes_end_one_past_the_last_visible_pixel():
    after = receiving(target((0, 0, 8, 8)), target((0, 0, 8, 7)))
    assert after["boxes"].tolist() == [[0, 7, 8, 8], [0, 0, 8, 7]]


def test_an_object_one_pixel_wide_stays():
    after = receiving(target((0, 0, 4, 4)), target((1, 0, 8, 8)))
    assert after["boxes"][0].tolist() == [0, 0, 1, 4]


def test_a_single_pixel_can_be_pasted():
    assert receiving(target(), target((3, 3, 4, 4)))["boxes"].tolist() == [[3, 3, 4, 4]]


def test_what_is_pasted_on_is_cut_out_of_the_masks_below():
    after = receiving(target((0, 0, 8, 8)), target((3, 3, 5, 5)))
    hole = block(0, 0, 8, 8) - block(3, 3, 5, 5)
    assert (after["masks"][0] == hole).all()
    assert after["boxes"][0].tolist() == [0, 0, 8, 8]


def test_pasted_objects_are_cut_out_of_each_other():
    given = target((0, 0, 4, 4), (2, 2, 6, 6))
    after = receiving(target(), given, plan_of((0, 1, 0, IDENTITY), (0, 1, 1, IDENTITY)))
    assert (after["masks"][0] == block(0, 0, 4, 4) - block(2, 2, 4, 4)).all()
    assert (after["masks"][1] == block(2, 2, 6, 6)).all()


def test_a_pasted_object_fully_covered_by_another_is_dropped():
    given = target((2, 2, 4, 4), (0, 0, 6, 6), labels=[1, 2])
    result = carry_out(plan_of((0, 1, 0, IDENTITY), (0, 1, 1, IDENTITY)), make_images(), [target(), given])
    assert result.targets[0]["labels"].tolist() == [2]
    assert (sum(result.added), result.dropped) == (1, 1)


def test_objects_that_nothing_overlaps_come_back_to_the_bit():
    own = target((0, 0, 3, 3), area=torch.tensor([8.25]))
    own["boxes"] = torch.tensor([[0.125, 0.25, 2.75, 2.875]])
    after = receiving(own, target((3, 3, 6, 6), area=torch.tensor([9.0])))
    assert after["boxes"][0].tolist() == [0.125, 0.25, 2.75, 2.875]
    assert after["area"][0] == 8.25
    assert (after["masks"][0] == own["masks"][0]).all()


def test_pixels_far_from_its_box_are_gone_from_an_object_that_loses_some_and_stay_in_others():
    own = target((0, 0, 4, 4), (0, 6, 2, 8))
    own["masks"][:, 0, 7] = 1  # in the corner, three pixels and more from both boxes
    after = receiving(own, target((3, 0, 4, 4)))
    assert (after["masks"][0] == block(0, 0, 3, 4)).all()
    assert after["boxes"][0].tolist() == [0, 0, 3, 4]
    assert torch.equal(after["masks"][1], own["masks"][1])


def test_an_empty_mask_that_nothing_could_touch_stays():
    own = target((0, 0, 2, 2))
    own["masks"] = torch.zeros_like(own["masks"])
    assert receiving(own, target((0, 0, 6, 6), labels=[3]))["labels"].tolist() == [1, 3]


def test_an_empty_mask_is_not_pasted():
    given = target((0, 0, 2, 2))
    given["masks"] = torch.zeros_like(given["masks"])
    assert len(receiving(target(), given)["labels"]) == 0


@pytest.mark.parametrize(("min_visibility", "stays"), [(0.5, True), (0.51, False)])
def test_an_object_stays_when_enough_of_its_former_area_is_visible(min_visibility, stays):
    after = receiving(target((0, 0, 4, 4), labels=[1]), target((2, 0, 8, 8), labels=[2]), min_visibility=min_visibility)
    assert after["labels"].tolist() == ([1, 2] if stays else [2])


@pytest.mark.parametrize(("min_visibility", "stays"), [(0.5, True), (0.51, False)])
def test_a_pasted_object_counts_as_hidden_what_lies_outside(min_visibility, stays):
    plan = plan_of((0, 1, 0, ((1, 0, -6), (0, 1, 0))))  # of four columns two stay inside
    after = receiving(target(), target((0, 0, 4, 4)), plan, min_visibility=min_visibility)
    assert len(after["labels"]) == stays


@pytest.mark.parametrize(("min_visibility", "covered"), [(0.07, 93), (0.29, 71), (0.57, 43), (0.58, 42), (1.0, 0)])
def test_exactly_that_fraction_is_enough_and_a_pixel_less_is_not(min_visibility, covered):
    def left(hidden, pasted):
        """The number of objects that stay when the second hides ``hidden`` of the 100 pixels of the first."""
        masks = torch.zeros(2, 8, 128, dtype=torch.uint8)
        masks[0, 0, :100], masks[1, 0, :hidden] = 1, 1
        boxes = torch.tensor([[0.0, 0, 100, 1], [0, 0, hidden, 1]])
        both = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
        one, other = ({key: values[[k]] for key, values in both.items()} for k in (0, 1))
        empty = {key: values[:0] for key, values in both.items()}
        plan = plan_of((0, 1, 0, IDENTITY), (0, 1, 1, IDENTITY)) if pasted else ONE_ROW
        given = [empty, both] if pasted else [one, other]
        after = carry_out(plan, torch.zeros(2, 3, 8, 128), given, min_visibility=min_visibility).targets[0]
        return after["labels"].tolist().count(1)

    for pasted in (False, True):
        assert left(covered, pasted) == 1
        assert left(covered + 1, pasted) == 0


def disc(side=64, middle=32, diameter=8):
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    mask = ((x - middle) ** 2 + (y - middle) ** 2 <= (diameter / 2) ** 2).to(torch.uint8)
    low, high = middle - diameter / 2, middle + diameter / 2
    return {"boxes": torch.tensor([[low, low, high, high]]), "labels": torch.tensor([1]), "masks": mask[None]}


def jittered_discs(n=25, **settings):
    """Plans that each land a small disc somewhere in the image or over its edge."""
    knobs = {"p": 1.0, "p_instance": 1.0, "scale_range": (0.3, 2.0), "aspect_range": (0.7, 1.4), "rotation": 40.0}
    given = torch.zeros(2, 3, 64, 64), [disc(), disc()]
    for seed in range(n):
        plan = plan_batch(*given, generator=torch.Generator().manual_seed(seed), **{**knobs, **settings})
        yield PastePlan(*(getattr(plan, field.name)[plan.target == 0] for field in fields(plan)))


@pytest.mark.parametrize("way", [nullcontext, window_after_window])
@pytest.mark.parametrize("rotation", [0.0, 40.0])
def test_what_nothing_covers_is_wholly_visible_whatever_resampling_did_to_its_pixels(way, rotation):
    empty = {key: values[:0] for key, values in disc().items()}
    with way():
        for plan in jittered_discs(placement="random", rotation=rotation):
            after = carry_out(plan, torch.zeros(2, 3, 64, 64), [empty, disc()], min_visibility=1.0).targets[0]
            assert len(after["labels"]) == 1


@pytest.mark.parametrize("way", [nullcontext, window_after_window])
@pytest.mark.parametrize("rotation", [0.0, 40.0])
def test_of_what_the_edge_cuts_the_pixels_beyond_it_are_counted_as_a_larger_image_shows_them(way, rotation):
    empty = {key: values[:0] for key, values in disc().items()}
    large = {**empty, "masks": torch.zeros(0, 256, 256, dtype=torch.uint8)}
    cut = 0
    for plan in jittered_discs(placement="anywhere", rotation=rotation):
        centred = plan.to_source.clone()  # the same pixels, 96 further along both axes
        centred[:, :, 2] -= 96 * plan.to_source[:, :, :2].sum(dim=2)
        images = [torch.zeros(3, 256, 256), torch.zeros(3, 64, 64)]
        whole = carry_out(replace(plan, to_source=centred), images, [large, disc()]).targets[0]
        shown = carry_out(plan, torch.zeros(2, 3, 64, 64), [empty, disc()]).targets[0]["masks"].sum().item()
        fraction = shown / whole["masks"].sum().item()
        cut += fraction < 1
        with way():
            for min_visibility, stays in ((fraction, True), (min(1.0, fraction + 0.004), fraction == 1)):
                if min_visibility > 0:
                    after = carry_out(
                        plan, torch.zeros(2, 3, 64, 64), [empty, disc()], min_visibility=min_visibility
                    ).targets[0]
                    assert len(after["labels"]) == stays
    assert cut


def test_the_former_area_of_a_pasted_object_is_that_after_resizing():
    plan = plan_of((0, 1, 0, ((2, 0, 0), (0, 2, 0))))  # half the size: 16 pixels become 4
    assert len(receiving(target(), target((0, 0, 4, 4)), plan, min_visibility=1.0)["labels"]) == 1


@pytest.mark.parametrize(("min_area", "labels"), [(8, [1, 2]), (9, [2])])
def test_an_object_stays_when_enough_of_its_pixels_are_visible(min_area, labels):
    after = receiving(target((0, 0, 4, 4), labels=[1]), target((2, 0, 8, 8), labels=[2]), min_area=min_area)
    assert after["labels"].tolist() == labels


@pytest.mark.parametrize("min_area", [4, 5])
def test_a_pasted_object_too_small_is_dropped(min_area):
    assert len(receiving(target(), target((0, 0, 2, 2)), min_area=min_area)["labels"]) == (min_area == 4)


def test_crowds_stay_while_a_pixel_is_visible():
    own = target((0, 0, 4, 4), (0, 0, 3, 4), labels=[1, 2], iscrowd=torch.tensor([1, 1]))
    given = target((0, 0, 3, 8), labels=[3], iscrowd=torch.tensor([0]))
    after = receiving(own, given, min_visibility=0.9, min_area=10)
    assert after["labels"].tolist() == [1, 3]
    assert after["iscrowd"].tolist() == [1, 0]
    assert after["boxes"][0].tolist() == [3, 0, 4, 4]


def test_other_keys_follow_their_objects():
    own = target((0, 0, 1, 1), (5, 5, 8, 8), track_id=torch.tensor([10, 11]), code=torch.eye(2))
    given = target((7, 0, 8, 1), (0, 0, 2, 2), track_id=torch.tensor([20, 21]), code=2 * torch.eye(2))
    after = receiving(own, given, plan_of((0, 1, 1, IDENTITY)), object_keys=("code",))
    assert after["track_id"].tolist() == [11, 21]
    assert after["code"].tolist() == [[0, 1], [0, 2]]


def test_keypoints_move_with_their_objects():
    keypoints = torch.tensor([[[1.0, 2.0, 2.0], [3.0, 1.0, 1.0]]])
    plan = plan_of((0, 1, 0, ((0.5, 0, 0), (0, 0.5, -1))))  # twice the size, two pixels down
    after = receiving(target(keypoints=keypoints[:0]), target((0, 0, 4, 4), keypoints=keypoints), plan)
    assert after["keypoints"].tolist() == [[[2, 6, 2], [6, 4, 1]]]


def test_keypoints_outside_the_image_become_zeros():
    keypoints = torch.tensor([[[0.5, 0.5, 2.0], [3.5, 0.5, 2.0]]])
    plan = plan_of((0, 1, 0, ((1, 0, -6), (0, 1, 0))))
    after = receiving(target(keypoints=keypoints[:0]), target((0, 0, 4, 4), keypoints=keypoints), plan)
    assert after["keypoints"].tolist() == [[[6.5, 0.5, 2], [0, 0, 0]]]


def test_keypoints_that_are_not_labelled_stay_zeros():
    keypoints = torch.tensor([[[0.0, 0.0, 0.0], [3.5, 0.5, 2.0]]])
    plan = plan_of((0, 1, 0, ((1, 0, -2), (0, 1, 0))))
    after = receiving(target(keypoints=keypoints[:0]), target((0, 0, 4, 4), keypoints=keypoints), plan)
    assert after["keypoints"].tolist() == [[[0, 0, 0], [5.5, 0.5, 2]]]


def test_keypoints_of_whole_numbers_are_moved_by_the_map_itself_and_not_by_its_whole_part():
    keypoints = torch.tensor([[[2, 2, 2]]])
    plan = plan_of((0, 1, 0, ((2, 0, 0), (0, 2, 0))))
    after = receiving(target(keypoints=keypoints[:0]), target((0, 0, 4, 4), keypoints=keypoints), plan)
    assert after["keypoints"].tolist() == [[[1, 1, 2]]]


def test_own_keypoints_stay():
    keypoints = torch.tensor([[[0.0, 0.0, 0.0], [3.5, 0.5, 2.0]]])
    after = receiving(target((0, 0, 4, 4), keypoints=keypoints), target((0, 0, 2, 2), keypoints=keypoints))
    assert (after["keypoints"][0] == keypoints[0]).all()


def test_keys_of_the_image_pass_through():
    own = target((0, 0, 1, 1), image_id=torch.tensor([17]), file_name="17.jpg")
    after = receiving(own, target((4, 4, 6, 6), image_id=torch.tensor([18]), file_name="18.jpg"))
    assert after["image_id"].tolist() == [17]
    assert after["file_name"] == "17.jpg"
    assert list(after) == list(own)


def test_a_key_that_a_target_lacks_is_not_added():
    assert set(receiving(target((0, 0, 1, 1)), target((4, 4, 6, 6)))) == {"boxes", "labels", "masks"}


@pytest.mark.parametrize("mask_type", [torch.bool, torch.uint8])
@pytest.mark.parametrize("number", [torch.float32, torch.float64, torch.float16])
def test_fields_keep_their_types(mask_type, number):
    def typed(*rectangles):
        fields = target(*rectangles, area=torch.ones(len(rectangles), dtype=number))
        return {**fields, "boxes": fields["boxes"].to(number), "masks": fields["masks"].to(mask_type)}

    after = receiving(typed((0, 0, 4, 4)), typed((2, 0, 6, 4)))
    assert (after["masks"].dtype, after["boxes"].dtype, after["area"].dtype) == (mask_type, number, number)
    assert after["labels"].dtype == torch.int64


def test_where_types_of_a_batch_differ_boxes_keep_their_own_and_labels_get_one_that_holds_all():
    one, other = target((0, 0, 2, 2)), target((4, 4, 8, 8))
    other = {**other, "boxes": other["boxes"].double(), "labels": other["labels"].to(torch.int32)}
    plan = plan_of((0, 1, 0, IDENTITY), (1, 0, 0, IDENTITY))
    after = carry_out(plan, make_images(), [one, other]).targets
    assert [found["boxes"].dtype for found in after] == [torch.float32, torch.float64]
    assert [found["labels"].dtype for found in after] == [torch.int64] * 2


def test_boxes_may_follow_gradients():
    one = target((0, 0, 2, 2))
    one["boxes"].requires_grad_()
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), [one, target((4, 4, 8, 8))]).targets
    assert after[0]["boxes"].tolist() == [[0, 0, 2, 2], [4, 4, 8, 8]]


def test_a_target_that_receives_nothing_is_the_same():
    targets = [target((0, 0, 2, 2)), target((4, 4, 6, 6))]
    assert carry_out(ONE_ROW, make_images(), targets).targets[1] is targets[1]


def test_an_object_that_lands_outside_changes_nothing():
    own = target((0, 0, 2, 2))
    result = carry_out(plan_of((0, 1, 0, ((1, 0, 50), (0, 1, 0)))), make_images(), [own, target((0, 0, 4, 4))])
    assert result.targets[0] is own
    assert (result.images == make_images()).all()
    assert sum(result.added) == 0


def test_it_is_counted_what_was_added_and_what_was_dropped():
    targets = [target((0, 0, 2, 2), (6, 6, 8, 8)), target((0, 0, 4, 4))]
    result = carry_out(ONE_ROW, make_images(), targets)
    assert (sum(result.added), result.dropped) == (1, 1)


def test_a_box_far_beyond_all_pixels_is_read_nowhere():
    own = target((0, 0, 2, 2), (0, 0, 2, 2))
    own["boxes"][1] = 65536
    after = receiving(own, target((1, 0, 3, 2)))
    assert after["boxes"].tolist()[0] == [0, 0, 1, 2]
    assert torch.equal(after["masks"][1], own["masks"][1])


@pytest.mark.parametrize("value", [2, 127, 254, 255])
@pytest.mark.parametrize("settings", [{}, {"blend_sigma": 1.0}, {"erosion": 1}])
@pytest.mark.parametrize("way", [nullcontext, window_after_window])
def test_masks_of_any_value_are_pasted_as_those_of_1_and_come_back_as_these(way, settings, value):
    own, given = target((0, 0, 4, 4), (6, 6, 8, 8), area=torch.ones(2)), target((1, 0, 6, 4), area=torch.ones(1))
    expected = carry_out(ONE_ROW, make_images(), [own, given], **settings)
    filled = [{**fields, "masks": fields["masks"] * value} for fields in (own, given)]
    with way():
        found = carry_out(ONE_ROW, make_images(), filled, **settings)
    assert torch.equal(found.images, expected.images)
    torch.testing.assert_close(found.targets[0], expected.targets[0], rtol=0, atol=0)


def test_cut_outs_stay_cut_to_what_is_visible_of_their_objects():
    own, given = target((0, 0, 4, 4)), target((2, 0, 6, 6))
    given["masks"][0, 4:, 4:] = 0  # its corner is cut off
    after = receiving(*(each | {"masks": CompactMasks.from_dense(each["masks"])} for each in (own, given)))
    assert after["masks"].windows.tolist() == [[0, 0, 4, 2], [0, 2, 6, 6]]


@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize(
    ("one", "other", "common"),
    [
        (torch.uint8, torch.float32, torch.float32),
        (torch.int64, torch.float32, torch.float64),  # float32 holds whole numbers up to 2**24
        (torch.int32, torch.int64, torch.int64),
        (torch.int64, torch.complex64, torch.complex64),
    ],
)
def test_rows_of_two_types_are_joined_in_the_smallest_that_holds_both(rows, one, other, common):
    joined = joined_rows([torch.ones(rows, 3, dtype=one), torch.ones(rows, 3, dtype=other)])
    assert joined.dtype == common
    assert joined.tolist() == [[1, 1, 1]] * 2 * rows
