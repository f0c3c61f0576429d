"""Jitter and placement of drawn plans: what is resized, flipped and put where, over seeds."""

import numpy as np
import pytest
import torch
from copypaste_cases import make_images, target

from composer_copypaste.functional.copypaste import copypaste_batch
from composer_copypaste.functional.overlap import covered_fraction
from composer_copypaste.functional.plan import ImageInfo
from composer_copypaste.functional.sampling import draw_plan
from composer_copypaste.settings import CopyPasteSettings

IMAGE = ImageInfo(40, 60, np.array([[5.0, 6.0, 13.0, 18.0]]), np.ones(1))


def maps(n=200, infos=(IMAGE, IMAGE), **settings):
    """The maps from source to target (m, 2, 3) of many drawn plans."""
    knobs = CopyPasteSettings(**{"p": 1.0, "p_instance": 1.0, "p_flip": 0.0, "scale_range": (1.0, 1.0), **settings})
    plans = [draw_plan(list(infos), knobs, torch.Generator().manual_seed(seed)) for seed in range(n)]
    back = np.concatenate([plan.to_source.numpy() for plan in plans])
    linear = np.linalg.inv(back[:, :, :2])
    return np.concatenate([linear, -linear @ back[:, :, 2:]], axis=2)


def middles(found):
    """Where the middle of the object lands."""
    return found[:, :, :2] @ np.array([9.0, 12.0]) + found[:, :, 2]


def test_log_uniform_scales_are_as_often_below_1_as_above():
    scales = maps(scale_range=(0.25, 4.0), scale_distribution="log_uniform")[:, 0, 0]
    assert 0.43 < (scales < 1).mean() < 0.57
    assert scales.min() >= 0.25
    assert scales.max() <= 4


def test_an_aspect_range_stretches_and_keeps_the_area():
    found = maps(aspect_range=(0.5, 3.0))
    ratio = found[:, 0, 0] / found[:, 1, 1]
    assert ratio.min() >= 0.499
    assert ratio.max() <= 3.001
    assert ratio.std() > 0.3
    np.testing.assert_allclose(found[:, 0, 0] * found[:, 1, 1], 1)


def test_a_vertical_flip_puts_the_top_at_the_bottom():
    still = {"p": 1.0, "p_instance": 1.0, "scale_range": (1.0, 1.0), "p_flip": 0.0, "p_flip_vertical": 1.0}
    images, after = copypaste_batch(make_images(), [target(), target((0, 0, 2, 1))], **still)
    assert after[0]["boxes"].tolist() == [[0, 7, 2, 8]]
    assert images[0, 0, 7, :3].tolist() == [100, 101, 72]


def test_placed_anywhere_the_middle_is_in_the_image_and_parts_are_outside():
    middle = middles(maps(placement="anywhere"))
    assert (middle >= -0.51).all()
    assert (middle <= np.array([60, 40]) + 0.51).all()
    assert (middle < [4, 6]).any()
    assert (middle > np.array([60, 40]) - [4, 6]).any()


def test_placed_near_an_object_is_moved_by_up_to_a_part_of_its_box_to_every_side():
    """The object is 8 wide and 12 high, with its centre at (9, 12)."""
    moved = middles(maps(placement="near", max_shift=0.5)) - [9, 12]
    assert np.abs(moved).max(axis=0).tolist() == [4, 6]
    assert (moved.min(axis=0) < [-3, -5]).all()
    assert (moved.max(axis=0) > [3, 5]).all()
    assert np.abs(middles(maps(placement="near", max_shift=0.0)) - [9, 12]).max() == 0


def test_placed_near_a_resized_object_is_moved_by_its_new_size():
    moved = middles(maps(placement="near", max_shift=1.0, scale_range=(0.5, 0.5))) - [9, 12]
    assert (np.abs(moved) <= [4.5, 6.5]).all()
    assert (np.abs(moved).max(axis=0) >= [3, 5]).all()


@pytest.mark.parametrize("placement", ["random", "anywhere"])
def test_no_object_hides_more_of_the_own_ones_boxes_than_allowed(placement):
    own = ImageInfo(40, 60, np.array([[0.0, 0.0, 30.0, 40.0]]), np.zeros(1))
    for x, _ in middles(maps(infos=(own, IMAGE), placement=placement, max_overlap=0.0)):
        assert x >= 30 + 4  # the object is 8 wide


def test_where_no_place_will_do_the_object_is_left_out():
    full = ImageInfo(40, 60, np.array([[0.0, 0.0, 60.0, 40.0]]), np.zeros(1))
    assert len(maps(infos=(full, IMAGE), placement="random", max_overlap=0.5)) == 0


def test_more_tries_find_more_places():
    narrow = ImageInfo(40, 60, np.array([[0.0, 0.0, 48.0, 40.0]]), np.zeros(1))
    found = [len(maps(infos=(narrow, IMAGE), placement="random", max_overlap=0.0, placement_tries=n)) for n in (1, 50)]
    assert found[0] < 50
    assert found[1] > 190


@pytest.mark.parametrize(
    ("others", "fraction"),
    [
        ([], 0),
        ([(0, 0, 4, 4)], 1),
        ([(2, 0, 9, 4)], 0.5),
        ([(0, 0, 2, 2), (1, 1, 3, 3)], 7 / 16),
        ([(4, 0, 8, 4), (3, 3, 3, 4)], 0),
    ],
)
def test_the_covered_fraction_counts_what_boxes_share_once(others, fraction):
    assert covered_fraction(np.array([0.0, 0, 4, 4]), np.array(others, dtype=float).reshape(-1, 4)) == fraction


def test_colors_are_drawn_within_their_range_once_per_image_or_object():
    two = ImageInfo(40, 60, np.array([[5.0, 6.0, 13.0, 18.0], [0.0, 0.0, 5.0, 5.0]]), np.ones(2))
    for jitter, different in (("image", 1), ("instance", 2)):
        knobs = CopyPasteSettings(p=1.0, p_instance=1.0, jitter=jitter, brightness=0.5, saturation=0.2)
        color = draw_plan([IMAGE, two], knobs, torch.Generator().manual_seed(0)).color[:2]
        assert len(color.unique(dim=0)) == different
        assert (color[:, 1] == 1).all()
        assert ((color - 1).abs() <= torch.tensor([0.5, 0.0, 0.2])).all()
