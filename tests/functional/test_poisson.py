"""Blending in the gradient domain: on 8 x 8 pixels whose answer is visible, and against linear equations."""

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, Pool, block, carry_out, cases, make_images, many, plan_of, target
from hypothesis import given
from hypothesis import strategies as st
from test_copypaste_batch import assert_equals_reference

from composer_copypaste import CompactMasks, InstanceBank
from composer_copypaste.functional.poisson import seamless
from composer_copypaste.settings import CopyPasteSettings

MIDDLE = (3, 3, 5, 5)


def blended(below, given, rectangle=MIDDLE, **settings):
    """A plane (8, 8) after the rectangle of another one was pasted on it without a seam."""
    images = torch.stack([torch.as_tensor(plane).expand(8, 8) for plane in (below, given)])[:, None]
    settings = {"blend_mode": "poisson"} | settings
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images.clone(), [target(), target(rectangle)], **settings).images
    outside = ~block(*rectangle).bool()
    assert torch.equal(after[0, 0][outside], images[0, 0][outside])
    assert torch.equal(after[1], images[1])
    return after[0, 0]


def on_grey(inside, outside):
    """A plane whose middle has another value."""
    return torch.where(block(*MIDDLE).bool(), inside, outside).to(torch.uint8)


def test_an_object_keeps_its_contrast_to_its_background_on_another_one():
    after = blended(torch.tensor(30).byte(), on_grey(150, 100))
    assert (after == on_grey(80, 30)).all()


def test_an_object_on_the_background_that_it_comes_from_stays_as_it_is():
    assert (blended(torch.tensor(100).byte(), on_grey(150, 100)) == on_grey(150, 100)).all()


def test_a_slope_below_goes_on_through_the_object():
    slope = torch.arange(8).mul(10).byte()  # has no curvature
    after = blended(slope, torch.tensor(77).byte())
    assert (after == slope).all()


def test_the_details_of_an_object_stay():
    details = torch.zeros(8, 8, dtype=torch.uint8)
    details[3, 3], details[4, 4] = 40, 90
    assert (blended(torch.tensor(50).byte(), details) == 50 + details).all()


def test_nothing_is_asked_for_beyond_the_edge_of_the_image():
    below = torch.tensor([0, 0, 0, 0, 60, 60, 60, 60]).byte()
    after = blended(below, torch.tensor(20).byte(), (0, 0, 4, 8))
    assert (after == 60).all()  # its only neighbours are on the right


def test_an_object_that_fills_its_image_stays_as_it_is():
    images = torch.stack([torch.zeros(1, 8, 8), torch.rand(1, 8, 8)])
    targets = [target(), target((0, 0, 8, 8))]
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, blend_mode="poisson").images
    assert torch.equal(after[0], images[1])


@pytest.mark.parametrize("pixels", [1, 2])
def test_an_object_whose_mask_ends_within_it_keeps_its_contrast_all_the_same(pixels):
    given = torch.where(block(3 - pixels, 3 - pixels, 5 + pixels, 5 + pixels).bool(), 150, 100).to(torch.uint8)
    assert (blended(torch.tensor(30).byte(), given) == on_grey(80, 30)).all()


def test_a_mask_cut_to_its_object_is_blended_alike():
    images, given_ = torch.stack([torch.tensor(30).byte().expand(8, 8), on_grey(150, 100)])[:, None], target(MIDDLE)
    targets = [own | {"masks": CompactMasks.from_dense(own["masks"])} for own in (target(), given_)]
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, blend_mode="poisson").images
    assert (after[0, 0] == on_grey(80, 30)).all()


def test_an_object_of_a_bank_is_blended_alike():
    bank, settings = InstanceBank(1), {"blend_mode": "poisson"}
    carry_out(plan_of(), on_grey(150, 100)[None, None], [target(MIDDLE)], bank=bank, **settings)
    image, crop_begins_at_2 = torch.full((1, 1, 8, 8), 30, dtype=torch.uint8), ((1, 0, -2), (0, 1, -2))
    after = carry_out(plan_of((0, 1, 0, crop_begins_at_2)), image, [target()], bank=bank, **settings).images
    assert (after[0, 0] == on_grey(80, 30)).all()


