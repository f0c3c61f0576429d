"""Checks of annotations against each other: boxes and masks, repeated objects, whole files."""

import numpy as np
import pytest
from coco_files import annotation
from pycocotools import mask as coco_mask

from composer_copypaste.data.annotation_checks import (
    BoxProblems,
    compare_boxes,
    find_repeated_objects,
    group_images_by_file,
    have_same_objects,
)
from composer_copypaste.data.annotation_json import CocoImage
from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.rle import rle_of_segmentation
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision

# ---- whole files, for data sets and for scores alike


def square(number: int, x: float, **changes: object) -> dict[str, object]:
    """A 4 x 4 square at (x, 1)."""
    outline = [[x, 1.0, x + 4, 1, x + 4, 5, x, 5]]
    return annotation(number, bbox=[x, 1, 4, 4], segmentation=outline, **changes)


def image(number: int, name: str) -> dict[str, object]:
    return {"id": number, "file_name": name, "height": 8, "width": 400}


MANY = [square(number, 4.0 * number) for number in range(1, 60)]


@pytest.fixture(params=[CocoAnnotations.load, CocoMeanAveragePrecision], ids=["data set", "metric"])
def load(request):
    """A reader of annotation files."""
    return request.param


def test_boxes_that_are_corners_are_refused_by_data_set_and_metric(coco_file, load):
    objects = [square(number, 4.0 * number) | {"bbox": [4 * number, 1, 4 * number + 4, 5]} for number in range(1, 9)]
    path = coco_file(*objects, images=[image(7, "7.png")])
    with pytest.raises(DataError, match=r"the boxes of 8 of 8 objects do not match .* look like x1, y1, x2, y2\."):
        load(path)


def test_a_file_that_has_its_annotations_twice_is_refused(coco_file, load):
    again = [entry | {"id": entry["id"] + 100} for entry in MANY]
    with pytest.raises(
        DataError, match=r"59 of 118 annotations repeat another .* \(101 of 1, 102 of 2, 103 of 3 and 56"
    ):
        load(coco_file(*MANY, *again, images=[image(7, "7.png")]))


def test_few_repeated_annotations_are_warned_of_and_can_be_left_out(coco_file):
    path = coco_file(*MANY, MANY[4] | {"id": 100}, images=[image(7, "7.png")])
    with pytest.warns(DataWarning, match=r"1 of 60 annotations repeat another .* \(100 of 5\).*leave_out"):
        assert len(CocoAnnotations.load(path).annotations[7]) == 60
    with pytest.warns(DataWarning, match="left out 1 bad object.*annotation 100 .*repeats annotation 5"):
        assert len(CocoAnnotations.load(path, bad_objects="leave_out").annotations[7]) == 59


def test_an_image_whose_objects_are_divided_between_two_ids_is_refused(coco_file, load):
    images = [image(7, "a/7.png"), image(9, "./a/7.png")]
    with pytest.raises(DataError, match=r"a/7\.png \(images 7, 9\) is listed more than once, with other objects"):
        load(coco_file(square(1, 10), square(2, 20, image_id=9), images=images))


def test_an_image_that_is_repeated_with_its_objects_is_warned_of(coco_file):
    images = [image(7, "7.png"), image(9, "7.png")]
    with pytest.warns(DataWarning, match=r"7\.png \(images 7, 9\) is listed more than once, with the same objects"):
        CocoAnnotations.load(coco_file(square(1, 10), square(2, 10, image_id=9), images=images))


def test_one_mask_without_a_pixel_is_a_bad_object(coco_file):
    lost = MANY[0] | {"id": 100, "segmentation": [[500.0, 1, 504, 1, 504, 5]]}
    path = coco_file(*MANY, lost, images=[image(7, "7.png")])
    with pytest.raises(DataError, match=r"annotation 100 \(image 7\): the mask has no pixel in the image: .*leave_out"):
        CocoAnnotations.load(path)
    with pytest.warns(DataWarning, match="left out 1 bad object"):
        assert len(CocoAnnotations.load(path, bad_objects="leave_out").annotations[7]) == 59


def test_a_box_that_overlaps_little_with_its_mask_is_warned_of(coco_file):
    path = coco_file(*MANY, square(100, 300) | {"bbox": [300, 1, 40, 6]}, images=[image(7, "7.png")])
    with pytest.warns(DataWarning, match=r"overlap little with their masks, .* of the annotations 100"):
        CocoAnnotations.load(path)


# ---- boxes compared with their masks


WIDTH, HEIGHT = 120, 80
IMAGES = {1: CocoImage(1, "1.png", HEIGHT, WIDTH)}
PLACES = [(10, 8, 22, 14), (50, 20, 16, 30), (80, 44, 30, 20), (30, 60, 12, 10)]
"""x, y, width and height of rectangles."""


def polygon(x: float, y: float, w: float, h: float) -> list[np.ndarray]:
    return [np.array([x, y, x + w, y, x + w, y + h, x, y + h], dtype=np.float64)]


