"""What a dry run says of data: too many objects, nested categories, memory."""

import json
import warnings

import numpy as np
import pytest
from coco_files import annotation
from image_sets import write_set
from shapes_recipe import tiny_recipe

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataWarning
from composer_copypaste.runs import dry_run
from composer_copypaste.runs.data import warn_of_many_objects
from composer_copypaste.runs.dry_run import Nesting, batch_memory, nested_categories


@pytest.fixture
def annotated(tmp_path):
    """Annotations of images of 1000 x 1000 with the given numbers of squares, in a row, of two categories in turn."""

    def write(*counts: int) -> CocoAnnotations:
        annotations = []
        for image, count in enumerate(counts):
            for number in range(count):
                x = 5.0 * number
                outline = {"bbox": [x, 0, 4, 4], "segmentation": [[x, 0, x + 4, 0, x + 4, 4, x, 4]]}
                id_ = len(annotations) + 1
                annotations.append({"id": id_, "image_id": image, "category_id": 1 + number % 2, **outline})
        data = {
            "images": [{"id": n, "file_name": f"{n}.png", "height": 1000, "width": 1000} for n in range(len(counts))],
            "categories": [{"id": 1, "name": "facade"}, {"id": 2, "name": "window"}],
            "annotations": annotations,
        }
        (tmp_path / "annotations.json").write_text(json.dumps(data))
        return CocoAnnotations.load(tmp_path / "annotations.json")

    return write


def test_more_objects_than_are_detected_or_scored_are_said_with_the_keys(annotated, tmp_path):
    recipe = tiny_recipe(tmp_path, "model.detections_per_image=10", "evaluation.max_dets=[1,4]")
    with pytest.warns(DataWarning) as caught:
        warn_of_many_objects(annotated(12, 3, 5), recipe)
    (message,) = [str(warning.message) for warning in caught]
    assert "up to 12 objects in an image (more than 4 in 2 of 3)" in message
    assert message.endswith("model.detections_per_image=12 evaluation.max_dets=[1,6] makes room for all")


def test_the_limits_for_an_image_and_for_a_category_are_told_apart(annotated, tmp_path):
    recipe = tiny_recipe(tmp_path, "model.detections_per_image=12", "evaluation.max_dets=[1,6]")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_many_objects(annotated(12), recipe)
    with pytest.warns(DataWarning, match=r"model\.detections_per_image=14 evaluation\.max_dets=\[1,7\] makes room"):
        warn_of_many_objects(annotated(14), recipe)


# MB: what is loaded, what is pasted into, the images with 4 bytes a value, as they were and resized, the resized masks
@pytest.mark.parametrize(
    ("overrides", "trained"),
    [
        (["copy_paste=null", "model.min_size=500"], 300 + 24 + 6 + (197 + 97) / 4),
        (["copy_paste=null", "model.min_size=2000"], 300 + 24 + 96 + (197 + 97) * 4),
        (["copy_paste=null", "model.min_size=2000", "model.max_size=2000"], 300 + 24 + 96 + 294 * 4),
        (["copy_paste.max_copied_instances=3", "model.min_size=1000"], 300 + 303 + 3 + 24 + 24 + 300),
        (["copy_paste=null", "model.resize_training=false"], 300),
    ],
)
def test_a_batch_s_memory_is_that_of_its_largest_images(annotated, tmp_path, overrides, trained):
    recipe = tiny_recipe(tmp_path, "data.batch_size=2", "data.workers=3", *overrides)
    assert batch_memory(annotated(1, 197, 2, 97), recipe) == (
        "up to 0.3 GB for a loaded batch (the loading processes hold up to 6), "
        f"{trained / 1000:.1f} GB in training besides the model's own"
    )


def test_jittered_images_have_the_canvas_s_size(annotated, tmp_path):
    jitter = ["data.jitter.size=[100,50]", "copy_paste=null", "model.resize_training=false"]
    recipe = tiny_recipe(tmp_path, "data.batch_size=1", *jitter)
    assert "up to 1 MB for a loaded batch" in batch_memory(annotated(197), recipe)


