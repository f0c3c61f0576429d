"""Which classes maps hold, around what, and where: against plain NumPy, on the host and by the steps of a device."""

from unittest import mock

import numpy as np
import pytest
import torch
from copypaste_cases import many
from hypothesis import given
from hypothesis import strategies as st

from composer_copypaste.compact_masks import as_planes
from composer_copypaste.functional import semantic_maps
from composer_copypaste.functional.semantic_maps import IdMaps


def box_around(pixels):
    y, x = np.nonzero(pixels)
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def assert_found(maps):
    read = IdMaps.of(maps)
    found = read.classes()
    masks = semantic_maps.masks_of_classes(read.ids, found)
    for ids, classes, own in zip(maps, found, masks, strict=True):
        pixels = ids.numpy()
        assert classes.ids.tolist() == np.unique(pixels).tolist()
        assert classes.boxes.tolist() == [box_around(pixels == number) for number in classes.ids]
        expected = [pixels == number for number in classes.ids]
        np.testing.assert_array_equal(as_planes(own).numpy(), expected)


def with_steps_of_a_device(function, *arguments):
    with mock.patch.object(semantic_maps, "_on_host", return_value=False):
        return function(*arguments)


@many(60)
@given(st.integers(0, 2**31), st.sampled_from([torch.uint8, torch.int16, torch.int64]), st.booleans())
def test_every_class_is_found_with_its_box_and_its_pixels(seed, dtype, transposed):
    rng = np.random.default_rng(seed)
    n, height, width = rng.integers(1, 30, 3)
    drawn = rng.choice(rng.choice([0, 1, 3, 100], 3), (n, height, width)) + rng.integers(0, 156)
    maps = torch.from_numpy(drawn - (0 if dtype == torch.uint8 else 200)).to(dtype)
    maps = maps.mT if transposed else maps
    assert_found(maps)
    with_steps_of_a_device(assert_found, maps)


@pytest.mark.parametrize("far", [-1, semantic_maps.LARGEST_SPAN - 1, semantic_maps.LARGEST_SPAN, 2**40])
def test_ids_may_lie_far_from_each_other(far):
    maps = torch.zeros((2, 4, 5), dtype=torch.int64)
    maps[1, 1:3, 2:] = far
    assert_found(maps)
    with_steps_of_a_device(assert_found, maps)


def test_masks_are_cut_to_their_classes_on_the_host_and_whole_planes_on_a_device():
    maps = torch.zeros((1, 8, 8), dtype=torch.uint8)
    maps[0, 2:4, 3:8] = 7
    found = IdMaps.of(maps).classes()
    (cut,) = semantic_maps.masks_of_classes(maps, found)
    assert cut.windows.tolist() == [[0, 0, 8, 8], [2, 3, 4, 8]]
    (planes,) = semantic_maps.masks_of_classes(maps.to("meta"), found)
    assert (planes.device.type, planes.shape) == ("meta", (2, 8, 8))


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (0, 255, torch.uint8),
        (-1, 255, torch.int16),
        (0, 256, torch.int16),
        (-(2**15), 2**15 - 1, torch.int16),
        (-(2**15) - 1, 0, torch.int64),
        (0, 2**15, torch.int64),
    ],
)
def test_ids_are_kept_in_the_narrowest_type_that_holds_them(low, high, dtype):
    maps = torch.tensor([[[low, high]]])
    for read in IdMaps.of(maps), with_steps_of_a_device(IdMaps.of, maps):
        assert (read.ids.dtype, read.ids.tolist()) == (dtype, maps.tolist())
        assert read.low <= low
        assert high <= read.high


def test_maps_of_16_bits_are_read_as_they_are():
    maps = torch.ones((1, 2, 2), dtype=torch.int16)
    assert semantic_maps.IdMaps.of(maps).ids is maps
    assert with_steps_of_a_device(semantic_maps.IdMaps.of, maps).ids is maps


def test_a_negative_class_is_a_mistake_unless_it_is_the_background_or_ignored_or_nothing_is():
    ids = [np.array([0, 3]), np.array([-1, 4])]
    semantic_maps.check_ids(ids, ignore_index=255, background=-1)
    semantic_maps.check_ids(ids, ignore_index=-1)
    semantic_maps.check_ids(ids, ignore_index=None)
    with pytest.raises(ValueError, match=r"^targets\[1\]: expected class ids of 0 or more, got -1; ignore_index=-1 "):
        semantic_maps.check_ids(ids, ignore_index=255)
