"""Reading and checking COCO files."""

import json
import os

import numpy as np
import pytest
from coco_files import SQUARE, annotation
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError


def problem_of(path) -> str:
    """The message of the error, from behind the path."""
    with pytest.raises(DataError) as caught:
        CocoAnnotations.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_labels_count_the_sorted_category_ids_from_one(coco_file):
    annotations = CocoAnnotations.load(coco_file(annotation(id=1, category_id=5), annotation(id=2, category_id=3)))
    assert annotations.category_ids == [3, 5]
    assert annotations.objects_of(annotations.images[0]).labels.tolist() == [2, 1]
    assert annotations.num_classes == 3


def test_extra_keys_are_ignored(coco_file):
    annotations = CocoAnnotations.load(coco_file(annotation(score=0.5, attributes={"a": 1}), info={}, licenses=[]))
    assert "attributes" not in annotations.annotations[7][0]


def test_images_keep_the_order_of_the_file_and_may_show_nothing(coco_file):
    images = [{"id": number, "file_name": f"{number}.png", "height": 8, "width": 12} for number in (9, 7, 8)]
    annotations = CocoAnnotations.load(coco_file(images=images))
    assert [image.id for image in annotations.images] == [9, 7, 8]
    assert annotations.annotations[9] == ()


def test_an_image_s_annotations_keep_the_order_of_the_file(coco_file):
    annotations = CocoAnnotations.load(coco_file(*(annotation(number) for number in (3, 1, 2))))
    assert [entry["id"] for entry in annotations.annotations[7]] == [3, 1, 2]


def test_a_missing_area_is_the_mask_s_and_a_missing_iscrowd_is_zero(coco_file):
    (entry,) = CocoAnnotations.load(coco_file(annotation(area=None, iscrowd=None))).annotations[7]
    assert (entry["area"], entry["iscrowd"]) == (16.0, 0)


def test_uncompressed_and_compressed_masks_become_the_same(coco_file):
    mask = np.zeros((8, 12), dtype=np.uint8)
    mask[2:5, 3:9] = 1
    compressed = coco_mask.encode(np.asfortranarray(mask))
    counts = [3 * 8 + 2, *([3, 5] * 6)[:-1], 8 - 5 + 3 * 8]
    forms = ({"size": [8, 12], "counts": compressed["counts"].decode()}, {"size": [8, 12], "counts": counts})
    entries = CocoAnnotations.load(
        coco_file(*(annotation(number, bbox=[3, 2, 6, 3], segmentation=form) for number, form in enumerate(forms)))
    ).annotations[7]
    assert [entry["segmentation"] for entry in entries] == [compressed, compressed]


def test_objects_without_extent_as_in_coco_s_own_file_are_left_out_with_a_warning(coco_file):
    flat = annotation(918, bbox=[2, 1, 4, 0], segmentation=[[2.0, 1.0, 2.0, 1.0, 6.0, 1.0, 6.0, 1.0]], area=0)
    with pytest.warns(UserWarning, match=r"left out .* \[918\]"):
        annotations = CocoAnnotations.load(coco_file(flat, annotation(919)))
    assert [entry["id"] for entry in annotations.annotations[7]] == [919]


def rle(counts: object, size: tuple[int, int] = (8, 12)) -> dict[str, object]:
    return {"size": list(size), "counts": counts}


WRONG = {
    "polygon has 4 numbers, needs at least 6": annotation(segmentation=[[1, 2, 3, 4]]),
    "polygon has 7 numbers, needs an even count": annotation(segmentation=[[*SQUARE[:6], 1]]),
    'polygon is not a list of numbers x1, y1, x2, y2, ...: ["1"': annotation(segmentation=[["1", "2", "3"]]),
    "polygon is not in a list of its own: expected [[x1": annotation(segmentation=SQUARE),
    "polygon has a number that is not finite": annotation(segmentation=[[*SQUARE[:-1], float("nan")]]),
    "polygon reaches from 1.0 to 1000000.0, far outside": annotation(segmentation=[[*SQUARE[:-1], 1e6]]),
    "polygon reaches from -1000000.0 to 6.0, far outside": annotation(segmentation=[[-1e6, *SQUARE[1:]]]),
    'polygon is text: expected [[x1, y1, x2, y2, ...], ...], got ["1,2,': annotation(segmentation=["1,2,6,2,6,6"]),
    "has no segmentation": annotation(segmentation=[]),
    "lacks 'segmentation'": annotation(segmentation=None),
    "mask has size [12, 8], the image has [8, 12] (height, width)": annotation(segmentation=rle([96], (12, 8))),
    "mask's counts sum to 95 pixels, the image has 96": annotation(segmentation=rle([95])),
    "mask cannot be decoded: its counts are not": annotation(segmentation=rle([97, -1])),
    "mask cannot be decoded: unexpected character": annotation(segmentation=rle("1!")),
    "mask cannot be decoded: its counts are not numbers of pixels: 7": annotation(segmentation=rle(7)),
    "mask cannot be decoded: its counts are not numbers of pixels: [4294967296]": annotation(segmentation=rle([2**32])),
    "mask cannot be decoded: the last number is cut off": annotation(segmentation=rle("P")),
    "mask's counts sum to 1 pixel,": annotation(segmentation=rle("1")),
    "box [2, 1, 4, 0] has no area": annotation(bbox=[2, 1, 4, 0]),
    "box [2, 1, -4, 4] has no area": annotation(bbox=[2, 1, -4, 4]),
    "box [12, 1, 4, 4] lies outside the image": annotation(bbox=[12, 1, 4, 4]),
    "box [2, 1, 4] is not 4 numbers, [x, y, width, height]": annotation(bbox=[2, 1, 4]),
    "category 4 is not among the file's categories": annotation(category_id=4),
    "iscrowd is 2, expected 0 or 1": annotation(iscrowd=2),
    "area is -1, expected a number of pixels": annotation(area=-1),
    "area is 1000": annotation(area=10**400),
    "box [2, 1, 4, 1000": annotation(bbox=[2, 1, 4, 10**400]),
    "box [-1000": annotation(bbox=[-(10**400), 1, 10**400 + 5, 4]),
    "polygon has a number that is too large": annotation(segmentation=[[*SQUARE[:-1], 10**400]]),
}


