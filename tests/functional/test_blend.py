"""What copy-paste does to images, with hand-written plans on images of 8 x 8 pixels."""

import math
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, block, carry_out, make_images, plan_of, target, window_after_window

from composer_copypaste import CompactMasks
from composer_copypaste.functional import blend
from composer_copypaste.functional.layout import SourceObjects, layout_of

HERE = block(2, 3, 6, 5).bool()  # x 2..5, y 3..4


def pasted_on_first(to_source, rectangle=(2, 3, 6, 5), images=None, **settings):
    """Image 0 after the one object of image 1 was pasted on it."""
    images = make_images() if images is None else images
    return carry_out(plan_of((0, 1, 0, to_source)), images, [target(), target(rectangle)], **settings).images[0]


def test_an_object_pasted_in_place_brings_its_own_pixels():
    before = make_images()
    after = pasted_on_first(IDENTITY)
    assert (after[:, HERE] == before[1][:, HERE]).all()
    assert (after[:, ~HERE] == before[0][:, ~HERE]).all()


def test_the_image_that_gives_an_object_keeps_its_pixels():
    images = make_images()
    result = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target((2, 3, 6, 5))]).images
    assert (result[1] == images[1]).all()


def test_a_flip_about_the_middle_mirrors_the_object():
    after = pasted_on_first(((-1, 0, 8), (0, 1, 0)), rectangle=(0, 0, 2, 1))
    assert after[0, 0].tolist() == [0, 1, 2, 3, 4, 5, 101, 100]


def test_a_shift_leaves_out_what_falls_outside():
    after = pasted_on_first(((1, 0, -6), (0, 1, 0)))  # six pixels to the right
    assert after[0, 3].tolist() == [30, 31, 32, 33, 34, 35, 36, 37]
    after = pasted_on_first(((1, 0, -4), (0, 1, 0)))
    assert after[0, 3].tolist() == [30, 31, 32, 33, 34, 35, 132, 133]


def test_doubling_makes_four_pixels_of_one():
    after = pasted_on_first(((0.5, 0, 0), (0, 0.5, 0)), rectangle=(1, 1, 2, 2))
    changed = after[0] != make_images()[0, 0]
    assert (changed == block(2, 2, 4, 4).bool()).all()
    # bilinear: a quarter of a pixel to either side of the middle of pixel (1, 1), which is 111; up and down count ten
    assert after[0, 2:4, 2:4].tolist() == [[108, 109], [113, 114]]


def test_halving_takes_the_tent_weighted_mean():
    columns = torch.zeros(2, 1, 8, 8)
    columns[1, 0, :, 3] = 1.0  # one bright column
    after = pasted_on_first(((2, 0, 0), (0, 2, 0)), rectangle=(0, 0, 8, 8), images=columns)
    # the tent reaches two pixels to either side of the pixels' middles, x = 1, 3, 5: weights 1/8, 3/8, 3/8, 1/8
    torch.testing.assert_close(after[0, 1], torch.tensor([0, 3 / 8, 1 / 8, 0, 0, 0, 0, 0]))


def test_a_quarter_turn_turns_the_object():
    after = pasted_on_first(((0, 1, 0), (-1, 0, 8)), rectangle=(0, 0, 3, 1))  # target (x, y) shows source (y, 8 - x)
    assert after[0, :, 7].tolist() == [100, 101, 102, 37, 47, 57, 67, 77]


def test_the_object_pasted_last_lies_on_top():
    targets = [target(), target((1, 1, 4, 4)), target((3, 3, 6, 6))]
    plan = plan_of((0, 1, 0, IDENTITY), (0, 2, 0, IDENTITY))
    after = carry_out(plan, make_images(3), targets).images[0, 0]
    assert [after[y, y].item() for y in range(8)] == [0, 111, 122, 233, 244, 255, 66, 77]


def test_an_object_comes_from_the_unchanged_source_when_both_images_receive():
    plan = plan_of((0, 1, 0, IDENTITY), (1, 0, 0, IDENTITY))
    after = carry_out(plan, make_images(), [target((2, 3, 6, 5)), target((2, 3, 6, 5))]).images
    assert (after[0][:, HERE] == make_images()[1][:, HERE]).all()
    assert (after[1][:, HERE] == make_images()[0][:, HERE]).all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_keep_their_type(dtype):
    for to_source in (IDENTITY, ((0.7, 0, 0), (0, 0.7, 0)), ((0.7, 0.1, 0), (-0.1, 0.7, 0))):
        for sigma in (0.0, 1.0):
            after = pasted_on_first(to_source, images=make_images().to(dtype), blend_sigma=sigma)
            assert after.dtype == dtype


