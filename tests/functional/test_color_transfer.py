"""Colors moved towards those around the object: on 8 x 8 pixels whose answer is visible, and known colors of CIELAB."""

import numpy as np
import pytest
import torch
from copypaste_cases import IDENTITY, carry_out, cases, make_images, many, noise_batch, paste_seeded, plan_of, target
from hypothesis import given
from test_copypaste_batch import assert_equals_reference

from composer_copypaste import copypaste_batch
from composer_copypaste.functional.color_transfer import Pixels, from_lab, surroundings, to_lab
from composer_copypaste.functional.windows import Window
from composer_copypaste.settings import CopyPasteSettings

LEFT = (0, 0, 4, 8)
HISTOGRAM = {"color_transfer": "histogram", "transfer_strength": 1.0}


def on_halves(left, right, transfer_strength=1.0, **settings):
    """The left half of image 1 after pasting it on image 0, whose right half has other colors; columns, each channel.

    Args:
        left: colors (r, g, b) of the object's columns, from left to right.
        right: of the four columns beside it; the pixels below the object are white.
    """
    images = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    images[0, :, :, 4:] = torch.tensor(right, dtype=torch.uint8).T[:, None]
    images[1, :, :, :4] = torch.tensor(left, dtype=torch.uint8).T[:, None]
    targets, settings = [target(), target(LEFT)], settings | {"transfer_strength": transfer_strength}
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, **settings).images
    assert torch.equal(after[1], images[1])
    assert torch.equal(after[0, :, :, 4:], images[0, :, :, 4:])
    assert (after[0] == after[0][:, :1]).all()
    return after[0, :, 0, :4].T.tolist()


GREY, RED, BLUE = [100] * 3, [255, 0, 0], [0, 0, 255]


@pytest.mark.parametrize("method", ["reinhard", "histogram"])
def test_an_object_of_one_color_takes_the_one_color_around_it(method):
    assert on_halves([RED] * 4, [BLUE] * 4, color_transfer=method) == [BLUE] * 4


@pytest.mark.parametrize("method", ["reinhard", "histogram"])
def test_an_object_whose_colors_are_those_around_it_stays_as_it_is(method):
    both = [[90, 20, 200], [40, 220, 20], [90, 20, 200], [40, 220, 20]]
    assert on_halves(both, both, color_transfer=method) == both


@pytest.mark.parametrize("method", ["reinhard", "histogram"])
def test_the_strength_says_how_far_colors_move(method):
    given = {"color_transfer": method}
    assert on_halves([GREY] * 4, [[200] * 3] * 4, transfer_strength=0.0, **given) == [GREY] * 4
    assert on_halves([GREY] * 4, [[200] * 3] * 4, transfer_strength=0.25, **given) == [[125] * 3] * 4


def greys(*values):
    return [[value] * 3 for value in values]


def test_a_histogram_gives_each_share_of_an_object_the_values_that_as_large_a_share_has():
    found = on_halves(greys(10, 20, 30, 40), greys(200, 100, 0, 50), **HISTOGRAM)
    assert found == greys(0, 50, 100, 200)
    # half of the object has shares 0.5, half 1; around it the values have 0.25, 0.5, 0.75 and 1
    assert on_halves(greys(7, 7, 9, 9), greys(1, 2, 3, 4), **HISTOGRAM) == greys(2, 2, 4, 4)
    assert on_halves(greys(0, 0, 255, 255), greys(1, 2, 3, 4), **HISTOGRAM) == greys(2, 2, 4, 4)
    assert on_halves(greys(10, 20, 30, 40), greys(0, 0, 0, 100), **HISTOGRAM) == greys(0, 0, 0, 100)
    # 0 has a share of 0.25: what has 0.5 is a third of the way from there to 1
    assert on_halves(greys(7, 7, 9, 9), greys(0, 1, 1, 1), **HISTOGRAM) == greys(0, 0, 1, 1)


def test_a_color_counts_as_the_nearest_of_256():
    images = torch.full((2, 1, 8, 8), 1.6 / 255)
    images[1] = 0.5
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target(LEFT)], **HISTOGRAM).images
    torch.testing.assert_close(after[0, 0, :, :4], torch.full((8, 4), 2 / 255))


