"""Boxes compared with their masks: what is refused, with which cause, and what is left alone."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_checks import BoxProblems, compare_boxes
from composer_copypaste.data.annotation_json import CocoImage

WIDTH, HEIGHT = 120, 80
IMAGES = {1: CocoImage(1, "1.png", HEIGHT, WIDTH)}
PLACES = [(10, 8, 22, 14), (50, 20, 16, 30), (80, 44, 30, 20), (30, 60, 12, 10)]
"""x, y, width and height of rectangles."""


def polygon(x: float, y: float, w: float, h: float) -> list[np.ndarray]:
    return [np.array([x, y, x + w, y, x + w, y + h, x, y + h], dtype=np.float64)]


def code(x: int, y: int, w: int, h: int, *, rows: bool = False) -> dict:
    """The run lengths of a rectangle; along ``rows``, as they are written wrongly."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[y : y + h, x : x + w] = 1
    if not rows:
        return coco_mask.encode(np.asfortranarray(mask))
    return coco_mask.encode(np.asfortranarray(mask.T)) | {"size": [HEIGHT, WIDTH]}


def objects(boxes, outlines, **more) -> dict[int, list]:
    pairs = enumerate(zip(boxes, outlines, strict=True), start=1)
    entry = {"image_id": 1, "category_id": 1, "area": 1.0, "iscrowd": 0} | more
    return {1: [entry | {"id": n, "bbox": list(box), "segmentation": outline} for n, (box, outline) in pairs]}


def found(boxes, outlines, **more) -> BoxProblems:
    return compare_boxes(IMAGES, objects(boxes, outlines, **more))


POLYGONS = [polygon(*place) for place in PLACES]
RELATIVE = [(x / WIDTH, y / HEIGHT, w / WIDTH, h / HEIGHT) for x, y, w, h in PLACES]

WRONG = {
    "the boxes look like x1, y1, x2, y2.": ([(x, y, x + w, y + h) for x, y, w, h in PLACES], POLYGONS),
    "the boxes look like centre x, centre y, width, height.": (
        [(x + w / 2, y + h / 2, w, h) for x, y, w, h in PLACES],
        POLYGONS,
    ),
    "the boxes look like y, x, height, width, or the masks": ([(y, x, h, w) for x, y, w, h in PLACES], POLYGONS),
    "the boxes look like y1, x1, y2, x2.": ([(y, x, y + h, x + w) for x, y, w, h in PLACES], POLYGONS),
    "the boxes look like x, y, width, height as fractions (0..1)": (RELATIVE, POLYGONS),
    "the boxes look like centre x, centre y, width, height as fractions (0..1)": (
        [(x + w / 2, y + h / 2, w, h) for x, y, w, h in RELATIVE],
        POLYGONS,
    ),
    "boxes and masks look like fractions (0..1)": (RELATIVE, [polygon(*place) for place in RELATIVE]),
    "the masks look like polygons in fractions (0..1)": (PLACES, [polygon(*place) for place in RELATIVE]),
    "the boxes look like y, x, height, width, or the masks like points with y before x. ": (
        PLACES,
        [polygon(y, x, h, w) for x, y, w, h in PLACES],
    ),
    "the masks look like run lengths counted along rows": (PLACES, [code(*place, rows=True) for place in PLACES]),
    "the boxes look like those of images of another size: 2 times as wide and 2 times as high": (
        [(x / 2, y / 2, w / 2, h / 2) for x, y, w, h in PLACES],
        POLYGONS,
    ),
}


@pytest.mark.parametrize("cause", WRONG)
def test_boxes_that_are_not_the_masks_on_the_whole_are_refused_with_their_cause(cause):
    problem = found(*WRONG[cause]).of_the_file
    assert problem is not None
    assert problem.startswith("the boxes of ")
    assert f": {cause}" in problem


@pytest.mark.parametrize("outline", [polygon, code])
@pytest.mark.parametrize("change", [(0, 0, 0, 0), (0.4, 0.6, -0.9, -0.3), (0, 0, -1, -1), (-1, -1, 2, 2)])
def test_boxes_in_whole_pixels_one_short_or_one_too_large_are_all_right(outline, change):
    boxes = [np.add(place, change).tolist() for place in PLACES]
    assert found(boxes, [outline(*place) for place in PLACES]) == BoxProblems(None, {}, [])


def test_tiny_objects_may_differ_by_a_pixel():
    assert found([(10, 10, 1, 1)] * 4, [polygon(10, 10, 2, 2)] * 4) == BoxProblems(None, {}, [])


def many_good() -> tuple[list, list]:
    return PLACES * 25, POLYGONS * 25


def test_one_mask_outside_its_image_among_many_is_a_problem_of_that_object():
    boxes, outlines = many_good()
    problems = found([*boxes, (10, 8, 22, 14)], [*outlines, polygon(130, 8, 22, 14)])
    assert problems.of_the_file is None
    assert problems.of_objects == {
        101: "the mask has no pixel in the image: it reaches from x, y = [130.0, 8.0] to [152.0, 22.0]"
    }


def test_a_mask_between_the_centres_of_pixels_has_no_pixel():
    boxes, outlines = many_good()
    assert "no pixel" in found([*boxes, (10, 8, 22, 14)], [*outlines, polygon(10.1, 8, 0.2, 14)]).of_objects[101]


def test_one_object_in_fractions_of_the_image_s_size_is_a_problem():
    boxes, outlines = many_good()
    fractions = (0.1, 0.2, 0.3, 0.2)
    assert "no pixel" in found([*boxes, fractions], [*outlines, polygon(*fractions)]).of_objects[101]


def test_empty_masks_are_the_cause_where_all_are():
    boxes = [(10, 8, 22, 14)] * 4
    assert ": the masks are empty. " in str(found(boxes, [code(0, 0, 0, 0)] * 4).of_the_file)


def test_run_lengths_without_a_pixel_are_a_problem():
    boxes, outlines = many_good()
    assert "no pixel" in found([*boxes, (10, 8, 22, 14)], [*outlines, code(0, 0, 0, 0)]).of_objects[101]


def test_one_box_that_does_not_meet_its_mask_is_a_problem_of_that_object():
    boxes, outlines = many_good()
    problem = found([*boxes, (90, 50, 20, 20)], [*outlines, polygon(*PLACES[0])]).of_objects[101]
    assert problem.startswith("box [90, 50, 20, 20] does not meet the mask, which reaches from x, y = [10.0, 8.0]")


def test_one_box_that_overlaps_little_is_doubtful():
    boxes, outlines = many_good()
    assert found([*boxes, (10, 8, 60, 40)], [*outlines, polygon(*PLACES[0])]) == BoxProblems(None, {}, [101])


def test_crowds_are_not_compared():
    boxes, outlines = WRONG["the boxes look like x1, y1, x2, y2."]
    assert found(boxes, outlines, iscrowd=1) == BoxProblems(None, {}, [])


def test_a_single_tiny_object_in_the_first_pixel_is_all_right():
    boxes, outlines = many_good()
    assert found([*boxes, (0, 0, 1, 1)], [*outlines, polygon(0, 0, 1, 1)]) == BoxProblems(None, {}, [])


def test_one_object_alone_is_refused_only_where_a_cause_explains_it():
    assert found([(10, 8, 60, 40)], [polygon(*PLACES[0])]) == BoxProblems(None, {}, [1])
    assert "x1, y1, x2, y2" in str(found([(10, 8, 32, 22)], [polygon(*PLACES[0])]).of_the_file)
    assert "another form" in str(found([(10, 8, 60, 40)] * 3, [polygon(*place) for place in PLACES[:3]]).of_the_file)
