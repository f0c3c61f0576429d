from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from visible_objects import colors_predictor, image_of

from composer_copypaste.models.tiles import join_tiles, tile_windows, with_tiles


def masks(found):
    return [torch.from_numpy(coco_mask.decode(rle)) for rle in found["rles"]]


def in_tiles(image, side=64, overlap=0.25):
    (found,) = with_tiles(colors_predictor(), side, overlap, batch_size=3).detect([image])
    return found


def assert_found_as_in_the_whole_image(image, **tiles):
    found, (whole,) = in_tiles(image, **tiles), colors_predictor().detect([image])
    assert torch.equal(found["boxes"], whole["boxes"])
    assert torch.equal(found["scores"], whole["scores"])
    assert torch.equal(found["labels"], whole["labels"])
    assert found["rles"] == whole["rles"]


def test_tiles_are_spread_evenly_and_end_at_the_edges():
    assert tile_windows((50, 100), side=64, overlap=0.25) == [(0, 0, 64, 50), (36, 0, 100, 50)]
    assert tile_windows((64, 65), side=64, overlap=0.0) == [(0, 0, 64, 64), (1, 0, 65, 64)]
    assert tile_windows((64, 64), side=64, overlap=0.9) == [(0, 0, 64, 64)]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(16, 100), st.floats(0, 0.9))
@settings(max_examples=60)
def test_neighboring_tiles_overlap_as_asked_and_leave_nothing_out(height, width, side, overlap):
    windows = tile_windows((height, width), side, overlap)
    for low, high, length in ((0, 2, width), (1, 3, height)):
        spans = sorted({(window[low], window[high]) for window in windows})
        assert spans[0][0] == 0
        assert spans[-1][1] == length
        for (begin, end), (following, _) in pairwise(spans):
            assert end - begin == side
            assert end - following >= overlap * side - 1  # rounded to pixels


def test_an_object_that_two_tiles_see_completely_is_found_once():
    assert_found_as_in_the_whole_image(image_of(64, 100, ((40, 20, 52, 30), (90, 1, 7))))


def test_an_object_larger_than_the_overlap_of_tiles_is_joined_from_its_pieces():
    assert_found_as_in_the_whole_image(image_of(64, 200, ((10, 20, 190, 40), (90, 1, 7))))


def test_an_object_in_the_corner_of_four_tiles_is_found_once():
    assert_found_as_in_the_whole_image(image_of(100, 100, ((30, 30, 70, 70), (90, 1, 7))))


def test_touching_objects_at_a_seam_stay_two():
    image = image_of(64, 100, ((20, 10, 45, 50), (90, 1, 7)), ((45, 10, 80, 50), (80, 1, 7)))
    assert_found_as_in_the_whole_image(image)


def test_a_box_of_a_single_tile_is_moved_to_its_place():
    found = in_tiles(image_of(64, 100, ((90, 5, 95, 9), (90, 2, 7))))
    assert found["boxes"].tolist() == [[90, 5, 95, 9]]
    assert found["labels"].tolist() == [2]


@given(st.integers(0, 2**31))
@settings(max_examples=15)
def test_random_rectangles_are_found_as_in_the_whole_image(seed):
    generator = torch.Generator().manual_seed(seed)
    height, width = torch.randint(60, 160, (2,), generator=generator).tolist()
    objects = []
    for number in range(6):  # each in a row of its own, so that none is covered
        x1, x2 = sorted(torch.randint(0, width, (2,), generator=generator).tolist())
        top = number * height // 6
        objects.append(((x1, top + 1, x2 + 1, top + height // 6), (90 - number, 1 + number % 2, 7)))
    assert_found_as_in_the_whole_image(image_of(height, width, *objects), overlap=0.3)


def test_the_same_place_with_another_label_is_another_object():
    image = image_of(64, 100, ((40, 20, 52, 30), (90, 1, 7)))
    predictor = colors_predictor()

    def detect(images):  # the left tile takes it for a fig, the right one for a nut
        found = predictor.detect(images)
        for number, each in enumerate(found):
            each["labels"] = torch.full_like(each["labels"], number + 1)
        return found

    (found,) = with_tiles(type(predictor)(detect, predictor.categories), 64, 0.25, batch_size=2).detect([image])
    assert sorted(found["labels"].tolist()) == [1, 2]


def test_of_an_object_seen_completely_the_better_detection_is_kept_as_it_is():
    image = image_of(64, 100, ((40, 20, 52, 30), (50, 1, 7)))
    predictor = colors_predictor()

    def detect(images):
        found = predictor.detect(images)
        found[1]["scores"] += 0.25
        found[1]["boxes"][:, 2] += 1
        return found

    (found,) = with_tiles(type(predictor)(detect, predictor.categories), 64, 0.25, batch_size=2).detect([image])
    assert found["scores"].tolist() == [0.75]
    assert found["boxes"].tolist() == [[40, 20, 53, 30]]


def test_a_large_image_without_objects_has_none():
    found = in_tiles(image_of(64, 100))
    assert found["boxes"].shape == (0, 4)
    assert found["rles"] == []


def test_tiles_go_to_the_model_in_batches_and_a_small_image_as_it_is():
    batches = []
    with_tiles(colors_predictor(batches), 64, 0.25, batch_size=3).detect([image_of(100, 100), image_of(64, 30)])
    assert batches == [3, 1, 1]  # four tiles, then the small image


@pytest.mark.parametrize("side", [64, 90])
def test_masks_are_those_of_the_whole_image(side):
    found = in_tiles(image_of(90, 120, ((5, 5, 115, 60), (90, 1, 7)), ((70, 65, 100, 85), (60, 2, 7))), side=side)
    assert [int(mask.sum()) for mask in masks(found)] == [110 * 55, 30 * 20]


LEFT, RIGHT = (0, 0, 60, 40), (40, 0, 100, 40)
"""The windows of two tiles of an image that is 100 wide and 40 high."""


def joined(left, right):
    """What is left of the objects in two tiles; each object is a box in the image, a percentage and a label."""
    tiles = []
    for (x1, _, x2, _), objects in ((LEFT, left), (RIGHT, right)):
        image = image_of(40, x2 - x1, *(((a - x1, b, c - x1, d), color) for (a, b, c, d), color in objects))
        tiles += colors_predictor().detect([image])
    return join_tiles(tiles, [LEFT, RIGHT], (40, 100))


def test_two_objects_of_one_tile_are_never_joined_by_a_piece_that_touches_both():
    found = joined(
        left=[((45, 0, 60, 40), (70, 1, 7))], right=[((45, 0, 70, 20), (90, 1, 7)), ((45, 20, 70, 40), (80, 1, 7))]
    )
    assert found["boxes"].tolist() == [[45, 0, 70, 20], [45, 20, 70, 40]]


def test_a_small_object_inside_a_large_one_stays_one_of_its_own():
    found = joined(left=[((48, 10, 52, 14), (80, 1, 7))], right=[((42, 2, 58, 30), (90, 1, 7))])
    assert found["boxes"].tolist() == [[42, 2, 58, 30], [48, 10, 52, 14]]


def test_a_whole_object_is_kept_before_a_piece_with_a_better_score():
    found = joined(left=[((45, 10, 60, 30), (90, 1, 7))], right=[((45, 10, 70, 30), (50, 1, 7))])
    assert found["boxes"].tolist() == [[45, 10, 70, 30]]
    assert found["scores"].tolist() == [0.5]