def test_an_object_of_one_pixel_takes_the_highest_value_around_it():
    images = torch.arange(64, dtype=torch.uint8).view(1, 8, 8).repeat(2, 1, 1, 1)
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [target(), target((0, 0, 1, 1))], **HISTOGRAM).images
    assert after[0, 0, 0].tolist() == [63, 1, 2, 3, 4, 5, 6, 7]


def test_means_and_deviations_become_those_around_the_object():
    around = greys(100, 160, 100, 160)
    found = on_halves(greys(60, 100, 60, 100), around, color_transfer="reinhard")
    np.testing.assert_allclose(found, around, atol=1)


def test_a_flat_object_does_not_turn_into_noise():
    dark, light = on_halves(greys(100, 104, 100, 104), greys(0, 255, 0, 255), color_transfer="reinhard")[:2]
    assert 0 < light[0] - dark[0] <= 2 * 4 + 3  # about twice the difference


def test_before_a_plain_wall_an_object_keeps_half_of_its_contrast():
    dark, light = on_halves(greys(80, 160, 80, 160), greys(*[120] * 4), color_transfer="reinhard")[:2]
    assert light[0] - dark[0] == pytest.approx(40, abs=4)


def test_an_object_that_fills_its_image_takes_the_colors_that_it_covers():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[1] = 250
    targets = [target(), target((0, 0, 8, 8))]
    for method in ("reinhard", "histogram"):
        assert (
            carry_out(
                plan_of((0, 1, 0, IDENTITY)), images, targets, color_transfer=method, transfer_strength=1.0
            ).images[0]
            == 0
        ).all()


def test_what_is_pasted_below_does_not_count_as_surroundings():
    images = torch.stack([torch.full((3, 8, 8), value, dtype=torch.uint8) for value in (60, 120, 180)])
    plan = plan_of((0, 1, 0, IDENTITY), (0, 2, 0, IDENTITY))
    targets = [target(), target((0, 0, 8, 4)), target((2, 2, 6, 6))]
    assert (carry_out(plan, images, targets, **HISTOGRAM).images[0] == 60).all()


def test_surroundings_are_half_the_box_on_each_side_and_8_pixels_at_least():
    assert surroundings(Window(100, 100, 140, 104), (500, 500)) == (80, 92, 160, 112)
    assert surroundings(Window(0, 0, 4, 4), (10, 500)) == (0, 0, 10, 12)


def test_colors_far_from_the_object_change_nothing():
    images = torch.zeros(2, 3, 40, 40, dtype=torch.uint8)
    images[0, :, :, 20:], images[1] = 255, 100
    masks = torch.zeros(1, 40, 40, dtype=torch.uint8)
    masks[:, 4:8, 4:8] = 1
    one = {"boxes": torch.tensor([[4.0, 4, 8, 8]]), "labels": torch.tensor([1]), "masks": masks}
    nothing = {key: values[:0] for key, values in one.items()}
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, [nothing, one], **HISTOGRAM).images
    assert (after[0, :, :, :20] == 0).all()


def test_masks_and_boxes_stay_what_they_are_without_it():
    images, targets = noise_batch(torch.uint8)
    plain = paste_seeded(images, targets, CopyPasteSettings(p=1.0))
    moved = paste_seeded(images, targets, CopyPasteSettings(p=1.0, color_transfer="reinhard", transfer_strength=0.5))
    torch.testing.assert_close(moved.targets, plain.targets, rtol=0, atol=0)
    assert not torch.equal(moved.images, plain.images)


def test_classes_of_class_id_maps_are_moved_as_objects_with_the_same_masks_are():
    images = make_images()
    maps = torch.zeros(2, 8, 8, dtype=torch.int64)
    maps[1, 2:6, 2:6] = 7
    plan = plan_of((0, 1, 1, IDENTITY))  # of the classes 0 and 7 the second
    by_class = carry_out(plan, images, maps, **HISTOGRAM)
    targets = [target(), target((2, 2, 6, 6))]
    by_mask = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, **HISTOGRAM)
    assert torch.equal(by_class.images[0], by_mask.images[0])
    assert (by_class.targets[0] == 7 * maps[1].bool()).all()


