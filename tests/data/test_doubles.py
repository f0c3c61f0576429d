"""Images and objects that a file has twice."""

import numpy as np
import pytest

from composer_copypaste.data.doubles import have_same_objects, images_of_one_file, repeated_objects
from composer_copypaste.data.records import CocoImage

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


def test_an_annotation_that_repeats_another_is_named_with_that_one():
    assert repeated_objects({1: [entry(7), entry(8), entry(9)], 2: [entry(10, 2)]}) == {8: 7, 9: 7}


@pytest.mark.parametrize(
    "changes",
    [{"category_id": 2}, {"bbox": [2, 1, 4, 5]}, {"segmentation": [np.array(SQUARE) + 0.5]}],
    ids=["category", "box", "outline"],
)
def test_objects_that_differ_are_not_repeated(changes):
    assert repeated_objects({1: [entry(1), entry(2, **changes)]}) == {}


def test_run_lengths_are_compared_too():
    one, other = ({"size": [8, 12], "counts": counts} for counts in (b"0`3", b"1`3"))
    groups = {1: [entry(1, segmentation=one), entry(2, segmentation=dict(one)), entry(3, segmentation=other)]}
    assert repeated_objects(groups) == {2: 1}
