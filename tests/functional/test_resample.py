"""Windows, and the resampling of masks and colors."""

import numpy as np
import pytest
import torch
from copypaste_cases import many
from hypothesis import assume, example, given
from hypothesis import strategies as st
from reference import nearest, tent
from torch.nn import functional

from composer_copypaste.functional import resample
from composer_copypaste.functional.resample import PIXEL, resample_colors, resample_mask, resampled_area
from composer_copypaste.functional.windows import Window


def fixed(*rows):
    return np.rint(np.array(rows) * 2.0**32).astype(np.int64)


def whole(height, width):
    return Window(0, 0, height, width)


def make_image(height=8, width=8, channels=2):
    return torch.rand(channels, height, width, generator=torch.Generator().manual_seed(0))


def on_canvas(window, mask, size):
    canvas = torch.zeros(size, dtype=torch.uint8)
    canvas[window.slices] = mask
    return canvas


def test_colors_are_the_same_in_a_gpus_few_steps_as_in_a_cpus_many(monkeypatch):
    arguments = make_image(), fixed((2.3, 0, -1.2), (0, 0.7, 0.4)), Window(1, 2, 7, 8), (8, 8)
    one_by_one = resample_colors(*arguments)
    monkeypatch.setattr(resample, "_summed_one_by_one", resample._summed)
    torch.testing.assert_close(resample_colors(*arguments), one_by_one)


WINDOWS = st.builds(Window, *[st.integers(-5, 20)] * 4)


@many(100)
@given(WINDOWS, WINDOWS)
def test_windows_meet_where_both_have_pixels(a, b):
    both = {(y, x) for y in range(-5, 20) for x in range(-5, 20) if has(a, y, x) and has(b, y, x)}
    assert {(y, x) for y in range(-5, 20) for x in range(-5, 20) if has(a & b, y, x)} == both
    assert (a & b).is_empty == (not both)


def has(window, y, x):
    return window.y1 <= y < window.y2 and window.x1 <= x < window.x2


def test_a_window_within_another_is_counted_from_its_corner():
    assert Window(5, 7, 8, 9).within(Window(4, 5, 20, 20)) == Window(1, 2, 4, 4)


def test_a_window_grows_on_each_side():
    assert Window(1, 4, 3, 6).grown(2) == Window(-1, 2, 5, 8)


def test_colors_moved_by_whole_pixels_are_the_same_to_the_bit():
    image = make_image()
    moved = resample_colors(image, fixed([1, 0, 2], [0, 1, 1]), Window(0, 0, 7, 6), (8, 8))
    assert torch.equal(moved, image[:, 1:, 2:])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16])
def test_colors_flipped_keep_their_type_and_their_bits(dtype):
    image = (make_image() * 255).to(dtype)
    flipped = resample_colors(image, fixed([-1, 0, 8], [0, 1, 0]), whole(8, 8), (8, 8))
    assert flipped.dtype == dtype
    assert torch.equal(flipped, image.flip(-1))


@pytest.mark.parametrize("to_source", [([1, 0, 0.5], [0, 1, 0]), ([-1, 0, 7.5], [0, 1, 0])])
def test_colors_moved_by_half_a_pixel_are_the_means_of_two(to_source):
    image = make_image()
    means = (image[:, :, :-1] + image[:, :, 1:]) / 2
    shown = resample_colors(image, fixed(*to_source), whole(8, 7), (8, 7))
    torch.testing.assert_close(shown, means if to_source[0][0] > 0 else means.flip(-1))


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 8), (16, 16), (5, 13), (1, 1), (4, 10)])
def test_whole_images_are_resized_as_torchs_antialiased_interpolation_does(size):
    image = make_image(8, 10)
    height, width = size
    ours = resample_colors(image, fixed([10 / width, 0, 0], [0, 8 / height, 0]), whole(height, width), size)
    theirs = functional.interpolate(image[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 8), (16, 16), (5, 13)])
def test_whole_masks_are_resized_as_torchs_nearest_exact_does(size):
    mask = (make_image(8, 10, 1)[0] > 0.5).to(torch.uint8)
    height, width = size
    window, ours = resample_mask(mask, fixed([10 / width, 0, 0], [0, 8 / height, 0]), whole(height, width))
    theirs = functional.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]
    assert torch.equal(on_canvas(window, ours, size), theirs)