def test_colors_known_of_cielab():
    colors = torch.tensor([[255, 0, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [119, 119, 119]]).T / 255
    known = torch.tensor([[53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [100, 0, 0], [0, 0, 0], [50.03, 0, 0]]).T
    torch.testing.assert_close(to_lab(colors), known, rtol=0, atol=0.01)
    torch.testing.assert_close(from_lab(known), colors, rtol=0, atol=0.001)


def test_of_a_dark_grey_the_lightness_is_in_proportion_to_its_light():
    """CIE's second definition: L is 24389 / 27 times Y where that is below 8."""
    greys = torch.tensor([3, 10, 20]) / 255  # the first two on sRGB's straight line, whose slope is 1 / 12.92
    light = torch.tensor([*greys[:2] / 12.92, ((greys[2] + 0.055) / 1.055) ** 2.4])
    lightness, a, b = to_lab(greys.expand(3, 3))
    torch.testing.assert_close(lightness, light * 24389 / 27, rtol=1e-4, atol=0)
    torch.testing.assert_close(torch.stack([a, b]), torch.zeros(2, 3), rtol=0, atol=1e-3)


def test_all_colors_come_back_from_cielab_and_others_become_the_nearest_of_each_channel():
    steps = torch.arange(0, 256, 5) / 255
    colors = torch.cartesian_prod(steps, steps, steps).T
    torch.testing.assert_close(from_lab(to_lab(colors)), colors, rtol=0, atol=1e-4)
    beyond = from_lab(torch.tensor([[60.0], [200], [-200]]))[1:]
    torch.testing.assert_close(beyond, torch.tensor([[0.0], [1]]), rtol=0, atol=1e-6)


def test_the_gradient_of_black_is_a_number():
    black = torch.zeros(3, 1, requires_grad=True)
    for there_and_back in (to_lab(black), from_lab(black)):
        (gradient,) = torch.autograd.grad(there_and_back.sum(), black)
        assert gradient.isfinite().all()


def test_colors_beyond_black_and_white_count_as_these():
    given = Pixels.of([torch.tensor([[[-0.5, 0.5, 1.5]]])], [torch.ones(1, 3)], largest=1.0)
    assert given.colors.tolist() == [[0, 0.5, 1]]


@pytest.mark.parametrize("n", [0, 1])
def test_a_batch_of_no_or_one_image_is_one_whose_colors_can_be_moved(n):
    settings = {"p": 1.0, "source": "self", "color_transfer": "reinhard"}
    assert len(copypaste_batch(make_images(2)[:n], [target((0, 0, 2, 2))] * n, **settings)[0]) == n


def test_reinhard_of_images_that_are_not_rgb_is_an_error_and_a_histogram_takes_them():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    images[1] = 9
    targets = [target(), target(LEFT)]
    with pytest.raises(ValueError, match=r'^color_transfer: expected images of 3 channels for "reinhard", .*, got 1; '):
        copypaste_batch(images, targets, p=0.0, color_transfer="reinhard")
    after = carry_out(plan_of((0, 1, 0, IDENTITY)), images, targets, **HISTOGRAM).images
    assert (after == images * torch.tensor([0, 1])[:, None, None, None]).all()


def test_a_strength_without_a_transfer_is_an_error():
    with pytest.raises(ValueError, match=r"^transfer_strength: .* changes nothing without a color_transfer; "):
        CopyPasteSettings(transfer_strength=1.0)


BY_HISTOGRAM = {"color_transfer": "histogram", "transfer_strength": (0.5, 1.0), "scale_range": (1.0, 1.0)}
BY_HISTOGRAM |= {"rotation": 0.0, "aspect_range": (1.0, 1.0), "pool_scale_range": (1.0, 1.0), "vanishing_line": None}
"""Settings that move by whole pixels: a share that is rounded otherwise can change a level of few pixels by many."""


@many(25)
@given(cases(bank=True, scale_map=None, place_point="centre", **BY_HISTOGRAM))
def test_histograms_equal_the_slow_reference(case):
    assert_equals_reference(case)
