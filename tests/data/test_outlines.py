"""Masks as polygons and as run lengths, compared with what pycocotools makes of them."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from composer_copypaste.data import outlines
from composer_copypaste.data.outlines import mask_of_rle, rle_of_mask, without_holes
from composer_copypaste.data.rle import CroppedMask, cropped_mask_of_rle


def cropped(mask):
    """A mask cut to its pixels."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return CroppedMask(int(rows[0]), int(columns[0]), inside)


def polygons_of_mask(mask):
    """The polygons that are written for a mask."""
    text = outlines.polygons_of_mask(mask)
    return None if text is None else json.loads(text)


def drawn(polygons, size):
    """What pycocotools draws."""
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))


def has_hole(mask):
    """Whether a zero cannot reach the edge by steps in eight directions."""
    outside = np.pad(mask == 0, 1, constant_values=True)
    reached = np.zeros_like(outside)
    reached[0, 0] = True
    while True:
        wide = np.pad(reached, 1)
        height, width = reached.shape
        steps = [wide[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        grown = np.any(steps, axis=0) & outside
        if (grown == reached).all():
            return bool((outside & ~reached).any())
        reached = grown


def test_every_mask_of_3_x_3_is_drawn_as_it_was_or_has_a_hole():
    for bits in itertools.islice(itertools.product((0, 1), repeat=9), 1, None):
        mask = np.pad(np.array(bits, dtype=np.uint8).reshape(3, 3), ((2, 0), (0, 2)))
        polygons = polygons_of_mask(cropped(mask))
        assert (polygons is None) == has_hole(mask)
        if polygons is not None:
            assert (drawn(polygons, mask.shape) == mask).all()


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 24)), elements=st.integers(0, 1)))
def test_the_polygons_of_any_mask_are_drawn_as_its_pixels(mask):
    if mask.any():
        polygons = polygons_of_mask(cropped(mask))
        assert (polygons is None) == has_hole(mask)
        assert polygons is None or (drawn(polygons, mask.shape) == mask).all()


def ellipse(height, width):
    """The pixels whose centre lies in an ellipse that fills an image."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (((y / height - 0.5) ** 2 + (x / width - 0.5) ** 2) < 0.25).astype(np.uint8)


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (7, 200), (200, 7), (120, 121), (300, 299)])
@pytest.mark.parametrize("slant", [-2.3, 0.0, 0.4, 1.0])
def test_large_slanted_shapes_are_drawn_as_they_were_with_few_points(size, slant):
    shape = ellipse(*size)
    mask = np.zeros((size[0], size[1] + int(abs(slant) * size[0]) + 1), dtype=np.uint8)
    for y in range(size[0]):
        left = int(slant * y if slant >= 0 else -slant * (size[0] - y))
        mask[y, left : left + size[1]] = shape[y]
    polygons = polygons_of_mask(cropped(mask))
    assert (drawn(polygons, mask.shape) == mask).all()
    points, edges = sum(map(len, polygons)) / 2, int(np.count_nonzero(np.diff(np.pad(mask, 1).astype(int), axis=0)))
    assert points < 0.6 * edges if min(size) > 100 else points <= 2 * edges  # the pixels' corners are up to 2 for each


def test_polygons_stay_inside_their_mask_s_box():
    mask = np.zeros((40, 50), dtype=np.uint8)
    mask[5:35, 8:47] = ellipse(30, 39)
    (polygon,) = polygons_of_mask(cropped(mask))
    assert (min(polygon[::2]), max(polygon[::2]), min(polygon[1::2]), max(polygon[1::2])) == (8, 47, 5, 35)


def test_parts_have_a_polygon_each_also_where_they_touch_at_a_corner():
    mask = np.zeros((6, 6), dtype=np.uint8)
    mask[0:2, 0:2] = mask[2:4, 2:4] = mask[5, 5] = 1
    assert polygons_of_mask(cropped(mask)) == [
        [0, 0, 2, 0, 2, 2, 0, 2],
        [2, 2, 4, 2, 4, 4, 2, 4],
        [5, 5, 6, 5, 6, 6, 5, 6],
    ]


def test_a_hole_has_no_polygons_and_a_bay_does():
    mask = np.ones((5, 5), dtype=np.uint8)
    mask[2, 2] = 0
    assert polygons_of_mask(cropped(mask)) is None
    mask[2, 3:] = 0
    assert (drawn(polygons_of_mask(cropped(mask)), mask.shape) == mask).all()


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 1)),
    st.tuples(*[st.sampled_from([0, 1, 40])] * 4),
)
def test_run_lengths_are_the_bytes_of_pycocotools(inside, margins):
    top, bottom, left, right = margins
    mask = np.pad(inside, ((top, bottom), (left, right)))
    rle = rle_of_mask(CroppedMask(top, left, inside), mask.shape)
    assert rle == coco_mask.encode(np.asfortranarray(mask))


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_decoded_run_lengths_are_those_of_the_other_decoder(mask):
    rle = coco_mask.encode(np.asfortranarray(mask))
    found, expected = mask_of_rle(rle), cropped_mask_of_rle(rle)
    assert (found is None) == (expected is None)
    if found is not None:
        assert (found.top, found.left, found.mask.tolist()) == (expected.top, expected.left, expected.mask.tolist())


def test_large_coordinates_are_written_whole():
    mask = CroppedMask(98_765, 1_000_000, np.ones((1, 2), dtype=np.uint8))
    square = [1_000_000, 98_765, 1_000_002, 98_765, 1_000_002, 98_766, 1_000_000, 98_766]
    assert polygons_of_mask(mask) == [square]


def test_holes_are_filled_and_nothing_else():
    mask = np.array(
        [
            [1, 1, 1, 1, 0, 1, 1],
            [1, 0, 0, 1, 0, 1, 0],
            [1, 1, 1, 1, 0, 0, 1],
        ],
        np.uint8,
    )
    expected = mask.copy()
    expected[1, 1:3] = 1  # the pixel at the right is open, between the corners of two pixels
    filled = without_holes(CroppedMask(5, 6, mask))
    assert np.array_equal(filled.mask, expected)
    assert (filled.top, filled.left) == (5, 6)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1)))
def test_a_mask_has_no_hole_once_they_are_filled_and_stays_as_it_is_if_it_has_none(mask):
    filled = without_holes(CroppedMask(0, 0, mask)).mask
    assert not has_hole(filled)
    assert (filled >= mask).all()
    assert has_hole(mask) or np.array_equal(filled, mask)