def test_a_quarter_turn_is_exact():
    image, turn = make_image(), fixed([0, 1, 0], [-1, 0, 8])
    turned = resample_colors(image, turn, whole(8, 8), (8, 8))
    torch.testing.assert_close(turned, image.rot90(-1, (1, 2)), rtol=0, atol=1e-6)
    mask = (image[0] > 0.5).to(torch.uint8)
    window, turned = resample_mask(mask, turn, whole(8, 8))
    assert torch.equal(on_canvas(window, turned, (8, 8)), mask.rot90(-1))


@pytest.mark.parametrize(
    ("across", "columns"),
    [
        ([1, 0, -3], [0, 0, 0, 0, 1, 2, 3, 4]),
        ([1, 0, 3], [3, 4, 5, 6, 7, 7, 7, 7]),
        ([-1, 0, 5], [4, 3, 2, 1, 0, 0, 0, 0]),
        ([1, 0, 20], [7] * 8),
        ([0.5, 0, -8.0], [0] * 8),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_beyond_the_sources_edge_its_edge_goes_on(across, columns, dtype):
    image = make_image().to(dtype)
    shown = resample_colors(image, fixed(across, [0, 1, 0]), whole(8, 8), (8, 8))
    assert torch.equal(shown.to(dtype), image[:, :, columns])


def test_beyond_the_sources_edge_a_mask_has_no_pixels():
    window, mask = resample_mask(torch.ones(8, 8, dtype=torch.uint8), fixed([1, 0, 5], [0, 1, -2]), whole(8, 8))
    assert window == Window(2, 0, 8, 3)
    assert mask.all()


def test_a_shear_moves_each_row_or_column_further_than_the_one_before():
    column, row = torch.zeros(2, 8, 8, dtype=torch.uint8)
    column[:, 4] = row[4] = 1
    diagonal = (torch.arange(8) + torch.arange(8)[:, None] == 3).to(torch.uint8)
    for mask, shear in ((column, fixed([1, 1, 0], [0, 1, 0])), (row, fixed([1, 0, 0], [1, 1, 0]))):
        window, shown = resample_mask(mask, shear, whole(8, 8))  # along the shear a pixel shows the one at x + y + 1
        assert torch.equal(on_canvas(window, shown, (8, 8)), diagonal)


@pytest.mark.parametrize(
    ("turn", "rows"), [(([0, 1, -2], [-1, 0, 10]), (2, 8)), (([0, 1, 2], [-1, 0, 6]), (0, 6))], ids=["before", "after"]
)
def test_beyond_the_sources_edges_a_turned_mask_has_no_pixels(turn, rows):
    window, mask = resample_mask(torch.ones(8, 8, dtype=torch.uint8), fixed(*turn), whole(8, 8))
    there = torch.zeros(8, 8, dtype=torch.uint8)
    there[slice(*rows), slice(*rows)] = 1
    assert torch.equal(on_canvas(window, mask, (8, 8)), there)
    assert mask.dtype == torch.uint8


@pytest.mark.parametrize("size", [(0, 0), (0, 3), (3, 0)])
@pytest.mark.parametrize("to_source", [([1, 0, 0], [0, 1, 0]), ([-1, 0, 8], [0, 0.5, 0]), ([0, 1, 0], [-1, 0, 8])])
def test_a_mask_of_no_size_shows_no_pixel(size, to_source):
    window, mask = resample_mask(torch.zeros(size, dtype=torch.uint8), fixed(*to_source), whole(8, 8))
    assert (window.is_empty, window.shape, mask.shape) == (True, (0, 0), (0, 0))


@pytest.mark.parametrize("pixels_at_once", [4, 16, 1 << 22])
def test_an_area_counted_in_strips_is_that_of_the_whole(monkeypatch, pixels_at_once):
    monkeypatch.setattr(resample, "STRIP", pixels_at_once)
    mask = (make_image(channels=1)[0] > 0.5).to(torch.uint8)
    assert resampled_area(mask, fixed([1, 0, -1], [0, 1, -1]), Window(0, 0, 12, 9)) == mask.sum()


MAPS = st.tuples(st.floats(-4, 4), st.floats(-4, 4), st.floats(-20, 20))


@many(100)
@example((0.3, 0.4, 2.0), (-0.4, 0.3, 5.0), False, 0, (8, 8, 8, 8))  # a turn that enlarges
@given(MAPS, MAPS, st.booleans(), st.integers(0, 1000), st.tuples(*[st.integers(1, 12)] * 4))
def test_any_affine_map_equals_the_slow_reference(along_x, along_y, upright, seed, sides):
    if upright:
        along_x, along_y = (along_x[0], 0, along_x[2]), (0, along_y[1], along_y[2])
    assume(abs(along_x[0] * along_y[1] - along_x[1] * along_y[0]) > 1e-4)
    to_source, size = fixed(along_x, along_y), sides[2:]
    image = torch.rand(2, *sides[:2], generator=torch.Generator().manual_seed(seed))
    mask = (image[0] > 0.5).to(torch.uint8)
    resampled = on_canvas(*resample_mask(mask, to_source, whole(*size)), size)
    np.testing.assert_array_equal(resampled.numpy(), nearest(mask.numpy(), to_source, size))
    everywhere = np.ones(size, dtype=bool)
    across, down = (tent(row, size, everywhere, side) for row, side in zip(to_source, sides[1::-1], strict=True))
    colors = np.einsum("py,cyx,px->cp", down, image.numpy(), across).reshape(2, *size)
    shown = resample_colors(image, to_source, whole(*size), size)
    np.testing.assert_allclose(shown.numpy(), colors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("slope", [1, -1])
def test_a_mask_is_moved_and_mirrored_by_any_number_of_pixels(slope):
    mask = (make_image(5, 6, 1)[0] > 0.5).to(torch.uint8)
    for pixels in range(-10, 20):
        across = fixed([slope, 0, pixels], [0, 1, 0])
        window, shown = resample_mask(mask, across, whole(8, 8))
        assert (shown.shape, shown.dtype) == (window.shape, torch.uint8)
        np.testing.assert_array_equal(on_canvas(window, shown, (8, 8)), nearest(mask.numpy(), across, (8, 8)))


def near(halves):
    """Numbers of half pixels, exactly or a step beside it, in steps."""
    return st.builds(lambda half, beside: half * (PIXEL // 2) + beside, halves, st.sampled_from([0, 0, 0, -1, 1]))


SLOPES, OFFSETS = near(st.sampled_from([-4, -2, -2, -1, 1, 2, 2, 4])), near(st.integers(-24, 24))


@many(200)
@example((PIXEL - 1, PIXEL), (15 * PIXEL // 2, 0), 8, 8)  # the first centre lies half a step before the source's end
@given(st.tuples(SLOPES, SLOPES), st.tuples(OFFSETS, OFFSETS), *[st.integers(1, 8)] * 2)
def test_a_mask_is_exact_to_a_step_where_centres_lie_on_the_borders_of_pixels(slopes, offsets, height, width):
    to_source = np.array([[slopes[0], 0, offsets[0]], [0, slopes[1], offsets[1]]])
    mask = torch.ones(height, width, dtype=torch.uint8)
    mask[::2, ::2] = 0
    window, shown = resample_mask(mask, to_source, whole(8, 8))
    assert shown.shape == window.shape
    np.testing.assert_array_equal(on_canvas(window, shown, (8, 8)), nearest(mask.numpy(), to_source, (8, 8)))


@many(50)
@given(MAPS, MAPS, st.booleans())
def test_the_part_of_a_window_shows_the_part_of_the_image(along_x, along_y, upright):
    if upright:
        along_x, along_y = (along_x[0], 0, along_x[2]), (0, along_y[1], along_y[2])
    assume(abs(along_x[0] * along_y[1] - along_x[1] * along_y[0]) > 1e-4)
    to_source, part = fixed(along_x, along_y), Window(2, 1, 6, 4)
    image = make_image()
    everything = resample_colors(image, to_source, whole(8, 8), (8, 8))
    assert torch.equal(resample_colors(image, to_source, part, (8, 8)), everything[:, *part.slices])