def test_whole_numbers_are_rounded_to_the_nearest():
    images = torch.tensor([0, 3], dtype=torch.uint8)[:, None, None, None].repeat(1, 1, 8, 8)
    images[1, :, :, ::2] = 2
    after = pasted_on_first(((1, 0, 0.25), (0, 1, 0)), images=images)  # 3/4 of one column, 1/4 of the next
    assert after[0, 3].tolist() == [0, 0, 2, 3, 2, 3, 0, 0]


def test_a_list_shares_with_its_argument_the_images_that_receive_nothing():
    images = list(make_images())
    result = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target((2, 3, 6, 5))]).images
    assert result[1] is images[1]
    assert (images[0] == make_images()[0]).all()


def test_a_batch_that_receives_nothing_is_not_even_copied():
    images = make_images()
    assert carry_out(plan_of(), images, [target(), target()]).images is images


def test_blending_fades_colors_across_the_seam():
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    row = pasted_on_first(IDENTITY, rectangle=(0, 0, 4, 8), images=images, blend_sigma=1.0)[0, 4]
    assert (row.diff() <= 0).all()
    assert 0.5 < row[3] < 1
    assert 0 < row[4] < 0.5
    torch.testing.assert_close(row[3] + row[4], torch.tensor(1.0))  # alike on both sides of the seam
    torch.testing.assert_close(row[0], torch.tensor(1.0))  # no fading along the image's edge


@pytest.mark.parametrize("sigma", [0.5, 1.0, 1.9])
def test_the_opacity_of_a_pixel_is_the_share_of_a_gaussian_around_it_that_lies_on_the_object(sigma):
    images = torch.stack([torch.zeros(1, 8, 8), torch.ones(1, 8, 8)])
    row = pasted_on_first(IDENTITY, rectangle=(0, 0, 4, 8), images=images, blend_sigma=sigma)[0, 4]
    radius = math.ceil(3 * sigma)
    heights = {step: math.exp(-(step**2) / (2 * sigma**2)) for step in range(-radius, radius + 1)}
    shares = [sum(height for step, height in heights.items() if x + step < 4) for x in range(8)]
    torch.testing.assert_close(row, torch.tensor(shares) / sum(heights.values()))


def test_blending_does_not_widen_the_mask():
    targets = [target(), target((2, 3, 6, 5))]
    hard, soft = (
        carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), targets, blend_sigma=sigma) for sigma in (0.0, 2.0)
    )
    assert (soft.targets[0]["masks"] == hard.targets[0]["masks"]).all()
    assert (soft.targets[0]["boxes"] == hard.targets[0]["boxes"]).all()


def test_a_soft_seam_is_no_convolution_which_a_gpu_rounds_to_10_bits(monkeypatch):
    monkeypatch.setattr(torch.nn.functional, "conv2d", None)
    assert not torch.equal(pasted_on_first(IDENTITY, blend_sigma=1.0), pasted_on_first(IDENTITY))


def test_blending_leaves_float64_pixels_beyond_its_reach_as_they_were():
    images = torch.rand(2, 1, 8, 32, dtype=torch.float64)
    targets = [
        {**target(), "masks": torch.zeros(0, 8, 32).byte()},
        {**target((0, 0, 2, 8)), "masks": block(0, 0, 2, 8, (8, 32))[None]},
    ]
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, blend_sigma=1.0).images
    assert (after[0, :, :, 5:] == images[0, :, :, 5:]).all()


def test_the_gradient_passes_where_nothing_was_pasted_and_moves_to_the_source_elsewhere():
    images = make_images().float().requires_grad_()
    after = pasted_on_first(IDENTITY, images=images)
    (gradient,) = torch.autograd.grad(after.sum(), images)
    assert (gradient[0][:, HERE] == 0).all()
    assert (gradient[0][:, ~HERE] == 1).all()
    assert (gradient[1] == HERE).all()


@pytest.mark.parametrize("to_source", [((0.5, 0, 1), (0, 0.5, 1)), ((0.8, 0.6, 0), (-0.6, 0.8, 3))])
@pytest.mark.parametrize("sigma", [0.0, 1.0])
def test_each_pixel_of_a_gradient_arrives_once(to_source, sigma):
    images = make_images().double().requires_grad_()
    after = pasted_on_first(to_source, images=images, blend_sigma=sigma)
    (gradient,) = torch.autograd.grad(after.sum(), images)
    torch.testing.assert_close(gradient.sum(), torch.tensor(3 * 64.0).double(), rtol=1e-5, atol=0)


# Erosion


def pasted_on(pixels, rectangle, to_source=IDENTITY):
    """Where an object eroded by that number of pixels changes image 0, and its mask there."""
    plan, targets = plan_of((0, 1, 0, to_source)), [target(), target(rectangle)]
    result = carry_out(plan, make_images(), targets, erosion=pixels)
    return (result.images[0] != make_images()[0])[0], result.targets[0]["masks"].any(0)


