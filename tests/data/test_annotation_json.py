"""Annotations as different tools write them."""

import json

import numpy as np
import pytest
from coco_files import SQUARE, annotation
from pycocotools import mask as coco_mask

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataError, DataWarning

RUNS = {"size": [8, 12], "counts": [17, 4, 4, 4, 4, 4, 4, 4, 51]}
"""The square's pixels: 4 x 4 at (2, 1)."""


def entries_of(path, **options):
    return CocoAnnotations.load(path, **options).annotations[7]


def refusal(path, **options) -> str:
    with pytest.raises(DataError) as caught:
        CocoAnnotations.load(path, **options)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize("outline", [[SQUARE], RUNS])
@pytest.mark.parametrize("box", [None, []])
def test_a_missing_box_and_an_area_of_zero_are_those_of_the_outline(coco_file, outline, box):
    entry = annotation(segmentation=outline, area=0.0) | ({} if box is None else {"bbox": box})
    entry = entry if box is not None else {key: value for key, value in entry.items() if key != "bbox"}
    (read,) = entries_of(coco_file(entry))
    assert (read["bbox"], read["area"]) == ([2, 1, 4, 4], 16)


def test_a_null_box_becomes_the_box_of_the_outline(coco_file):
    (read,) = entries_of(coco_file(annotation() | {"bbox": None}))
    assert read["bbox"] == [2, 1, 4, 4]


def test_exteriors_and_interiors_are_drawn_with_their_holes(coco_file, gradient):
    hole = [[3, 2], [5, 2], [5, 4], [3, 4]]
    ring = {"exterior": [[2, 1], [6, 1], [6, 5], [2, 5]], "interiors": [hole]}
    plain = {"exterior": [[8, 1], [10, 1], [10, 3], [8, 3]], "interiors": []}
    path = coco_file(
        annotation(1, segmentation=ring, bbox=None, area=None), annotation(2, segmentation=[plain, ring], bbox=None)
    )
    first, second = CocoInstances(path.parent, path)[0][1]["masks"].numpy()
    expected = np.zeros((8, 12), dtype=np.uint8)
    expected[1:5, 2:6], expected[2:4, 3:5] = 1, 0
    assert np.array_equal(first, expected)
    expected[1:3, 8:10] = 1
    assert np.array_equal(second, expected)
    assert [entry["bbox"] for entry in entries_of(path)] == [[2, 1, 4, 4], [2, 1, 8, 4]]


def test_whole_numbers_may_be_written_as_floats_and_crowds_as_true(coco_file):
    images = [{"id": 7.0, "file_name": "7.png", "height": 8.0, "width": 12.0}]
    counts = [float(count) for count in RUNS["counts"]]
    first = annotation(image_id=7.0, category_id=5.0, iscrowd=1.0, segmentation=RUNS | {"counts": counts}) | {"id": 1.0}
    second = annotation(2, iscrowd=True, segmentation=RUNS)
    path = coco_file(first, second, annotation(3), images=images, categories=[{"id": 5.0, "name": "nut"}])
    annotations = CocoAnnotations.load(path, crowds="ignore")
    assert [entry["iscrowd"] for entry in annotations.annotations[7]] == [1, 1, 0]
    numbers = [annotations.images[0].id, annotations.images[0].height, annotations.category_ids[0]]
    numbers += [annotations.annotations[7][0][key] for key in ("id", "image_id", "category_id", "iscrowd")]
    assert {type(number) for number in numbers} == {int}


def test_annotations_without_ids_are_numbered_in_their_order(coco_file):
    entries = [{key: value for key, value in annotation(area=area).items() if key != "id"} for area in (5, 6)]
    assert [(entry["id"], entry["area"]) for entry in entries_of(coco_file(*entries))] == [(1, 5), (2, 6)]


