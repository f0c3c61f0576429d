"""All that is wrong in a file, collected."""

import copy
import json
from pathlib import Path

import pytest

from composer_copypaste.data.annotation_json import ReadingOptions
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.inspection import inspect_annotations
from composer_copypaste.errors import DataError

PATH = Path("mine.json")


def square(number, image=1, x=0, **changes):
    corner = [x, 0, x + 10, 0, x + 10, 10, x, 10]
    box = {"id": number, "image_id": image, "category_id": 1, "bbox": [x, 0, 10, 10], "iscrowd": 0}
    return box | {"segmentation": [corner]} | changes


def content(*annotations, **changes):
    images = [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 50} for n in (1, 2)]
    return {"images": images, "annotations": list(annotations), "categories": [{"id": 1, "name": "nut"}]} | changes


def test_a_good_file_has_no_problems_and_all_its_objects():
    found = inspect_annotations(content(square(1), square(2, image=2)), PATH)
    assert (found.problems, found.warnings) == ([], [])
    assert [len(group) for group in found.groups.values()] == [1, 1]


def test_problems_of_every_kind_are_found_together():
    wrong = content(
        square(1),
        square(2, x=20, category_id=5),
        square(3, x=40, image_id=9),
        square(4, x=60, segmentation=[[1, 2, 3]]),
        square(5),  # repeats the first
        square(6, image=2, x=20, bbox=[70, 30, 9, 9]),
    )
    wrong["images"][1]["width"] = "wide"
    wrong["images"].append({"id": 3, "file_name": "3.png", "width": 100, "height": 50})
    wrong["annotations"] += [
        square(7, image=3, x=20, bbox=[70, 30, 9, 9]),
        *(square(n, image=3, x=n) for n in range(30, 42)),
    ]
    found = inspect_annotations(copy.deepcopy(wrong), PATH)
    text = "\n".join([*found.problems, *found.warnings])
    for part in (
        'image 2: width is "wide"',
        "annotation 2 (image 1): category 5 is not among the file's categories",
        "annotation 3 (image 9): the image is not among the file's images",
        "annotation 4 (image 1): polygon has 3 numbers",
        "5 of 1",
        "annotation 7 (image 3): box [70, 30, 9, 9] does not meet the mask",
    ):
        assert part in text
    assert not any(line.startswith("mine.json") for line in [*found.problems, *found.warnings])


@pytest.mark.parametrize(
    "wrong",
    [
        content(square(1), square(2, x=20, category_id=5)),
        content(square(1, iscrowd=1)),
        content(square(1), square(2), square(3), square(4)),
        content(*(square(n, x=20 * n, bbox=[90 - 20 * n, 30, 9, 9]) for n in range(1, 4))),
        content(square(1), images=[{"id": 1, "file_name": "1.png", "width": 100, "height": 50}] * 2),
        content(square(1), categories=[]),
    ],
    ids=["category", "all crowds", "repeated", "boxes", "image ids", "no categories"],
)
def test_what_the_reader_refuses_has_a_problem(wrong):
    with pytest.raises(DataError):
        CocoAnnotations.of_content(copy.deepcopy(wrong), PATH, ReadingOptions())
    assert inspect_annotations(copy.deepcopy(wrong), PATH).problems


def test_images_without_the_list_of_annotations_are_a_test_set():
    found = inspect_annotations({key: value for key, value in content().items() if key != "annotations"}, PATH)
    assert not found.has_annotations
    assert len(found.images) == 2
    assert found.problems == []
    alone = inspect_annotations({"images": content()["images"]}, PATH)
    assert (len(alone.images), alone.categories, alone.problems) == (2, (), [])


def test_boxes_alone_are_described_with_a_warning():
    boxes = [{key: value for key, value in square(n, x=20 * n).items() if key != "segmentation"} for n in (1, 2)]
    found = inspect_annotations(content(*boxes), PATH)
    assert found.problems == []
    assert "no annotation has an outline" in found.warnings[0]
    assert [annotation["area"] for annotation in found.groups[1]] == [100, 100]


def test_another_format_is_named():
    with pytest.raises(DataError, match="labelme"):
        inspect_annotations(json.loads('{"shapes": [], "imagePath": "a.png"}'), PATH)
