"""What a dry run says of data: too many objects, nested categories, memory."""

import json
import warnings

import pytest
from image_sets import write_set
from shapes_recipe import tiny_recipe

from composer_copypaste.data.coco_json import CocoAnnotations
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.errors import DataWarning
from composer_copypaste.runs import dry_run
from composer_copypaste.runs.data import warn_of_many_objects
from composer_copypaste.runs.dry_run import batch_memory
from composer_copypaste.runs.folder import RunFolder


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


def test_best_checkpoint_averaged_weights_and_early_stop_are_said(tmp_path):
    keys = ["training.best_checkpoint=segm/AP", "training.ema={half_life: 3ba}", "training.early_stop={patience: 2ep}"]
    said = dry_run.describe_run(tiny_recipe(tmp_path, *keys, "training.duration=20ba"), RunFolder(tmp_path / "run"))
    assert "\n            the checkpoint with the best segm/AP is kept\n" in said
    assert "with a half-life of 3ba, longer than a tenth of the training" in said
    assert "\n            ends early where segm/AP has not risen for 2ep\n" in said