TEXT = {
    'image_id is "7" (text), the images\' ids are whole numbers': annotation() | {"image_id": "7"},
    'category_id is "5" (text), the categories\' ids are whole numbers': annotation() | {"category_id": "5"},
    "category_id is null, the categories' ids are whole numbers": annotation() | {"category_id": None},
    "image_id is true, the images' ids are whole numbers": annotation() | {"image_id": True},
    'iscrowd is "1" (text), expected 0 or 1': annotation(iscrowd="1"),
    'area is "16" (text), expected a number of pixels': annotation(area="16"),
    "nested too deep: expected [[x1, y1, x2, y2, ...], ...], got [[[2.0": annotation(segmentation=[[SQUARE]]),
    "polygon is written as points [x, y]": annotation(segmentation=[[[2, 1], [6, 1], [6, 5]]]),
    "polygon is written as points [x, y]: ": annotation(segmentation=[[2, 1], [6, 1], [6, 5]]),
    "polygon has 4 numbers, needs at least 6: [2, 1, 4, 4] may be a box": annotation(segmentation=[[2, 1, 4, 4]]),
    'segmentation is text, "[[2, 1]]"; expected': annotation(segmentation="[[2, 1]]"),
    "run lengths stand in a list": annotation(segmentation=[RUNS]),
    'mask\'s run lengths have the order "C"': annotation(segmentation=RUNS | {"order": "C"}),
    'segmentation has "png"; expected polygons, or "size" and "counts"': annotation(segmentation={"png": "iVBO"}),
    'mask has no "size"; expected [8, 12] (height, width)': annotation(segmentation={"counts": RUNS["counts"]}),
    'mask cannot be decoded: unexpected character "\'" in its counts, "b\'0\'"': annotation(
        segmentation=RUNS | {"counts": "b'0'"}
    ),
    "image_id is 7.5, the images' ids are whole numbers": annotation() | {"image_id": 7.5},
    "area is true, expected a number of pixels": annotation(area=True),
    "area is 1000000000000.0, expected a number of pixels": annotation(area=1e12),
    'box ["2", "1", "4", "4"] is not 4 numbers': annotation(bbox=["2", "1", "4", "4"]),
    "its outline's box [20.0, 1.0, 3.0, 4.0] lies outside": annotation(
        segmentation=[[20, 1, 23, 1, 23, 5, 20, 5]], bbox=[]
    ),
    "has no segmentation: expected polygons or a run-length encoding, a box is not enough for masks; box [0, 0, 0, 0] "
    "has no area": annotation(segmentation=[], bbox=[0, 0, 0, 0]),
}


@pytest.mark.parametrize("expected", TEXT)
def test_what_is_wrong_is_shown_as_json_writes_it(coco_file, expected):
    good = annotation(1)
    assert f": {expected}" in refusal(coco_file(good, TEXT[expected] | {"id": 4711}))


def test_ids_of_images_as_text_are_named_and_not_their_annotations(coco_file):
    problem = refusal(coco_file(images=[{"id": "7", "file_name": "7.png", "height": 8, "width": 12}]))
    assert problem == 'image number 1 in the file: id is "7" (text), expected a whole number'


def test_values_are_cut_in_messages(coco_file):
    assert len(refusal(coco_file(annotation(segmentation=[[list(range(10_000))]])))) < 250


def test_files_of_boxes_alone_are_one_line(coco_file):
    entries = [annotation(number, segmentation=None) for number in (1, 2)]
    assert refusal(coco_file(*entries)).startswith("no annotation has an outline ('segmentation'), only boxes")
    keypoints = [entry | {"keypoints": [1, 2, 2]} for entry in entries]
    assert refusal(coco_file(*keypoints)).startswith("no annotation has an outline ('segmentation'), only keypoints")


def crowds(coco_file, *marks):
    """A file of a polygon, and of run lengths marked as crowds or not."""
    begin, *middle, end = RUNS["counts"]
    runs = [
        annotation(number + 2, segmentation=RUNS | {"counts": [begin + shift, *middle, end - shift]}, iscrowd=mark)
        for number, mark in enumerate(marks)
        for shift in [8 * (number + 1)]  # else they would be one object repeated
    ]
    return coco_file(annotation(1), *(entry | {"bbox": []} for entry in runs))


def test_a_file_of_crowds_alone_is_refused_with_the_cause_and_the_key(coco_file):
    path = coco_file(*(annotation(number, segmentation=RUNS, iscrowd=1) for number in (1, 2)))
    problem = refusal(path)
    assert problem.startswith("all 2 annotations are marked as crowds (iscrowd 1)")
    assert 'datumaro and CVAT mark every mask so: crowds="objects" takes them' in problem
    assert "--crowds objects takes" in refusal(path, spelling=lambda name, value: f"--{name} {value}")
    assert [entry["iscrowd"] for entry in entries_of(path, crowds="objects")] == [0, 0]
    assert [entry["iscrowd"] for entry in entries_of(path, crowds="ignore")] == [1, 1]


def test_run_lengths_that_are_all_crowds_are_warned_of_once(coco_file, recwarn):
    path = crowds(coco_file, 1, 1)
    with pytest.warns(DataWarning, match="2 of 3 annotations are marked as crowds .* supervision, darwin and geococo"):
        assert [entry["iscrowd"] for entry in entries_of(path)] == [0, 1, 1]
    assert [entry["iscrowd"] for entry in entries_of(path, crowds="objects")] == [0, 0, 0]
    assert [entry["iscrowd"] for entry in entries_of(path, crowds="ignore")] == [0, 1, 1]
    entries_of(crowds(coco_file, 0, 1))
    assert not recwarn.list