def test_nested_categories_are_said_with_the_key_where_objects_are_pasted(annotated, tmp_path, monkeypatch):
    found = [Nesting("facade", "window", 0.97)]
    monkeypatch.setattr(dry_run, "nested_categories", lambda annotations: found)
    (line,) = dry_run._nesting_advice(annotated(2), tiny_recipe(tmp_path))
    assert line.startswith("97% of 'window' lie inside 'facade': a pasted 'facade' hides what lies under it")
    assert "copy_paste.categories without 'facade'" in line
    assert list(dry_run._nesting_advice(annotated(2), tiny_recipe(tmp_path, "copy_paste=null"))) == []


# ---- nested categories


def square(number: int, category: int, x1: float, y1: float, side: float, **changes: object) -> dict[str, object]:
    x2, y2 = x1 + side, y1 + side
    outline = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    return annotation(number, category_id=category, bbox=[x1, y1, side, side], segmentation=outline, **changes)


@pytest.fixture
def street(coco_file):
    """An image of 100 x 100 with a facade, category 5, of which half is cut out; windows are category 3."""

    def write(*windows: tuple[float, float], **changes: object) -> CocoAnnotations:
        images = [{"id": 7, "file_name": "7.png", "height": 100, "width": 100}]
        corners = [0, 0, 100, 0, 100, 100, 50, 100, 50, 50, 0, 50]  # all but the lower left quarter
        facade = annotation(1, category_id=5, bbox=[0, 0, 100, 100], segmentation=[corners])
        inner = [square(number, 3, x, y, 4, **changes) for number, (x, y) in enumerate(windows, start=2)]
        return CocoAnnotations.load(coco_file(facade, *inner, images=images))

    return write


INSIDE = [(float(x), 10.0) for x in range(0, 80, 8)]
CUT_OUT = [(float(x), float(y)) for x in (4, 14, 24) for y in (60, 70, 80)]


def test_windows_are_nested_in_their_facade(street):
    assert nested_categories(street(*INSIDE)) == [Nesting("nut", "fig", 1.0)]


def test_it_is_the_mask_that_counts_not_the_box(street):
    assert nested_categories(street(*CUT_OUT, *INSIDE[:2])) == []


def test_most_objects_of_a_category_must_be_inside(street):
    assert nested_categories(street(*INSIDE, *CUT_OUT[:2])) == [Nesting("nut", "fig", 10 / 12)]
    assert nested_categories(street(*INSIDE, *CUT_OUT)) == []


def test_few_objects_tell_nothing_and_crowds_neither(street):
    assert nested_categories(street(*INSIDE[:9])) == []
    assert nested_categories(street(*INSIDE, iscrowd=1)) == []


def test_objects_of_one_category_are_not_nested(coco_file):
    images = [{"id": 7, "file_name": "7.png", "height": 100, "width": 100}]
    objects = [square(1, 5, 0, 0, 100), *(square(n, 5, 8.0 * n, 10, 4) for n in range(2, 13))]
    annotations = CocoAnnotations.load(coco_file(*objects, images=images))
    assert np.size(annotations.annotations[7]) == 12
    assert nested_categories(annotations) == []


def test_images_that_are_trained_and_evaluated_on_are_named(tmp_path):
    sets = [
        write_set(tmp_path, "train", {"a.png": b"sky", "b.png": b"sea"}),
        write_set(tmp_path, "val", {"c.png": b"sea"}),
    ]
    train, val = (CocoInstances(path.with_suffix(""), path) for path in sets)
    assert list(dry_run.leak_advice(train, val)) == [
        "1 image to train on is evaluated on too, byte by byte: b.png = c.png. copypaste leaks lists them, copypaste "
        "split makes parts that share none"
    ]
    (tmp_path / "val" / "c.png").write_bytes(b"fog")
    assert list(dry_run.leak_advice(train, val)) == []
