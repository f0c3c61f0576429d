"""Images and objects that a file has twice."""

import numpy as np
import pytest

from composer_copypaste.data.annotation_checks import have_same_objects, images_of_one_file, repeated_objects
from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.rle import rle_of

SQUARE = (2.0, 1, 6, 1, 6, 5, 2, 5)


def entry(number: int, image: int = 1, **changes) -> dict:
    outline = [np.array(SQUARE)]
    base = {"id": number, "image_id": image, "category_id": 1, "bbox": [2, 1, 4, 4], "area": 16.0, "iscrowd": 0}
    return base | {"segmentation": outline} | changes


@pytest.mark.parametrize("name", ["a/b.png", "./a/b.png", "a//b.png", "a\\b.png", "a/c/../b.png"])
def test_images_of_one_file_are_found_by_any_spelling_of_its_path(name):
    images = [CocoImage(1, "a/b.png", 8, 12), CocoImage(2, "b.png", 8, 12), CocoImage(3, name, 8, 12)]
    assert images_of_one_file(images) == [[1, 3]]


def test_images_without_names_are_no_doubles():
    assert images_of_one_file([CocoImage(1, "", 8, 12), CocoImage(2, "", 8, 12)]) == []


def test_repeated_images_have_the_same_objects_in_any_order():
    other = {"bbox": [0, 0, 3, 3]}
    groups = {1: [entry(1), entry(2, **other)], 2: [entry(3, 2, **other), entry(4, 2)], 3: [entry(5, 3)], 4: []}
    assert have_same_objects([1, 2], groups)
    assert not have_same_objects([1, 3], groups)
    assert not have_same_objects([3, 4], groups)


IMAGES = {1: CocoImage(1, "a.png", 8, 12), 2: CocoImage(2, "b.png", 8, 12)}


def test_an_annotation_that_repeats_another_is_named_with_that_one():
    groups = {1: [entry(7), entry(8), entry(9)], 2: [entry(10, 2)]}
    assert repeated_objects(IMAGES, groups) == {8: 7, 9: 7}


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": [1, 1, 5, 5]},
        {"segmentation": rle_of([np.array(SQUARE)], (8, 12))},
        {"segmentation": [np.roll(SQUARE, 2)]},
        {"segmentation": [np.array(SQUARE) + 0.2], "bbox": [2.2, 1.2, 4, 4]},
    ],
    ids=["other box", "as run lengths", "from another point", "rounded"],
)
def test_repeated_objects_are_found_however_they_are_written(changes):
    assert repeated_objects(IMAGES, {1: [entry(1), entry(2, **changes)]}) == {2: 1}


@pytest.mark.parametrize(
    "changes",
    [
        {"category_id": 2},
        {"segmentation": [np.array(SQUARE) + [1, 0] * 4], "bbox": [3, 1, 4, 4]},
        {"bbox": [2, 1, 4, 8]},
    ],
    ids=["category", "mask", "box"],
)
def test_objects_that_differ_are_not_repeated(changes):
    assert repeated_objects(IMAGES, {1: [entry(1), entry(2, **changes)]}) == {}


def test_objects_without_outlines_are_repeated_where_their_boxes_are_equal():
    boxes = [[2, 1, 4, 4], [2, 1, 4, 3.5], [2, 1, 4, 4]]
    groups = {1: [entry(number, bbox=box, segmentation=[]) for number, box in enumerate(boxes)]}
    assert repeated_objects(IMAGES, groups) == {2: 0}


def test_run_lengths_are_compared_too():
    masks = [rle_of([np.array(outline)], (8, 12)) for outline in (SQUARE, SQUARE, (2, 1, 6, 1, 2, 5))]
    groups = {1: [entry(number, segmentation=mask) for number, mask in enumerate(masks, start=1)]}
    assert repeated_objects(IMAGES, groups) == {2: 1}