@pytest.mark.parametrize("expected", WRONG)
def test_a_wrong_annotation_is_named_with_its_problem(coco_file, expected):
    assert problem_of(coco_file(WRONG[expected] | {"id": 4711})).startswith(f"annotation 4711 (image 7): {expected}")


@pytest.mark.parametrize("number", [-1, 2**63])
def test_ids_that_cannot_be_scored_are_refused(coco_file, number):
    images = [{"id": number, "file_name": "7.png", "height": 8, "width": 12}]
    problem = problem_of(coco_file(annotation(image_id=number), images=images))
    assert problem == f"image {number}: expected an id from 0 to 9223372036854775807"


def test_a_name_that_no_file_can_hold_is_refused(coco_file):
    problem = problem_of(coco_file(categories=[{"id": 5, "name": "\ud800"}]))
    assert 'category 5: name "\\ud800" has half a character, which cannot be written' in problem


def test_the_size_of_a_mask_may_be_written_as_floats(coco_file):
    counts = coco_mask.encode(np.ones((8, 12), dtype=np.uint8, order="F"))["counts"].decode()
    segmentation = {"size": [8.0, 12.0], "counts": counts}
    (entry,) = CocoAnnotations.load(coco_file(annotation(bbox=[0, 0, 12, 8], segmentation=segmentation))).annotations[7]
    assert [type(side) for side in entry["segmentation"]["size"]] == [int, int]


def test_an_annotation_of_an_unknown_image_is_named(coco_file):
    problem = problem_of(coco_file(annotation(4711, image_id=8)))
    assert problem == "annotation 4711 (image 8): the image is not among the file's images"


def test_repeated_ids_are_named(coco_file):
    image = {"id": 7, "file_name": "7.png", "height": 8, "width": 12}
    category = {"id": 5, "name": "nut"}
    problem = problem_of(
        coco_file(annotation(1), annotation(1), images=[image, image], categories=[category, category])
    )
    lines = [line.strip() for line in problem.splitlines()]
    assert lines == [
        "3 problems",
        "category 5: the id is used more than once",
        "image 7: the id is used more than once",
        "annotation 1 (image 7): the id is used more than once",
    ]


def test_an_image_without_a_size_is_named_once(coco_file):
    images = [{"id": 7, "file_name": "7.png", "height": 8}]
    assert problem_of(coco_file(images=images)) == "image 7: has no 'width'"


def test_a_side_that_no_image_has_is_refused(coco_file):
    images = [{"id": 7, "file_name": "7.png", "height": 8, "width": 10**400}]
    assert problem_of(coco_file(images=images)).endswith("..., expected a whole number of pixels")


def test_a_problem_of_every_object_is_one_line(coco_file):
    problem = problem_of(coco_file(*(annotation(number, category_id=4) for number in range(25))))
    assert problem == (
        "annotation 0 (image 7): category 4 is not among the file's categories; likewise annotation 1 (image 7), "
        "annotation 2 (image 7), annotation 3 (image 7) and 21 more"
    )


@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_an_empty_list_cannot_be_trained_on(coco_file, key):
    assert problem_of(coco_file(**{key: []})) == f"the list '{key}' is empty"


def test_all_missing_lists_are_named(coco_file):
    problem = problem_of(coco_file(images=None, categories=None))
    assert "lacks the list 'images'" in problem
    assert "lacks the list 'categories'" in problem


def test_what_stands_in_place_of_a_list_is_shown(coco_file):
    assert problem_of(coco_file(categories={"5": "nut"})) == 'categories is {"5": "nut"}, expected a list'


@pytest.mark.parametrize("data", [[], 3, None, "{}", {"images": [1], "annotations": [[]], "categories": ["a"]}])
def test_anything_else_than_a_coco_file_is_a_problem_not_a_crash(tmp_path, data):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(data))
    assert problem_of(path)


def test_broken_json_is_placed_by_line_and_column(tmp_path):
    path = tmp_path / "annotations.json"
    path.write_text('{"images": [],\n "annotations": [}')
    assert problem_of(path) == "line 2, column 18: not valid JSON: Expecting value"


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "its lists are nested too deeply"), ("9" * 5000, "Exceeds the limit (4300 digits)")],
)
def test_json_that_python_cannot_hold_is_one_line(tmp_path, text, message):
    path = tmp_path / "annotations.json"
    path.write_text(text)
    assert problem_of(path).startswith(f"not valid JSON here: {message}")


def test_a_missing_file_is_named(tmp_path):
    assert problem_of(tmp_path / "no.json") == "there is no such annotation file"


def test_a_folder_given_for_the_file_is_one_line(tmp_path):
    assert problem_of(tmp_path) == "cannot be read: expected a file, found a folder"


def test_a_pipe_in_place_of_the_file_is_named_and_never_opened(tmp_path):
    os.mkfifo(tmp_path / "annotations.json")
    assert problem_of(tmp_path / "annotations.json") == "cannot be read: expected a file, found a pipe"