def code(x: int, y: int, w: int, h: int, *, rows: bool = False) -> dict:
    """The run lengths of a rectangle; along ``rows``, as some tools write them wrongly."""
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
def test_files_whose_boxes_do_not_match_the_masks_are_refused_with_the_cause(cause):
    problem = found(*WRONG[cause]).of_the_file
    assert problem is not None
    assert problem.startswith("the boxes of ")
    assert f": {cause}" in problem


@pytest.mark.parametrize("outline", [polygon, code])
@pytest.mark.parametrize("change", [(0, 0, 0, 0), (0.4, 0.6, -0.9, -0.3), (0, 0, -1, -1), (-1, -1, 2, 2)])
def test_boxes_in_whole_pixels_one_short_or_one_too_large_are_accepted(outline, change):
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


def test_a_single_tiny_object_in_the_first_pixel_is_accepted():
    boxes, outlines = many_good()
    assert found([*boxes, (0, 0, 1, 1)], [*outlines, polygon(0, 0, 1, 1)]) == BoxProblems(None, {}, [])


def test_one_object_alone_is_refused_only_where_a_cause_explains_it():
    assert found([(10, 8, 60, 40)], [polygon(*PLACES[0])]) == BoxProblems(None, {}, [1])
    assert "x1, y1, x2, y2" in str(found([(10, 8, 32, 22)], [polygon(*PLACES[0])]).of_the_file)
    assert "another form" in str(found([(10, 8, 60, 40)] * 3, [polygon(*place) for place in PLACES[:3]]).of_the_file)


# ---- images and objects that a file has twice


SQUARE = (2.0, 1, 6, 1, 6, 5, 2, 5)


def entry(number: int, image: int = 1, **changes) -> dict:
    outline = [np.array(SQUARE)]
    base = {"id": number, "image_id": image, "category_id": 1, "bbox": [2, 1, 4, 4], "area": 16.0, "iscrowd": 0}
    return base | {"segmentation": outline} | changes


@pytest.mark.parametrize("name", ["a/b.png", "./a/b.png", "a//b.png", "a\\b.png", "a/c/../b.png"])
def test_images_of_one_file_are_found_by_any_spelling_of_its_path(name):
    images = [CocoImage(1, "a/b.png", 8, 12), CocoImage(2, "b.png", 8, 12), CocoImage(3, name, 8, 12)]
    assert group_images_by_file(images) == [[1, 3]]


def test_images_without_names_are_not_of_one_file():
    assert group_images_by_file([CocoImage(1, "", 8, 12), CocoImage(2, "", 8, 12)]) == []


def test_repeated_images_have_the_same_objects_in_any_order():
    other = {"bbox": [0, 0, 3, 3]}
    groups = {1: [entry(1), entry(2, **other)], 2: [entry(3, 2, **other), entry(4, 2)], 3: [entry(5, 3)], 4: []}
    assert have_same_objects([1, 2], groups)
    assert not have_same_objects([1, 3], groups)
    assert not have_same_objects([3, 4], groups)


TWO_IMAGES = {1: CocoImage(1, "a.png", 8, 12), 2: CocoImage(2, "b.png", 8, 12)}


def test_an_annotation_that_repeats_another_is_named_with_that_one():
    groups = {1: [entry(7), entry(8), entry(9)], 2: [entry(10, 2)]}
    assert find_repeated_objects(TWO_IMAGES, groups) == {8: 7, 9: 7}


@pytest.mark.parametrize(
    "changes",
    [
        {"bbox": [1, 1, 5, 5]},
        {"segmentation": rle_of_segmentation([np.array(SQUARE)], (8, 12))},
        {"segmentation": [np.roll(SQUARE, 2)]},
        {"segmentation": [np.array(SQUARE) + 0.2], "bbox": [2.2, 1.2, 4, 4]},
    ],
    ids=["other box", "as run lengths", "from another point", "rounded"],
)
def test_repeated_objects_are_found_however_they_are_written(changes):
    assert find_repeated_objects(TWO_IMAGES, {1: [entry(1), entry(2, **changes)]}) == {2: 1}


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
    assert find_repeated_objects(TWO_IMAGES, {1: [entry(1), entry(2, **changes)]}) == {}


def test_objects_without_outlines_are_repeated_where_their_boxes_are_equal():
    boxes = [[2, 1, 4, 4], [2, 1, 4, 3.5], [2, 1, 4, 4]]
    groups = {1: [entry(number, bbox=box, segmentation=[]) for number, box in enumerate(boxes)]}
    assert find_repeated_objects(TWO_IMAGES, groups) == {2: 0}


def test_run_lengths_are_compared_too():
    masks = [rle_of_segmentation([np.array(outline)], (8, 12)) for outline in (SQUARE, SQUARE, (2, 1, 6, 1, 2, 5))]
    groups = {1: [entry(number, segmentation=mask) for number, mask in enumerate(masks, start=1)]}
    assert find_repeated_objects(TWO_IMAGES, groups) == {2: 1}