def test_crowds_of_polygons_or_of_most_objects_are_warned_of(coco_file):
    with pytest.warns(DataWarning, match="1 of 2 annotations are marked as crowds"):
        entries_of(coco_file(annotation(1, iscrowd=1), annotation(2, category_id=3)))
    with pytest.warns(DataWarning, match="3 of 5 annotations are marked as crowds"):
        entries_of(crowds(coco_file, 0, 1, 1, 1))


def test_a_loaded_file_takes_no_more_options(coco_file):
    with pytest.raises(ValueError, match="crowds: expected with a file"):
        CocoInstances(".", CocoAnnotations.load(coco_file()), crowds="ignore")


def test_a_bad_object_is_refused_with_the_setting_that_leaves_it_out(coco_file):
    problem = refusal(coco_file(annotation(1), annotation(2, segmentation=[])))
    assert problem.startswith("annotation 2 (image 7): has no segmentation")
    assert problem.endswith('; bad_objects="leave_out" leaves such objects out')


def test_bad_objects_can_be_left_out_with_a_list(coco_file):
    bad = [annotation(number, segmentation=[], bbox=[0, 0, 0, 0]) for number in range(2, 10)]
    path = coco_file(annotation(1), *bad)
    with pytest.warns(DataWarning, match=r"left out 8 bad objects: annotation 2 .*annotation 6 .* and 3 more$"):
        assert [entry["id"] for entry in entries_of(path, bad_objects="leave_out")] == [1]


def test_wrong_references_and_files_of_bad_objects_alone_are_always_refused(coco_file):
    path = coco_file(annotation(1), annotation(2, category_id=4))
    assert "category 4 is not among" in refusal(path, bad_objects="leave_out")
    assert "has no segmentation" in refusal(coco_file(annotation(segmentation=[])), bad_objects="leave_out")


def test_leaving_out_is_not_offered_where_nothing_would_remain(coco_file):
    assert "leave_out" not in refusal(coco_file(*(annotation(number, segmentation=[[]]) for number in (1, 2))))


def test_an_annotation_that_is_no_object_is_named_where_none_has_an_id(coco_file):
    entry = {key: value for key, value in annotation().items() if key != "id"}
    problem = refusal(coco_file(entry, [entry], {**entry, "id": None}))
    assert problem.startswith("annotation number 2 in the file: expected an object, got [{")


def test_exteriors_of_one_or_two_points_are_dropped_with_a_warning(coco_file):
    square = [[2, 1], [6, 1], [6, 5], [2, 5]]
    path = coco_file(annotation(segmentation=[{"exterior": points} for points in (square, [], [[1, 1], [2, 2]])]))
    with pytest.warns(DataWarning, match="dropped parts of one or two points of the annotations 1$"):
        (read,) = entries_of(path)
    assert [part.tolist() for part in read["segmentation"]] == [SQUARE]


@pytest.mark.parametrize("key", ["caption", "segments_info"])
def test_instances_may_have_keys_of_other_tasks(coco_file, key):
    assert len(entries_of(coco_file(annotation() | {key: []}))) == 1


def test_parts_of_one_or_two_points_are_dropped_with_a_warning(coco_file):
    path = coco_file(annotation(segmentation=[[3, 3], SQUARE, [1, 1, 2, 2], []]))
    with pytest.warns(DataWarning, match="dropped parts of one or two points of the annotations 1$"):
        (read,) = entries_of(path)
    assert [part.tolist() for part in read["segmentation"]] == [SQUARE]


def test_categories_of_one_name_are_reported(coco_file):
    path = coco_file(categories=[{"id": 0, "name": "nut"}, {"id": 5, "name": "nut"}])
    with pytest.warns(DataWarning, match=r'each with a label of its own: 0 "nut" \(of no object\), 5 "nut"$'):
        assert CocoAnnotations.load(path).num_classes == 3


def test_compressed_run_lengths_may_be_bytes_in_content_from_python():
    rle = coco_mask.encode(np.ones((8, 12), dtype=np.uint8, order="F"))
    from composer_copypaste.metrics.inputs import file_ground_truth

    content = {
        "images": [{"id": 7, "height": 8, "width": 12}],
        "categories": [{"id": 5, "name": "nut"}],
        "annotations": [annotation(segmentation=rle)],
    }
    masks = file_ground_truth(content, masks=True).truth(7).masks
    assert masks is not None
    assert masks.rles() == [rle]
    assert len(content["annotations"]) == 1


def test_a_file_with_a_byte_order_mark_is_read(coco_file):
    path = coco_file()
    path.write_text(json.dumps(json.loads(path.read_text())), encoding="utf-8-sig")
    assert len(entries_of(path)) == 1