def test_what_is_pasted_below_lends_an_object_no_color():
    images = torch.stack([torch.full((1, 8, 8), value, dtype=torch.uint8) for value in (60, 200, 90)])
    targets = [target(), target((0, 0, 8, 8)), target(MIDDLE)]
    plan = plan_of((0, 1, 0, IDENTITY), (0, 2, 0, IDENTITY))
    after = carry_out(plan, images, targets, blend_mode="poisson").images[0, 0]
    assert (after == on_grey(60, 200)).all()  # the first one fills the image, and so stays


def test_colors_end_at_white_and_black():
    assert (blended(torch.tensor(200).byte(), on_grey(250, 100)) == on_grey(255, 200)).all()
    assert (blended(torch.tensor(30).byte(), on_grey(10, 100)) == on_grey(0, 30)).all()


def test_masks_and_boxes_stay_what_they_are_without_it():
    targets = [target((1, 1, 5, 5)), target(MIDDLE)]
    plain, blended_ = (
        carry_out(plan_of((0, 1, 0, IDENTITY)), make_images(), targets, blend_mode=mode)
        for mode in ("alpha", "poisson")
    )
    torch.testing.assert_close(blended_.targets, plain.targets, rtol=0, atol=0)
    assert not torch.equal(blended_.images, plain.images)


@pytest.mark.parametrize("has_background", [True, False])
def test_a_cut_out_that_shows_nothing_around_it_is_painted_over(has_background):
    colors = torch.full((3, 8, 8), 10, dtype=torch.uint8)
    mask = block(*MIDDLE)
    colors[:, mask.bool()] = 110
    pool = Pool((1, colors, mask))
    pool.has_background = np.array([has_background])
    images = torch.full((1, 3, 8, 8), 100, dtype=torch.uint8)
    plan = plan_of((0, 1, 0, IDENTITY))
    after = carry_out(plan, images, [target()], pool=pool, blend_mode="poisson").images[0, 0]
    assert (after == on_grey(200 if has_background else 110, 100)).all()


def test_many_objects_of_many_sizes_are_solved_as_exactly_as_one():
    rng = np.random.default_rng(0)
    colors, masks, below = [], [], []
    for size in ((7, 30), (9, 9), (10, 12), (40, 23)):
        height, width = size
        y, x = np.mgrid[:height, :width]
        masks.append(torch.from_numpy(rng.random(size) < 0.8).byte())
        # x^2 - y^2 has no curvature: it is what is added, wherever it is given at the border
        below.append(torch.from_numpy(np.stack([(x**2 - y**2) / 100, 3 * x + y])).float())
        colors.append(torch.zeros_like(below[-1]))
    for mask in masks:  # a window reaches three pixels further
        mask[:3] = mask[-3:] = mask[:, :3] = mask[:, -3:] = 0
    for found, plane, mask in zip(seamless(colors, masks, below), below, masks, strict=True):
        torch.testing.assert_close(found * mask, plane * mask, rtol=1e-3, atol=1e-3)


def test_an_object_of_300_pixels_is_solved_to_a_thousandth_of_the_largest_difference():
    y, x = np.mgrid[:300, :300]
    difference = torch.from_numpy(np.stack([(x**2 - y**2) / 300**2, (3 * x + y) / 1200])).float()  # from -1 to 1
    mask = torch.zeros(300, 300, dtype=torch.uint8)
    mask[3:-3, 3:-3] = 1
    (found,) = seamless([torch.zeros_like(difference)], [mask], [difference])
    assert ((found - difference) * mask).abs().max() < 1e-3


def test_a_soft_seam_besides_is_an_error():
    with pytest.raises(ValueError, match=r'^blend_sigma: expected 0 with blend_mode "poisson", which .*, got 1.0$'):
        CopyPasteSettings(blend_mode="poisson", blend_sigma=1.0)


@many(25)
@given(cases(sides=st.integers(1, 20), counts=st.integers(0, 4), bank=True, blend_mode="poisson", blend_sigma=0.0))
def test_drawn_batches_equal_the_slow_reference(case):
    assert_equals_reference(case)