@pytest.mark.parametrize(("pixels", "left"), [(1, (3, 2, 6, 6)), (2, (4, 3, 5, 5)), (3, (0, 0, 0, 0))])
def test_erosion_takes_the_border_off_colors_and_mask(pixels, left):
    changed, mask = pasted_on(pixels, (2, 1, 7, 7))
    assert (changed == block(*left).bool()).all()
    assert (mask == changed).all()


def test_erosion_takes_nothing_off_where_the_object_goes_on_beyond_the_image():
    changed, _ = pasted_on(1, (0, 2, 5, 6), ((1, 0, 2), (0, 1, 0)))  # two pixels to the left
    assert (changed == block(0, 3, 2, 5).bool()).all()


def test_erosion_counts_pixels_of_the_target():
    changed, _ = pasted_on(1, (1, 1, 3, 3), ((0.5, 0, 0), (0, 0.5, 0)))  # doubled: 2..6
    assert (changed == block(3, 3, 5, 5).bool()).all()


# Colors


def repainted(color, pixels, **settings):
    """The colors of image 1 (two of its columns, in each channel) after pasting them on black with a color factor."""
    images = torch.zeros(2, len(pixels), 8, 8, dtype=torch.as_tensor(pixels).dtype)
    images[1, :, :, :2] = torch.as_tensor(pixels)[:, None, :]
    targets = [target(), target((0, 0, 2, 8))]
    after = carry_out(plan_of((0, 1, 0, IDENTITY, color)), images, targets, **settings).images
    assert torch.equal(after[1], images[1])
    assert (after[0, :, :, 2:] == 0).all()
    return after[0, :, 0, :2].tolist()


def test_brightness_multiplies_up_to_white():
    whole = torch.tensor([[10, 200], [20, 100], [0, 5]], dtype=torch.uint8)
    assert repainted((1.5, 1, 1), whole) == [[15, 255], [30, 150], [0, 8]]


def test_contrast_is_about_the_objects_mean_grey():
    grey = torch.tensor([[100, 200]] * 3, dtype=torch.uint8)
    assert repainted((1, 0.5, 1), grey) == [[125, 175]] * 3


def test_no_saturation_leaves_grey():
    red = torch.tensor([[200, 0], [0, 100], [0, 0]], dtype=torch.uint8)
    assert repainted((1, 1, 0), red) == [[60, 59]] * 3


def test_floating_point_colors_end_at_1():
    assert repainted((2, 1, 1), torch.tensor([[0.25, 0.75]] * 3)) == [[0.5, 1.0]] * 3


@pytest.mark.parametrize("engine", [nullcontext, window_after_window])
@pytest.mark.parametrize(
    ("color", "expected"),
    [
        ((2, 0.5, 1), [[0.375, 0.875], [0.875, 0.875]]),  # 0 and 1 and not 2, of a mean of 0.75
        ((1, 3, 0.5), [[0.125, 0.875], [0.375, 0.625]]),  # 0 and 1, not -1 and 2; each pixel's grey is 0.25 and 0.75
        ((1, 1, 3), [[0.0, 1.0], [1.0, 0.0]]),
    ],
    ids=["brightness", "contrast", "saturation"],
)
def test_colors_end_at_0_and_1_after_each_step(engine, color, expected):
    with engine():  # in images of two channels, grey is their mean
        found = repainted(color, torch.tensor([[0.0, 1.0], [0.5, 0.5]]))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected))


@pytest.mark.parametrize("engine", [nullcontext, window_after_window])
@pytest.mark.parametrize("settings", [{}, {"color_transfer": "reinhard"}, {"color_transfer": "histogram"}])
def test_an_object_of_which_no_pixel_is_in_the_image_changes_no_color(engine, settings):
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    given = target((0, 0, 8, 8)) | {"masks": block(0, 0, 1, 1)[None]}  # its box says that it may be further right
    plan = plan_of((0, 1, 0, ((1, 0, 4), (0, 1, 0)), (1, 0.5, 1)))
    with engine():
        after = carry_out(plan, images, [target(), given], blend_sigma=1.0, **settings).images
    assert torch.equal(after, images)


@pytest.mark.parametrize(
    ("many", "groups"), [(True, [range(2), range(2, 4), range(4, 5)]), (False, [range(k, k + 1) for k in range(5)])]
)
def test_colors_are_changed_together_until_a_group_has_more_pixels_than_the_limit(monkeypatch, many, groups):
    monkeypatch.setattr(blend, "GROUP_PIXELS", 36)
    masks = CompactMasks.from_dense(block(2, 2, 6, 6)[None])
    places = [SourceObjects(masks, np.array([[2.0, 2, 6, 6]]))] * 2
    pasted = layout_of(plan_of(*[(0, 1, 0, IDENTITY)] * 5), places).pasted
    assert pasted.windows.tolist() == [[1, 1, 7, 7]] * 5  # 36 pixels each
    assert list(blend._groups(pasted, many=many)) == groups
