"""Trainings of detectors that find boxes alone, on files with outlines and on files with boxes alone."""

import json

import numpy as np
import pytest
import torch
from run_folders import rows
from shapes_recipe import on_files, remove_outlines, tiny, tiny_recipe

from composer_copypaste import predict
from composer_copypaste.data.dataset import CocoInstances
from composer_copypaste.data.rle import AnnotatedObjects
from composer_copypaste.data.shapes import draw_shapes
from composer_copypaste.data.transforms import FlipTransform, SampledJitter
from composer_copypaste.errors import DataError
from composer_copypaste.integrations.composer.from_recipe import build_algorithms
from composer_copypaste.recipes.load import load_recipe
from composer_copypaste.runs.data import open_data
from composer_copypaste.runs.evaluation.run import evaluate_checkpoint
from composer_copypaste.runs.export import export_run
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.info.describe import describe_file
from composer_copypaste.runs.train import train

FCOS = ("model.name=fcos", "model.min_size=64")


@pytest.fixture(scope="module")
def boxes(tmp_path_factory):
    """The folder of drawn shapes with boxes alone."""
    place = tmp_path_factory.mktemp("boxes")
    draw_shapes(tiny_recipe(place).data.shapes)
    remove_outlines(place / "shapes")
    return place


@pytest.fixture(scope="module")
def run(boxes):
    """A finished training on boxes alone."""
    recipe = load_recipe(tiny(boxes)[0], [*tiny(boxes)[1:], *FCOS, "copy_paste=null", *on_files(boxes / "shapes")])
    folder = RunFolder(boxes / "run")
    train(recipe, folder)
    return folder


def test_boxes_alone_are_trained_on_and_scored(run):
    assert json.loads(run.evaluation.read_text()).keys() >= {"bbox"}
    assert "segm" not in json.loads(run.evaluation.read_text())
    logged = rows(run)
    assert {"loss/train/centerness", "metrics/eval/bbox/AP"} <= {name for row in logged for name in row}
    assert not any("segm" in name or "mask" in name for row in logged for name in row)
    assert run.training_pictures.exists()
    assert run.predictions.exists()


def test_its_checkpoint_is_scored_again_to_the_same_numbers(run):
    recipe = load_recipe(run.recipe)
    again = evaluate_checkpoint(run.latest_checkpoint, recipe, output=run.root.parent / "scored")
    assert again["bbox"]["AP"] == json.loads(run.evaluation.read_text())["bbox"]["AP"]
    assert (run.root.parent / "scored" / "report.html").exists()


def test_it_predicts_boxes_and_so_does_its_export(run, boxes, tmp_path):
    found = predict(run.root, boxes / "shapes" / "val", tta="flip")
    assert len(found) == 4
    assert sum(map(len, found))
    assert all(prediction.rles is None for prediction in found)
    differences = export_run(run.root, tmp_path / "model.onnx", images=boxes / "shapes" / "val")
    assert (differences.unmatched, differences.mask) == (0, None)
    for one, other in zip(
        predict(run.root, boxes / "shapes" / "val"),
        predict(tmp_path / "model.onnx", boxes / "shapes" / "val"),
        strict=True,
    ):
        torch.testing.assert_close(other.boxes, one.boxes, rtol=0, atol=1e-2)
        assert other.category_names == one.category_names
        assert other.rles is None
    described = describe_file(tmp_path / "model.onnx")
    assert described.kind == "an FCOS as an ONNX file"
    assert described.facts["masks"] == "none"
    assert describe_file(run.root).tables[0].headers == ["after batch", "boxes AP", "boxes AP50"]


def test_boxes_alone_say_what_trains_on_them_where_masks_are_needed(boxes):
    files = on_files(boxes / "shapes")
    message = r"only boxes; .*; boxes alone train model.name=faster_rcnn, retinanet or fcos, with copy_paste=null$"
    for needs_masks in ([], [*FCOS, "copy_paste.p=0.5"]):
        with pytest.raises(DataError, match=message):
            open_data(tiny_recipe(boxes, *needs_masks, *files))
    assert open_data(tiny_recipe(boxes, *FCOS, "copy_paste.p=0", *files)).train.masks is False


def test_objects_are_pasted_by_masks_and_come_without_them_to_a_detector_of_boxes(tmp_path):
    recipe = tiny_recipe(tmp_path, *FCOS)
    data = open_data(recipe)
    assert data.train.masks == "compact"
    (algorithm,) = build_algorithms(recipe, recipe.copy_paste, None)
    assert not algorithm.settings.keep_masks
    (algorithm,) = build_algorithms(tiny_recipe(tmp_path), recipe.copy_paste, None)
    assert algorithm.settings.keep_masks


# The loader's boxes


def objects(*boxes, area=None, iscrowd=None):
    n = len(boxes)
    return AnnotatedObjects(
        size=(8, 12),
        annotated_boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=torch.arange(1, n + 1),
        area=torch.tensor(area or [1.0] * n),
        iscrowd=torch.tensor(iscrowd or [0] * n),
        segmentations=([],) * n,
    )


def test_boxes_follow_a_mirrored_enlargement_and_are_cut_at_the_canvas():
    crop = SampledJitter(window=(0, 4, 8, 8), resized=(16, 16), canvas=(16, 20), flip=True)
    after = crop.transform_boxes(objects((5, 1, 7, 3), (2, 2, 6, 4), area=[3.0, 6.0]), min_area=1)
    assert after.boxes.tolist() == [[10, 2, 14, 6], [12, 4, 16, 8]]
    assert after.area.tolist() == [12, 12]  # four times as large, of the second one half
    assert after.masks.shape == (2, 0, 0)


def test_boxes_with_too_little_left_are_dropped_but_crowds_stay_while_any_is():
    crop = SampledJitter(window=(0, 4, 8, 8), resized=(8, 8), canvas=(8, 8), flip=False)
    given = objects((0, 0, 5, 2), (0, 0, 5, 2), (0, 0, 4, 8), (4, 0, 8, 1), iscrowd=[0, 1, 0, 0])
    after = crop.transform_boxes(given, min_area=4)
    assert after.labels.tolist() == [2, 4]
    assert after.boxes.tolist() == [[0, 0, 1, 2], [0, 0, 4, 1]]


def test_a_data_set_without_masks_mirrors_its_boxes(boxes):
    file = boxes / "shapes/annotations/instances_val.json"
    data = open_data(tiny_recipe(boxes, *FCOS, "copy_paste=null", *on_files(boxes / "shapes"))).val
    mirrored = CocoInstances(boxes / "shapes/val", data.annotations, FlipTransform(1.0), masks=False)
    plain, there = data[0][1]["boxes"], mirrored[0][1]["boxes"]
    assert file.exists()
    assert torch.equal(there[:, [2, 1, 0, 3]], torch.tensor([64, 0, 64, 0]) + plain * torch.tensor([-1, 1, -1, 1]))
    assert torch.equal(mirrored[0][0], data[0][0].flip(-1))
    assert "masks" not in mirrored[0][1]
