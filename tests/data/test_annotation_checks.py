"""Files whose values are in order, and wrong all the same: for data sets and for scores alike."""

import pytest
from coco_files import annotation

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.errors import DataError, DataWarning
from composer_copypaste.metrics.coco_map import CocoMeanAveragePrecision


def square(number: int, x: float, **changes: object) -> dict[str, object]:
    """A 4 x 4 square at (x, 1)."""
    outline = [[x, 1.0, x + 4, 1, x + 4, 5, x, 5]]
    return annotation(number, bbox=[x, 1, 4, 4], segmentation=outline, **changes)


def image(number: int, name: str) -> dict[str, object]:
    return {"id": number, "file_name": name, "height": 8, "width": 400}


MANY = [square(number, 4.0 * number) for number in range(1, 60)]


@pytest.fixture(params=[CocoAnnotations.load, CocoMeanAveragePrecision], ids=["data set", "metric"])
def load(request):
    """What reads a file."""
    return request.param


def test_boxes_that_are_corners_are_refused_by_data_set_and_metric(coco_file, load):
    objects = [square(number, 4.0 * number) | {"bbox": [4 * number, 1, 4 * number + 4, 5]} for number in range(1, 9)]
    path = coco_file(*objects, images=[image(7, "7.png")])
    with pytest.raises(DataError, match=r"the boxes of 8 of 8 objects are not those of .* look like x1, y1, x2, y2\."):
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


def test_an_image_whose_objects_are_shared_out_between_two_ids_is_refused(coco_file, load):
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
